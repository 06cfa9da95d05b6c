//! A software authenticator and the browser around it (WebAuthn Level 3, section 6), which lie when told to.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use rialto::kernel::rng::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

/// Holds one discoverable credential.
#[derive(Clone)]
pub struct Authenticator {
    pub key: SigningKey,
    pub id: Vec<u8>,
    /// The user handle: the account's id.
    pub user: Vec<u8>,
    /// Grows with each assertion, unless it is 0.
    pub counter: u32,
    pub verifies_user: bool,
    pub rp_id: String,
    pub origin: String,
}

impl Authenticator {
    /// A new credential for pages of the tests' relying party.
    pub fn new() -> Self {
        Self {
            key: SigningKey::from_slice(&Rng.bytes::<32>().unwrap()).unwrap(),
            id: Rng.bytes::<16>().unwrap().to_vec(),
            user: Vec::new(),
            counter: 0,
            verifies_user: true,
            rp_id: super::RP_ID.into(),
            origin: super::ORIGIN.into(),
        }
    }

    /// `navigator.credentials.create(options)`, as `toJSON` writes it.
    pub fn create(&mut self, options: &Value) -> Value {
        self.user = bytes(&options["user"]["id"]);
        let mut data = self.data(ATTESTED);
        // No AAGUID.
        data.extend([0; 16]);
        data.extend(u16::try_from(self.id.len()).unwrap().to_be_bytes());
        data.extend(&self.id);
        data.extend(self.public_key());
        // {"fmt": "none", "attStmt": {}, "authData": data} in CBOR (RFC 8949).
        let mut object = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58".to_vec();
        object.push(u8::try_from(data.len()).unwrap());
        object.extend(&data);
        let response = json!({
            "clientDataJSON": text(&self.client_data("webauthn.create", options)),
            "attestationObject": text(&object),
            "authenticatorData": text(&data),
            "transports": ["internal", "hybrid"],
            "publicKeyAlgorithm": -7,
        });
        self.credential(response, json!({ "credProps": { "rk": true } }))
    }

    /// `navigator.credentials.get(options)`, as `toJSON` writes it.
    pub fn get(&mut self, options: &Value) -> Value {
        if self.counter > 0 {
            self.counter += 1;
        }
        let (data, client_data) = (self.data(0), self.client_data("webauthn.get", options));
        let signature: Signature = self.key.sign(&[data.as_slice(), &Sha256::digest(&client_data)].concat());
        let response = json!({
            "clientDataJSON": text(&client_data),
            "authenticatorData": text(&data),
            "signature": text(signature.to_der().as_bytes()),
            "userHandle": text(&self.user),
        });
        self.credential(response, json!({}))
    }

    fn credential(&self, response: Value, extensions: Value) -> Value {
        json!({
            "id": text(&self.id),
            "rawId": text(&self.id),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "response": response,
            "clientExtensionResults": extensions,
        })
    }

    /// Authenticator data (section 6.1) up to the attested credential.
    fn data(&self, flags: u8) -> Vec<u8> {
        let verified = if self.verifies_user { USER_VERIFIED } else { 0 };
        let mut data = Sha256::digest(self.rp_id.as_bytes()).to_vec();
        data.push(flags | USER_PRESENT | verified);
        data.extend(self.counter.to_be_bytes());
        data
    }

    fn client_data(&self, kind: &str, options: &Value) -> Vec<u8> {
        let data = json!({
            "type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": false,
        });
        data.to_string().into_bytes()
    }

    /// ES256 on P-256 as a COSE key (RFC 9053, section 7.1).
    fn public_key(&self) -> Vec<u8> {
        let point = self.key.verifying_key().to_sec1_point(false);
        let point = point.as_bytes();
        let mut key = vec![0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20];
        key.extend(&point[1..33]);
        key.extend([0x22, 0x58, 0x20]);
        key.extend(&point[33..]);
        key
    }
}

pub fn bytes(text: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

//! The directory of devices and prekeys: somebody with devices, and what they do.

mod claims;
mod prekeys;
mod registration;
mod visibility;

use std::sync::Arc;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rialto::kernel::rng::Rng;
use rialto::proto::rialto::keys::v1::key_service_client::KeyServiceClient;
use rialto::proto::rialto::keys::v1::{
    AccountBundles, ClaimBundlesRequest, ClaimTarget, Device, KemPreKey, ListDevicesRequest, ListDevicesResponse,
    OneTimePreKey, RegisterDeviceRequest, SetAccountKeyRequest, SetSignedPreKeyRequest, SignedPreKey,
    UploadOneTimePreKeysRequest, UploadOneTimePreKeysResponse,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::harness::{Authorized, Bearer, Node, User, refusal};

pub fn keys(node: &Node, user: &User) -> KeyServiceClient<Authorized> {
    KeyServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

fn ed25519() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&Rng.bytes::<32>().unwrap()).unwrap()
}

fn public(pair: &Ed25519KeyPair) -> Vec<u8> {
    pair.public_key().as_ref().to_vec()
}

fn sign(pair: &Ed25519KeyPair, parts: &[&[u8]]) -> Vec<u8> {
    pair.sign(&parts.concat()).as_ref().to_vec()
}

/// A public key of X25519.
fn x25519() -> Vec<u8> {
    let pair = PrivateKey::generate(&X25519).unwrap();
    pair.compute_public_key().unwrap().as_ref().to_vec()
}

fn uuid(text: &str) -> Uuid {
    Uuid::parse_str(text).unwrap()
}

fn new_uuid() -> Uuid {
    Uuid::from_bytes(Rng.bytes().unwrap())
}

/// A device, with its private keys and that of its account.
#[derive(Clone)]
pub struct Phone {
    pub user: User,
    pub account: Arc<Ed25519KeyPair>,
    pub device_id: Uuid,
    pub registration_id: u32,
    pub identity_key: Vec<u8>,
    pub signing: Arc<Ed25519KeyPair>,
}

impl Phone {
    /// The first of an account.
    pub fn new(user: &User) -> Self {
        Self::of(user, Arc::new(ed25519()))
    }

    fn of(user: &User, account: Arc<Ed25519KeyPair>) -> Self {
        let (device_id, signing) = (new_uuid(), Arc::new(ed25519()));
        Self { user: user.clone(), account, device_id, registration_id: 7, identity_key: x25519(), signing }
    }

    /// Another one of the same account.
    pub fn sibling(&self) -> Self {
        Self::of(&self.user, Arc::clone(&self.account))
    }

    /// The same one with other keys.
    pub fn anew(&self, registration_id: u32) -> Self {
        Self { device_id: self.device_id, registration_id, ..self.sibling() }
    }

    fn account_key(&self) -> Vec<u8> {
        public(&self.account)
    }

    fn registration(&self) -> RegisterDeviceRequest {
        let (account_id, signing_key) = (uuid(&self.user.id), public(&self.signing));
        let parts: [&[u8]; 6] = [
            b"Rialto-Device-v1\0",
            account_id.as_bytes(),
            self.device_id.as_bytes(),
            &self.registration_id.to_be_bytes(),
            &self.identity_key,
            &signing_key,
        ];
        RegisterDeviceRequest {
            device_id: self.device_id.to_string(),
            registration_id: self.registration_id,
            identity_key: self.identity_key.clone(),
            signature: sign(&self.account, &parts),
            signing_key,
            name: "Phone".into(),
            account_key: Some(self.account_key()),
        }
    }

    pub fn set_account_key(&self) -> SetAccountKeyRequest {
        let (account_id, account_key) = (uuid(&self.user.id), self.account_key());
        let parts: [&[u8]; 3] = [b"Rialto-AccountKey-v1\0", account_id.as_bytes(), &account_key];
        SetAccountKeyRequest { signature: sign(&self.account, &parts), account_key }
    }

    fn signature(&self, context: &[u8], key_id: u32, key: &[u8]) -> Vec<u8> {
        let account_id = uuid(&self.user.id);
        let parts: [&[u8]; 5] = [context, account_id.as_bytes(), self.device_id.as_bytes(), &key_id.to_be_bytes(), key];
        sign(&self.signing, &parts)
    }

    fn signed(&self, key_id: u32) -> SignedPreKey {
        let public_key = x25519();
        SignedPreKey { key_id, signature: self.signature(b"Rialto-SignedPreKey-v1\0", key_id, &public_key), public_key }
    }

    fn kem(&self, key_id: u32) -> KemPreKey {
        let public_key = Rng.bytes::<1184>().unwrap().to_vec();
        KemPreKey { key_id, signature: self.signature(b"Rialto-KemPreKey-v1\0", key_id, &public_key), public_key }
    }

    fn set_signed(&self, key: Option<SignedPreKey>, kem: Option<KemPreKey>) -> SetSignedPreKeyRequest {
        SetSignedPreKeyRequest {
            device_id: self.device_id.to_string(),
            registration_id: self.registration_id,
            signed_pre_key: key,
            kem_pre_key: kem,
        }
    }

    fn upload(&self, pre_keys: Vec<OneTimePreKey>, kem_pre_keys: Vec<KemPreKey>) -> UploadOneTimePreKeysRequest {
        UploadOneTimePreKeysRequest {
            device_id: self.device_id.to_string(),
            registration_id: self.registration_id,
            pre_keys,
            kem_pre_keys,
        }
    }

    pub async fn register(&self, node: &Node) -> Result<Device, Status> {
        let registered = keys(node, &self.user).register_device(self.registration()).await?;
        Ok(registered.into_inner().device.unwrap())
    }

    /// Registers, with a signed prekey and so many one-time ones.
    async fn publish(&self, node: &Node, one_time: u32) -> SignedPreKey {
        self.register(node).await.unwrap();
        let signed = self.signed(1);
        keys(node, &self.user).set_signed_pre_key(self.set_signed(Some(signed.clone()), None)).await.unwrap();
        self.add(node, one_time_keys(0..one_time)).await.unwrap();
        signed
    }

    async fn add(&self, node: &Node, pre_keys: Vec<OneTimePreKey>) -> Result<UploadOneTimePreKeysResponse, Status> {
        let mut last = UploadOneTimePreKeysResponse::default();
        for chunk in pre_keys.chunks(100) {
            let upload = self.upload(chunk.to_vec(), Vec::new());
            last = keys(node, &self.user).upload_one_time_pre_keys(upload).await?.into_inner();
        }
        Ok(last)
    }
}

fn one_time_keys(ids: std::ops::Range<u32>) -> Vec<OneTimePreKey> {
    ids.map(|key_id| OneTimePreKey { key_id, public_key: x25519() }).collect()
}

async fn list(node: &Node, user: &User, of: Option<&User>) -> ListDevicesResponse {
    let request = ListDevicesRequest { account_id: of.map(|user| user.id.clone()) };
    keys(node, user).list_devices(request).await.unwrap().into_inner()
}

fn claim_of(ids: &[&str]) -> ClaimBundlesRequest {
    let target = |id: &&str| ClaimTarget { account_id: (*id).to_owned(), device_ids: Vec::new() };
    ClaimBundlesRequest { targets: ids.iter().map(target).collect() }
}

async fn claim(node: &Node, user: &User, of: &User) -> AccountBundles {
    let mut answer = keys(node, user).claim_bundles(claim_of(&[&of.id])).await.unwrap().into_inner();
    assert_eq!(answer.accounts.len(), 1);
    answer.accounts.remove(0)
}

/// Checks that a call was refused for what these fields hold.
#[track_caller]
fn invalid<T: std::fmt::Debug>(result: Result<T, Status>, fields: &[&str]) {
    let status = result.unwrap_err();
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let found: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!((status.code(), found.as_slice()), (Code::InvalidArgument, fields), "{status:?}");
}

/// Checks that a call was refused because of how things are.
#[track_caller]
fn precluded<T: std::fmt::Debug>(result: Result<T, Status>, reason: &str) {
    assert_eq!(refusal(result), (Code::FailedPrecondition, reason.into()));
}

/// Numbers that are no X25519 key: of low order (0, 1, p - 1, and two of order 8), and other forms of those and of 9. With
/// each, `crypto_scalarmult` of libsodium fails or would agree on what another form agrees on.
fn bad_points() -> Vec<Vec<u8>> {
    let hex = |text: &str| {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..64).step_by(2).map(byte).collect::<Vec<_>>()
    };
    let largest = |lowest: &str| format!("{lowest}{}7f", "ff".repeat(30));
    let small = |lowest: &str, highest: &str| format!("{lowest}{}{highest}", "00".repeat(30));
    let mut points = vec![
        small("00", "00"),
        small("01", "00"),
        largest("ec"),
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800".into(),
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157".into(),
        // p to p + 18.
        largest("ed"),
        largest("ee"),
        largest("ef"),
        largest("f6"),
        largest("ff"),
        // With the highest bit, which X25519 ignores.
        small("00", "80"),
        small("01", "80"),
        small("09", "80"),
        "ff".repeat(32),
    ];
    points.push("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7".into());
    points.iter().map(|point| hex(point)).collect()
}

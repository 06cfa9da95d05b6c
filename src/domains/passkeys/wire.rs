//! Between WebAuthn's JSON, rows and the contract.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use prost_types::Struct;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::model;
use crate::kernel::error::Error;
use crate::kernel::wire::{from_struct, timestamp};
use crate::proto::rialto::passkeys::v1::Passkey;

/// What authenticators make is a few KB; the largest attestations are certificate chains.
const CREDENTIAL_BYTES: usize = 64 << 10;
/// What serde says of a value may repeat it.
const FAULT_CHARS: usize = 200;

impl From<&model::Passkey> for Passkey {
    fn from(passkey: &model::Passkey) -> Self {
        Self {
            id: passkey.id.to_string(),
            name: passkey.name.clone(),
            created_at: Some(timestamp(passkey.created_at)),
            last_used_at: passkey.last_used_at.map(timestamp),
            credential_id: URL_SAFE_NO_PAD.encode(&passkey.credential_id),
        }
    }
}

/// What an authenticator made, out of the field `credential`. `kind` is the name of its JSON in WebAuthn.
pub fn credential<T: DeserializeOwned>(credential: Option<Struct>, kind: &str) -> Result<T, Error> {
    let unfit = |what: String| Error::invalid_field("credential", what);
    let credential = credential.ok_or_else(|| unfit(format!("is needed: a {kind}")))?;
    if credential.encoded_len() > CREDENTIAL_BYTES {
        return Err(unfit("must be at most 64 KiB".into()));
    }
    serde_json::from_value(from_struct(credential)).map_err(|error| {
        let fault: String = error.to_string().chars().take(FAULT_CHARS).collect();
        unfit(format!("is not a {kind}: {fault}"))
    })
}

/// PublicKeyCredentialDescriptorJSON.
pub fn descriptor(passkey: &model::Passkey) -> Value {
    serde_json::json!({ "type": "public-key", "id": URL_SAFE_NO_PAD.encode(&passkey.credential_id) })
}

/// As it is sent or stored.
pub fn json(value: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::internal("WebAuthn's JSON", error))
}

/// As it was stored.
pub fn stored<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::internal("a stored passkey or ceremony can't be read", error))
}

/// A name that its owner gives a passkey. The contract has checked its length.
pub fn name(name: &str) -> Result<&str, Error> {
    let name = name.trim();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Error::invalid_field("name", "must have a visible character, and no control characters"));
    }
    Ok(name)
}

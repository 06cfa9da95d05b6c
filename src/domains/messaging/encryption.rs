//! Ciphertext: what a sender hands in, for which devices it must be, and what of it a reader gets.

use std::collections::{BTreeMap, HashSet};

use prost::Message as _;
use serde_json::json;
use uuid::Uuid;

use super::model::Encrypted;
use crate::domains::keys::DeviceRef;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason, Violation};
use crate::kernel::wire::id;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;
use crate::proto::rialto::messaging::v1::{
    EncryptedContent, Envelope, EnvelopeType, Message, MessageDetails, SubscribeResponse, message,
};

/// Bytes of a message, encoded: a full group (256 accounts of 20 devices) with a key of 80 bytes for each, and what it opens.
const MOST: usize = 1 << 20;
/// Devices that a refusal names. Their JSON stays below what clients take as headers (8 KiB).
const NAMED: usize = 32;

/// Reads what a sender hands in.
pub fn parse(mut content: EncryptedContent, details: Option<&MessageDetails>) -> Result<Encrypted, Error> {
    let sender_device = id("encrypted.sender_device_id", &content.sender_device_id)?;
    content.sender_device_id = sender_device.to_string();
    let mut devices = Vec::with_capacity(content.envelopes.len());
    let mut seen = HashSet::new();
    for (index, envelope) in content.envelopes.iter_mut().enumerate() {
        let field = |name: &str| format!("encrypted.envelopes[{index}].{name}");
        let account_id = id(&field("account_id"), &envelope.account_id)?;
        let device_id = id(&field("device_id"), &envelope.device_id)?;
        if envelope.r#type() == EnvelopeType::Unspecified {
            return Err(Error::invalid_field(field("type"), "must say how it was encrypted"));
        }
        if !seen.insert((account_id, device_id)) {
            return Err(Error::invalid_field(field("device_id"), "must not be there twice"));
        }
        // In one form, whichever the sender wrote: readers compare them.
        (envelope.account_id, envelope.device_id) = (account_id.to_string(), device_id.to_string());
        devices.push(DeviceRef { account_id, device_id, registration_id: envelope.registration_id });
    }
    let attachments = details.iter().flat_map(|details| &details.attachments).enumerate();
    let named = attachments.filter(|(_, attachment)| !attachment.name.is_empty()).map(|(index, _)| Violation {
        field: format!("details.attachments[{index}].name"),
        description: "must be empty: the server would read it. It belongs into the ciphertext".into(),
    });
    let named: Vec<_> = named.collect();
    if !named.is_empty() {
        return Err(Error::invalid(named));
    }
    if content.encoded_len() > MOST {
        return Err(Error::invalid_field("encrypted", format!("must have at most {MOST} bytes in all")));
    }
    Ok(Encrypted { content: content.encode_to_vec(), sender_device, devices })
}

/// Compares the devices that a message is for with those that it must be for.
pub fn require_devices(expected: &[DeviceRef], sent: &[DeviceRef]) -> Result<(), Error> {
    let by_device = |devices: &[DeviceRef]| -> BTreeMap<(Uuid, Uuid), DeviceRef> {
        devices.iter().map(|device| ((device.account_id, device.device_id), *device)).collect()
    };
    let (expected, sent) = (by_device(expected), by_device(sent));
    let missing = expected.iter().filter(|(id, _)| !sent.contains_key(id));
    let stale = expected.iter().filter(|(id, now)| sent.get(id).is_some_and(|then| then != *now));
    let extra = sent.iter().filter(|(id, _)| !expected.contains_key(id));
    let lists: [Vec<&DeviceRef>; 3] =
        [missing.map(|(_, d)| d).collect(), stale.map(|(_, d)| d).collect(), extra.map(|(_, d)| d).collect()];
    if lists.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let mut room = NAMED;
    let mut error = Error::new(
        Reason::DevicesChanged,
        "the message is not encrypted for exactly the devices of the conversation's members",
    );
    let names = [("missing", "missing_count"), ("stale", "stale_count"), ("extra", "extra_count")];
    for (devices, (list, count)) in lists.iter().zip(names) {
        let named: Vec<_> = devices.iter().take(room).map(|device| named(device)).collect();
        room -= named.len();
        error = error.with(list, json!(named).to_string()).with(count, devices.len().to_string());
    }
    Err(error)
}

fn named(device: &DeviceRef) -> serde_json::Value {
    json!({
        "accountId": device.account_id,
        "deviceId": device.device_id,
        "registrationId": device.registration_id,
    })
}

/// The refusal of what the server could read, in a conversation where it shall not.
pub fn required(field: &str) -> Error {
    Error::new(Reason::EncryptionRequired, "the conversation is encrypted: it takes ciphertext alone").at_field(field)
}

/// Who reads, which decides what of a ciphertext they get.
#[derive(Clone, Debug)]
pub struct Viewer {
    pub account_id: Uuid,
    /// The id as messages have it.
    pub account: String,
    /// One of the account's devices; `None` for all of them.
    device: Option<String>,
}

impl Viewer {
    /// The caller, with all of its devices.
    pub fn all(caller: &Caller) -> Self {
        Self { account_id: caller.account_id, account: caller.account_id.to_string(), device: None }
    }

    /// The caller, with the device that a request names, if it names one.
    pub fn of(caller: &Caller, device_id: Option<&str>) -> Result<Self, Error> {
        let device = device_id.map(|device| id("device_id", device)).transpose()?;
        Ok(Self { device: device.map(|device| device.to_string()), ..Self::all(caller) })
    }

    /// Leaves what is not for the viewer out of a message.
    pub fn narrow(&self, mut message: Message) -> Message {
        if let Some(message::Content::Encrypted(content)) = &mut message.content {
            content.envelopes.retain(|envelope| self.may_open(envelope));
        }
        message
    }

    /// An event without what is not for the viewer, of which in a large group there is much: it is not copied.
    pub fn narrow_event(&self, event: &SubscribeResponse) -> SubscribeResponse {
        let Some(Event::Message(message @ Message { content: Some(message::Content::Encrypted(content)), .. })) =
            &event.event
        else {
            return event.clone();
        };
        let content = EncryptedContent {
            sender_device_id: content.sender_device_id.clone(),
            envelopes: content.envelopes.iter().filter(|envelope| self.may_open(envelope)).cloned().collect(),
            shared_ciphertext: content.shared_ciphertext.clone(),
        };
        let message = Message {
            id: message.id.clone(),
            conversation_id: message.conversation_id.clone(),
            seq: message.seq,
            sender_id: message.sender_id.clone(),
            client_message_id: message.client_message_id.clone(),
            content: Some(message::Content::Encrypted(content)),
            created_at: message.created_at,
            edited_at: message.edited_at,
            deleted_at: message.deleted_at,
            expires_at: message.expires_at,
            details: message.details.clone(),
            reactions: message.reactions.clone(),
        };
        SubscribeResponse { seq: event.seq, event: Some(Event::Message(message)) }
    }

    fn may_open(&self, envelope: &Envelope) -> bool {
        envelope.account_id == self.account && self.device.as_ref().is_none_or(|device| envelope.device_id == *device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(account: u128, device: u128, registration_id: u32) -> DeviceRef {
        DeviceRef { account_id: Uuid::from_u128(account), device_id: Uuid::from_u128(device), registration_id }
    }

    fn metadata(error: &Error, key: &str) -> String {
        error.metadata.iter().find(|(name, _)| *name == key).unwrap().1.clone()
    }

    #[test]
    fn the_same_devices_in_any_order_are_the_same() {
        let (one, two) = (device(1, 1, 7), device(2, 1, 7));
        assert!(require_devices(&[one, two], &[two, one]).is_ok());
        assert!(require_devices(&[], &[]).is_ok());
    }

    #[test]
    fn a_refusal_says_which_devices_are_missing_stale_and_extra() {
        let expected = [device(1, 1, 7), device(1, 2, 8), device(2, 1, 9)];
        let sent = [device(1, 2, 5), device(2, 1, 9), device(3, 3, 1)];
        let error = require_devices(&expected, &sent).unwrap_err();
        let list = |key| serde_json::from_str::<serde_json::Value>(&metadata(&error, key)).unwrap();
        assert_eq!(list("missing"), json!([named(&device(1, 1, 7))]));
        assert_eq!(list("stale"), json!([named(&device(1, 2, 8))]));
        assert_eq!(list("extra"), json!([named(&device(3, 3, 1))]));
        assert_eq!(metadata(&error, "missing_count"), "1");
    }

    #[test]
    fn a_refusal_names_32_devices_at_most_and_counts_the_others() {
        let expected: Vec<_> = (0..30).map(|n| device(1, n, u32::MAX)).collect();
        let sent: Vec<_> = (0..30).map(|n| device(2, n, u32::MAX)).collect();
        let error = require_devices(&expected, &sent).unwrap_err();
        let len = |key| serde_json::from_str::<Vec<serde_json::Value>>(&metadata(&error, key)).unwrap().len();
        assert_eq!((len("missing"), len("stale"), len("extra")), (30, 0, 2));
        assert_eq!(metadata(&error, "extra_count"), "30");
        // gRPC clients take 8 KiB of headers, and base64 makes this a third longer.
        assert!(tonic::Status::from(error).details().len() < 6000);
    }
}

//! Encrypted conversations: for which devices a message must be, and who gets what of it.

mod reading;

use std::collections::BTreeMap;

use reqwest::Method;
use rialto::kernel::account_events::Event;
use rialto::proto::rialto::keys::v1::{RemoveDeviceRequest, SetAccountKeyRequest};
use rialto::proto::rialto::messaging::v1::connect_request::Command;
use rialto::proto::rialto::messaging::v1::connect_response::Response;
use rialto::proto::rialto::messaging::v1::{
    ConnectRequest, EncryptedContent, Envelope, EnvelopeType, GetConversationRequest, ListMessagesRequest, Message,
    SendMessageRequest, SubscribeRequest, message, send_message_request, subscribe_response,
};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::account::Stream;
use crate::harness::{Events, Node, User, World, number, refusal, soon};
use crate::keys::{Phone, keys};

fn envelope(to: &Phone, ciphertext: &[u8]) -> Envelope {
    Envelope {
        account_id: to.user.id.clone(),
        device_id: to.device_id.to_string(),
        registration_id: to.registration_id,
        r#type: EnvelopeType::RatchetMessage.into(),
        ciphertext: ciphertext.into(),
    }
}

/// What a device says to others, each of which gets bytes of its own.
fn content(from: &Phone, to: &[&Phone]) -> EncryptedContent {
    EncryptedContent {
        sender_device_id: from.device_id.to_string(),
        envelopes: to.iter().map(|to| envelope(to, to.device_id.as_bytes())).collect(),
        shared_ciphertext: Vec::new(),
    }
}

fn sending(conversation: &str, name: &str, content: EncryptedContent) -> SendMessageRequest {
    SendMessageRequest {
        conversation_id: conversation.into(),
        client_message_id: name.into(),
        content: Some(send_message_request::Content::Encrypted(content)),
        ..Default::default()
    }
}

async fn send(node: &Node, id: &str, name: &str, from: &Phone, to: &[&Phone]) -> Result<Message, Status> {
    let sent = from.user.messaging(node).send_message(sending(id, name, content(from, to))).await?;
    Ok(sent.into_inner().message.unwrap())
}

/// The devices of the envelopes of a message, with what is in them.
fn opened(message: &Message) -> BTreeMap<String, Vec<u8>> {
    let Some(message::Content::Encrypted(content)) = &message.content else { panic!("no ciphertext: {message:?}") };
    content.envelopes.iter().map(|envelope| (envelope.device_id.clone(), envelope.ciphertext.clone())).collect()
}

/// What `opened` finds in a message for these.
fn for_devices(phones: &[&Phone]) -> BTreeMap<String, Vec<u8>> {
    phones.iter().map(|phone| (phone.device_id.to_string(), phone.device_id.as_bytes().to_vec())).collect()
}

async fn create(node: &Node, by: &User, with: &[&User], kind: &str) -> String {
    let members: Vec<_> = with.iter().map(|user| &user.id).collect();
    let body = json!({ "memberIds": members, "kind": kind, "encrypted": true });
    let created = by.post(node, "/v1/conversations", body).await.ok();
    assert_eq!(created["encrypted"], json!(true));
    created["id"].as_str().unwrap().to_owned()
}

/// Ann and Bob with two registered devices each, and their conversation.
struct Pair {
    ann: [Phone; 2],
    bob: [Phone; 2],
    id: String,
}

impl Pair {
    async fn new(node: &Node) -> Self {
        let (ann, bob) = (node.user("ann").await, node.user("bob").await);
        let devices = async |user: &User| {
            let phone = Phone::new(user);
            let phones = [phone.sibling(), phone];
            for phone in &phones {
                phone.register(node).await.unwrap();
            }
            phones
        };
        let id = create(node, &ann, &[&bob], "CONVERSATION_KIND_DIRECT").await;
        Self { ann: devices(&ann).await, bob: devices(&bob).await, id }
    }

    /// All devices but Ann's first, which sends.
    fn others(&self) -> [&Phone; 3] {
        [&self.ann[1], &self.bob[0], &self.bob[1]]
    }

    async fn send(&self, node: &Node, name: &str) -> Message {
        send(node, &self.id, name, &self.ann[0], &self.others()).await.unwrap()
    }
}

/// The devices that a refusal names in one of its lists.
fn named(status: &Status, list: &str) -> Vec<(String, u64)> {
    let metadata = status.get_details_error_info().unwrap().metadata;
    let devices: Vec<Value> = serde_json::from_str(&metadata[list]).unwrap();
    let device =
        |device: &Value| (device["deviceId"].as_str().unwrap().to_owned(), device["registrationId"].as_u64().unwrap());
    assert_eq!(metadata[&format!("{list}_count")], devices.len().to_string());
    devices.iter().map(device).collect()
}

fn device(phone: &Phone) -> (String, u64) {
    (phone.device_id.to_string(), phone.registration_id.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_for_exactly_the_devices_is_refused_and_says_which() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let (from, [own, one, two]) = (&pair.ann[0], pair.others());
    let eve = Phone::new(&node.user("eve").await);
    eve.register(&node).await.unwrap();
    let stale = Phone { registration_id: 99, ..two.clone() };

    let status = send(&node, &pair.id, "1", from, &[one, &stale, &eve]).await.unwrap_err();
    assert_eq!(
        (status.code(), refusal::<()>(Err(status.clone())).1.as_str()),
        (Code::FailedPrecondition, "DEVICES_CHANGED")
    );
    assert_eq!(named(&status, "missing"), [device(own)]);
    assert_eq!(named(&status, "stale"), [device(two)]);
    assert_eq!(named(&status, "extra"), [device(&eve)]);
    let status = send(&node, &pair.id, "1", from, &[own, one, two, from]).await.unwrap_err();
    assert_eq!(named(&status, "extra"), [device(from)], "the sending device itself");
    assert!(send(&node, &pair.id, "1", from, &[]).await.is_err());
    assert_eq!(world.count("messages").await, 0);

    // Over REST.
    let path = format!("/v1/conversations/{}/messages", pair.id);
    let body = json!({ "clientMessageId": "1", "encrypted": { "senderDeviceId": from.device_id, "envelopes": [] } });
    let answer = from.user.post(&node, &path, body).await;
    answer.refused(409, "DEVICES_CHANGED", 3003);
    let details = answer.body["error"]["details"].as_array().unwrap();
    let info = details.iter().find(|detail| detail["reason"] == json!("DEVICES_CHANGED")).unwrap();
    assert_eq!(info["metadata"]["missing_count"], json!("3"));
    let missing: Vec<Value> = serde_json::from_str(info["metadata"]["missing"].as_str().unwrap()).unwrap();
    assert_eq!(missing.len(), 3);

    // On a stream.
    let command = Command::Send(sending(&pair.id, "1", content(from, &[own, one])));
    let commands = tokio_stream::once(ConnectRequest { command_id: 1, command: Some(command) });
    let mut answers = from.user.messaging(&node).connect(commands).await.unwrap().into_inner();
    let Some(Response::Failed(failed)) = soon(answers.message()).await.unwrap().unwrap().response else {
        panic!("it was taken")
    };
    assert!(failed.metadata["missing"].contains(&two.device_id.to_string()), "{failed:?}");

    // A device that comes is missing, until it gets its own.
    let new = pair.bob[0].sibling();
    new.register(&node).await.unwrap();
    let status = send(&node, &pair.id, "2", from, &[own, one, two]).await.unwrap_err();
    assert_eq!((named(&status, "missing"), named(&status, "extra")), (vec![device(&new)], vec![]));
    send(&node, &pair.id, "2", from, &[own, one, two, &new]).await.unwrap();
    // One that has new keys is stale.
    let anew = two.anew(8);
    anew.register(&node).await.unwrap();
    let status = send(&node, &pair.id, "3", from, &[own, one, two, &new]).await.unwrap_err();
    assert_eq!((named(&status, "stale"), named(&status, "missing")), (vec![device(&anew)], vec![]));
    send(&node, &pair.id, "3", from, &[own, one, &anew, &new]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_answered_again_though_the_devices_have_changed() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let first = pair.send(&node, "1").await;
    pair.bob[0].sibling().register(&node).await.unwrap();
    assert_eq!(pair.send(&node, "1").await, first);
    assert!(send(&node, &pair.id, "2", &pair.ann[0], &pair.others()).await.is_err());
    assert_eq!(world.count("messages").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_takes_text_or_ciphertext_and_never_both() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let (ann, bob) = (&pair.ann[0].user, &pair.bob[0].user);
    let path = format!("/v1/conversations/{}/messages", pair.id);
    let text = ann.post(&node, &path, json!({ "clientMessageId": "1", "text": "canary" })).await;
    text.refused(409, "ENCRYPTION_REQUIRED", 2002);
    assert_eq!(text.fields(), ["text"]);
    let encrypted = json!({ "senderDeviceId": pair.ann[0].device_id });
    let both = json!({ "clientMessageId": "1", "text": "canary", "encrypted": encrypted });
    ann.post(&node, &path, both).await.refused(400, "INVALID_FORMAT", 2004);
    let neither = ann.post(&node, &path, json!({ "clientMessageId": "1" })).await;
    neither.refused(422, "VALIDATION_ERROR", 2001);
    let plain = ann.conversation(&node, &[bob]).await;
    let refused = refusal(send(&node, &plain, "1", &pair.ann[0], &pair.others()).await);
    assert_eq!(refused, (Code::FailedPrecondition, "CONVERSATION_NOT_ENCRYPTED".into()));
    assert_eq!(world.count("messages").await, 0);

    // Nor does anything else bring in what the server could read.
    pair.send(&node, "1").await;
    let edit = ann.call(&node, Method::PATCH, &format!("{path}/1"), json!({ "text": "canary" })).await;
    edit.refused(409, "ENCRYPTION_REQUIRED", 2002);
    let react = bob.call(&node, Method::PUT, &format!("{path}/1/reactions/%F0%9F%91%8D"), json!({})).await;
    react.refused(409, "ENCRYPTION_REQUIRED", 2002);
    assert_eq!(world.count("messages WHERE text <> ''").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_device_that_its_sender_has_registered_sends() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let unregistered = pair.ann[0].sibling();
    let bobs = Phone { device_id: pair.bob[0].device_id, ..pair.ann[0].clone() };
    for from in [&unregistered, &bobs] {
        let status = send(&node, &pair.id, "1", from, &pair.others()).await.unwrap_err();
        assert_eq!(status.get_details_error_info().unwrap().reason, "DEVICE_NOT_REGISTERED");
    }
    let remove = RemoveDeviceRequest { device_id: pair.ann[0].device_id.to_string() };
    keys(&node, &pair.ann[0].user).remove_device(remove).await.unwrap();
    let refused = refusal(send(&node, &pair.id, "1", &pair.ann[0], &pair.others()).await);
    assert_eq!(refused, (Code::FailedPrecondition, "DEVICE_NOT_REGISTERED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_member_learns_of_no_devices() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let eve = Phone::new(&node.user("eve").await);
    eve.register(&node).await.unwrap();
    for to in [vec![], pair.others().to_vec()] {
        let refused = refusal(send(&node, &pair.id, "1", &eve, &to).await);
        assert_eq!(refused, (Code::NotFound, "RESOURCE_NOT_FOUND".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_takes_devices_out_of_a_group_and_closes_a_conversation_of_two() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let (ann, bob) = (&pair.ann[0].user, &pair.bob[0].user);
    let eve = Phone::new(&node.user("eve").await);
    eve.register(&node).await.unwrap();
    let group = create(&node, ann, &[bob, &eve.user], "CONVERSATION_KIND_GROUP").await;
    let everybody = [&pair.ann[1], &pair.bob[0], &pair.bob[1], &eve];
    send(&node, &group, "1", &pair.ann[0], &everybody).await.unwrap();

    bob.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    let status = send(&node, &group, "2", &pair.ann[0], &everybody).await.unwrap_err();
    assert_eq!(named(&status, "extra").len(), 2);
    send(&node, &group, "2", &pair.ann[0], &[&pair.ann[1], &eve]).await.unwrap();
    // Between others nothing has changed.
    send(&node, &group, "3", &eve, &[&pair.ann[0], &pair.ann[1], &pair.bob[0], &pair.bob[1]]).await.unwrap();
    for to in [pair.others().to_vec(), vec![]] {
        let refused = refusal(send(&node, &pair.id, "1", &pair.ann[0], &to).await);
        assert_eq!(refused, (Code::PermissionDenied, "RECIPIENT_UNAVAILABLE".into()));
    }
    // Whoever was removed is written to no longer.
    let members = format!("/v1/conversations/{group}/members/{}", eve.user.id);
    ann.delete(&node, &members).await.ok();
    send(&node, &group, "4", &pair.ann[0], &[&pair.ann[1]]).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_have_one_encrypted_conversation_and_one_that_is_not() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let (ann, bob) = (&pair.ann[0].user, &pair.bob[0].user);
    let kind = "CONVERSATION_KIND_DIRECT";
    let again = futures_util::future::join_all((0..6).map(|i| {
        let (by, with) = if i % 2 == 0 { (ann, bob) } else { (bob, ann) };
        let node = &node;
        async move { create(node, by, &[with], kind).await }
    }));
    assert!(again.await.iter().all(|id| *id == pair.id));
    let plain = ann.post(&node, "/v1/conversations", json!({ "memberIds": [bob.id], "kind": kind })).await.ok();
    assert_ne!(plain["id"], json!(pair.id));
    assert_eq!(plain["encrypted"], json!(false));
    let plain_again = bob.post(&node, "/v1/conversations", json!({ "memberIds": [ann.id], "kind": kind })).await.ok();
    assert_eq!(plain_again["id"], plain["id"]);
    assert_eq!(world.count("direct_conversations").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ciphertext_names_the_field_and_writes_nothing() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let good = || content(&pair.ann[0], &pair.others());
    let change = |change: &dyn Fn(&mut EncryptedContent)| {
        let mut content = good();
        change(&mut content);
        content
    };
    let cases = [
        (change(&|it| it.sender_device_id = "x".into()), "encrypted.sender_device_id"),
        (change(&|it| it.envelopes[1].device_id = "x".into()), "encrypted.envelopes[1].device_id"),
        (change(&|it| it.envelopes[1].account_id = String::new()), "encrypted.envelopes[1].account_id"),
        (change(&|it| it.envelopes[0].registration_id = 0), "encrypted.envelopes[0].registration_id"),
        (change(&|it| it.envelopes[0].r#type = 0), "encrypted.envelopes[0].type"),
        (change(&|it| it.envelopes[0].r#type = 77), "encrypted.envelopes[0].type"),
        (change(&|it| it.envelopes[2].ciphertext.clear()), "encrypted.envelopes[2].ciphertext"),
        (change(&|it| it.envelopes[2].ciphertext = vec![0; 65537]), "encrypted.envelopes[2].ciphertext"),
        (change(&|it| it.shared_ciphertext = vec![0; 65537]), "encrypted.shared_ciphertext"),
        (change(&|it| it.envelopes.push(it.envelopes[0].clone())), "encrypted.envelopes[3].device_id"),
        (change(&|it| it.envelopes = vec![it.envelopes[0].clone(); 5121]), "encrypted.envelopes"),
        (
            change(&|it| {
                let large = |n: u128| Envelope {
                    device_id: uuid::Uuid::from_u128(n).to_string(),
                    ciphertext: vec![0; 65536],
                    ..it.envelopes[0].clone()
                };
                it.envelopes = (0..16).map(large).collect();
            }),
            "encrypted",
        ),
    ];
    for (content, field) in cases {
        let sent = pair.ann[0].user.messaging(&node).send_message(sending(&pair.id, "1", content)).await;
        let status = sent.unwrap_err();
        let found = status.get_details_bad_request().unwrap().field_violations.remove(0).field;
        assert_eq!((status.code(), found.as_str()), (Code::InvalidArgument, field));
    }
    let path = format!("/v1/conversations/{}/messages", pair.id);
    let details = json!({ "attachments": [{ "fileId": pair.ann[0].device_id, "name": "canary.txt" }] });
    let encrypted = json!({ "senderDeviceId": pair.ann[0].device_id });
    let body = json!({ "clientMessageId": "1", "encrypted": encrypted, "details": details });
    let answer = pair.ann[0].user.post(&node, &path, body).await;
    answer.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(answer.fields(), ["details.attachments[0].name"]);
    assert_eq!(world.count("messages").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_are_sent_at_once_each_is_judged_by_itself() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let plain = pair.ann[0].user.conversation(&node, &[&pair.bob[0].user]).await;
    let sends = (0..90).map(|i| {
        let mut client = pair.ann[0].user.messaging(&node);
        let name = i.to_string();
        let request = match i % 3 {
            0 => sending(&pair.id, &name, content(&pair.ann[0], &pair.others())),
            1 => sending(&pair.id, &name, content(&pair.ann[0], &pair.others()[..2])),
            _ => crate::harness::message(&plain, &name, "text"),
        };
        tokio::spawn(async move { client.send_message(request).await.map(|sent| sent.into_inner().message.unwrap()) })
    });
    let mut seqs = [Vec::new(), Vec::new(), Vec::new()];
    for (index, sent) in futures_util::future::join_all(sends).await.into_iter().enumerate() {
        match sent.unwrap() {
            Ok(message) => seqs[index % 3].push(message.seq),
            Err(status) => assert_eq!(named(&status, "missing"), [device(pair.others()[2])]),
        }
    }
    seqs.iter_mut().for_each(|seqs| seqs.sort_unstable());
    let all: Vec<_> = (1..=30).collect();
    assert_eq!(seqs, [all.clone(), vec![], all]);
}

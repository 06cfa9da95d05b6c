//! What members try who want to be heard where they may not, or to break what others read.

use std::time::Duration;

use prost_types::Timestamp;
use rialto::proto::rialto::messaging::v1::connect_request::Command;
use rialto::proto::rialto::messaging::v1::group_service_client::GroupServiceClient;
use rialto::proto::rialto::messaging::v1::{
    ConnectRequest, Membership, SubscribeRequest, UpdateMemberRequest, UpdateMembershipRequest,
};
use rialto::proto::rialto::roles::v1::AssignRoleRequest;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::{direct, patch, path, roles};
use crate::harness::{Answer, Node, User, World, soon};

fn bearer<T>(user: &User, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {}", user.token).parse().unwrap());
    request
}

/// A refusal that names the field.
#[track_caller]
fn invalid<T: std::fmt::Debug>(result: Result<T, Status>, field: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message().contains(field)), (Code::InvalidArgument, true), "{status:?}");
}

async fn react(node: &Node, user: &User, id: &str, seq: i64, emoji: &str) -> Answer {
    let emoji: String = emoji.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = path(id, &format!("/messages/{seq}/reactions/{emoji}"));
    user.call(node, reqwest::Method::PUT, &path, json!({})).await
}

async fn silence(node: &Node, by: &User, id: &str, user: &User, until: impl Into<Value>) {
    let body = json!({ "silencedUntil": until.into() });
    patch(by, node, &path(id, &format!("/members/{}", user.id)), body).await.ok();
}

/// Everything by which something is said, each of which has to be refused.
async fn says_nothing(node: &Node, user: &User, id: &str, own: i64, other: i64, reason: &str, legacy: u32) {
    let body = json!({ "clientMessageId": "x", "text": "x" });
    user.post(node, &path(id, "/messages"), body).await.refused(403, reason, legacy);
    let edit = patch(user, node, &path(id, &format!("/messages/{own}")), json!({ "text": "x" })).await;
    edit.refused(403, reason, legacy);
    react(node, user, id, other, "👎").await.refused(403, reason, legacy);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_send_says_nothing_by_editing_and_reacting_either() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = ann.conversation(&node, &[&bob]).await;
    let two = direct(&node, &ann, &bob).await.ok()["id"].as_str().unwrap().to_owned();
    for id in [&group, &two] {
        ann.send(&node, id, "ann's").await;
        bob.send(&node, id, "bob's").await;
        react(&node, &bob, id, 1, "👍").await.ok();
    }
    silence(&node, &ann, &group, &bob, (world.clock.now() + Duration::from_secs(60)).to_rfc3339()).await;
    says_nothing(&node, &bob, &group, 2, 1, "INSUFFICIENT_PERMISSIONS", 1005).await;

    let block = format!("/v1/users/{}/block", bob.id);
    ann.post(&node, &block, json!({})).await.ok();
    for (user, own, other) in [(&bob, 2, 1), (&ann, 1, 2)] {
        says_nothing(&node, user, &two, own, other, "RECIPIENT_UNAVAILABLE", 1005).await;
        let settings = path(&two, "?update_mask=disappearAfterSeconds");
        let changed = patch(user, &node, &settings, json!({ "disappearAfterSeconds": 60 })).await;
        changed.refused(403, "RECIPIENT_UNAVAILABLE", 1005);
    }
    // What was said can be taken back.
    bob.delete(&node, &path(&two, "/messages/1/reactions/%F0%9F%91%8D")).await.ok();
    bob.delete(&node, &path(&two, "/messages/2?for_all=true")).await.ok();
    ann.delete(&node, &block).await.ok();
    react(&node, &bob, &two, 1, "👍").await.ok();
    world.clock.advance(Duration::from_secs(61));
    patch(&bob, &node, &path(&group, "/messages/2"), json!({ "text": "sorry" })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silenced_is_so_after_leaving_and_coming_back() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let token = ann.post(&node, &path(&id, "/join-link"), json!({})).await.ok()["token"].clone();
    silence(&node, &ann, &id, &bob, (world.clock.now() + Duration::from_secs(60)).to_rfc3339()).await;
    bob.post(&node, &path(&id, "/leave"), json!({})).await.ok();
    bob.post(&node, "/v1/conversations:join", json!({ "token": token })).await.ok();
    let body = json!({ "clientMessageId": "1", "text": "x" });
    let sent = bob.post(&node, &path(&id, "/messages"), body.clone()).await;
    sent.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    silence(&node, &ann, &id, &bob, world.clock.now().to_rfc3339()).await;
    bob.post(&node, &path(&id, "/messages"), body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_a_group_that_everybody_has_left() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let link = ann.post(&node, &path(&id, "/join-link"), json!({})).await.ok();
    let join = json!({ "token": link["token"] });
    ann.post(&node, &path(&id, "/leave"), json!({})).await.ok();
    assert_eq!(roles(&node, &bob, &id).await, [(bob.id.clone(), "OWNER".to_owned())]);
    bob.post(&node, &path(&id, "/leave"), json!({})).await.ok();
    for user in [&eve, &bob] {
        let joined = user.post(&node, "/v1/conversations:join", join.clone()).await;
        joined.refused(404, "RESOURCE_NOT_FOUND", 3001);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_json_has_no_form_for_are_refused_by_name() {
    let world = World::new().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "boss").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut groups = GroupServiceClient::new(node.channel());
    for (seconds, nanos) in
        [(253_402_300_800, 0), (9_000_000_000_000, 0), (-62_135_596_801, 0), (i64::MIN, 0), (59, -1)]
    {
        let at = Some(Timestamp { seconds, nanos });
        let request = UpdateMemberRequest {
            conversation_id: id.clone(),
            account_id: bob.id.clone(),
            silenced_until: at,
            ..UpdateMemberRequest::default()
        };
        invalid(groups.update_member(bearer(&ann, request)).await, "silenced_until");
        let membership = Some(Membership { muted_until: at, ..Membership::default() });
        let request = UpdateMembershipRequest { conversation_id: id.clone(), membership, update_mask: None };
        invalid(groups.update_membership(bearer(&bob, request)).await, "muted_until");
        // Whoever it is a role of: the answer comes before.
        let request = AssignRoleRequest { account_id: bob.id.clone(), role_id: bob.id.clone(), expires_at: at };
        invalid(admin.roles(&node).assign_role(request).await, "expires_at");
    }
    bob.get(&node, &path(&id, "/members")).await.ok();
    bob.get(&node, &path(&id, "")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_is_seen_and_a_picture_has_an_address() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "1").await;
    for hidden in
        ["\u{200b}", "\u{202e}", "👍\u{202e}", "\u{2066}", "\u{feff}", "\u{200d}", "\u{fe0f}", "\u{ad}", "\u{85}"]
    {
        let refused = react(&node, &bob, &id, 1, hidden).await;
        assert_eq!((refused.status, refused.fields()), (422, vec!["emoji"]), "{}", hidden.escape_unicode());
    }
    // With two skin tones the longest there is: 35 bytes.
    for emoji in ["❤️", "🇩🇪", "#️⃣", "👩🏻\u{200d}❤️\u{200d}💋\u{200d}👨🏿"] {
        react(&node, &bob, &id, 1, emoji).await.ok();
    }
    for url in ["https://", "https://a.example/\n", "https://a@b.example/", "http://a.example/", "x"] {
        let refused = patch(&ann, &node, &path(&id, ""), json!({ "avatarUrl": url })).await;
        assert_eq!((refused.status, refused.fields()), (422, vec!["conversation.avatar_url"]), "{url:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_nothing_left_to_watch_ends_after_its_client_has_said_all() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let (commands, receiver) = mpsc::channel(1);
    let subscribe = SubscribeRequest { conversation_id: id.clone(), after_seq: Some(0), ..Default::default() };
    let command = ConnectRequest { command_id: 1, command: Some(Command::Subscribe(subscribe)) };
    commands.send(command).await.unwrap();
    let mut answers = bob.messaging(&node).connect(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    drop(commands);
    soon(answers.message()).await.unwrap().unwrap();
    ann.delete(&node, &path(&id, &format!("/members/{}", bob.id))).await.ok();
    // What happened, and that it is watched no longer.
    for _ in 0..2 {
        soon(answers.message()).await.unwrap().unwrap();
    }
    assert!(soon(answers.message()).await.unwrap().is_none());
}

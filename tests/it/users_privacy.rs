//! Who sees whom, and who may write to whom.

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::proto::rialto::messaging::v1::SendMessageRequest;
use rialto::proto::rialto::users::v1::user_service_client::UserServiceClient;
use rialto::proto::rialto::users::v1::{
    BlockUserRequest, DeleteMeRequest, GetPublicProfileRequest, ListBlockedRequest, UnblockUserRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Node, User, World, refusal};
use crate::users::{by_handle, by_id, patch};

const UNKNOWN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Checks that nothing shows `viewer` that there is such an account.
async fn sees_nothing(node: &Node, viewer: &User, hidden: &User, handle: &str) {
    let mut client = viewer.users(node);
    let absent = client.get_user(by_id(UNKNOWN)).await.unwrap_err();
    for request in [by_id(&hidden.id), by_handle(handle)] {
        let refused = client.get_user(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!((refused.message(), refused.details()), (absent.message(), absent.details()));
    }
    // Over REST the bodies are the same but for the id of the request.
    let body = async |path: String| {
        let mut body = viewer.get(node, &path).await.body;
        body["error"]["requestId"] = Value::Null;
        body.to_string().replace(&hidden.id, "id").replace(UNKNOWN, "id")
    };
    let absent = body(format!("/v1/users/{UNKNOWN}")).await;
    assert_eq!(body(format!("/v1/users/{}", hidden.id)).await, absent);
    assert_eq!(body(format!("/v1/users/by-handle/{handle}")).await, absent);
    for query in ["", "?query=", "?orderBy=created_at"] {
        let list = viewer.get(node, &format!("/v1/users{query}")).await.ok();
        let ids: Vec<_> = list["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap()).collect();
        assert!(ids.contains(&viewer.id.as_str()) && !ids.contains(&hidden.id.as_str()), "{query}");
    }
    for query in [handle, &handle[..2]] {
        let list = viewer.get(node, &format!("/v1/users?query={query}")).await.ok();
        assert_eq!(list["users"], json!([]), "{query}");
    }
    assert!(!may_start(node, viewer, &hidden.id).await);
}

/// Whether a conversation can be started, which is refused in the same way for whatever reason.
async fn may_start(node: &Node, from: &User, to: &str) -> bool {
    let answer = from.post(node, "/v1/conversations", json!({ "member_ids": [to] })).await;
    if answer.status == 200 {
        return true;
    }
    let unknown = from.post(node, "/v1/conversations", json!({ "member_ids": [UNKNOWN] })).await;
    assert_eq!(
        (&answer.body["error"]["message"], answer.fields()),
        (&unknown.body["error"]["message"], unknown.fields())
    );
    answer.refused(422, "VALIDATION_ERROR", 2001);
    false
}

async fn sees(node: &Node, viewer: &User, other: &User) -> bool {
    viewer.get(node, &format!("/v1/users/{}", other.id)).await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_profile_is_seen_by_its_owner_and_administrators_only() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let admin = world.administrator(&node, "boss").await;
    let hide = json!({ "handle": "hidden_ann", "privacy": { "profileVisibility": "PROFILE_VISIBILITY_NOBODY" } });
    patch(&node, &ann, hide).await.ok();
    sees_nothing(&node, &bob, &ann, "hidden_ann").await;
    assert!(sees(&node, &ann, &ann).await && sees(&node, &admin, &ann).await);
    // Whoever knows her already may write to her.
    let first = ann.conversation(&node, &[&bob]).await;
    assert!(!first.is_empty() && may_start(&node, &bob, &ann.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_hides_the_two_from_each_other() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    patch(&node, &ann, json!({ "handle": "ann_block" })).await.ok();
    patch(&node, &bob, json!({ "handle": "bob_block" })).await.ok();
    let block = format!("/v1/users/{}/block", bob.id);
    ann.post(&node, &block, json!({})).await.ok();
    ann.users(&node).block_user(BlockUserRequest { user_id: bob.id.clone() }).await.unwrap();
    for node in [&node, &other] {
        sees_nothing(node, &bob, &ann, "ann_block").await;
        sees_nothing(node, &ann, &bob, "bob_block").await;
        assert!(sees(node, &eve, &ann).await && sees(node, &eve, &bob).await);
    }
    // Both may block; one unblocking is not enough then.
    bob.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    ann.delete(&node, &block).await.ok();
    sees_nothing(&node, &ann, &bob, "bob_block").await;
    bob.users(&node).unblock_user(UnblockUserRequest { user_id: ann.id.clone() }).await.unwrap();
    assert!(sees(&node, &ann, &bob).await && sees(&node, &bob, &ann).await);
    assert!(may_start(&node, &bob, &ann.id).await);
    // Without a block nothing happens.
    ann.delete(&node, &block).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_stops_messages_between_two_and_looks_like_an_account_that_is_gone() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let (two, three) = (ann.conversation(&node, &[&bob]).await, ann.conversation(&node, &[&bob, &eve]).await);
    let send = async |node: &Node, from: &User, conversation: &str, id: &str| {
        let path = format!("/v1/conversations/{conversation}/messages");
        from.post(node, &path, json!({ "client_message_id": id, "text": "hi" })).await
    };
    // But for the id of the request, the answers are the same.
    let refused = async |node: &Node, from: &User| {
        let answer = send(node, from, &two, "refused").await;
        answer.refused(403, "RECIPIENT_UNAVAILABLE", 1005);
        (answer.body["error"]["message"].clone(), answer.body["error"]["details"].clone())
    };
    let first = send(&node, &bob, &two, "1").await.ok();
    ann.post(&node, &format!("/v1/users/{}/block", bob.id), json!({})).await.ok();
    let mut answers = Vec::new();
    for (node, from) in [(&node, &bob), (&other, &bob), (&node, &ann), (&other, &ann)] {
        answers.push(refused(node, from).await);
    }
    let request = SendMessageRequest {
        conversation_id: two.clone(),
        client_message_id: "refused".into(),
        text: "hi".into(),
        ..Default::default()
    };
    let over_grpc = refusal(bob.messaging(&node).send_message(request).await);
    assert_eq!(over_grpc, (Code::PermissionDenied, "RECIPIENT_UNAVAILABLE".into()));
    // What was sent before is answered again; what was said stays; in a group both may write.
    assert_eq!(send(&node, &bob, &two, "1").await.ok(), first);
    let read = bob.get(&node, &format!("/v1/conversations/{two}/messages")).await.ok();
    assert_eq!(read["messages"].as_array().unwrap().len(), 1);
    for from in [&ann, &bob] {
        send(&node, from, &three, "1").await.ok();
    }
    // A stranger still learns nothing of the conversation.
    send(&node, &eve, &two, "1").await.refused(404, "RESOURCE_NOT_FOUND", 3001);

    ann.delete(&node, &format!("/v1/users/{}/block", bob.id)).await.ok();
    send(&other, &bob, &two, "refused").await.ok();
    send(&other, &ann, &two, "2").await.ok();
    for state in ["suspended", "deleted"] {
        let set = format!("UPDATE accounts SET state = '{state}' WHERE id = '{}'", ann.id);
        world.database().await.batch_execute(&set).await.unwrap();
        let gone = send(&node, &bob, &two, state).await;
        gone.refused(403, "RECIPIENT_UNAVAILABLE", 1005);
        answers.push((gone.body["error"]["message"].clone(), gone.body["error"]["details"].clone()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_listed_and_tell_nothing_about_who_is_blocked() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve, dan) =
        (node.user("ann").await, node.user("bob").await, node.user("eve").await, node.user("dan").await);
    let hide = json!({ "privacy": { "profileVisibility": "PROFILE_VISIBILITY_NOBODY" } });
    patch(&node, &eve, hide).await.ok();
    dan.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    let mut answers = Vec::new();
    for id in [bob.id.as_str(), &eve.id, &dan.id, UNKNOWN] {
        answers.push(ann.post(&node, &format!("/v1/users/{id}/block"), json!({})).await.ok());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));

    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let page = ann.get(&node, &format!("/v1/users/me/blocked?pageSize=1&pageToken={token}")).await.ok();
        listed.extend(page["blocked"].as_array().unwrap().iter().cloned());
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    let shown: Vec<_> =
        listed.iter().map(|one| (one["userId"].as_str().unwrap(), one["displayName"].as_str().unwrap())).collect();
    assert_eq!(shown, [(UNKNOWN, ""), (&dan.id, ""), (&eve.id, ""), (&bob.id, "bob")]);
    let over_grpc = ann.users(&node).list_blocked(ListBlockedRequest::default()).await.unwrap().into_inner();
    assert_eq!(over_grpc.blocked.len(), 4);
    assert_eq!(bob.get(&node, "/v1/users/me/blocked").await.ok()["blocked"], json!([]));

    let answer = ann.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await;
    assert_eq!((answer.status, answer.fields()), (422, vec!["user_id"]));
    let answer = ann.get(&node, "/v1/users/me/blocked?pageToken=x").await;
    assert_eq!((answer.status, answer.fields()), (422, vec!["page_token"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_account_needs_a_recent_proof_of_identity() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "boss").await);
    world.clock.advance(std::time::Duration::from_secs(301));
    ann.delete(&node, "/v1/users/me").await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    let refused = refusal(ann.users(&node).delete_me(DeleteMeRequest {}).await);
    assert_eq!(refused, (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".into()));
    // One's own is not to be had more cheaply by the way of administrators.
    for id in [&ann.id, &admin.id] {
        let answer = admin.delete(&node, &format!("/v1/users/{id}")).await;
        answer.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    }
    ann.get(&node, "/v1/users/me").await.ok();
    let proof = json!({ "password": crate::harness::PASSWORD });
    admin.post(&node, "/v1/auth/reauthenticate", proof).await.ok();
    admin.delete(&node, &format!("/v1/users/{}", ann.id)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_end_to_how_many_one_can_block() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let fill =
        format!("INSERT INTO user_blocks SELECT '{}', gen_random_uuid(), now() FROM generate_series(1, 10000)", ann.id);
    world.database().await.batch_execute(&fill).await.unwrap();
    let answer = ann.post(&node, &format!("/v1/users/{UNKNOWN}/block"), json!({})).await;
    answer.refused(409, "BLOCK_LIMIT_REACHED", 2002);
    let refused = refusal(ann.users(&node).block_user(BlockUserRequest { user_id: UNKNOWN.into() }).await);
    assert_eq!(refused, (Code::FailedPrecondition, "BLOCK_LIMIT_REACHED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_started_with_those_who_want_them() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    ann.conversation(&node, &[&bob]).await;
    let set = async |audience: &str| {
        patch(&node, &ann, json!({ "privacy": { "messagesFrom": audience } })).await.ok();
    };
    let both = async || (may_start(&node, &bob, &ann.id).await, may_start(&node, &eve, &ann.id).await);
    set("AUDIENCE_NOBODY").await;
    assert_eq!(both().await, (false, false));
    set("AUDIENCE_CONTACTS").await;
    assert_eq!(both().await, (true, false));
    // Her profile is there for all that.
    assert!(sees(&node, &eve, &ann).await);
    set("AUDIENCE_EVERYONE").await;
    assert_eq!(both().await, (true, true));
    // Of several, those who don't want it are named.
    patch(&node, &bob, json!({ "privacy": { "messagesFrom": "AUDIENCE_NOBODY" } })).await.ok();
    let answer = eve.post(&node, "/v1/conversations", json!({ "member_ids": [ann.id, bob.id, UNKNOWN] })).await;
    assert_eq!(answer.fields(), ["member_ids[1]", "member_ids[2]"]);
    // Nobody is kept from naming oneself.
    bob.post(&node, "/v1/conversations", json!({ "member_ids": [bob.id, ann.id] })).await.ok();
    let path = "/v1/users/me";
    bob.call(&node, Method::PATCH, path, json!({ "privacy": { "messagesFrom": "AUDIENCE_UNSPECIFIED" } })).await.ok();
    assert!(may_start(&node, &eve, &bob.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_to_everyone_is_shown_without_an_account() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let visitor = async || node.rest(Method::GET, "/v1/profiles/Ann", None, None).await;
    patch(&node, &ann, json!({ "handle": "ann", "bio": "Hi", "locale": "de" })).await.ok();
    visitor().await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    patch(&node, &ann, json!({ "privacy": { "profileVisibility": "PROFILE_VISIBILITY_EVERYONE" } })).await.ok();
    let shown = visitor().await.ok();
    assert_eq!(shown, json!({ "handle": "ann", "displayName": "ann", "bio": "Hi", "avatarUrl": "" }));
    let mut anonymous = UserServiceClient::new(node.channel());
    let request = GetPublicProfileRequest { handle: "@ANN".into() };
    let profile = anonymous.get_public_profile(request).await.unwrap().into_inner().profile.unwrap();
    assert_eq!(profile.bio, "Hi");
    for hidden in ["PROFILE_VISIBILITY_MEMBERS", "PROFILE_VISIBILITY_NOBODY"] {
        patch(&node, &ann, json!({ "privacy": { "profileVisibility": hidden } })).await.ok();
        visitor().await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    }
    patch(&node, &ann, json!({ "privacy": { "profileVisibility": "PROFILE_VISIBILITY_EVERYONE" } })).await.ok();
    visitor().await.ok();
    ann.users(&node).delete_me(DeleteMeRequest {}).await.unwrap();
    visitor().await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

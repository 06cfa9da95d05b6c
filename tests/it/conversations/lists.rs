//! The list of conversations as each member has arranged it.

use serde_json::{Value, json};

use super::{patch, path};
use crate::harness::{Node, User, World};

async fn titles(node: &Node, user: &User, query: &str) -> Vec<String> {
    let (mut titles, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/conversations?page_size=2&page_token={token}{query}");
        let page = user.get(node, &path).await.ok();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        titles
            .extend(page["conversations"].as_array().unwrap().iter().map(|conversation| text(&conversation["title"])));
        token = text(&page["nextPageToken"]);
        if token.is_empty() {
            return titles;
        }
    }
}

async fn arrange(node: &Node, user: &User, id: &str, mask: &str, membership: Value) -> Value {
    patch(user, node, &path(id, &format!("/membership?update_mask={mask}")), membership).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_conversations_come_first_archived_ones_apart_and_for_oneself_alone() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let mut ids = Vec::new();
    for title in ["a", "b", "c", "d", "e"] {
        let body = json!({ "title": title, "memberIds": [bob.id] });
        ids.push(ann.post(&node, "/v1/conversations", body).await.ok()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(titles(&node, &ann, "").await, ["e", "d", "c", "b", "a"]);
    for id in [&ids[0], &ids[1], &ids[2]] {
        assert_eq!(arrange(&node, &ann, id, "pinned", json!({ "pinned": true })).await["pinned"], true);
    }
    bob.send(&other, &ids[0], "hi").await;
    bob.send(&other, &ids[3], "hi").await;
    assert_eq!(titles(&other, &ann, "").await, ["a", "c", "b", "d", "e"]);
    assert_eq!(titles(&node, &bob, "").await, ["d", "a", "e", "c", "b"]);
    arrange(&node, &ann, &ids[0], "archived,pinned", json!({ "archived": true })).await;
    let muted = arrange(&node, &ann, &ids[4], "mutedUntil", json!({ "mutedUntil": "2100-01-01T00:00:00Z" })).await;
    assert_eq!((&muted["mutedUntil"], &muted["pinned"]), (&json!("2100-01-01T00:00:00Z"), &json!(false)));
    assert_eq!(titles(&node, &ann, "").await, ["c", "b", "d", "e"]);
    assert_eq!(titles(&node, &ann, "&archived=true").await, ["a"]);
    // A token of the one list is none of the other.
    let page = ann.get(&node, "/v1/conversations?page_size=1").await.ok();
    let token = page["nextPageToken"].as_str().unwrap();
    let refused = ann.get(&node, &format!("/v1/conversations?archived=true&page_token={token}")).await;
    assert_eq!(refused.fields(), ["page_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_is_sent_back_as_it_was_read_and_changes_only_what_is_ones_own() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "1").await;
    let mut read = bob.get(&node, &path(&id, "")).await.ok()["membership"].take();
    read["pinned"] = json!(true);
    let after = patch(&bob, &node, &path(&id, "/membership"), read.clone()).await.ok();
    assert_eq!(after, read);
    let more = json!({ "role": "MEMBER_ROLE_OWNER", "readSeq": 1, "deliveredSeq": 1 });
    assert_eq!(patch(&bob, &node, &path(&id, "/membership"), more).await.ok(), after);
    let refused = patch(&bob, &node, &path(&id, "/membership?update_mask=unread"), json!({})).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["update_mask"]));
    patch(&bob, &node, &path(&id, "/membership"), Value::Null).await.refused(422, "MISSING_REQUIRED_FIELD", 2003);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_conversation_comes_with_its_last_message_and_what_one_has_not_read() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (one, two) = (ann.conversation(&node, &[&bob]).await, ann.conversation(&node, &[&bob]).await);
    for text in ["1", "2", "3"] {
        ann.send(&node, &one, text).await;
    }
    let listed = bob.get(&node, "/v1/conversations").await.ok();
    let [first, second] = [&listed["conversations"][0], &listed["conversations"][1]];
    assert_eq!(
        (&first["id"], &first["unreadCount"], &first["lastMessage"]["text"]),
        (&json!(one), &json!("3"), &json!("3"))
    );
    assert_eq!(
        (&second["id"], &second["unreadCount"], &second["lastMessage"]),
        (&json!(two), &json!("0"), &Value::Null)
    );
    assert_eq!(first["membership"]["role"], "MEMBER_ROLE_MEMBER");
    // A reaction is nothing unread, and not the last message.
    let reaction = path(&one, "/messages/1/reactions/👍");
    ann.call(&node, reqwest::Method::PUT, &reaction, json!({})).await.ok();
    let got = bob.get(&node, &path(&one, "")).await.ok();
    assert_eq!(
        (&got["unreadCount"], &got["lastMessage"]["text"], &got["lastSeq"]),
        (&json!("3"), &json!("3"), &json!("4"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_message_of_a_conversation_is_cut() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let long = json!({ "clientMessageId": "1", "text": "🐳".repeat(501) });
    ann.post(&node, &path(&id, "/messages"), long).await.ok();
    let got = bob.get(&node, &path(&id, "")).await.ok();
    assert_eq!(got["lastMessage"]["text"], "🐳".repeat(500));
}

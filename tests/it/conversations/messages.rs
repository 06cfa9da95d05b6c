//! Single messages: edits, deletion, reactions, what comes with the text, and messages that disappear.

use std::time::Duration;

use serde_json::{Value, json};

use super::{direct, expect, patch, path, set_role};
use crate::harness::{Answer, Events, Node, User, World, number};

fn message(id: &str, seq: i64) -> String {
    path(id, &format!("/messages/{seq}"))
}

fn reaction(id: &str, seq: i64, emoji: &str) -> String {
    format!("{}/reactions/{emoji}", message(id, seq))
}

async fn react(node: &Node, user: &User, id: &str, seq: i64, emoji: &str) -> Answer {
    user.call(node, reqwest::Method::PUT, &reaction(id, seq, emoji), json!({})).await
}

async fn texts(node: &Node, user: &User, id: &str) -> Vec<String> {
    let page = user.get(node, &path(id, "/messages")).await.ok();
    let messages = page["messages"].as_array().unwrap().iter();
    messages.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

fn not_found(answer: &Answer) {
    answer.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_told_and_what_was_said_before_stays_readable() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "frist").await;
    let mut seen = Events::open(&other, &bob, &id, "", None).await;
    let edited = patch(&ann, &node, &message(&id, 1), json!({ "text": "first" })).await.ok();
    assert_eq!((&edited["text"], edited["editedAt"].is_string()), (&json!("first"), true));
    assert_eq!(expect(&mut seen, "edited").await["text"], "first");
    // Saying the same once more is no edit.
    patch(&ann, &node, &message(&id, 1), json!({ "text": "first" })).await.ok();
    patch(&ann, &node, &message(&id, 1), json!({ "text": "First", "mentions": [bob.id] })).await.ok();
    let last = seen.next().await.unwrap();
    assert_eq!((last.name.as_str(), last.id.as_str()), ("edited", "3"));
    assert_eq!(last.data["edited"]["details"]["mentions"], json!([bob.id]));
    assert_eq!(texts(&other, &bob, &id).await, ["First"]);

    let edits = bob.get(&node, &format!("{}/edits", message(&id, 1))).await.ok();
    let said: Vec<_> = edits["edits"].as_array().unwrap().iter().map(|edit| edit["text"].clone()).collect();
    assert_eq!(said, ["frist", "first"]);
    not_found(&patch(&bob, &node, &message(&id, 1), json!({ "text": "x" })).await);
    not_found(&patch(&eve, &node, &message(&id, 1), json!({ "text": "x" })).await);
    not_found(&patch(&ann, &node, &message(&id, 2), json!({ "text": "x" })).await);
    not_found(&eve.get(&node, &format!("{}/edits", message(&id, 1))).await);
    not_found(&eve.get(&node, &message(&id, 1)).await);
    for (body, field) in [(json!({ "text": "" }), "text"), (json!({ "text": "x", "mentions": ["x"] }), "mentions[0]")] {
        let refused = patch(&ann, &node, &message(&id, 1), body).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_edited_a_hundred_times_at_most() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "0").await;
    for i in 1..=100 {
        patch(&ann, &node, &message(&id, 1), json!({ "text": i.to_string() })).await.ok();
    }
    let refused = patch(&ann, &node, &message(&id, 1), json!({ "text": "101" })).await;
    refused.refused(409, "RESOURCE_CONFLICT", 3003);
    assert_eq!(texts(&node, &bob, &id).await, ["100"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_for_all_leaves_its_place_and_nothing_else() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, cat) = (node.user("ann").await, node.user("bob").await, node.user("cat").await);
    let id = ann.conversation(&node, &[&bob, &cat]).await;
    for text in ["one", "two", "three"] {
        bob.send(&node, &id, text).await;
    }
    patch(&bob, &node, &message(&id, 1), json!({ "text": "One" })).await.ok();
    react(&node, &cat, &id, 1, "👍").await.ok();
    let mut seen = Events::open(&other, &ann, &id, "", None).await;

    let delete = |seq: i64| format!("{}?for_all=true", message(&id, seq));
    cat.delete(&node, &delete(1)).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    bob.delete(&node, &delete(1)).await.ok();
    bob.delete(&node, &delete(1)).await.ok();
    // An owner or administrator deletes what others said.
    ann.delete(&node, &delete(2)).await.ok();
    set_role(&node, &ann, &id, &cat, "ADMIN").await.ok();
    cat.delete(&other, &delete(3)).await.ok();
    for (seq, by) in [(1, &bob), (2, &ann)] {
        let deleted = expect(&mut seen, "deleted").await;
        assert_eq!((number(&deleted["messageSeq"]), &deleted["deletedBy"]), (seq, &json!(by.id)));
    }
    let page = cat.get(&node, &path(&id, "/messages")).await.ok();
    for left in page["messages"].as_array().unwrap() {
        assert_eq!((&left["text"], left["deletedAt"].is_string()), (&json!(""), true), "{left}");
        assert!(left["reactions"].as_array().is_none_or(Vec::is_empty), "{left}");
    }
    assert_eq!(world.count("message_edits").await + world.count("message_reactions").await, 0);
    patch(&bob, &node, &message(&id, 1), json!({ "text": "x" })).await.refused(404, "RESOURCE_DELETED", 3004);
    not_found(&react(&node, &cat, &id, 1, "👍").await);
    // Sent again, it is the message that was deleted.
    let again = bob.post(&node, &path(&id, "/messages"), json!({ "clientMessageId": "one", "text": "one" })).await;
    assert_eq!((again.status, again.body["deletedAt"].is_string()), (200, true), "{}", again.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_deletes_for_oneself_the_others_still_see() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    for text in ["one", "two"] {
        ann.send(&node, &id, text).await;
    }
    bob.delete(&node, &message(&id, 2)).await.ok();
    bob.delete(&node, &message(&id, 2)).await.ok();
    assert_eq!(
        (texts(&node, &bob, &id).await, texts(&node, &ann, &id).await),
        (vec!["one".into()], vec!["two".into(), "one".into()])
    );
    not_found(&bob.get(&node, &message(&id, 2)).await);
    ann.get(&node, &message(&id, 2)).await.ok();
    let last =
        async |user: &User| user.get(&node, "/v1/conversations").await.ok()["conversations"][0]["lastMessage"].clone();
    assert_eq!((last(&bob).await, &last(&ann).await["text"]), (Value::Null, &json!("two")));
}

#[tokio::test(flavor = "multi_thread")]
async fn reactions_are_counted_once_an_account_and_told() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "news").await;
    let mut seen = Events::open(&other, &ann, &id, "", None).await;
    let at_once = (0..6).map(|i| react(if i % 2 == 0 { &node } else { &other }, &bob, &id, 1, "👍"));
    for answer in futures_util::future::join_all(at_once).await {
        answer.ok();
    }
    react(&node, &ann, &id, 1, "👍").await.ok();
    react(&node, &ann, &id, 1, "👩‍👩‍👧").await.ok();
    bob.delete(&node, &reaction(&id, 1, "👍")).await.ok();
    bob.delete(&node, &reaction(&id, 1, "👍")).await.ok();
    for (user, emoji, removed) in [(&bob, "👍", false), (&ann, "👍", false), (&ann, "👩‍👩‍👧", false), (&bob, "👍", true)]
    {
        let told = expect(&mut seen, "reaction").await;
        let removal = told["removed"].as_bool().unwrap_or_default();
        assert_eq!((&told["accountId"], &told["emoji"], removal), (&json!(user.id), &json!(emoji), removed));
    }
    react(&node, &bob, &id, 1, "👍").await.ok();
    let counted = bob.get(&node, &message(&id, 1)).await.ok()["reactions"].clone();
    assert_eq!(
        counted,
        json!([{ "emoji": "👍", "count": 2, "mine": true }, { "emoji": "👩‍👩‍👧", "count": 1, "mine": false }])
    );
    let listed = ann.get(&node, &format!("{}/reactions", message(&id, 1))).await.ok();
    assert_eq!(listed["reactions"].as_array().unwrap().len(), 3);
    for wrong in ["a", "%20", "👍a", "%F0%9F%91%8D%20"] {
        let refused = react(&node, &bob, &id, 1, wrong).await;
        assert_eq!((refused.status, refused.fields()), (422, vec!["emoji"]), "{wrong}");
    }
    not_found(&react(&node, &eve, &id, 1, "👍").await);
    not_found(&react(&node, &bob, &id, 9, "👍").await);
    for emoji in ["😀", "😁", "😂", "🤣", "😃", "😄", "😅", "😆", "😉"] {
        react(&node, &bob, &id, 1, emoji).await.ok();
    }
    react(&node, &bob, &id, 1, "😊").await.refused(409, "RESOURCE_CONFLICT", 3003);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_a_text_comes_back_and_nobody_says_that_something_was_forwarded() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "question").await;
    let file = "01a1ff59-b843-7c67-a0ad-ad0a7af1c151";
    let details = json!({
        "replyToSeq": 1, "mentions": [ann.id], "attachments": [{ "fileId": file, "name": "plan.pdf" }], "tipId": file,
        "forwarded": { "senderId": ann.id },
    });
    let body = json!({ "clientMessageId": "1", "text": "answer", "details": details });
    let sent = bob.post(&node, &path(&id, "/messages"), body).await.ok();
    let read = ann.get(&node, &message(&id, 2)).await.ok();
    assert_eq!(sent["details"], read["details"]);
    let details = &read["details"];
    assert_eq!((number(&details["replyToSeq"]), &details["mentions"]), (1, &json!([ann.id])));
    assert_eq!((&details["attachments"][0]["fileId"], &details["tipId"]), (&json!(file), &json!(file)));
    assert!(details.get("forwarded").is_none_or(Value::is_null), "{details}");
    for (details, field) in [
        (json!({ "replyToSeq": -1 }), "details.reply_to_seq"),
        (json!({ "mentions": ["x"] }), "details.mentions[0]"),
        (json!({ "attachments": [{ "fileId": "x" }] }), "details.attachments[0].file_id"),
        (json!({ "callId": "x" }), "details.call_id"),
    ] {
        let body = json!({ "clientMessageId": "2", "text": "x", "details": details });
        let refused = bob.post(&node, &path(&id, "/messages"), body).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_disappear_when_their_time_is_over() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = direct(&node, &ann, &bob).await.ok()["id"].as_str().unwrap().to_owned();
    ann.send(&node, &id, "stays").await;
    let body = json!({ "disappearAfterSeconds": 60 });
    patch(&bob, &node, &path(&id, "?update_mask=disappearAfterSeconds"), body).await.ok();
    ann.send(&node, &id, "goes").await;
    assert!(bob.get(&node, &message(&id, 3)).await.ok()["expiresAt"].is_string());
    assert_eq!(texts(&node, &bob, &id).await, ["goes", "stays"]);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(texts(&node, &bob, &id).await, ["", "stays"]);
    let gone = bob.get(&node, &message(&id, 3)).await.ok();
    assert!(gone["deletedAt"].is_string(), "{gone}");
    assert_eq!(bob.get(&node, &path(&id, "")).await.ok()["lastMessage"], Value::Null);
    patch(&ann, &node, &message(&id, 3), json!({ "text": "x" })).await.refused(404, "RESOURCE_DELETED", 3004);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_clients_send_and_list_by_the_paths_they_know() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let body = json!({ "conversation_id": id, "client_message_id": "1", "text": "hi" });
    let sent = ann.post(&node, "/api/messages", body).await.ok();
    let listed = bob.get(&node, &format!("/v1/messages?conversation_id={id}&page_size=5")).await.ok();
    assert_eq!(listed["messages"], json!([sent]));
    let refused = bob.get(&node, "/v1/messages").await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["conversation_id"]));
}

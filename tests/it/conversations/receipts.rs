//! How far members have read, and who is writing.

use serde_json::json;

use super::{direct, expect, path};
use crate::harness::{Answer, Events, Node, User, World, number};

async fn receipt(node: &Node, user: &User, id: &str, delivered: i64, read: i64) -> Answer {
    user.post(node, &path(id, "/receipt"), json!({ "deliveredSeq": delivered, "readSeq": read })).await
}

async fn typing(node: &Node, user: &User, id: &str, typing: bool) -> Answer {
    user.post(node, &path(id, "/typing"), json!({ "typing": typing })).await
}

async fn unread(node: &Node, user: &User, id: &str) -> i64 {
    number(&user.get(node, &path(id, "")).await.ok()["unreadCount"])
}

#[tokio::test(flavor = "multi_thread")]
async fn watermarks_move_forward_only_and_count_messages_not_events() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    for text in ["1", "2", "3"] {
        ann.send(&node, &id, text).await;
    }
    // Number 4 is no message.
    super::patch(&ann, &node, &path(&id, "/messages/3"), json!({ "text": "three" })).await.ok();
    ann.send(&node, &id, "5").await;
    assert_eq!((unread(&node, &bob, &id).await, unread(&node, &ann, &id).await), (4, 0));
    let mut seen = Events::open(&other, &ann, &id, "", None).await;

    let answer = receipt(&node, &bob, &id, 3, 2).await.ok();
    let membership = &answer["membership"];
    assert_eq!((number(&membership["deliveredSeq"]), number(&membership["readSeq"])), (3, 2));
    assert_eq!(number(&answer["unreadCount"]), 2);
    let told = expect(&mut seen, "receipt").await;
    assert_eq!((&told["accountId"], number(&told["deliveredSeq"]), number(&told["readSeq"])), (&json!(bob.id), 3, 2));
    // Back is no way; beyond what happened neither; reading implies receiving.
    assert_eq!(number(&receipt(&node, &bob, &id, 1, 1).await.ok()["unreadCount"]), 2);
    assert_eq!(number(&receipt(&node, &bob, &id, 0, 4).await.ok()["unreadCount"]), 1);
    let answer = receipt(&other, &bob, &id, 0, i64::MAX).await.ok();
    assert_eq!((number(&answer["membership"]["readSeq"]), number(&answer["unreadCount"])), (5, 0));
    let told = expect(&mut seen, "receipt").await;
    assert!([4, 5].contains(&number(&told["readSeq"])), "{told}");
    let members = ann.get(&node, &path(&id, "/members")).await.ok();
    let read: Vec<_> = members["members"].as_array().unwrap().iter().map(|member| number(&member["readSeq"])).collect();
    assert_eq!(read, [5, 5], "who sends has read");
    ann.send(&node, &id, "6").await;
    assert_eq!(unread(&other, &bob, &id).await, 1);

    let refused = receipt(&node, &bob, &id, -1, 0).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["delivered_seq"]));
    let eve = node.user("eve").await;
    receipt(&node, &eve, &id, 1, 1).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    typing(&node, &eve, &id, true).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_and_sends_at_once_on_two_nodes_loses_no_count() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let id = ann.conversation(&one, &[&bob]).await;
    let sends = async {
        for i in 0..20 {
            ann.send(&one, &id, &i.to_string()).await;
        }
    };
    let reads = async {
        for _ in 0..20 {
            receipt(&two, &bob, &id, 0, i64::MAX).await.ok();
        }
    };
    let writes = async {
        for i in 0..5 {
            bob.send(&two, &id, &i.to_string()).await;
        }
    };
    tokio::join!(sends, reads, writes);
    receipt(&one, &bob, &id, 0, i64::MAX).await.ok();
    assert_eq!((unread(&one, &bob, &id).await, world.count("messages").await), (0, 25));
    ann.send(&one, &id, "one more").await;
    assert_eq!(unread(&two, &bob, &id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_on_every_node_see_who_is_writing_and_only_the_latest() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut streams = [Events::open(&node, &ann, &id, "", None).await, Events::open(&other, &ann, &id, "", None).await];
    typing(&node, &bob, &id, true).await.ok();
    for stream in &mut streams {
        let event = stream.next().await.unwrap();
        // It has no number of its own, and nothing happened before it.
        assert_eq!((event.name.as_str(), event.id.as_str()), ("typing", ""));
        assert_eq!(event.data["typing"], json!({ "accountId": bob.id, "typing": true }));
    }
    typing(&other, &bob, &id, false).await.ok();
    for stream in &mut streams {
        assert_eq!(expect(stream, "typing").await["typing"], false);
    }
    // Who comes now is told what happens from now on.
    let mut late = Events::open(&node, &bob, &id, "", None).await;
    ann.send(&node, &id, "done").await;
    assert_eq!(late.text().await, "done");
    assert_eq!(world.count("conversation_events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_of_whom_one_blocks_the_other_nothing_is_told() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = direct(&node, &ann, &bob).await.ok()["id"].as_str().unwrap().to_owned();
    ann.send(&node, &id, "1").await;
    ann.send(&node, &id, "2").await;
    let mut seen = Events::open(&node, &ann, &id, "", None).await;
    ann.post(&node, &format!("/v1/users/{}/block", bob.id), json!({})).await.ok();
    typing(&node, &bob, &id, true).await.ok();
    receipt(&node, &bob, &id, 1, 1).await.ok();
    ann.delete(&node, &format!("/v1/users/{}/block", bob.id)).await.ok();
    typing(&node, &bob, &id, false).await.ok();
    assert_eq!(expect(&mut seen, "typing").await["typing"], false);
    receipt(&node, &bob, &id, 2, 2).await.ok();
    assert_eq!(number(&expect(&mut seen, "receipt").await["readSeq"]), 2);
}

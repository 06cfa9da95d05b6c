//! What account streams are told of conversations.

use rialto::dev::services::PrivateRedis;
use serde_json::{Value, json};

use super::{add, path};
use crate::harness::{Events, Node, User, World, eventually, number};

async fn open(node: &Node, user: &User) -> Events {
    let mut events = Events::open_path(node, user, "/v1/account/events", None).await;
    assert_eq!(events.next().await.unwrap().name, "opened");
    events
}

/// The next of these.
async fn next(events: &mut Events, name: &str) -> Value {
    loop {
        let event = events.next().await.expect("the stream has ended");
        if event.name == name {
            return event.data[name].clone();
        }
    }
}

/// Waits for the head of a conversation to be this far; returns the last ones of others that are told meanwhile.
async fn head(events: &mut Events, id: &str, seq: i64) -> Option<i64> {
    let mut other = None;
    loop {
        let head = next(events, "conversationHead").await;
        let reached = number(&head["lastSeq"]);
        if head["conversationId"] != id {
            other = Some(reached);
            continue;
        }
        assert!(reached <= seq, "{head}");
        if reached == seq {
            return other;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_hears_of_its_conversations_on_every_node_as_long_as_it_is_in_them() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let old = ann.conversation(&one, &[&bob]).await;
    let mut streams = [open(&one, &bob).await, open(&two, &bob).await];
    ann.send(&one, &old, "1").await;
    for stream in &mut streams {
        head(stream, &old, 1).await;
    }
    // One that begins while the stream is open, and one that it is added to.
    let new = ann.conversation(&two, &[&bob]).await;
    for stream in &mut streams {
        let joined = next(stream, "conversationJoined").await;
        assert_eq!((&joined["conversationId"], &joined["addedBy"]), (&json!(new), &json!(ann.id)));
    }
    for text in ["1", "2", "3"] {
        ann.send(&one, &new, text).await;
    }
    for stream in &mut streams {
        head(stream, &new, 3).await;
    }
    ann.delete(&one, &path(&new, &format!("/members/{}", bob.id))).await.ok();
    for stream in &mut streams {
        assert_eq!(next(stream, "conversationLeft").await["removedBy"], ann.id);
    }
    ann.send(&one, &new, "secret").await;
    ann.send(&two, &old, "2").await;
    for stream in &mut streams {
        // Of the other one at most that it was removed, which is number 4.
        assert!(head(stream, &old, 2).await.is_none_or(|seq| seq <= 4));
    }
    add(&two, &ann, &new, &[&bob]).await.ok();
    for stream in &mut streams {
        assert_eq!(next(stream, "conversationJoined").await["conversationId"], new);
    }
    ann.send(&one, &new, "hello again").await;
    for stream in &mut streams {
        head(stream, &new, 7).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_heads_of_the_other_node_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let id = ann.conversation(&one, &[&bob]).await;
    let mut before = open(&two, &bob).await;
    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    let mut after = open(&two, &bob).await;
    ann.send(&one, &id, "1").await;
    head(&mut before, &id, 1).await;
    head(&mut after, &id, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_on_one_device_is_read_on_the_others() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let id = ann.conversation(&one, &[&bob]).await;
    for text in ["1", "2"] {
        ann.send(&one, &id, text).await;
    }
    let mut streams = [open(&one, &bob).await, open(&two, &bob).await];
    let mut anns = open(&one, &ann).await;
    bob.post(&two, &path(&id, "/receipt"), json!({ "readSeq": 1 })).await.ok();
    for stream in &mut streams {
        let read = next(stream, "conversationRead").await;
        assert_eq!(
            (&read["conversationId"], number(&read["readSeq"]), number(&read["unreadCount"])),
            (&json!(id), 1, 1)
        );
    }
    // That is nobody else's concern.
    ann.send(&one, &id, "3").await;
    let event = anns.next().await.unwrap();
    assert_eq!(event.name, "conversationHead");
}

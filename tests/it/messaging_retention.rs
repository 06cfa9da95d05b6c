//! What is no longer kept, and what has disappeared: nobody sees it any more, and then it is gone.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::domains::messaging::jobs::delete_old_messages;
use rialto::proto::rialto::messaging::v1::SubscribeRequest;
use rialto::proto::rialto::messaging::v1::subscribe_response::Event;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{Node, User, World, eventually, number, refusal, soon, text_of};
use crate::live::{subscribe, text};

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// Lets days go by, after which everybody logs in again.
pub async fn days_later(world: &World, node: &Node, days: u32, users: &mut [&mut User]) {
    world.clock.advance(DAY * days);
    for user in users {
        **user = node.log_in(&user.email.clone(), &user.id.clone()).await;
    }
}

pub async fn sql(world: &World, query: &str) {
    world.database().await.batch_execute(query).await.unwrap();
}

/// The numbers of the messages that somebody sees.
async fn seen(node: &Node, user: &User, conversation: &str) -> Vec<i64> {
    let page = user.get(node, &format!("/v1/conversations/{conversation}/messages?after_seq=0")).await.ok();
    page["messages"].as_array().unwrap().iter().map(|message| number(&message["seq"])).collect()
}

async fn unread(node: &Node, user: &User, conversation: &str) -> i64 {
    number(&user.get(node, &format!("/v1/conversations/{conversation}")).await.ok()["unreadCount"])
}

pub async fn edit(node: &Node, user: &User, conversation: &str, seq: i64, text: &str) {
    let path = format!("/v1/conversations/{conversation}/messages/{seq}");
    user.call(node, Method::PATCH, &path, json!({ "text": text })).await.ok();
}

/// Where a reader could begin who is told that what it wants is gone.
pub async fn truncated_at(node: &Node, user: &User, conversation: &str, after_seq: i64) -> i64 {
    let request =
        SubscribeRequest { conversation_id: conversation.into(), after_seq: Some(after_seq), ..Default::default() };
    let status = match user.messaging(node).subscribe(request).await {
        Err(status) => status,
        Ok(stream) => soon(stream.into_inner().message()).await.unwrap_err(),
    };
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::OutOfRange, "HISTORY_TRUNCATED"));
    info.metadata["oldest_seq"].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_server_keeps_is_not_shown_and_then_dropped_with_all_that_belongs_to_it() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "one").await;
    ann.send(&node, &id, "two").await;
    edit(&node, &ann, &id, 1, "one, edited").await;
    let reaction = format!("/v1/conversations/{id}/messages/1/reactions/%F0%9F%91%8D");
    bob.call(&node, Method::PUT, &reaction, json!({})).await.ok();
    bob.delete(&node, &format!("/v1/conversations/{id}/messages/2")).await.ok();
    for table in ["message_edits", "message_reactions", "hidden_messages"] {
        assert_eq!(world.count(table).await, 1, "{table}");
    }
    assert_eq!(seen(&node, &ann, &id).await, [1, 2]);

    days_later(&world, &node, 31, &mut [&mut ann, &mut bob]).await;
    // Nothing was deleted yet, and nothing is shown.
    assert_eq!((world.count("messages").await, seen(&node, &ann, &id).await), (2, vec![]));
    ann.get(&node, &format!("/v1/conversations/{id}/messages/1")).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    let edit = json!({ "text": "too late" });
    let path = format!("/v1/conversations/{id}/messages/1");
    ann.call(&node, Method::PATCH, &path, edit).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    let conversation = ann.get(&node, &format!("/v1/conversations/{id}")).await.ok();
    assert_eq!(conversation["lastMessage"], json!(null));
    assert_eq!(unread(&node, &bob, &id).await, 0);
    assert_eq!(truncated_at(&node, &ann, &id, 0).await, 5);

    assert_eq!(delete_old_messages(&node.server.app).await.unwrap(), 2);
    for table in
        ["messages", "conversation_events", "message_keys", "message_edits", "message_reactions", "hidden_messages"]
    {
        assert_eq!(world.count(table).await, 0, "{table}");
    }
    assert_eq!(world.count("message_partitions WHERE ends_at < now() + interval '1 day'").await, 0);
    assert_eq!(truncated_at(&node, &ann, &id, 0).await, 5);
    assert_eq!(truncated_at(&node, &ann, &id, 3).await, 5);
    eventually(async || {
        let metrics = node.rest(Method::GET, "/metrics", None, None).await.ok();
        metrics.as_str().unwrap().contains("messages_retention_deleted_total 2\n")
    })
    .await;
    // A second time finds nothing to do.
    assert_eq!(delete_old_messages(&node.server.app).await.unwrap(), 0);

    // The numbers go on, and who has the last one goes on too.
    let mut stream = subscribe(&node, &bob, &id, Some(4)).await;
    assert_eq!(ann.send(&node, &id, "one").await, 5);
    assert_eq!(text(soon(stream.message()).await.unwrap().unwrap()), (5, "one".into()));
    assert_eq!(seen(&node, &bob, &id).await, [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_keeps_messages_for_less_and_loses_only_its_oldest() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let (short, long) = (ann.conversation(&node, &[&bob]).await, ann.conversation(&node, &[&bob]).await);
    sql(&world, &format!("UPDATE conversations SET retention_days = 1 WHERE id = '{short}'")).await;
    for id in [&short, &long] {
        ann.send(&node, id, "one").await;
        edit(&node, &ann, id, 1, "one, edited").await;
        ann.send(&node, id, "three").await;
    }
    days_later(&world, &node, 2, &mut [&mut ann, &mut bob]).await;
    for id in [&short, &long] {
        ann.send(&node, id, "four").await;
        edit(&node, &ann, id, 4, "four, edited").await;
    }
    assert_eq!((seen(&node, &bob, &short).await, seen(&node, &bob, &long).await), (vec![4], vec![1, 3, 4]));
    assert_eq!(truncated_at(&node, &bob, &short, 1).await, 4);
    // Bob has read nothing, and what is unread is what he can still read: before the rest is deleted, and after.
    assert_eq!((unread(&node, &bob, &short).await, unread(&node, &bob, &long).await), (1, 3));

    assert_eq!(delete_old_messages(&node.server.app).await.unwrap(), 2);
    let of_short = format!("WHERE conversation_id = '{short}'");
    let mut left = Vec::new();
    for table in ["messages", "conversation_events", "message_edits"] {
        left.push(world.count(&format!("{table} {of_short}")).await);
    }
    assert_eq!(left, [1, 1, 1]);
    assert_eq!(truncated_at(&node, &bob, &short, 2).await, 4);
    assert_eq!((unread(&node, &bob, &short).await, unread(&node, &bob, &long).await), (1, 3));
    let listed = bob.get(&node, "/v1/conversations").await.ok();
    let mut counts: Vec<_> =
        listed["conversations"].as_array().unwrap().iter().map(|listed| number(&listed["unreadCount"])).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 3]);
    // Reading on from what is gone leaves no more than there is.
    for (seq, left) in [(1, 1), (4, 0)] {
        let body = json!({ "readSeq": seq });
        let read = bob.post(&node, &format!("/v1/conversations/{short}/receipt"), body).await.ok();
        assert_eq!(number(&read["unreadCount"]), left);
    }
    let mut stream = subscribe(&node, &bob, &short, Some(3)).await;
    assert_eq!(text(soon(stream.message()).await.unwrap().unwrap()), (4, "four, edited".into()));
    let edited = soon(stream.message()).await.unwrap().unwrap();
    let Some(Event::Edited(message)) = edited.event else { panic!("{edited:?}") };
    assert_eq!((edited.seq, message.seq, text_of(&message)), (5, 4, "four, edited"));
    let mut stream = subscribe(&node, &bob, &long, Some(0)).await;
    for seq in 1..=5 {
        assert_eq!(soon(stream.message()).await.unwrap().unwrap().seq, seq);
    }
    // What a deleted message was called is free again, and that of one that is kept is not.
    assert_eq!((ann.send(&node, &short, "one").await, ann.send(&node, &short, "four").await), (6, 4));
    assert_eq!(ann.send(&node, &long, "one").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_whose_message_is_gone_is_told_without_content() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    sql(&world, "UPDATE conversations SET retention_days = 3").await;
    ann.send(&node, &id, "one").await;
    days_later(&world, &node, 2, &mut [&mut ann, &mut bob]).await;
    edit(&node, &ann, &id, 1, "one, edited").await;
    days_later(&world, &node, 2, &mut [&mut ann, &mut bob]).await;
    assert_eq!(delete_old_messages(&node.server.app).await.unwrap(), 1);
    // From the database: this node has been told of it with its content.
    let other = world.node().await;
    let mut stream = subscribe(&other, &bob, &id, Some(1)).await;
    let edited = soon(stream.message()).await.unwrap().unwrap();
    let Some(Event::Edited(message)) = edited.event else { panic!("{edited:?}") };
    assert_eq!((edited.seq, message.seq, &message.content), (2, 1, &None));
    assert!(message.deleted_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn times_grow_with_numbers_although_the_clocks_of_nodes_differ() {
    let world = World::new().await;
    let ahead = rialto::kernel::clock::Clock::default();
    ahead.advance(Duration::from_secs(5));
    let (node, early) = (world.node().await, world.node_at(&ahead).await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    for round in 0..3 {
        let seq = ann.send(if round == 1 { &node } else { &early }, &id, &format!("{round}")).await;
        edit(&early, &ann, &id, seq, "edited there").await;
        edit(&node, &ann, &id, seq, "edited here").await;
    }
    let both = "(SELECT seq, created_at FROM messages UNION ALL SELECT seq, created_at FROM conversation_events)";
    assert_eq!(world.count(&format!("{both} a")).await, 9);
    let wrong = format!("{both} a JOIN {both} b ON a.seq < b.seq AND a.created_at > b.created_at");
    assert_eq!(world.count(&wrong).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_there_before_they_are_needed_and_the_metric_knows_the_oldest() {
    let world = World::new().await;
    let node = world.node().await;
    delete_old_messages(&node.server.app).await.unwrap();
    assert_eq!(world.count("message_partitions").await, 2);
    assert_eq!(world.count("message_partitions WHERE ends_at > now() + interval '1 day'").await, 1);
    world.clock.advance(3 * DAY);
    delete_old_messages(&node.server.app).await.unwrap();
    eventually(async || {
        let metrics = node.rest(Method::GET, "/metrics", None, None).await.ok();
        let age = metrics.as_str().unwrap().lines().find_map(|line| {
            line.strip_prefix("messages_oldest_partition_seconds ").map(|age| age.parse::<u64>().unwrap())
        });
        age.unwrap() > 3 * DAY.as_secs() && age.unwrap() < 4 * DAY.as_secs() + 60
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_while_somebody_reads_and_writes_messages() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "one").await;
    let mut busy = world.database().await;
    let busy_with = "BEGIN; SELECT * FROM messages; SELECT * FROM conversation_events; SELECT * FROM message_documents;
        UPDATE messages SET text = text; UPDATE conversations SET title = title";
    busy.batch_execute(busy_with).await.unwrap();
    sql(&world, "SET lock_timeout = '5s'; SELECT create_message_partitions(now() + interval '90 days', 1)").await;
    assert_eq!(world.count("message_partitions WHERE ends_at > now() + interval '80 days'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_long_after_the_last_message_has_a_partition_without_any_worker() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    ann.send(&node, &id, "one").await;
    days_later(&world, &node, 9, &mut [&mut ann, &mut bob]).await;
    edit(&node, &ann, &id, 1, "edited").await;
    assert_eq!(world.count("conversation_events").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_disappeared_is_shown_to_nobody_and_then_emptied() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let stays = ann.conversation(&node, &[&bob]).await;
    sql(&world, &format!("UPDATE conversations SET disappear_seconds = 60 WHERE id = '{id}'")).await;
    // Somebody watches, so that the events stay in memory.
    let mut watching = subscribe(&node, &bob, &id, None).await;
    ann.send(&node, &id, "swordfish").await;
    edit(&node, &ann, &id, 1, "swordfish, edited").await;
    let reaction = format!("/v1/conversations/{id}/messages/1/reactions/%F0%9F%91%8D");
    bob.call(&node, Method::PUT, &reaction, json!({})).await.ok();
    ann.send(&node, &stays, "swordfish stays").await;
    assert_eq!(text(soon(watching.message()).await.unwrap().unwrap()), (1, "swordfish".into()));
    let edited = soon(watching.message()).await.unwrap().unwrap();
    assert!(matches!(edited.event, Some(Event::Edited(message)) if text_of(&message) == "swordfish, edited"));
    // Content is with the message alone.
    let in_events = "conversation_events WHERE position('swordfish'::bytea IN event) > 0";
    assert_eq!(world.count(in_events).await, 0);

    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.count("messages WHERE text LIKE 'swordfish%'").await, 2);
    let other = world.node().await;
    for place in [&node, &other] {
        let mut late = subscribe(place, &bob, &id, Some(0)).await;
        for _ in 0..2 {
            let event = soon(late.message()).await.unwrap().unwrap();
            let Some(Event::Message(message) | Event::Edited(message)) = event.event else { panic!("{event:?}") };
            assert_eq!((text_of(&message), message.deleted_at), ("", message.expires_at));
        }
    }
    let message = bob.get(&node, &format!("/v1/conversations/{id}/messages/1")).await.ok();
    assert_eq!((&message["text"], &message["deletedAt"]), (&json!(""), &message["expiresAt"]));

    let worker = node.work();
    eventually(async || world.count("messages WHERE text = '' AND deleted_at = expires_at").await == 1).await;
    assert_eq!(world.count("message_edits").await + world.count("message_reactions").await, 0);
    assert_eq!(world.count("messages WHERE text = 'swordfish stays'").await, 1);
    worker.abort();
    // One that disappears is no longer edited.
    let path = format!("/v1/conversations/{id}/messages/1");
    let refused = ann.call(&node, Method::PATCH, &path, json!({ "text": "again" })).await;
    refused.refused(404, "RESOURCE_DELETED", 3004);
    let request = SubscribeRequest { conversation_id: id.clone(), after_seq: Some(99), ..Default::default() };
    assert_eq!(refusal(ann.messaging(&node).subscribe(request).await.map(drop)).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_disappear_are_emptied_by_several_workers_at_once() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let id = ann.conversation(&one, &[&bob]).await;
    sql(&world, "UPDATE conversations SET disappear_seconds = 60").await;
    ann.send(&one, &id, "first").await;
    let copies = "INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text, \
                      expires_at) \
                  SELECT conversation_id, n, created_at, gen_random_uuid(), sender_id, n::text, n, 'x', expires_at \
                  FROM messages, generate_series(2, 5000) n";
    sql(&world, copies).await;
    world.clock.advance(Duration::from_secs(61));
    let workers = [one.work(), two.work()];
    eventually(async || world.count("messages WHERE text <> '' OR deleted_at IS NULL").await == 0).await;
    assert_eq!(world.count("messages").await, 5000);
    workers.iter().for_each(|worker| worker.abort());
}

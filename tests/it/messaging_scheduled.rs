//! Messages that are sent later, once each, and messages that are forwarded.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::proto::rialto::messaging::v1::scheduled_message_service_client::ScheduledMessageServiceClient;
use rialto::proto::rialto::messaging::v1::{ListScheduledMessagesRequest, ScheduleMessageRequest};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Authorized, Bearer, Node, User, World, eventually, number, refusal, soon};
use crate::live::{subscribe, text as sent};

const LIST: &str = "/v1/scheduled-messages";

fn client(node: &Node, user: &User) -> ScheduledMessageServiceClient<Authorized> {
    ScheduledMessageServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

fn later(world: &World, by: TimeDelta) -> DateTime<Utc> {
    world.clock.now() + by
}

/// Schedules a text for in ten minutes.
async fn schedule(world: &World, node: &Node, user: &User, conversation: &str, text: &str) -> Value {
    let path = format!("/v1/conversations/{conversation}/scheduled-messages");
    let at = later(world, TimeDelta::minutes(10)).to_rfc3339();
    user.post(node, &path, json!({ "text": text, "send_at": at })).await.ok()
}

async fn texts(node: &Node, user: &User, conversation: &str) -> Vec<String> {
    let page = user.get(node, &format!("/v1/conversations/{conversation}/messages?after_seq=0")).await.ok();
    let messages = page["messages"].as_array().unwrap().iter();
    messages.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

async fn sql(world: &World, query: &str) {
    world.database().await.batch_execute(query).await.unwrap();
}

async fn two(node: &Node) -> (User, User, String) {
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let conversation = ann.conversation(node, &[&bob]).await;
    (ann, bob, conversation)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_when_it_is_due_and_live_readers_get_it() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    let mut watching = subscribe(&node, &bob, &id, None).await;
    let worker = node.work();
    let waiting = schedule(&world, &node, &ann, &id, "in time").await;
    let request = ScheduleMessageRequest {
        conversation_id: id.clone(),
        text: "later".into(),
        send_at: Some(prost_types::Timestamp { seconds: later(&world, TimeDelta::hours(1)).timestamp(), nanos: 0 }),
        ..Default::default()
    };
    let scheduled =
        client(&node, &ann).schedule_message(request).await.unwrap().into_inner().scheduled_message.unwrap();
    let mut anns = client(&node, &ann);
    let listed = anns.list_scheduled_messages(ListScheduledMessagesRequest::default()).await;
    let listed = listed.unwrap().into_inner().scheduled_messages;
    let ids: Vec<_> = listed.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids, [waiting["id"].as_str().unwrap(), &scheduled.id]);
    // It is nobody else's business.
    assert_eq!(bob.get(&node, LIST).await.ok()["scheduledMessages"], json!([]));
    let theirs = format!("{LIST}/{}", scheduled.id);
    bob.delete(&node, &theirs).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    let change = json!({ "text": "mine" });
    bob.call(&node, Method::PATCH, &theirs, change).await.refused(404, "RESOURCE_NOT_FOUND", 3001);

    world.clock.advance(Duration::from_secs(601));
    assert_eq!(sent(soon(watching.message()).await.unwrap().unwrap()), (1, "in time".into()));
    eventually(async || ann.get(&node, LIST).await.ok()["scheduledMessages"].as_array().unwrap().len() == 1).await;
    assert_eq!(texts(&node, &bob, &id).await, ["in time"]);
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_sent_once_however_often_its_job_runs_and_on_how_many_workers() {
    let world = World::new().await;
    let (one, two_) = (world.node().await, world.node().await);
    let (ann, bob, id) = two(&one).await;
    for n in 0..5 {
        schedule(&world, &one, &ann, &id, &format!("m{n}")).await;
    }
    // As workers leave it that were killed after their transactions, and before they noted the end of the job.
    let twice = "INSERT INTO jobs (id, kind, payload, run_at, created_at) \
                 SELECT gen_random_uuid(), kind, payload, run_at, created_at FROM jobs, generate_series(1, 4) \
                 WHERE kind = 'messaging.scheduled'";
    sql(&world, twice).await;
    world.clock.advance(Duration::from_secs(601));
    let workers = [one.work(), two_.work()];
    eventually(async || world.count("jobs WHERE kind = 'messaging.scheduled'").await == 0).await;
    let mut texts = texts(&two_, &bob, &id).await;
    texts.sort_unstable();
    assert_eq!(texts, ["m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(world.count("scheduled_messages").await, 0);
    workers.iter().for_each(|worker| worker.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_changed_put_off_and_cancelled_until_it_is_sent() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    let worker = node.work();
    let path = |message: &Value| format!("{LIST}/{}", message["id"].as_str().unwrap());
    let changed = schedule(&world, &node, &ann, &id, "draft").await;
    let put_off = schedule(&world, &node, &ann, &id, "much later").await;
    let cancelled = schedule(&world, &node, &ann, &id, "never").await;
    let answer = ann.call(&node, Method::PATCH, &path(&changed), json!({ "text": "final" })).await.ok();
    assert_eq!((&answer["text"], &answer["sendAt"]), (&json!("final"), &changed["sendAt"]));
    let at = later(&world, TimeDelta::days(1)).to_rfc3339();
    ann.call(&node, Method::PATCH, &path(&put_off), json!({ "send_at": at })).await.ok();
    ann.delete(&node, &path(&cancelled)).await.ok();
    ann.delete(&node, &path(&cancelled)).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    world.clock.advance(Duration::from_secs(601));
    eventually(async || world.count("jobs WHERE kind = 'messaging.scheduled'").await == 1).await;
    assert_eq!(texts(&node, &bob, &id).await, ["final"]);
    ann.delete(&node, &path(&changed)).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_send_by_then_is_told_why_and_can_try_again() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, with_bob) = two(&node).await;
    let (eve, tom) = (node.user("eve").await, node.user("tom").await);
    let group = eve.conversation(&node, &[&ann, &bob]).await;
    let gone = tom.conversation(&node, &[&ann, &bob]).await;
    for id in [&with_bob, &group] {
        schedule(&world, &node, &ann, id, "hello").await;
    }
    schedule(&world, &node, &tom, &gone, "from tom").await;
    bob.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    let left = format!("UPDATE conversation_members SET left_at = now() WHERE conversation_id = '{group}'");
    sql(&world, &format!("{left} AND account_id = '{}'", ann.id)).await;
    sql(&world, &format!("UPDATE accounts SET state = 'suspended' WHERE id = '{}'", tom.id)).await;
    world.clock.advance(Duration::from_secs(601));
    let worker = node.work();
    eventually(async || world.count("jobs WHERE kind = 'messaging.scheduled'").await == 0).await;
    assert_eq!(world.count("messages").await, 0);
    assert_eq!(world.count("scheduled_messages WHERE refused_at IS NOT NULL").await, 3);
    let listed = ann.get(&node, LIST).await.ok();
    let listed = listed["scheduledMessages"].as_array().unwrap();
    let reason = |id: &str| {
        let found = listed.iter().find(|message| message["conversationId"] == json!(id)).unwrap();
        found["refusedReason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(&with_bob), "REASON_RECIPIENT_UNAVAILABLE");
    assert_eq!(reason(&group), "REASON_RESOURCE_NOT_FOUND");

    bob.delete(&node, &format!("/v1/users/{}/block", ann.id)).await.ok();
    let refused = listed.iter().find(|message| message["conversationId"] == json!(with_bob)).unwrap();
    let path = format!("{LIST}/{}", refused["id"].as_str().unwrap());
    let at = later(&world, TimeDelta::seconds(30)).to_rfc3339();
    let waits = ann.call(&node, Method::PATCH, &path, json!({ "send_at": at })).await.ok();
    assert_eq!(waits["refusedReason"], json!("REASON_UNSPECIFIED"));
    world.clock.advance(Duration::from_secs(31));
    eventually(async || texts(&node, &bob, &with_bob).await == ["hello"]).await;
    worker.abort();
    world.clock.advance(Duration::from_secs(31 * 24 * 3600));
    rialto::domains::messaging::jobs::delete_refused_messages(&node.server.app).await.unwrap();
    assert_eq!(world.count("scheduled_messages").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_a_hundred_at_most_also_when_it_asks_for_many_at_once() {
    let world = World::new().await;
    let (one, two_) = (world.node().await, world.node().await);
    let (ann, _, id) = two(&one).await;
    let request = ScheduleMessageRequest {
        conversation_id: id.clone(),
        text: "x".into(),
        send_at: Some(prost_types::Timestamp { seconds: later(&world, TimeDelta::hours(1)).timestamp(), nanos: 0 }),
        ..Default::default()
    };
    let calls = (0..110).map(|n| {
        let mut client = client(if n % 2 == 0 { &one } else { &two_ }, &ann);
        let request = request.clone();
        async move { client.schedule_message(request).await.map(drop) }
    });
    let results = futures_util::future::join_all(calls).await;
    let refused: Vec<_> = results.into_iter().filter(Result::is_err).map(refusal).collect();
    assert_eq!(refused, vec![(Code::FailedPrecondition, "SCHEDULE_LIMIT_REACHED".to_owned()); 10]);
    let (mut seen, mut token) = (0, String::new());
    loop {
        let page = ann.get(&one, &format!("{LIST}?page_size=30&page_token={token}")).await.ok();
        seen += page["scheduledMessages"].as_array().unwrap().len();
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_schedules_name_the_field_and_strangers_see_no_conversation() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, _, id) = two(&node).await;
    let path = format!("/v1/conversations/{id}/scheduled-messages");
    let at = |by: TimeDelta| later(&world, by).to_rfc3339();
    let good = at(TimeDelta::days(364));
    for (body, field) in [
        (json!({ "text": "x", "send_at": at(TimeDelta::seconds(-1)) }), "send_at"),
        (json!({ "text": "x", "send_at": at(TimeDelta::days(366)) }), "send_at"),
        (json!({ "text": "", "send_at": good }), "text"),
        (json!({ "text": "x".repeat(10_001), "send_at": good }), "text"),
    ] {
        let answer = ann.post(&node, &path, body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field]);
    }
    let missing = ann.post(&node, &path, json!({ "text": "x" })).await;
    missing.refused(422, "MISSING_REQUIRED_FIELD", 2003);
    assert_eq!(missing.fields(), ["send_at"]);
    let body = json!({ "text": "x", "send_at": good });
    let eve = node.user("eve").await;
    eve.post(&node, &path, body.clone()).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    sql(&world, "UPDATE conversations SET encrypted = true").await;
    ann.post(&node, &path, body).await.refused(409, "RESOURCE_CONFLICT", 3003);
    assert_eq!((world.count("scheduled_messages").await, world.count("jobs").await), (0, 0));
}

fn forward(client_message_id: &str, from: &str, seq: i64) -> Value {
    json!({ "client_message_id": client_message_id, "from_conversation_id": from, "from_seq": seq })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forwarded_is_copied_with_where_it_came_from() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    let eve = node.user("eve").await;
    let (to, again) = (bob.conversation(&node, &[&eve]).await, eve.conversation(&node, &[&bob, &ann]).await);
    let file = "01890a5d-ac96-774b-bcce-b302099a8057";
    let body = json!({ "client_message_id": "1", "text": "look", "details": {
        "mentions": [bob.id], "attachments": [{ "file_id": file, "name": "a.png" }],
        "forwarded": { "sender_id": eve.id }
    } });
    let original = ann.post(&node, &format!("/v1/conversations/{id}/messages"), body).await.ok();
    // Nobody says by themselves where something came from.
    assert_eq!(original["details"].get("forwarded"), None);
    let path = |id: &str| format!("/v1/conversations/{id}/forwarded-messages");
    let once = bob.post(&node, &path(&to), forward("f", &id, 1)).await.ok();
    assert_eq!(
        (&once["text"], &once["senderId"], &once["conversationId"]),
        (&json!("look"), &json!(bob.id), &json!(to))
    );
    let origin = json!({ "senderId": ann.id, "createdAt": original["createdAt"] });
    assert_eq!(once["details"]["forwarded"], origin);
    assert_eq!(once["details"]["attachments"], original["details"]["attachments"]);
    assert_eq!(once["details"].get("mentions").cloned().unwrap_or(json!([])), json!([]));
    // The same call is the same message.
    assert_eq!(bob.post(&node, &path(&to), forward("f", &id, 1)).await.ok()["id"], once["id"]);
    // Of the first origin, whoever sends it on.
    let twice = eve.post(&node, &path(&again), forward("g", &to, number(&once["seq"]))).await.ok();
    assert_eq!((&twice["details"]["forwarded"], &twice["senderId"]), (&origin, &json!(eve.id)));
    let edit = json!({ "text": "changed" });
    let message = format!("/v1/conversations/{to}/messages/1");
    bob.call(&node, Method::PATCH, &message, edit).await.refused(409, "RESOURCE_CONFLICT", 3003);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_does_not_see_is_not_forwarded() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    let eve = node.user("eve").await;
    let own = eve.conversation(&node, &[&bob]).await;
    for text in ["one", "two", "three"] {
        ann.send(&node, &id, text).await;
    }
    let (hers, bobs) = (format!("/v1/conversations/{own}/forwarded-messages"), |seq| forward("f", &id, seq));
    eve.post(&node, &hers, bobs(1)).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    // And not to where one is no member.
    let back = format!("/v1/conversations/{id}/forwarded-messages");
    eve.send(&node, &own, "mine").await;
    eve.post(&node, &back, forward("f", &own, 1)).await.refused(404, "RESOURCE_NOT_FOUND", 3001);

    ann.delete(&node, &format!("/v1/conversations/{id}/messages/1?for_all=true")).await.ok();
    bob.post(&node, &hers, bobs(1)).await.refused(404, "RESOURCE_DELETED", 3004);
    bob.delete(&node, &format!("/v1/conversations/{id}/messages/2")).await.ok();
    bob.post(&node, &hers, bobs(2)).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    bob.post(&node, &hers, bobs(9)).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    sql(&world, "UPDATE messages SET expires_at = created_at WHERE seq = 3").await;
    bob.post(&node, &hers, bobs(3)).await.refused(404, "RESOURCE_DELETED", 3004);
    sql(&world, &format!("UPDATE conversations SET encrypted = true WHERE id = '{id}'")).await;
    bob.post(&node, &hers, bobs(3)).await.refused(409, "RESOURCE_CONFLICT", 3003);
    let answer = bob.post(&node, &hers, json!({ "client_message_id": "f", "from_conversation_id": id })).await;
    answer.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(answer.fields(), ["from_seq"]);
    assert_eq!(world.count(&format!("messages WHERE conversation_id = '{own}'")).await, 1);
}

//! Who watches alerts.

use diesel_async::SimpleAsyncConnection;
use rialto::dev::services::PrivateRedis;
use rialto::proto::rialto::security::v1::watch_alerts_response::Change;
use rialto::proto::rialto::security::v1::{WatchAlertsRequest, WatchAlertsResponse};
use tonic::{Code, Streaming};

use super::{CHANGES, alert, client, decide, fail_to_log_in, strict, world};
use crate::harness::{Event, Events, Node, User, World, eventually, refusal, soon};

async fn watch(node: &Node, user: &User, after_seq: Option<i64>) -> Streaming<WatchAlertsResponse> {
    client(node, user).watch_alerts(WatchAlertsRequest { after_seq }).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchAlertsResponse>) -> (i64, &'static str, i64) {
    let change = soon(stream.message()).await.unwrap().unwrap();
    let (name, alert) = match change.change.unwrap() {
        Change::Raised(alert) => ("raised", alert),
        Change::Escalated(alert) => ("escalated", alert),
        Change::Acknowledged(alert) => ("acknowledged", alert),
        Change::Resolved(alert) => ("resolved", alert),
    };
    (change.seq, name, alert.count)
}

async fn events(node: &Node, user: &User, last_event_id: Option<&str>) -> Events {
    Events::open_path(node, user, CHANGES, last_event_id).await
}

fn told(event: Option<Event>) -> (String, String) {
    let event = event.expect("the stream has ended");
    (event.id, event.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_alerts_and_comes_back_gets_exactly_what_was_missed_on_any_node() {
    let world = world().await;
    let (one, two) = (world.node().await, world.node().await);
    let (admin, ann) = (world.administrator(&one, "admin").await, one.user("ann").await);
    let (mut on_one, mut on_two) = (watch(&one, &admin, None).await, events(&two, &admin, None).await);
    fail_to_log_in(&one, &ann.email, 3).await;
    assert_eq!(next(&mut on_one).await, (1, "raised", 3));
    let raised = on_two.next().await.unwrap();
    assert_eq!((raised.id.as_str(), raised.name.as_str()), ("1", "raised"));
    assert_eq!(raised.data["raised"]["subject"]["accountId"], ann.id);
    drop((on_one, on_two));

    let alert = alert(&one, &admin, 3).await;
    decide(&one, &admin, &alert, "acknowledge", "").await.ok();
    fail_to_log_in(&two, &ann.email, 2).await;
    eventually(async || world.count("security_alert_changes").await == 3).await;
    let (mut on_two, mut on_one) = (watch(&two, &admin, Some(1)).await, events(&one, &admin, Some("1")).await);
    let mut from_the_start = watch(&two, &admin, Some(0)).await;
    assert_eq!(next(&mut from_the_start).await, (1, "raised", 3));
    for expected in [(2, "acknowledged", 3), (3, "escalated", 5)] {
        assert_eq!(next(&mut on_two).await, expected);
        assert_eq!(next(&mut from_the_start).await, expected);
        assert_eq!(told(on_one.next().await), (expected.0.to_string(), expected.1.into()));
    }
    decide(&two, &admin, &alert, "resolve", "").await.ok();
    assert_eq!(next(&mut on_two).await, (4, "resolved", 5));
    assert_eq!(told(on_one.next().await), ("4".into(), "resolved".into()));

    let beyond = client(&one, &admin).watch_alerts(WatchAlertsRequest { after_seq: Some(5) }).await;
    assert_eq!(refusal(beyond), (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    // Part of it is forgotten: who would miss something is told so.
    world.database().await.batch_execute("DELETE FROM security_alert_changes WHERE seq <= 2").await.unwrap();
    let forgotten = client(&one, &admin).watch_alerts(WatchAlertsRequest { after_seq: Some(1) }).await;
    assert_eq!(refusal(forgotten), (Code::OutOfRange, "CHANGES_FORGOTTEN".into()));
    assert_eq!(next(&mut watch(&one, &admin, Some(2)).await).await, (3, "escalated", 5));
    assert_eq!(next(&mut watch(&one, &admin, Some(0)).await).await, (3, "escalated", 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_events_are_written_alerts_raised_and_streams_told() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let mut world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    strict(&mut world);
    let (one, two) = (world.node().await, world.node().await);
    let (admin, ann) = (world.administrator(&one, "admin").await, one.user("ann").await);
    let mut stream = watch(&two, &admin, None).await;
    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    // Without it nobody tries passwords, and sessions go on.
    for _ in 0..3 {
        ann.get(&one, "/v1/roles").await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    }
    assert_eq!(next(&mut stream).await, (1, "raised", 3));
    assert_eq!(alert(&two, &admin, 3).await["severity"], "SEVERITY_LOW");
}

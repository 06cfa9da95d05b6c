//! The streams that are open: who sees them, how many there may be, and how they end.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use rialto::dev::services::PrivateRedis;
use rialto::domains::account::jobs::delete_lost_nodes;
use rialto::proto::rialto::account::v1::{
    ListConnectionsRequest, RevokeConnectionRequest, SubscribeRequest, Transport,
};
use serde_json::{Value, json};
use tonic::Code;

use super::{CONNECTIONS, EVENTS, Stream, client, events, plain, tell_all};
use crate::harness::{Node, User, World, eventually, refusal};
use crate::websocket::Socket;

async fn listed(node: &Node, user: &User) -> Vec<Value> {
    let list = user.get(node, CONNECTIONS).await.ok();
    list["connections"].as_array().cloned().unwrap_or_default()
}

async fn revoke(node: &Node, user: &User, id: &str) -> crate::harness::Answer {
    user.delete(node, &format!("{CONNECTIONS}/{id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_sees_its_streams_on_all_nodes_and_where_they_come_from() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    assert!(listed(&one, &ann).await.is_empty());
    let grpc = Stream::open(&one, &ann, None).await;
    let mut sse = events(&two, &ann, "", None).await;
    let sse_id = sse.next().await.unwrap().data["opened"]["connectionId"].as_str().unwrap().to_owned();
    let mut socket = Socket::open(&two, EVENTS, &ann.token).await;
    socket.say(json!({})).await;
    socket.hear().await;
    let _bobs = Stream::open(&one, &bob, None).await;

    for node in [&one, &two] {
        let rows = listed(node, &ann).await;
        let transports: Vec<_> = rows.iter().map(|row| row["transport"].as_str().unwrap()).collect();
        assert_eq!(transports, ["TRANSPORT_GRPC", "TRANSPORT_REST", "TRANSPORT_WEBSOCKET"]);
        assert_eq!((&rows[0]["id"], &rows[1]["id"]), (&json!(grpc.connection_id), &json!(sse_id)));
        let sessions = ann.get(node, "/v1/auth/sessions").await.ok();
        for row in &rows {
            assert_eq!(row["sessionId"], sessions["sessions"][0]["id"]);
            assert_eq!(row["address"], "127.0.0.1");
            assert!(row["openedAt"].is_string(), "{row}");
        }
        assert!(rows[0]["userAgent"].as_str().unwrap().starts_with("tonic/"), "{}", rows[0]);
        assert_eq!(rows[0]["device"], "tonic");
        let over_grpc = client(node, &ann).list_connections(ListConnectionsRequest {}).await.unwrap().into_inner();
        assert_eq!(over_grpc.connections.len(), 3);
        assert_eq!(over_grpc.connections[2].transport(), Transport::Websocket);
    }
    let metrics = one.rest(reqwest::Method::GET, "/metrics", None, None).await.body;
    assert!(metrics.as_str().unwrap().contains("account_streams_open 2\n"), "{metrics}");
    drop((sse, socket));
    eventually(async || listed(&one, &ann).await.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_revoked_ends_on_whichever_node_it_is_and_the_others_go_on() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let (here, there) = (Stream::open(&one, &ann, None).await, Stream::open(&two, &ann, None).await);
    let mut stays = Stream::open(&two, &ann, None).await;
    let mut sse = events(&two, &ann, "", None).await;
    let sse_id = sse.next().await.unwrap().data["opened"]["connectionId"].as_str().unwrap().to_owned();

    revoke(&one, &bob, &there.connection_id).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    revoke(&one, &ann, "x").await.refused(422, "VALIDATION_ERROR", 2001);
    let ids = [here.connection_id.clone(), there.connection_id.clone(), sse_id];
    revoke(&one, &ann, &ids[0]).await.ok();
    let request = RevokeConnectionRequest { connection_id: ids[1].clone() };
    client(&one, &ann).revoke_connection(request).await.unwrap();
    revoke(&one, &ann, &ids[2]).await.ok();
    for stream in [here, there] {
        assert_eq!(stream.end().await, (Code::Aborted, "CONNECTION_REVOKED".into()));
    }
    let last = sse.next().await.unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["reason"]), ("error", &"CONNECTION_REVOKED".into()));
    for id in &ids {
        revoke(&two, &ann, id).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    }
    assert_eq!(listed(&one, &ann).await.len(), 1);
    eventually(async || world.count("account_connections").await == 1).await;
    tell_all(&one, &ann, 1..=1).await;
    stays.expect(1..=1, plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_stream_of_another_node_ends_too() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    let there = Stream::open(&two, &ann, None).await;
    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    let later = Stream::open(&two, &ann, None).await;
    assert_eq!(listed(&one, &ann).await.len(), 2);
    for stream in [there, later] {
        revoke(&one, &ann, &stream.connection_id).await.ok();
        assert_eq!(stream.end().await, (Code::Aborted, "CONNECTION_REVOKED".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_refused_however_many_come_at_once() {
    let mut world = World::new().await;
    world.config.account.max_connections = 5;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let opening = (0..12).map(|index| Stream::try_open(if index % 2 == 0 { &one } else { &two }, &ann, None));
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for opened in futures_util::future::join_all(opening).await {
        match opened {
            Ok(stream) => open.push(stream),
            Err(status) => refused.push(refusal::<()>(Err(status))),
        }
    }
    assert_eq!(open.len(), 5);
    assert!(
        refused.iter().all(|why| *why == (Code::ResourceExhausted, "CONNECTION_LIMIT_REACHED".into())),
        "{refused:?}"
    );
    ann.get(&two, EVENTS).await.refused(429, "CONNECTION_LIMIT_REACHED", 5004);
    // Each account has its own.
    Stream::open(&one, &bob, None).await;
    drop(open.pop());
    eventually(async || Stream::try_open(&two, &ann, None).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_node_that_was_killed_are_gone_after_a_minute_and_count_no_more() {
    let mut world = World::new().await;
    world.config.account.max_connections = 1;
    let node = world.node().await;
    let ann = node.user("ann").await;
    // As a node leaves it that was killed.
    let killed = |seconds: u32| {
        format!(
            "DELETE FROM nodes WHERE id = '00000000-0000-0000-0000-000000000001';
             INSERT INTO nodes VALUES ('00000000-0000-0000-0000-000000000001', now() - interval '{seconds} seconds');
             INSERT INTO account_connections SELECT gen_random_uuid(), '{}', gen_random_uuid(),
                 '00000000-0000-0000-0000-000000000001', 'grpc', '', '127.0.0.1', now(), NULL",
            ann.id
        )
    };
    world.database().await.batch_execute(&killed(30)).await.unwrap();
    assert_eq!(listed(&node, &ann).await.len(), 1);
    ann.get(&node, EVENTS).await.refused(429, "CONNECTION_LIMIT_REACHED", 5004);
    world.database().await.batch_execute(&killed(61)).await.unwrap();
    assert!(listed(&node, &ann).await.is_empty());
    let _stream = Stream::open(&node, &ann, None).await;
    assert_eq!(delete_lost_nodes(&node.server.app).await.unwrap(), 0);
    world.database().await.batch_execute(&killed(601)).await.unwrap();
    assert_eq!(delete_lost_nodes(&node.server.app).await.unwrap(), 1);
    assert_eq!((world.count("nodes").await, world.count("account_connections").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_taken_for_dead_has_its_clients_connect_again() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let stream = Stream::open(&node, &ann, None).await;
    world.database().await.batch_execute("DELETE FROM nodes").await.unwrap();
    assert_eq!(stream.end().await, (Code::Unavailable, "SERVICE_UNAVAILABLE".into()));
    eventually(async || world.count("nodes").await == 1).await;
    let again = Stream::open(&node, &ann, None).await;
    assert_eq!(listed(&node, &ann).await[0]["id"], again.connection_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_while_its_stream_opens_leaves_nothing_behind() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    for micros in (0..3000).step_by(100) {
        let mut client = client(&node, &ann);
        let opening = client.subscribe(SubscribeRequest::default());
        let _ = tokio::time::timeout(Duration::from_micros(micros), opening).await;
    }
    // Some may be opening still, for nobody.
    let open = || node.server.app.metrics.account_streams.get();
    eventually(async || open() == 0 && world.count("account_connections").await == 0 && open() == 0).await;
    Stream::open(&node, &ann, None).await;
}

//! Several nodes on one Postgres and Redis, and what happens when Redis goes away.

use reqwest::Method;
use rialto::dev::services::PrivateRedis;
use rialto::proto::rialto::auth::v1::RefreshRequest;
use serde_json::json;

use crate::harness::{Events, World, eventually, soon};
use crate::live::{subscribe, text};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_deliver_to_each_others_readers_also_without_redis_and_after_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let id = ann.conversation(&one, &[&bob]).await;

    let mut on_one = subscribe(&one, &bob, &id, Some(0)).await;
    let mut on_two = Events::open(&two, &bob, &id, "?after_seq=0", None).await;
    let mut sent = 0;
    let mut exchange = async || {
        // The nodes take turns, so that each has to tell the other.
        for _ in 0..20 {
            sent += 1;
            let node = if sent % 2 == 0 { &one } else { &two };
            assert_eq!(ann.send(node, &id, &format!("m{sent}")).await, sent);
        }
        for expected in sent - 19..=sent {
            assert_eq!(text(soon(on_one.message()).await.unwrap().unwrap()), (expected, format!("m{expected}")));
            assert_eq!(on_two.text().await, format!("m{expected}"));
        }
    };
    exchange().await;
    redis.kill();
    exchange().await;
    redis.start_again().unwrap();
    exchange().await;
    for node in [&one, &two] {
        eventually(async || node.server.app.bus.is_up()).await;
    }
    exchange().await;
    // A reader that begins now has the same history.
    let mut late = subscribe(&two, &bob, &id, Some(0)).await;
    for expected in 1..=80 {
        assert_eq!(text(soon(late.message()).await.unwrap().unwrap()).0, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_revoked_on_one_node_is_refused_on_the_other() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    let other = one.log_in(&ann.email, &ann.id).await;
    for session in [&ann, &other] {
        // Both nodes believe in it by now.
        session.get(&one, "/v1/auth/me").await.ok();
        session.get(&two, "/v1/auth/me").await.ok();
    }
    ann.post(&one, "/v1/auth/logout", json!({})).await.ok();
    // The message between the nodes takes a moment, and no more.
    eventually(async || ann.get(&two, "/v1/auth/me").await.status == 401).await;
    ann.get(&two, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    other.get(&two, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_what_was_revoked_stays_revoked_and_everything_else_works() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let id = ann.conversation(&one, &[&bob]).await;
    ann.get(&two, "/v1/auth/me").await.ok();
    let mut open_stream = subscribe(&two, &ann, &id, None).await;

    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    let health = one.rest(Method::GET, "/health", None, None).await;
    assert_eq!(health.status, 200);
    ann.post(&one, "/v1/auth/logout", json!({})).await.ok();
    ann.get(&two, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    assert!(soon(open_stream.message()).await.is_err());

    bob.send(&two, &id, "still here").await;
    let renewed = one.auth().refresh(RefreshRequest { refresh_token: bob.refresh.clone() }).await.unwrap();
    one.rest(Method::GET, "/v1/auth/me", Some(&renewed.into_inner().access_token), None).await.ok();

    // What can't be counted and must be, is refused.
    let path = format!("/v1/auth/accounts/{}/revoke-sessions", ann.id);
    bob.post(&two, &path, json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    use diesel_async::SimpleAsyncConnection;
    let promote = "UPDATE accounts SET role = 'admin' WHERE email = 'bob@example.com'";
    world.database().await.batch_execute(promote).await.unwrap();
    let refused = bob.post(&two, &path, json!({})).await;
    refused.refused(503, "SERVICE_UNAVAILABLE", 5001);
    assert_eq!(refused.headers["retry-after"], "5");
}

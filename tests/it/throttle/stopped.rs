//! What is guessed while Redis, which counts, is away: nothing.

use rialto::dev::services::PrivateRedis;
use serde_json::json;

use super::{login, login_on, owner, strictly};
use crate::harness::{PASSWORD, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nobody_guesses_and_sessions_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = PrivateRedis::start(folder.path()).unwrap();
    let mut world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    strictly(&mut world);
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (bob, device) = owner(&node, "bob").await;
    for _ in 0..3 {
        assert_eq!(login(&node, "10.0.0.1", &bob, "wrong").await.status, 401);
    }
    assert_eq!(login(&node, "10.0.0.1", &bob, PASSWORD).await.status, 403);

    redis.kill();
    // Also the first attempt, which finds out.
    for (address, password) in [("10.0.0.1", PASSWORD), ("10.0.0.1", "wrong"), ("10.0.0.2", PASSWORD)] {
        let refused = login(&node, address, &bob, password).await;
        refused.refused(503, "SERVICE_UNAVAILABLE", 5001);
        assert_eq!(refused.headers["retry-after"], "5");
    }
    login_on(&node, &device, "10.0.0.1", &bob, PASSWORD).await.refused(503, "SERVICE_UNAVAILABLE", 5001);
    login(&node, "10.0.0.1", "nobody@example.com", "wrong").await.refused(503, "SERVICE_UNAVAILABLE", 5001);
    let confirm = ann.post(&node, "/v1/auth/reauthenticate", json!({ "password": PASSWORD })).await;
    confirm.refused(503, "SERVICE_UNAVAILABLE", 5001);
    ann.get(&node, "/v1/auth/me").await.ok();
    super::call(&node, "/v1/auth/refresh", "10.0.0.1", json!({ "refresh_token": ann.refresh })).await.ok();

    redis.start_again().unwrap();
    eventually(async || login_on(&node, &device, "10.0.0.1", &bob, PASSWORD).await.status == 200).await;
}

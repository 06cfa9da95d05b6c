//! Several nodes on one Postgres and Redis, and what happens when Redis goes away.

use reqwest::Method;
use rialto::dev::services::PrivateRedis;
use rialto::kernel::secret::Secret;
use rialto::proto::rialto::auth::v1::RefreshRequest;
use serde_json::json;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use crate::harness::{Events, Node, PASSWORD, User, World, eventually, soon};
use crate::live::{subscribe, text};

/// A way to Redis that can be cut.
struct Cable {
    url: String,
    whole: watch::Sender<bool>,
}

impl Cable {
    async fn to(redis: &str) -> Self {
        let socket = redis.strip_prefix("redis+unix://").expect("a socket").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (whole, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (socket, mut watched) = (socket.clone(), watched.clone());
                tokio::spawn(async move {
                    if !*watched.borrow() {
                        return;
                    }
                    let mut redis = UnixStream::connect(socket).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut redis) => {}
                        _ = watched.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { url, whole }
    }

    fn cut(&self) {
        self.whole.send_replace(false);
    }

    fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// Has somebody's call been refused because their session has ended?
async fn ended(node: &Node, user: &User) -> bool {
    let answer = user.get(node, "/v1/auth/me").await;
    answer.status == 401 && answer.body["error"]["reason"] == "SESSION_REVOKED"
}

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

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_session_holds_on_a_node_that_has_lost_redis_and_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let mut world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let one = world.node().await;
    let cable = Cable::to(redis.url()).await;
    world.config.redis.url = Secret::new(cable.url.clone());
    let two = world.node().await;

    let admin = world.administrator(&one, "admin").await;
    let (out, suspended) = (one.user("out").await, one.user("suspended").await);
    let (changer, demoted) = (one.user("changer").await, world.administrator(&one, "demoted").await);
    let elsewhere = one.log_in(&changer.email, &changer.id).await;
    let reset = one.user("reset").await;
    // Node two believes in all of them.
    for user in [&out, &suspended, &changer, &elsewhere, &demoted, &reset] {
        user.get(&two, "/v1/auth/me").await.ok();
    }
    demoted.get(&two, "/v1/roles").await.ok();

    cable.cut();
    eventually(async || !two.server.app.bus.is_up()).await;
    out.post(&one, "/v1/auth/logout", json!({})).await.ok();
    admin.post(&one, &format!("/v1/auth/accounts/{}/suspend", suspended.id), json!({})).await.ok();
    admin.post(&one, &format!("/v1/auth/accounts/{}/revoke-sessions", reset.id), json!({})).await.ok();
    let change = json!({ "current_password": PASSWORD, "new_password": "staple h7-Kq.92z" });
    let changed = changer.post(&one, "/v1/auth/change-password", change).await.ok();
    const ADMIN: &str = "00000000-0000-7000-8000-000000000002";
    admin.delete(&one, &format!("/v1/accounts/{}/roles/{ADMIN}", demoted.id)).await.ok();
    let renewed = User { token: changed["accessToken"].as_str().unwrap().into(), ..changer.clone() };

    // It asks Postgres now, so each holds with the next call; roles within a second.
    for user in [&out, &suspended, &reset, &elsewhere] {
        assert!(ended(&two, user).await, "{}", user.email);
    }
    renewed.get(&two, "/v1/auth/me").await.ok();
    eventually(async || demoted.get(&two, "/v1/roles").await.status == 403).await;

    cable.mend();
    eventually(async || two.server.app.bus.is_up()).await;
    for node in [&one, &two] {
        for user in [&out, &suspended, &reset, &elsewhere] {
            assert!(ended(node, user).await, "{}", user.email);
        }
        renewed.get(node, "/v1/auth/me").await.ok();
        demoted.get(node, "/v1/roles").await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
        let refresh = json!({ "refresh_token": out.refresh });
        let refused = node.rest(Method::POST, "/v1/auth/refresh", None, Some(refresh)).await;
        refused.refused(401, "SESSION_REVOKED", 1004);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_anywhere_a_suspension_holds_everywhere_and_what_must_be_counted_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let (admin, bob) = (world.administrator(&one, "admin").await, one.user("bob").await);
    let ann = one.user("ann").await;
    for user in [&bob, &ann] {
        user.get(&two, "/v1/auth/me").await.ok();
    }
    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    admin.post(&one, &format!("/v1/auth/accounts/{}/suspend", bob.id), json!({})).await.ok();
    assert!(ended(&two, &bob).await);
    // A guess that can't be counted is no guess.
    let change = json!({ "current_password": PASSWORD, "new_password": "staple h7-Kq.92z" });
    ann.post(&two, "/v1/auth/change-password", change).await.refused(503, "SERVICE_UNAVAILABLE", 5001);
    let prove = json!({ "password": PASSWORD });
    ann.post(&two, "/v1/auth/reauthenticate", prove).await.refused(503, "SERVICE_UNAVAILABLE", 5001);

    redis.start_again().unwrap();
    for node in [&one, &two] {
        eventually(async || node.server.app.bus.is_up()).await;
        assert!(ended(node, &bob).await);
        ann.get(node, "/v1/auth/me").await.ok();
    }
    // The password is the old one.
    two.log_in(&ann.email, &ann.id).await;
}

//! Sessions as their account sees them.

use std::time::Duration;

use reqwest::Method;
use rialto::proto::rialto::auth::v1::{
    ListSessionsRequest, LoginRequest, RefreshRequest, RevokeSessionRequest, Session,
};
use serde_json::json;
use tonic::Code;

use crate::harness::{Node, PASSWORD, User, World, eventually, refusal};
use crate::smtp::Smtp;

async fn sessions(node: &Node, user: &User) -> Vec<Session> {
    user.auth(node).list_sessions(ListSessionsRequest {}).await.unwrap().into_inner().sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_sees_its_sessions_and_ends_one_on_every_node() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    world.clock.advance(Duration::from_secs(1));
    let browser = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let login = one.http().post(one.url("/v1/auth/login")).header("user-agent", browser);
    let body = json!({ "email": ann.email, "password": PASSWORD });
    let tokens: serde_json::Value = login.json(&body).send().await.unwrap().json().await.unwrap();
    let laptop = User { token: tokens["accessToken"].as_str().unwrap().into(), ..ann.clone() };
    laptop.get(&two, "/v1/auth/me").await.ok();

    let listed = ann.get(&one, "/v1/auth/sessions").await.ok();
    let listed = listed["sessions"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["device"], &listed[0]["current"]), (&json!("Firefox on Linux"), &json!(false)));
    assert_eq!((&listed[0]["userAgent"], &listed[0]["address"]), (&json!(browser), &json!("127.0.0.1")));
    assert_eq!(listed[1]["current"], true);

    let path = format!("/v1/auth/sessions/{}", listed[0]["id"].as_str().unwrap());
    // Somebody else's session does not exist.
    one.rest(Method::DELETE, &path, Some(&bob.token), None).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    laptop.get(&two, "/v1/auth/me").await.ok();
    one.rest(Method::DELETE, &path, Some(&ann.token), None).await.ok();
    one.rest(Method::DELETE, &path, Some(&ann.token), None).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    eventually(async || laptop.get(&two, "/v1/auth/me").await.status == 401).await;
    laptop.get(&two, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(sessions(&one, &ann).await.len(), 1);

    let own = sessions(&one, &ann).await.remove(0);
    ann.auth(&one).revoke_session(RevokeSessionRequest { session_id: own.id }).await.unwrap();
    ann.get(&one, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
    let mut world = World::new().await;
    world.config.auth.refresh_token_seconds = 1000;
    world.config.auth.session_max_seconds = 2500;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let idle = node.log_in(&ann.email, &ann.id).await;
    let mut refresh = ann.refresh.clone();
    let renew = async |token: &str| node.auth().refresh(RefreshRequest { refresh_token: token.into() }).await;
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(800));
        refresh = renew(&refresh).await.unwrap().into_inner().refresh_token;
    }
    assert_eq!(refusal(renew(&idle.refresh).await), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
    // 2400 seconds old by now: another hundred, however often it is used.
    let renewed = renew(&refresh).await.unwrap().into_inner();
    let user = User { token: renewed.access_token, ..ann };
    assert_eq!(sessions(&node, &user).await.len(), 1);
    world.clock.advance(Duration::from_secs(101));
    user.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(refusal(renew(&renewed.refresh_token).await), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_too_many_ends_the_one_that_was_used_longest_ago() {
    let mut world = World::new().await;
    world.config.auth.max_sessions = 3;
    let node = world.node().await;
    let first = node.user("ann").await;
    let mut others = Vec::new();
    for _ in 0..2 {
        world.clock.advance(Duration::from_secs(1));
        others.push(node.log_in(&first.email, &first.id).await);
    }
    first.get(&node, "/v1/auth/me").await.ok();
    world.clock.advance(Duration::from_secs(1));
    others.push(node.log_in(&first.email, &first.id).await);
    first.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    for other in &others {
        other.get(&node, "/v1/auth/me").await.ok();
    }
    // Also when many come at once.
    let logins = (0..6).map(|_| node.log_in(&first.email, &first.id));
    let opened = futures_util::future::join_all(logins).await;
    let live = world.count("sessions WHERE revoked_at IS NULL").await;
    assert_eq!((opened.len(), live), (6, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_from_a_device_that_the_account_does_not_know_is_told_by_mail() {
    let (mut world, mut smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    let node = world.node().await;
    node.work();
    let mut auth = node.auth();
    let email = "ann@example.com".to_owned();
    let register = json!({ "email": email, "password": PASSWORD, "display_name": "Ann" });
    node.rest(Method::POST, "/v1/auth/register", None, Some(register)).await.ok();
    let mut login = async |device_token: &str| {
        let request = LoginRequest {
            email: email.clone(),
            password: PASSWORD.into(),
            device_token: device_token.into(),
            ..Default::default()
        };
        auth.login(request).await.unwrap().into_inner().device_token
    };
    // The first device is no news.
    let phone = login("").await;
    assert_eq!(login(&phone).await, phone);
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());

    let laptop = login("made up").await;
    let mail = smtp.next().await;
    assert!(mail.to == "ann@example.com" && mail.text.contains("New login") && mail.text.contains("127.0.0.1"));
    assert_ne!(laptop, phone);
    for known in [&phone, &laptop] {
        assert_eq!(login(known).await, *known);
    }
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());
    let in_clear = format!("known_devices WHERE token_hash = '{phone}'::bytea");
    assert_eq!((world.count("known_devices").await, world.count(&in_clear).await), (2, 0));
}

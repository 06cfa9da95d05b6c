//! Accounts, sessions and tokens.

use std::time::Duration;

use reqwest::Method;
use rialto::proto::rialto::auth::v1::{
    GetMeRequest, LoginRequest, LogoutRequest, RefreshRequest, RegisterRequest, RevokeSessionsRequest,
};
use serde_json::json;
use tonic::Code;

use crate::harness::{PASSWORD, User, World, refusal};

fn register(email: &str) -> RegisterRequest {
    RegisterRequest { email: email.into(), password: PASSWORD.into(), display_name: "Ann".into() }
}

fn login(email: &str, password: &str) -> LoginRequest {
    LoginRequest { email: email.into(), password: password.into(), ..Default::default() }
}

fn refresh(token: &str) -> RefreshRequest {
    RefreshRequest { refresh_token: token.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn register_log_in_refresh_and_log_out_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let mut anonymous = node.auth();

    let account = anonymous.register(register("Ann@Example.com")).await.unwrap().into_inner().account.unwrap();
    assert_eq!((account.email.as_str(), account.display_name.as_str()), ("ann@example.com", "Ann"));

    let tokens = anonymous.login(login("ANN@example.com", PASSWORD)).await.unwrap().into_inner();
    assert_eq!((tokens.expires_in, tokens.token_type.as_str()), (900, "Bearer"));
    let tokens = anonymous.refresh(refresh(&tokens.refresh_token)).await.unwrap().into_inner();

    let user =
        User { id: account.id.clone(), email: account.email, token: tokens.access_token, refresh: String::new() };
    let mut ann = user.auth(&node);
    assert_eq!(ann.get_me(GetMeRequest {}).await.unwrap().into_inner().account.unwrap().id, account.id);

    ann.logout(LogoutRequest { everywhere: false }).await.unwrap();
    let refused = refusal(ann.get_me(GetMeRequest {}).await);
    assert_eq!(refused, (Code::Unauthenticated, "SESSION_REVOKED".into()));
    let refused = refusal(anonymous.refresh(refresh(&tokens.refresh_token)).await);
    assert_eq!(refused, (Code::Unauthenticated, "SESSION_REVOKED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn register_log_in_refresh_and_log_out_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;

    let me = ann.get(&node, "/v1/auth/me").await.ok();
    assert_eq!((me["id"].as_str(), me["email"].as_str()), (Some(ann.id.as_str()), Some("ann@example.com")));
    assert_eq!((me["displayName"].as_str(), me["role"].as_str()), (Some("ann"), Some("ROLE_USER")));

    for path in ["/v1/auth/refresh", "/v1/auth/refresh-token", "/api/v1/auth/refresh", "/api/auth/refresh-token"] {
        let fresh = node.log_in(&ann.email, &ann.id).await;
        let body = json!({ "refresh_token": fresh.refresh });
        let renewed = node.rest(Method::POST, path, None, Some(body)).await.ok();
        assert_eq!((renewed["expiresIn"].as_i64(), renewed["tokenType"].as_str()), (Some(900), Some("Bearer")));
        let token = renewed["accessToken"].as_str().unwrap();
        node.rest(Method::GET, "/v1/auth/me", Some(token), None).await.ok();
    }

    node.rest(Method::POST, "/v1/auth/logout", Some(&ann.token), None).await.ok();
    ann.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_address_has_one_account_also_when_registered_twice_at_once() {
    let world = World::new().await;
    let node = world.node().await;
    let attempts = (0..4).map(|_| {
        let mut client = node.auth();
        tokio::spawn(async move { client.register(register("ann@example.com")).await })
    });
    let results = futures_util::future::join_all(attempts).await;
    let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for result in refused {
        assert_eq!(refusal(result), (Code::AlreadyExists, "RESOURCE_ALREADY_EXISTS".into()));
    }
    assert_eq!(world.count("accounts").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_account_and_a_wrong_password_get_the_same_answer() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let wrong = node.auth().login(login(&ann.email, "wrong")).await.unwrap_err();
    let unknown = node.auth().login(login("nobody@example.com", PASSWORD)).await.unwrap_err();
    assert_eq!(
        (wrong.code(), wrong.message(), wrong.details()),
        (unknown.code(), unknown.message(), unknown.details())
    );
    let answer = node.rest(Method::POST, "/v1/auth/login", None, Some(json!({"email": "x", "password": "y"}))).await;
    answer.refused(401, "INVALID_CREDENTIALS", 1002);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_reuse_revokes_the_family() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let renewed = node.auth().refresh(refresh(&ann.refresh)).await.unwrap().into_inner();

    let reused = refusal(node.auth().refresh(refresh(&ann.refresh)).await);
    assert_eq!(reused, (Code::Unauthenticated, "SESSION_REVOKED".into()));
    // What came of the first use is worth nothing now: nobody knows who of the two was the thief.
    let next = refusal(node.auth().refresh(refresh(&renewed.refresh_token)).await);
    assert_eq!(next, (Code::Unauthenticated, "SESSION_REVOKED".into()));
    let access = node.rest(Method::GET, "/v1/auth/me", Some(&renewed.access_token), None).await;
    access.refused(401, "SESSION_REVOKED", 1004);
    // Other sessions of the account are not touched.
    let other = node.log_in(&ann.email, &ann.id).await;
    other.get(&node, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_refreshes_with_one_token_at_most_one_succeeds() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let attempts = (0..8).map(|_| {
        let (mut client, token) = (node.auth(), ann.refresh.clone());
        tokio::spawn(async move { client.refresh(refresh(&token)).await.is_ok() })
    });
    let succeeded =
        futures_util::future::join_all(attempts).await.into_iter().filter(|ok| *ok.as_ref().unwrap()).count();
    assert_eq!(succeeded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_expire() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    // And the leeway.
    world.clock.advance(Duration::from_secs(901 + 10));
    ann.get(&node, "/v1/auth/me").await.refused(401, "TOKEN_EXPIRED", 1003);
    let renewed = node.auth().refresh(refresh(&ann.refresh)).await.unwrap().into_inner();

    world.clock.advance(Duration::from_secs(7 * 24 * 3600 + 1));
    let late = refusal(node.auth().refresh(refresh(&renewed.refresh_token)).await);
    assert_eq!(late, (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_everywhere_ends_every_session_at_once() {
    let world = World::new().await;
    let node = world.node().await;
    let phone = node.user("ann").await;
    let laptop = node.log_in(&phone.email, &phone.id).await;
    phone.post(&node, "/v1/auth/logout", json!({ "everywhere": true })).await.ok();
    for session in [&phone, &laptop] {
        session.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_administrator_ends_the_sessions_of_others() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, admin) = (node.user("ann").await, node.user("bob").await, node.user("admin").await);
    let request = || RevokeSessionsRequest { account_id: bob.id.clone() };
    let path = format!("/v1/auth/accounts/{}/revoke-sessions", bob.id);

    let refused = refusal(ann.auth(&node).revoke_sessions(request()).await);
    assert_eq!(refused, (Code::PermissionDenied, "INSUFFICIENT_PERMISSIONS".into()));
    ann.post(&node, &path, json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);

    use diesel_async::SimpleAsyncConnection;
    let promote = "UPDATE accounts SET role = 'admin' WHERE email = 'admin@example.com'";
    world.database().await.batch_execute(promote).await.unwrap();
    node.server.app.bus.publish([("sessions".into(), uuid(&admin.id))]).await.unwrap();
    crate::harness::eventually(async || admin.post(&node, &path, json!({})).await.status == 200).await;
    bob.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);

    let unknown = RevokeSessionsRequest { account_id: "01890a5d-ac96-774b-bcce-b302099a8057".into() };
    let refused = refusal(admin.auth(&node).revoke_sessions(unknown).await);
    assert_eq!(refused, (Code::NotFound, "RESOURCE_NOT_FOUND".into()));
}

fn uuid(id: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(uuid::Uuid::parse_str(id).unwrap().as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_missing_malformed_or_changed_are_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let me = async |token: Option<&str>| node.rest(Method::GET, "/v1/auth/me", token, None).await;

    me(None).await.refused(401, "UNAUTHORIZED", 1001);
    for token in ["", "x", "a.b.c", "null"] {
        let answer = me(Some(token)).await;
        assert_eq!(answer.status, 401, "{token:?}: {}", answer.body);
    }
    // Each part of the token changed by one character.
    for index in [5, ann.token.len() / 2, ann.token.len() - 5] {
        let mut bytes = ann.token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        me(Some(std::str::from_utf8(&bytes).unwrap())).await.refused(401, "TOKEN_INVALID", 1004);
    }
    let refresh_as_access = me(Some(&ann.refresh)).await;
    refresh_as_access.refused(401, "TOKEN_INVALID", 1004);

    let two = node.http().get(node.url("/v1/auth/me")).bearer_auth(&ann.token).header("authorization", "Bearer x");
    assert_eq!(two.send().await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_registration_names_the_fields_and_leaves_nothing_behind() {
    let world = World::new().await;
    let node = world.node().await;
    let long = "x".repeat(300);
    for (body, fields) in [
        (json!({}), vec!["email", "password", "display_name"]),
        (json!({ "email": "no", "password": PASSWORD, "display_name": "a" }), vec!["email"]),
        (json!({ "email": "a@b.c", "password": "short", "display_name": "a" }), vec!["password"]),
        (json!({ "email": "a@b.c", "password": long, "display_name": long }), vec!["password", "display_name"]),
        (json!({ "email": "a@b.c", "password": PASSWORD, "display_name": "a\u{0}b" }), vec!["display_name"]),
    ] {
        let answer = node.rest(Method::POST, "/v1/auth/register", None, Some(body)).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), fields);
    }
    for body in [json!({ "email": 7 }), json!({ "emial": "a@b.c" }), json!([]), json!("x")] {
        let answer = node.rest(Method::POST, "/v1/auth/register", None, Some(body)).await;
        answer.refused(400, "INVALID_FORMAT", 2004);
    }
    assert_eq!(world.count("accounts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_hashed_at_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    assert_eq!(world.count("accounts WHERE password_hash LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'").await, 1);
    let in_clear = format!("refresh_tokens WHERE hash = '{}'::bytea", ann.refresh);
    assert_eq!((world.count("refresh_tokens").await, world.count(&in_clear).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_session_does() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let conversation = ann.conversation(&node, &[&bob]).await;
    let mut events = crate::harness::Events::open(&node, &bob, &conversation, "", None).await;
    bob.post(&node, "/v1/auth/logout", json!({})).await.ok();
    let last = events.next().await.unwrap();
    assert_eq!((last.name.as_str(), last.data["error"]["reason"].as_str()), ("error", Some("SESSION_REVOKED")));
    assert!(events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signing_keys_are_published_and_rotate() {
    let mut world = World::new().await;
    let old = world.node().await;
    let ann = old.user("ann").await;

    let seed = "OFrIFmCvHScIk4bMqqmaJ0Tq5VLLWVFTB6Mx0fbKv5I=";
    let key = rialto::kernel::config::SigningKey { id: "new".into(), seed: rialto::kernel::secret::Secret::new(seed) };
    world.config.auth.signing_keys.insert(0, key);
    let new = world.node().await;
    let jwks = new.rest(Method::GET, "/.well-known/jwks.json", None, None).await.ok();
    let ids: Vec<_> = jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(ids, ["new", "test"]);
    assert!(jwks["keys"][0].get("d").is_none());

    ann.get(&new, "/v1/auth/me").await.ok();
    let fresh = new.log_in(&ann.email, &ann.id).await;
    fresh.get(&old, "/v1/auth/me").await.refused(401, "TOKEN_INVALID", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_matter_are_in_the_audit_log() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let _ = node.auth().login(login(&ann.email, "wrong")).await;
    ann.post(&node, "/v1/auth/logout", json!({})).await.ok();
    let entries = |method: &str, code: i16, who: &str| {
        format!(
            "audit_log WHERE method = '/rialto.auth.v1.AuthService/{method}' AND grpc_code = {code} AND {who} AND address = '127.0.0.1' AND request_id <> ''"
        )
    };
    let ann_did = format!("account_id = '{}'", ann.id);
    assert_eq!(world.count(&entries("Register", 0, &ann_did)).await, 1);
    assert_eq!(world.count(&entries("Login", 0, &ann_did)).await, 1);
    assert_eq!(world.count(&entries("Login", 16, "account_id IS NULL")).await, 1);
    assert_eq!(world.count(&entries("Logout", 0, &ann_did)).await, 1);
    assert_eq!(world.count(&entries("GetMe", 0, "true")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_nothing_half_done() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    for _ in 0..10 {
        // Cut off at any point of the call.
        let url = node.url("/v1/auth/login");
        let request = node.http().post(url).json(&json!({ "email": ann.email, "password": PASSWORD })).send();
        let _ = tokio::time::timeout(Duration::from_millis(10), request).await;
    }
    let half = "sessions s WHERE NOT EXISTS (SELECT FROM refresh_tokens WHERE session_id = s.id)";
    assert_eq!(world.count(half).await, 0);
    ann.get(&node, "/v1/auth/me").await.ok();
}

//! Logging in without a password.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::kernel::wire::{from_struct, to_struct};
use rialto::proto::rialto::auth::v1::GetMeRequest;
use rialto::proto::rialto::passkeys::v1::passkey_service_client::PasskeyServiceClient;
use rialto::proto::rialto::passkeys::v1::{BeginLoginRequest, FinishLoginRequest};
use serde_json::{Value, json};
use tonic::Code;

use super::authenticator::text;
use super::{Authenticator, Ceremony, fate, finish_login, log_in, register, register_with, world};
use crate::harness::{Answer, Node, User, refusal};

/// What an authenticator does that it should not.
type Lie = Box<dyn Fn(&mut Authenticator)>;

async fn me(node: &Node, tokens: &Value) -> String {
    let me = node.rest(Method::GET, "/v1/auth/me", tokens["accessToken"].as_str(), None).await.ok();
    me["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_logs_in_without_password_and_address_over_rest() {
    let world = world().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (added, mut anns) = register(&node, &ann).await;
    let (_, mut bobs) = register(&node, &bob).await;
    assert_eq!(added["passkey"]["lastUsedAt"], Value::Null);

    let ceremony = Ceremony::login(&node).await;
    // It tells of nobody.
    assert_eq!(ceremony.options["allowCredentials"], json!([]));
    assert_eq!(
        (&ceremony.options["rpId"], &ceremony.options["userVerification"]),
        (&json!("example.com"), &json!("required"))
    );
    let tokens = finish_login(&node, &ceremony, anns.get(&ceremony.options)).await.ok();
    assert_eq!((&tokens["tokenType"], &tokens["expiresIn"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(me(&node, &tokens).await, ann.id);
    assert_eq!(me(&node, &log_in(&node, &mut bobs).await.ok()).await, bob.id);
    assert!(ann.get(&node, "/v1/passkeys").await.ok()["passkeys"][0]["lastUsedAt"].is_string());
    let refreshed = json!({ "refreshToken": tokens["refreshToken"] });
    node.rest(Method::POST, "/v1/auth/refresh", None, Some(refreshed)).await.ok();
    // It counts as a recent proof.
    let ann = User { token: tokens["accessToken"].as_str().unwrap().into(), ..ann };
    Ceremony::registration(&node, &ann).await;
    let audited = "audit_log WHERE method = '/rialto.passkeys.v1.PasskeyService/FinishLogin' AND grpc_code = 0";
    assert_eq!(world.count(&format!("{audited} AND account_id = '{}'", ann.id)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_logs_in_without_password_and_address_over_grpc() {
    let world = world().await;
    let node = world.node().await;
    let mut ann = node.user("ann").await;
    let (_, mut authenticator) = register(&node, &ann).await;
    let mut grpc = PasskeyServiceClient::new(node.channel());
    let begun = grpc.begin_login(BeginLoginRequest {}).await.unwrap().into_inner();
    let credential = authenticator.get(&from_struct(begun.options.unwrap()));
    let finish = |credential: Option<Value>| FinishLoginRequest {
        ceremony_token: begun.ceremony_token.clone(),
        credential: credential.map(to_struct),
        device_token: String::new(),
        ..Default::default()
    };
    let missing = refusal(grpc.finish_login(finish(None)).await);
    assert_eq!(missing, (Code::InvalidArgument, "MISSING_REQUIRED_FIELD".into()));
    let tokens = grpc.finish_login(finish(Some(credential.clone()))).await.unwrap().into_inner();
    ann.token = tokens.access_token;
    let me = ann.auth(&node).get_me(GetMeRequest {}).await.unwrap().into_inner().account.unwrap();
    assert_eq!(me.id, ann.id);
    let replayed = refusal(grpc.finish_login(finish(Some(credential))).await);
    assert_eq!(replayed, (Code::FailedPrecondition, "PASSKEY_CEREMONY_VOID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_accounts_passkey_has_not_signed_here_and_now_opens_nothing() {
    let world = world().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (_, anns) = register(&node, &ann).await;
    register(&node, &bob).await;
    let sessions = world.count("sessions").await;
    let bobs_id = uuid::Uuid::parse_str(&bob.id).unwrap().as_bytes().to_vec();
    let refused = |answer: Answer, what: &str| {
        answer.refused(401, "PASSKEY_INVALID", 1002);
        assert_eq!(answer.fields(), ["credential"], "{what}");
    };

    let lies: [(&str, Lie); 8] = [
        ("another origin", Box::new(|key| key.origin = "https://evil.test".into())),
        ("a subdomain that is not listed", Box::new(|key| key.origin = "https://a.app.example.com".into())),
        ("another party", Box::new(|key| key.rp_id = "evil.test".into())),
        ("an unverified user", Box::new(|key| key.verifies_user = false)),
        (
            "a passkey that nobody has",
            Box::new(|key| *key = Authenticator { user: key.user.clone(), ..Authenticator::new() }),
        ),
        (
            "another key",
            Box::new(|key| *key = Authenticator { id: key.id.clone(), user: key.user.clone(), ..Authenticator::new() }),
        ),
        ("another user", Box::new(move |key| key.user = bobs_id.clone())),
        ("no user", Box::new(|key| key.user = vec![1, 2, 3])),
    ];
    for (what, lie) in &lies {
        let mut key = anns.clone();
        lie(&mut key);
        refused(log_in(&node, &mut key).await, what);
    }
    let (one, other) = (Ceremony::login(&node).await, Ceremony::login(&node).await);
    refused(finish_login(&node, &one, anns.clone().get(&other.options)).await, "another challenge");
    for (path, value) in [
        ("/response/signature", json!(text(&[1; 70]))),
        ("/response/signature", json!("")),
        ("/response/authenticatorData", json!(text(&[0; 37]))),
        ("/response/authenticatorData", json!("")),
        ("/response/clientDataJSON", json!(text(b"[]"))),
        ("/response/userHandle", json!(null)),
    ] {
        let ceremony = Ceremony::login(&node).await;
        let mut credential = anns.clone().get(&ceremony.options);
        *credential.pointer_mut(path).unwrap() = value;
        refused(finish_login(&node, &ceremony, credential).await, path);
    }
    let ceremony = Ceremony::login(&node).await;
    for credential in [json!({}), json!({ "id": 7 }), json!({ "x": "y".repeat(70_000) })] {
        let answer = finish_login(&node, &ceremony, credential).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["credential"]);
    }
    assert_eq!(world.count("sessions").await, sessions);
    finish_login(&node, &ceremony, anns.clone().get(&ceremony.options)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_finished_once_in_five_minutes_by_the_client_that_began_it() {
    let world = world().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = node.user("ann").await;
    let (_, mut authenticator) = register(&node, &ann).await;
    let sessions = world.count("sessions").await;
    let ceremony = Ceremony::login(&node).await;
    let credential = authenticator.get(&ceremony.options);
    let elsewhere = node.http().post(node.url("/v1/passkeys/login/finish")).header("user-agent", "another");
    let elsewhere = elsewhere.json(&ceremony.body(credential.clone())).send().await.unwrap();
    Answer::of(elsewhere).await.refused(409, "PASSKEY_CEREMONY_VOID", 3003);

    let tries = (0..6).map(|i| finish_login(if i % 2 == 0 { &node } else { &other }, &ceremony, credential.clone()));
    let answers = join_all(tries).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert_eq!(fates[1..], [(409, Some("PASSKEY_CEREMONY_VOID")); 5]);
    assert_eq!(world.count("sessions").await, sessions + 1);

    let late = Ceremony::login(&node).await;
    world.clock.advance(Duration::from_secs(300));
    finish_login(&node, &late, authenticator.get(&late.options)).await.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_does_not_grow_is_refused() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let counting = Authenticator { counter: 5, ..Authenticator::new() };
    let (_, mut original) = register_with(&node, &ann, counting).await;
    let mut copy = original.clone();
    log_in(&node, &mut original).await.ok();
    log_in(&node, &mut original).await.ok();
    // Seven and seven again, and what comes before.
    let refused = log_in(&node, &mut copy).await;
    refused.refused(401, "PASSKEY_COUNTER_INVALID", 1002);
    assert_eq!(refused.fields(), ["credential"]);
    copy.counter = 0;
    log_in(&node, &mut copy).await.refused(401, "PASSKEY_COUNTER_INVALID", 1002);
    copy.counter = 6;
    log_in(&node, &mut copy).await.refused(401, "PASSKEY_COUNTER_INVALID", 1002);
    log_in(&node, &mut original).await.ok();

    // The same count in several ceremonies at once works once.
    let mut tries = Vec::new();
    for _ in 0..4 {
        let ceremony = Ceremony::login(&node).await;
        let credential = original.clone().get(&ceremony.options);
        tries.push((ceremony, credential));
    }
    let tries = tries.iter().map(|(ceremony, credential)| finish_login(&node, ceremony, credential.clone()));
    let answers = join_all(tries).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert_eq!(fates[1..], [(401, Some("PASSKEY_COUNTER_INVALID")); 3]);

    // One without a counter works as often as it is used.
    let (_, mut plain) = register(&node, &ann).await;
    log_in(&node, &mut plain).await.ok();
    log_in(&node, &mut plain).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_opens_nothing_for_an_account_that_may_not_log_in() {
    let world = world().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "admin").await);
    let (_, mut authenticator) = register(&node, &ann).await;
    admin.post(&node, &format!("/v1/auth/accounts/{}/suspend", ann.id), json!({})).await.ok();
    let refused = log_in(&node, &mut authenticator).await;
    refused.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);
    // Only its owner is told so.
    let mut other = Authenticator { user: authenticator.user.clone(), ..Authenticator::new() };
    log_in(&node, &mut other).await.refused(401, "PASSKEY_INVALID", 1002);
    admin.post(&node, &format!("/v1/auth/accounts/{}/reinstate", ann.id), json!({})).await.ok();
    let token = log_in(&node, &mut authenticator).await.ok()["accessToken"].as_str().unwrap().to_owned();

    User { token, ..ann.clone() }.delete(&node, "/v1/users/me").await.ok();
    let refused = log_in(&node, &mut authenticator).await;
    assert!(
        [(403, Some("ACCOUNT_NOT_ACTIVE")), (401, Some("PASSKEY_INVALID"))].contains(&fate(&refused)),
        "{refused:?}"
    );
    // With the row of the account go its passkeys.
    world.database().await.batch_execute(&format!("DELETE FROM accounts WHERE id = '{}'", ann.id)).await.unwrap();
    assert_eq!(world.count("passkeys").await, 0);
    log_in(&node, &mut authenticator).await.refused(401, "PASSKEY_INVALID", 1002);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_passkey_is_a_login_like_others() {
    let mut world = world().await;
    world.config.auth.max_sessions = 3;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (_, mut authenticator) = register(&node, &ann).await;
    let first = log_in(&node, &mut authenticator).await.ok();
    // Its device is known from then on.
    let devices = world.count("known_devices").await;
    let ceremony = Ceremony::login(&node).await;
    let mut body = ceremony.body(authenticator.get(&ceremony.options));
    body["deviceToken"] = first["deviceToken"].clone();
    let second = node.rest(Method::POST, "/v1/passkeys/login/finish", None, Some(body)).await.ok();
    assert_eq!(second["deviceToken"], first["deviceToken"]);
    assert_eq!(world.count("known_devices").await, devices);
    // One session more than an account may have ends the oldest.
    log_in(&node, &mut authenticator).await.ok();
    ann.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(me(&node, &first).await, ann.id);
}

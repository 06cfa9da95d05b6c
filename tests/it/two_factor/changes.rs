//! What a change of the second factor, or of what needs it, does besides: mails, open streams, the password.

use std::time::Duration;

use reqwest::Method;
use rialto::dev::services::PrivateRedis;
use rialto::kernel::config::Limit;
use rialto::proto::rialto::auth::v1::{LoginRequest, VerifyTwoFactorRequest};
use serde_json::json;
use tonic::Code;

use super::{Enrolled, challenge, promote, strings, verify};
use crate::harness::{Events, PASSWORD, World, eventually, soon};
use crate::live::subscribe;
use crate::smtp::Smtp;

const MODERATOR: &str = "00000000-0000-7000-8000-000000000003";

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_told_of_every_change_by_mail() {
    let (mut world, mut smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    let node = world.node().await;
    node.work();
    let mut told = async |what: &str| {
        let mail = smtp.next().await;
        assert!(mail.to == "ann@example.com" && mail.text.contains(what), "{what}: {}", mail.text);
        mail.text
    };
    let ann = Enrolled::new(&world, &node, "ann").await;
    told("Two-factor authentication is on").await;
    let codes = ann.regenerate(&node, &ann.authenticator.next_code(&world)).await.ok();
    let mail = told("Your backup codes were replaced").await;
    for code in strings(&codes["backupCodes"]) {
        assert!(!mail.contains(&code));
    }
    // What is refused is not told.
    ann.regenerate(&node, &ann.used_code).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    let body = json!({ "password": PASSWORD, "code": ann.authenticator.next_code(&world) });
    ann.disable(&node, body).await.ok();
    told("Two-factor authentication is off").await;

    let ann = Enrolled::enrol(&world, &node, ann.user).await;
    told("Two-factor authentication is on").await;
    let admin = node.user("admin").await;
    promote(&world, &node, &admin).await;
    admin.post(&node, &format!("/v1/twofa/accounts/{}/reset", ann.user.id), json!({})).await.ok();
    told("Two-factor authentication was reset").await;
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_role_begins_to_need_the_second_factor_or_it_goes() {
    let mut world = World::new().await;
    world.config.two_factor.required_roles = vec!["moderator".into()];
    let (node, other) = (world.node().await, world.node().await);
    let admin = world.administrator(&node, "admin").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut by_ann = subscribe(&other, &ann, &id, None).await;
    // That role gives nothing more than every user has.
    admin.post(&node, &format!("/v1/accounts/{}/roles", ann.id), json!({ "role_id": MODERATOR })).await.ok();
    assert_eq!(soon(by_ann.message()).await.unwrap_err().code(), Code::Unavailable);
    eventually(async || {
        let answer = ann.get(&other, "/v1/conversations").await;
        answer.body["error"]["reason"] == "TWO_FACTOR_REQUIRED"
    })
    .await;

    let ann = Enrolled::enrol(&world, &node, ann).await;
    eventually(async || ann.user.get(&other, "/v1/conversations").await.status == 200).await;
    let mut on_other = subscribe(&other, &ann.user, &id, None).await;
    let mut events = Events::open(&node, &ann.user, &id, "", None).await;
    let mut of_bob = subscribe(&other, &bob, &id, None).await;
    let body = json!({ "password": PASSWORD, "code": ann.authenticator.next_code(&world) });
    ann.disable(&node, body).await.ok();
    assert_eq!(soon(on_other.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(soon(events.next()).await.unwrap().data["error"]["reason"], "SERVICE_UNAVAILABLE");
    // The session goes on, to enable it again; other people's streams too.
    ann.user.get(&other, "/v1/twofa/status").await.ok();
    bob.send(&node, &id, "still here").await;
    assert!(soon(of_bob.message()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_password_of_an_account_with_a_second_factor_needs_a_recent_proof_of_it() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (Enrolled::new(&world, &node, "ann").await, node.user("bob").await);
    world.clock.advance(Duration::from_secs(301));
    let body = json!({ "current_password": PASSWORD, "new_password": "staple h7-Kq.92z" });
    let change = async || ann.user.post(&node, "/v1/auth/change-password", body.clone()).await;
    change().await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    let proof = json!({ "password": PASSWORD, "code": ann.authenticator.code(&world) });
    ann.user.post(&node, "/v1/auth/reauthenticate", proof).await.ok();
    change().await.ok();
    // Without one, the password in the call is the proof.
    bob.post(&node, "/v1/auth/change-password", body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_known_by_its_token_after_the_code_too() {
    let (mut world, mut smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    let node = world.node().await;
    node.work();
    let ann = Enrolled::new(&world, &node, "ann").await;
    assert!(smtp.next().await.text.contains("Two-factor authentication is on"));
    let login = async |device_token: &str| {
        let password = LoginRequest { email: ann.user.email.clone(), password: PASSWORD.into(), ..Default::default() };
        let challenge = node.auth().login(password).await.unwrap().into_inner();
        assert!(challenge.device_token.is_empty(), "before the code nobody is known");
        let code = ann.authenticator.next_code(&world);
        let verify = VerifyTwoFactorRequest {
            challenge_token: challenge.challenge_token,
            code,
            device_token: device_token.into(),
            ..Default::default()
        };
        node.auth().verify_two_factor(verify).await.unwrap().into_inner().device_token
    };
    let laptop = login("").await;
    assert!(smtp.next().await.text.contains("New login"));
    assert_eq!(login(&laptop).await, laptop);
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());
    assert_ne!(login("made up").await, laptop);
    assert!(smtp.next().await.text.contains("New login"));
    // Of somebody else it is not known.
    let bob = Enrolled::new(&world, &node, "bob").await;
    assert!(smtp.next().await.to == "bob@example.com");
    let token = challenge(&node, &bob.user.email).await;
    let body = json!({ "challengeToken": token, "code": bob.authenticator.next_code(&world), "deviceToken": laptop });
    let opened = node.rest(Method::POST, "/v1/auth/login/verify-2fa", None, Some(body)).await.ok();
    assert_ne!(opened["deviceToken"], laptop);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nobody_guesses_codes_and_what_was_revoked_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = PrivateRedis::start(folder.path()).unwrap();
    let mut world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    // So few that a node counts each by itself.
    let generous = Limit { calls: 1000, seconds: 1 };
    world.config.rates.factor = 1;
    world.config.rates.sensitive = Limit { calls: 50, seconds: 60 };
    (world.config.rates.authentication, world.config.rates.anonymous) = (generous, generous);
    let node = world.node().await;
    let (ann, bob) = (Enrolled::new(&world, &node, "ann").await, Enrolled::new(&world, &node, "bob").await);
    let admin = node.user("admin").await;
    promote(&world, &node, &admin).await;
    let token = challenge(&node, &ann.user.email).await;
    admin.post(&node, &format!("/v1/twofa/accounts/{}/reset", bob.user.id), json!({})).await.ok();
    redis.kill();
    eventually(async || !node.server.app.bus.is_up()).await;

    // A right code is refused like a wrong one.
    let code = ann.authenticator.next_code(&world);
    for code in [code.as_str(), "000000"] {
        let answer = verify(&node, &token, code).await;
        assert_eq!((answer.status, &answer.body["error"]["reason"]), (503, &json!("SERVICE_UNAVAILABLE")));
    }
    let body = json!({ "password": PASSWORD, "code": code });
    assert_eq!(ann.disable(&node, body.clone()).await.status, 503);
    assert_eq!(ann.user.post(&node, "/v1/auth/reauthenticate", body).await.status, 503);
    assert_eq!(ann.regenerate(&node, &code).await.status, 503);
    let reset = admin.post(&node, &format!("/v1/twofa/accounts/{}/reset", ann.user.id), json!({})).await;
    assert_eq!(reset.status, 503);
    ann.user.get(&node, "/v1/twofa/status").await.ok();
    bob.user.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);

    redis.start_again().unwrap();
    eventually(async || node.server.app.bus.is_up()).await;
    let log_in = async || {
        // Connections come back one by one.
        let login = json!({ "email": ann.user.email, "password": PASSWORD });
        let answer = node.rest(Method::POST, "/v1/auth/login", None, Some(login)).await;
        let Some(token) = answer.body["challengeToken"].as_str().map(str::to_owned) else { return false };
        verify(&node, &token, &ann.authenticator.next_code(&world)).await.status == 200
    };
    eventually(log_in).await;
}

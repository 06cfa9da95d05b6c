//! A passkey after the password, and beside codes.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::kernel::wire::{from_struct, to_struct};
use rialto::proto::rialto::auth::v1::{LoginRequest, SecondFactor, VerifyTwoFactorRequest};
use rialto::proto::rialto::passkeys::v1::BeginSecondFactorRequest;
use rialto::proto::rialto::passkeys::v1::passkey_service_client::PasskeyServiceClient;
use serde_json::{Value, json};
use totp_rs::Builder;

use super::{Authenticator, Ceremony, fate, finish_registration, log_in, register, world};
use crate::harness::{Answer, Node, PASSWORD, User, World};

/// What the answer to a login by password says.
async fn login(node: &Node, email: &str) -> Value {
    let login = json!({ "email": email, "password": PASSWORD });
    node.rest(Method::POST, "/v1/auth/login", None, Some(login)).await.ok()
}

/// Its challenge, and what answers it.
async fn challenge(node: &Node, user: &User) -> (String, Value) {
    let answer = login(node, &user.email).await;
    assert_eq!(answer["twoFactorRequired"], true, "{answer}");
    (answer["challengeToken"].as_str().unwrap().to_owned(), answer["secondFactors"].clone())
}

async fn verify(node: &Node, challenge: &str, mut body: Value) -> Answer {
    body["challengeToken"] = challenge.into();
    node.rest(Method::POST, "/v1/auth/login/verify-2fa", None, Some(body)).await
}

async fn verify_by_passkey(node: &Node, challenge: &str, authenticator: &mut Authenticator) -> Answer {
    let ceremony = Ceremony::second_factor(node, challenge).await;
    verify(node, challenge, ceremony.body(authenticator.get(&ceremony.options))).await
}

/// Enables codes; returns the secret.
async fn enable_codes(world: &World, node: &Node, user: &User) -> String {
    let setup = user.post(node, "/v1/twofa/setup", json!({ "password": PASSWORD })).await.ok();
    let secret = setup["secret"].as_str().unwrap().to_owned();
    user.post(node, "/v1/twofa/enable", json!({ "code": code(world, &secret) })).await.ok();
    secret
}

fn code(world: &World, secret: &str) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    let codes = Builder::new().with_secret(secret).build().unwrap();
    codes.generate(u64::try_from(world.clock.now().timestamp()).unwrap()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_password_a_passkey_finishes_the_login_over_rest() {
    let world = world().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    assert!(login(&node, &ann.email).await["accessToken"].is_string());
    let (_, mut authenticator) = register(&node, &ann).await;
    let (_, mut bobs) = register(&node, &bob).await;

    let (token, factors) = challenge(&node, &ann).await;
    assert_eq!(factors, json!(["SECOND_FACTOR_BACKUP_CODE", "SECOND_FACTOR_PASSKEY"]));
    let ceremony = Ceremony::second_factor(&node, &token).await;
    assert_eq!(ceremony.options["allowCredentials"].as_array().unwrap().len(), 1);
    let good = ceremony.body(authenticator.get(&ceremony.options));

    // Neither with a code beside it, nor with a ceremony of another challenge, nor with another account's passkey.
    let mut both = good.clone();
    both["code"] = "123456".into();
    let refused = verify(&node, &token, both).await;
    refused.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(refused.fields(), ["credential"]);
    let (another, _) = challenge(&node, &ann).await;
    verify(&node, &another, good.clone()).await.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
    verify_by_passkey(&node, &another, &mut bobs).await.refused(401, "PASSKEY_INVALID", 1002);
    let login_ceremony = Ceremony::login(&node).await;
    let body = login_ceremony.body(authenticator.get(&login_ceremony.options));
    verify(&node, &another, body).await.refused(409, "PASSKEY_CEREMONY_VOID", 3003);

    let sessions = world.count("sessions").await;
    let answers = join_all((0..4).map(|_| verify(&node, &token, good.clone()))).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert!(fates[1..].iter().all(|(status, _)| [401, 409].contains(status)), "{fates:?}");
    assert_eq!(world.count("sessions").await, sessions + 1);
    let unknown =
        node.rest(Method::POST, "/v1/passkeys/second-factor/begin", None, Some(json!({ "challengeToken": token })));
    unknown.await.refused(401, "TOKEN_INVALID", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_password_a_passkey_finishes_the_login_over_grpc() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (_, mut authenticator) = register(&node, &ann).await;
    let request = LoginRequest { email: ann.email.clone(), password: PASSWORD.into(), ..Default::default() };
    let answer = node.auth().login(request).await.unwrap().into_inner();
    assert_eq!(answer.second_factors, [SecondFactor::BackupCode as i32, SecondFactor::Passkey as i32]);
    let challenge_token = answer.challenge_token;
    let begin = BeginSecondFactorRequest { challenge_token: challenge_token.clone() };
    let begun = PasskeyServiceClient::new(node.channel()).begin_second_factor(begin).await.unwrap().into_inner();
    let credential = authenticator.get(&from_struct(begun.options.unwrap()));
    let finish = VerifyTwoFactorRequest {
        challenge_token,
        ceremony_token: begun.ceremony_token,
        credential: Some(to_struct(credential)),
        ..Default::default()
    };
    assert_eq!(node.auth().verify_two_factor(finish).await.unwrap().into_inner().expires_in, 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_codes_stand_in_for_the_only_passkey() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (added, mut authenticator) = register(&node, &ann).await;
    let codes = added["backupCodes"].as_array().unwrap();
    let (token, _) = challenge(&node, &ann).await;
    verify(&node, &token, json!({ "backupCode": codes[0] })).await.ok();
    let (token, _) = challenge(&node, &ann).await;
    verify(&node, &token, json!({ "backupCode": codes[0] })).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    // There are no other codes.
    verify(&node, &token, json!({ "code": "123456" })).await.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    assert_eq!(ann.get(&node, "/v1/twofa/backup-codes").await.ok()["left"], 9);

    // New ones want a backup code, or the passkey within five minutes; in either case the password.
    let regenerate = async |body: Value| ann.post(&node, "/v1/twofa/regenerate-backup-codes", body).await;
    regenerate(json!({ "password": "wrong" })).await.refused(401, "INVALID_CREDENTIALS", 1002);
    assert_eq!(regenerate(json!({ "password": PASSWORD })).await.ok()["backupCodes"].as_array().unwrap().len(), 10);
    world.clock.advance(Duration::from_secs(301));
    regenerate(json!({ "password": PASSWORD })).await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    let ceremony = Ceremony::reauthentication(&node, &ann).await;
    let body = ceremony.body(authenticator.get(&ceremony.options));
    ann.post(&node, "/v1/passkeys/reauthenticate/finish", body).await.ok();
    let new = regenerate(json!({ "password": PASSWORD })).await.ok();
    let (token, _) = challenge(&node, &ann).await;
    verify(&node, &token, json!({ "backupCode": codes[1] })).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    verify(&node, &token, json!({ "backupCode": new["backupCodes"][0] })).await.ok();

    // With the last second factor they go.
    let id = added["passkey"]["id"].as_str().unwrap();
    ann.delete(&node, &format!("/v1/passkeys/{id}")).await.ok();
    assert_eq!(world.count("backup_codes").await, 0);
    assert!(login(&node, &ann.email).await["accessToken"].is_string());
    regenerate(json!({ "password": PASSWORD })).await.refused(422, "VALIDATION_ERROR", 2001);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_passkeys_are_second_factors_beside_each_other() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (added, mut authenticator) = register(&node, &ann).await;
    let secret = enable_codes(&world, &node, &ann).await;
    let (token, factors) = challenge(&node, &ann).await;
    let all = json!(["SECOND_FACTOR_CODE", "SECOND_FACTOR_BACKUP_CODE", "SECOND_FACTOR_PASSKEY"]);
    assert_eq!(factors, all);
    verify_by_passkey(&node, &token, &mut authenticator).await.ok();
    world.clock.advance(Duration::from_secs(30));
    let (token, _) = challenge(&node, &ann).await;
    verify(&node, &token, json!({ "code": code(&world, &secret) })).await.ok();

    // Without the codes the passkey remains, and its backup codes.
    world.clock.advance(Duration::from_secs(30));
    let disable = json!({ "password": PASSWORD, "code": code(&world, &secret) });
    ann.post(&node, "/v1/twofa/disable", disable).await.ok();
    let status = ann.get(&node, "/v1/twofa/status").await.ok();
    assert_eq!(
        (&status["enabled"], &status["backupCodesLeft"], &status["passkeys"]),
        (&json!(false), &json!(10), &json!(1))
    );
    let (token, factors) = challenge(&node, &ann).await;
    assert_eq!(factors, json!(["SECOND_FACTOR_BACKUP_CODE", "SECOND_FACTOR_PASSKEY"]));
    verify_by_passkey(&node, &token, &mut authenticator).await.ok();

    // And without the passkey the codes.
    let secret = enable_codes(&world, &node, &ann).await;
    ann.delete(&node, &format!("/v1/passkeys/{}", added["passkey"]["id"].as_str().unwrap())).await.ok();
    let (token, factors) = challenge(&node, &ann).await;
    assert_eq!(factors, json!(["SECOND_FACTOR_CODE", "SECOND_FACTOR_BACKUP_CODE"]));
    let none =
        node.rest(Method::POST, "/v1/passkeys/second-factor/begin", None, Some(json!({ "challengeToken": token })));
    none.await.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    world.clock.advance(Duration::from_secs(30));
    verify(&node, &token, json!({ "code": code(&world, &secret) })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_passkeys_too() {
    let world = world().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "admin").await);
    let reset = format!("/v1/twofa/accounts/{}/reset", ann.id);
    admin.post(&node, &reset, json!({})).await.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    let (_, mut authenticator) = register(&node, &ann).await;
    admin.post(&node, &reset, json!({})).await.ok();
    log_in(&node, &mut authenticator).await.refused(401, "PASSKEY_INVALID", 1002);
    assert!(login(&node, &ann.email).await["accessToken"].is_string());
    assert_eq!(world.count("backup_codes").await + world.count("passkeys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_is_the_second_factor_that_a_role_needs() {
    let mut world = world().await;
    world.config.two_factor.required_roles = vec!["user".into()];
    let node = world.node().await;
    let ann = node.user("ann").await;
    let conversations = async || ann.get(&node, "/v1/conversations").await;
    conversations().await.refused(403, "TWO_FACTOR_REQUIRED", 1005);
    // Also for who has logged in long ago.
    world.clock.advance(Duration::from_secs(301));
    ann.post(&node, "/v1/auth/reauthenticate", json!({ "password": PASSWORD })).await.ok();
    let (added, _) = register(&node, &ann).await;
    conversations().await.ok();
    ann.get(&node, "/v1/passkeys").await.ok();
    ann.delete(&node, &format!("/v1/passkeys/{}", added["passkey"]["id"].as_str().unwrap())).await.ok();
    conversations().await.refused(403, "TWO_FACTOR_REQUIRED", 1005);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_password_that_began_before_the_passkey_opens_no_session_after_it() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    for _ in 0..3 {
        world
            .database()
            .await
            .batch_execute("DELETE FROM passkeys; UPDATE accounts SET two_factor = false")
            .await
            .unwrap();
        let ceremony = Ceremony::registration(&node, &ann).await;
        let made = Authenticator::new().create(&ceremony.options);
        let logins = join_all((0..4).map(|_| login(&node, &ann.email)));
        let (added, answers) = tokio::join!(finish_registration(&node, &ann, &ceremony, made), logins);
        added.ok();
        for token in
            answers.iter().filter_map(|answer| answer["accessToken"].as_str().filter(|token| !token.is_empty()))
        {
            let me = node.rest(Method::GET, "/v1/auth/me", Some(token), None).await;
            me.refused(401, "SESSION_REVOKED", 1004);
        }
    }
}

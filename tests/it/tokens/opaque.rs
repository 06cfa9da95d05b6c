//! Tokens that are random bytes: refresh tokens, challenges, those of mails, and those of devices.

use reqwest::Method;
use rialto::proto::rialto::auth::v1::{
    RefreshRequest, ResetPasswordRequest, VerifyEmailRequest, VerifyTwoFactorRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use super::with_one_other_character;
use crate::harness::{Node, PASSWORD, World, refusal};
use crate::smtp::Smtp;
use crate::two_factor::{Enrolled, challenge, verify};

const NEW_PASSWORD: &str = "staple h7-Kq.92z";

/// What could be taken for the token by whoever compares it loosely, or breaks who looks it up.
fn altered(token: &str) -> Vec<String> {
    let mut all: Vec<_> = with_one_other_character(token).collect();
    all.extend((1..token.len()).map(|end| token[..end].to_owned()));
    all.extend([
        format!("{token}="),
        format!("{token}A"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{token}\u{200b}"),
        format!("\u{feff}{token}"),
        format!("{token}%00"),
        token.to_uppercase(),
        token.to_lowercase(),
        token.chars().rev().collect(),
        token.replace(['-', '_'], "+"),
        format!("{token}.{token}"),
        "%".into(),
        "null".into(),
        "0".into(),
        "' OR '1'='1".into(),
        "'; DROP TABLE sessions; --".into(),
        "../../etc/passwd".into(),
        "{\"$ne\":null}".into(),
        "é".repeat(128),
        "A".repeat(256),
        "\u{1f511}".into(),
    ]);
    all.retain(|other| other != token);
    all
}

/// Refused over REST with a reason, the same over gRPC; and what can be no token is named as a field.
async fn refused<T: std::fmt::Debug>(
    node: &Node,
    path: &str,
    field: &str,
    body: &Value,
    tokens: &[String],
    grpc: impl AsyncFn(String) -> Result<T, tonic::Status>,
) {
    let with = |value: Value| {
        let mut body = body.clone();
        body[field] = value;
        body
    };
    for token in tokens {
        let answer = node.rest(Method::POST, path, None, Some(with(json!(token)))).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["reason"]),
            (401, &json!("TOKEN_INVALID")),
            "{path} {token:?}"
        );
        assert_eq!(refusal(grpc(token.clone()).await), (Code::Unauthenticated, "TOKEN_INVALID".into()), "{token:?}");
    }
    for token in [String::new(), "A\0".into(), "A".repeat(257), "A".repeat(1 << 20)] {
        let answer = node.rest(Method::POST, path, None, Some(with(json!(token)))).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field]);
        assert_eq!(refusal(grpc(token).await), (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    }
    for value in [json!(7), json!(["A"]), json!({ "$ne": null }), json!(true)] {
        node.rest(Method::POST, path, None, Some(with(value))).await.refused(400, "INVALID_FORMAT", 2004);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_good_as_it_was_issued_and_for_nothing_else() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut tokens = altered(&ann.refresh);
    // Shorter than 256 bytes it is not, but a token of ours.
    tokens.push(ann.token[..256].to_owned());
    let refresh = async |refresh_token| node.auth().refresh(RefreshRequest { refresh_token }).await;
    refused(&node, "/v1/auth/refresh", "refresh_token", &json!({}), &tokens, refresh).await;
    // None of them has used it up.
    refresh(ann.refresh.clone()).await.unwrap();
    ann.get(&node, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_good_as_it_was_issued_and_for_nothing_else() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let code = ann.authenticator.next_code(&world);
    let genuine = challenge(&node, &ann.user.email).await;
    let mut tokens = altered(&genuine);
    tokens.push(ann.user.refresh.clone());
    let finish = async |challenge_token| {
        let request = VerifyTwoFactorRequest { challenge_token, code: code.clone(), ..Default::default() };
        node.auth().verify_two_factor(request).await
    };
    let body = json!({ "code": code });
    refused(&node, "/v1/auth/login/verify-2fa", "challenge_token", &body, &tokens, finish).await;
    // None of them was an attempt at it. By now the code may have expired.
    let code = ann.authenticator.next_code(&world);
    verify(&node, &genuine, &code).await.ok();
    verify(&node, &genuine, &code).await.refused(401, "TOKEN_INVALID", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_mails_are_good_as_they_were_sent_for_one_thing_once() {
    let (mut world, mut smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    node.work();
    let register = json!({ "email": "ann@example.com", "password": PASSWORD, "display_name": "Ann" });
    node.rest(Method::POST, "/v1/auth/register", None, Some(register)).await.ok();
    let verification = smtp.next().await.token();
    let verify = async |token| node.auth().verify_email(VerifyEmailRequest { token }).await;
    refused(&node, "/v1/auth/verify-email", "token", &json!({}), &altered(&verification), verify).await;
    let reset = async |token| {
        node.auth().reset_password(ResetPasswordRequest { token, new_password: NEW_PASSWORD.into() }).await
    };
    // A token is for one thing.
    assert_eq!(refusal(reset(verification.clone()).await), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    verify(verification.clone()).await.unwrap();

    let forgot = json!({ "email": "ann@example.com" });
    node.rest(Method::POST, "/v1/auth/forgot-password", None, Some(forgot)).await.ok();
    let token = smtp.next().await.token();
    let mut tokens = altered(&token);
    tokens.push(verification);
    let body = json!({ "new_password": NEW_PASSWORD });
    refused(&node, "/v1/auth/reset-password", "token", &body, &tokens, reset).await;
    assert_eq!(refusal(verify(token.clone()).await), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    reset(token.clone()).await.unwrap();
    assert_eq!(refusal(reset(token).await), (Code::Unauthenticated, "TOKEN_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_token_that_was_tampered_with_is_that_of_an_unknown_device() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let login = async |device_token: &str| {
        let body = json!({ "email": ann.email, "password": PASSWORD, "device_token": device_token });
        let answer = node.rest(Method::POST, "/v1/auth/login", None, Some(body)).await.ok();
        answer["deviceToken"].as_str().unwrap().to_owned()
    };
    let device = login("").await;
    // Each of these is a login, which costs a password hash.
    let mut tokens = altered(&device);
    let spellings = tokens.split_off(tokens.len() - 20);
    for token in tokens.iter().step_by(11).chain(&spellings) {
        let given = login(token).await;
        assert!(given != device && given != *token, "{token:?}");
    }
    assert_eq!(login(&device).await, device);
    let long = json!({ "email": ann.email, "password": PASSWORD, "device_token": "A".repeat(257) });
    let answer = node.rest(Method::POST, "/v1/auth/login", None, Some(long)).await;
    answer.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(answer.fields(), ["device_token"]);
}

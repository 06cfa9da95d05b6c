//! Logging in with it.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::kernel::config::Throttle;
use rialto::proto::rialto::auth::v1::{GetMeRequest, LoginRequest, VerifyTwoFactorRequest};
use serde_json::{Value, json};
use tonic::Code;

use super::{Authenticator, Enrolled, challenge, fate, finish, set_up, strings, verify};
use crate::harness::{Answer, PASSWORD, World, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_needs_the_second_factor_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let mut ann = Enrolled::new(&world, &node, "ann").await;
    let login = |password: &str| LoginRequest {
        email: "ann@example.com".into(),
        password: password.into(),
        ..Default::default()
    };
    let verify = |challenge_token: String, code: &str, backup_code: &str| VerifyTwoFactorRequest {
        challenge_token,
        code: code.into(),
        backup_code: backup_code.into(),
        ..Default::default()
    };
    let wrong = refusal(node.auth().login(login("wrong password")).await);
    assert_eq!(wrong, (Code::Unauthenticated, "INVALID_CREDENTIALS".into()));

    let answer = node.auth().login(login(PASSWORD)).await.unwrap().into_inner();
    assert!(answer.two_factor_required && answer.access_token.is_empty() && answer.refresh_token.is_empty());
    let code = ann.authenticator.next_code(&world);
    let tokens = node.auth().verify_two_factor(verify(answer.challenge_token, &code, "")).await.unwrap().into_inner();
    assert_eq!((tokens.expires_in, tokens.token_type.as_str()), (900, "Bearer"));
    ann.user.token = tokens.access_token;
    assert_eq!(
        ann.user.auth(&node).get_me(GetMeRequest {}).await.unwrap().into_inner().account.unwrap().id,
        ann.user.id
    );

    let answer = node.auth().login(login(PASSWORD)).await.unwrap().into_inner();
    let challenge = answer.challenge_token;
    let both = refusal(node.auth().verify_two_factor(verify(challenge.clone(), &code, &ann.backup_codes[0])).await);
    assert_eq!(both, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    node.auth().verify_two_factor(verify(challenge, "", &ann.backup_codes[0])).await.unwrap();
    let unknown = refusal(node.auth().verify_two_factor(verify("unknown".into(), &code, "")).await);
    assert_eq!(unknown, (Code::Unauthenticated, "TOKEN_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_needs_the_second_factor_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let token = challenge(&node, &ann.user.email).await;
    for (body, field) in [
        (json!({ "code": "123456" }), "challenge_token"),
        (json!({ "challengeToken": token }), "code"),
        (json!({ "challengeToken": token, "code": "abcdef" }), "code"),
        (json!({ "challengeToken": token, "backupCode": "abc" }), "backup_code"),
    ] {
        let answer = finish(&node, body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field]);
    }
    let code = ann.authenticator.next_code(&world);
    let tokens = verify(&node, &token, &code).await.ok();
    let session = node.rest(Method::GET, "/v1/auth/me", tokens["accessToken"].as_str(), None).await.ok();
    assert_eq!(session["id"].as_str(), Some(ann.user.id.as_str()));
    // Both are used up.
    verify(&node, &token, &ann.authenticator.next_code(&world)).await.refused(401, "TOKEN_INVALID", 1004);
    let token = challenge(&node, &ann.user.email).await;
    verify(&node, &token, &code).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    // The challenge is good for another try, by the older paths too.
    let body = json!({ "challengeToken": token, "backupCode": ann.backup_codes[3] });
    node.rest(Method::POST, "/api/auth/login/verify-2fa", None, Some(body)).await.ok();
    let audited = format!(
        "audit_log WHERE method = '/rialto.auth.v1.AuthService/VerifyTwoFactor' AND grpc_code = 0 AND account_id = '{}'",
        ann.user.id
    );
    assert_eq!(world.count(&audited).await, 2);
    // Whoever has no second factor logs in as before.
    node.user("bob").await.get(&node, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_finishes_one_opens_a_session() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = Enrolled::new(&world, &node, "ann").await;
    let sessions = world.count("sessions").await;

    // One challenge, many codes that are each good.
    let token = challenge(&node, &ann.user.email).await;
    let tries = ann.backup_codes.iter().take(4).enumerate().map(|(i, code)| {
        finish(if i % 2 == 0 { &node } else { &other }, json!({ "challengeToken": token, "backupCode": code }))
    });
    let answers = join_all(tries).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert_eq!(fates[1..], [(401, Some("TOKEN_INVALID")); 3]);
    // What lost has cost no code.
    assert_eq!(ann.user.get(&node, "/v1/twofa/backup-codes").await.ok()["left"], 9);

    // One code, many challenges.
    let code = ann.authenticator.next_code(&world);
    let tokens = join_all((0..4).map(|_| challenge(&node, &ann.user.email))).await;
    let tries =
        tokens.iter().enumerate().map(|(i, token)| verify(if i % 2 == 0 { &node } else { &other }, token, &code));
    let answers = join_all(tries).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert_eq!(fates[1..], [(401, Some("TWO_FACTOR_CODE_INVALID")); 3]);
    assert_eq!(world.count("sessions").await, sessions + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_expires_and_is_void_after_five_attempts() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let token = challenge(&node, &ann.user.email).await;
    for _ in 0..5 {
        verify(&node, &token, &ann.authenticator.ahead(&world, -300)).await.refused(
            401,
            "TWO_FACTOR_CODE_INVALID",
            1002,
        );
    }
    verify(&node, &token, &ann.authenticator.next_code(&world)).await.refused(401, "TOKEN_INVALID", 1004);

    let token = challenge(&node, &ann.user.email).await;
    world.clock.advance(Duration::from_secs(300));
    verify(&node, &token, &ann.authenticator.code(&world)).await.refused(401, "TOKEN_EXPIRED", 1003);
    assert_eq!(world.count("login_challenges").await, 2);
    world.clock.advance(Duration::from_secs(601));
    assert_eq!(rialto::domains::auth::jobs::delete_expired_challenges(&node.server.app).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_challenges_do_not_buy_more_guesses() {
    let mut world = World::new().await;
    world.config.auth.throttle = Throttle::default();
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let token = challenge(&node, &ann.user.email).await;
        statuses.push(verify(&node, &token, &ann.authenticator.ahead(&world, -300)).await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 403, 403, 403, 403, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_the_password_and_guesses_codes_does_not_stop_the_owner_on_a_known_device() {
    let mut world = World::new().await;
    world.config.server.trusted_proxies = 1;
    world.config.auth.throttle = Throttle::default();
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let post = async |path: &str, address: &str, body: Value| {
        let request = node.http().post(node.url(path)).header("x-forwarded-for", address).json(&body);
        Answer::of(request.send().await.unwrap()).await
    };
    let try_code = async |address: &str, device: &Value, code: String| {
        let login = json!({ "email": ann.user.email, "password": PASSWORD, "deviceToken": device });
        let token = post("/v1/auth/login", address, login).await.ok()["challengeToken"].clone();
        let body = json!({ "challengeToken": token, "code": code, "deviceToken": device });
        post("/v1/auth/login/verify-2fa", address, body).await
    };
    let device =
        try_code("192.0.2.1", &json!(""), ann.authenticator.next_code(&world)).await.ok()["deviceToken"].clone();
    let mut statuses = Vec::new();
    for number in 0..12 {
        let (address, code) = (format!("198.51.100.{number}"), ann.authenticator.ahead(&world, -300));
        statuses.push(try_code(&address, &json!(""), code).await.status);
    }
    assert_eq!(statuses, [[401; 10].as_slice(), &[403; 2]].concat());
    let code = ann.authenticator.next_code(&world);
    try_code("192.0.2.1", &json!("made up"), code.clone()).await.refused(403, "ACCOUNT_LOCKED", 1006);
    try_code("192.0.2.1", &device, code).await.ok();
    for _ in 0..5 {
        assert_eq!(try_code("192.0.2.1", &device, ann.authenticator.ahead(&world, -300)).await.status, 401);
    }
    let code = ann.authenticator.next_code(&world);
    try_code("192.0.2.1", &device, code).await.refused(403, "ACCOUNT_LOCKED", 1006);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_belongs_to_the_client_that_began_the_login() {
    let mut world = World::new().await;
    world.config.server.trusted_proxies = 1;
    let node = world.node().await;
    let post = async |path: &str, agent: &str, address: &str, body: Value| {
        let request = node.http().post(node.url(path)).header("user-agent", agent).header("x-forwarded-for", address);
        Answer::of(request.json(&body).send().await.unwrap()).await
    };
    let ann = Enrolled::new(&world, &node, "ann").await;
    let login = json!({ "email": ann.user.email, "password": PASSWORD });
    let token = post("/v1/auth/login", "phone", "192.0.2.1", login).await.ok()["challengeToken"].clone();
    let body = json!({ "challengeToken": token, "code": ann.authenticator.next_code(&world) });
    let path = "/v1/auth/login/verify-2fa";
    post(path, "laptop", "192.0.2.1", body.clone()).await.refused(401, "TOKEN_INVALID", 1004);
    post(path, "phone", "198.51.100.1", body.clone()).await.refused(401, "TOKEN_INVALID", 1004);
    post(path, "phone", "2001:db8::1", body.clone()).await.refused(401, "TOKEN_INVALID", 1004);
    // Another address of the same network is the same client.
    post(path, "phone", "192.0.2.77", body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_between_password_and_code_voids_the_challenge() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let mut conn = world.database().await;
    let mut change = async |sql: &str| conn.batch_execute(sql).await.unwrap();

    let token = challenge(&node, &ann.user.email).await;
    change("UPDATE accounts SET state = 'suspended'").await;
    verify(&node, &token, &ann.authenticator.next_code(&world)).await.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);
    change("UPDATE accounts SET state = 'active'").await;

    let token = challenge(&node, &ann.user.email).await;
    change("UPDATE accounts SET token_version = token_version + 1").await;
    verify(&node, &token, &ann.authenticator.code(&world)).await.refused(401, "TOKEN_INVALID", 1004);

    let token = challenge(&node, &ann.user.email).await;
    change("UPDATE accounts SET password_hash = password_hash || 'x'").await;
    verify(&node, &token, &ann.authenticator.code(&world)).await.refused(401, "TOKEN_INVALID", 1004);
    change("UPDATE accounts SET password_hash = left(password_hash, -1)").await;

    let token = challenge(&node, &ann.user.email).await;
    change("UPDATE accounts SET two_factor = false").await;
    verify(&node, &token, &ann.authenticator.code(&world)).await.refused(401, "TOKEN_INVALID", 1004);
    // None of this has cost the code.
    change("UPDATE accounts SET two_factor = true").await;
    let token = challenge(&node, &ann.user.email).await;
    verify(&node, &token, &ann.authenticator.code(&world)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_beside_an_enable_leaves_no_session_that_the_second_factor_did_not_open() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let code = Authenticator::new(&set_up(&node, &ann).await).code(&world);
    let login = || {
        let body = json!({ "email": ann.email, "password": PASSWORD });
        node.rest(Method::POST, "/v1/auth/login", None, Some(body))
    };
    let enable = ann.post(&node, "/v1/twofa/enable", json!({ "code": code }));
    let (enabled, logins) = tokio::join!(enable, join_all((0..6).map(|_| login())));
    enabled.ok();
    for answer in logins {
        let answer = answer.ok();
        if answer["twoFactorRequired"] != true {
            let me = node.rest(Method::GET, "/v1/auth/me", answer["accessToken"].as_str(), None).await;
            me.refused(401, "SESSION_REVOKED", 1004);
        }
    }
    assert_eq!(world.count("sessions WHERE revoked_at IS NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_the_second_factor_is_in_the_log_or_in_the_database() {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
    let world = World::new().await;
    let mut command = crate::command::rialto(&["serve"]);
    command.envs(crate::command::production(&world.config)).env("RIALTO_LOG__FILTER", "debug");
    command.env("RIALTO_RATES__FACTOR", "1000");
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    let address = loop {
        let start = log.len();
        crate::harness::soon(stderr.read_line(&mut log)).await.unwrap();
        let line: Value = serde_json::from_str(&log[start..]).unwrap();
        if line["message"] == "serving" {
            break line["address"].as_str().unwrap().to_owned();
        }
    };
    let reading = tokio::spawn(async move {
        stderr.read_to_string(&mut log).await.unwrap();
        log
    });
    let post = async |path: &str, token: &str, body: Value| {
        let url = format!("http://{address}/v1/{path}");
        Answer::of(reqwest::Client::new().post(url).bearer_auth(token).json(&body).send().await.unwrap()).await
    };
    let login = json!({ "email": "ann@example.com", "password": PASSWORD });
    let register = json!({ "email": "ann@example.com", "password": PASSWORD, "displayName": "Ann" });
    post("auth/register", "", register).await.ok();
    let token = post("auth/login", "", login.clone()).await.ok()["accessToken"].as_str().unwrap().to_owned();
    let setup = post("twofa/setup", &token, json!({ "password": PASSWORD })).await.ok();
    let secret = setup["secret"].as_str().unwrap().to_owned();
    let authenticator = Authenticator::new(&secret);
    // This server has the clock of the machine, which gives each code once.
    let code = authenticator.code(&world);
    let codes = strings(&post("twofa/enable", &token, json!({ "code": code })).await.ok()["backupCodes"]);
    let challenge = post("auth/login", "", login).await.ok()["challengeToken"].as_str().unwrap().to_owned();
    post("auth/login/verify-2fa", "", json!({ "challengeToken": challenge, "code": code })).await;
    let body = json!({ "challengeToken": challenge, "backupCode": codes[0] });
    post("auth/login/verify-2fa", "", body).await.ok();

    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(crate::harness::soon(child.wait()).await.unwrap().success());
    let log = crate::harness::soon(reading).await.unwrap();
    assert!(log.contains("TwoFactorService/Setup") && log.contains("AuthService/VerifyTwoFactor"));
    let secrets = [secret.as_str(), challenge.as_str(), PASSWORD].into_iter().chain(codes.iter().map(String::as_str));
    for secret in secrets {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    for line in log.lines().filter(|line| line.contains(&code)) {
        // Six digits may be part of a time.
        let fields: Value = serde_json::from_str(line).unwrap();
        let texts = fields.as_object().unwrap().iter().filter(|(name, _)| *name != "timestamp");
        assert!(texts.into_iter().all(|(_, value)| !value.to_string().contains(&format!("\"{code}\""))), "{line}");
    }
    let token =
        format!("login_challenges WHERE hash = '{challenge}'::bytea OR login_challenges::text LIKE '%{challenge}%'");
    assert_eq!(world.count(&token).await, 0);
}

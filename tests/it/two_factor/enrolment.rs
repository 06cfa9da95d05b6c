//! Setting it up, codes, backup codes, keys.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::kernel::config::{SealingKey, Throttle};
use rialto::kernel::secret::Secret;
use rialto::proto::rialto::twofactor::v1::{
    DisableRequest, EnableRequest, GetBackupCodesRequest, GetStatusRequest, RegenerateBackupCodesRequest, SetupRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use super::{Authenticator, Enrolled, STEP, fate, over_grpc, set_up, strings};
use crate::harness::{Answer, PASSWORD, World, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_set_up_enabled_and_disabled_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut client = over_grpc(&node, &ann);
    let password = || PASSWORD.to_owned();

    let setup = client.setup(SetupRequest { password: password() }).await.unwrap().into_inner();
    assert!(setup.otpauth_uri.starts_with("otpauth://totp/Rialto:ann%40example.com?secret="), "{}", setup.otpauth_uri);
    assert!(setup.otpauth_uri.contains(&setup.secret) && setup.otpauth_uri.ends_with("&issuer=Rialto"));
    assert!(setup.qr_svg.starts_with("<svg ") && setup.qr_png.starts_with(b"\x89PNG\r\n"));
    let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.enabled && status.setup_expires_at == setup.expires_at && status.backup_codes_left == 0);

    let authenticator = Authenticator::new(&setup.secret);
    let code = authenticator.code(&world);
    let codes = client.enable(EnableRequest { code }).await.unwrap().into_inner().backup_codes;
    assert_eq!(codes.iter().collect::<std::collections::HashSet<_>>().len(), 10);
    let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.enabled && status.enabled_at.is_some() && status.setup_expires_at.is_none());
    assert_eq!(status.backup_codes_left, 10);

    let left = client.get_backup_codes(GetBackupCodesRequest {}).await.unwrap().into_inner();
    assert_eq!((left.left, left.created_at), (10, status.enabled_at));
    let again = refusal(client.setup(SetupRequest { password: password() }).await);
    assert_eq!(again, (Code::FailedPrecondition, "TWO_FACTOR_ALREADY_ENABLED".into()));

    let code = authenticator.next_code(&world);
    let regenerate = RegenerateBackupCodesRequest { password: password(), code, backup_code: String::new() };
    let fresh = client.regenerate_backup_codes(regenerate).await.unwrap().into_inner().backup_codes;
    assert!(fresh.len() == 10 && !fresh.contains(&codes[0]));

    let disable = |backup_code: &str| DisableRequest {
        password: PASSWORD.into(),
        code: String::new(),
        backup_code: backup_code.into(),
    };
    let old = refusal(client.disable(disable(&codes[0])).await);
    assert_eq!(old, (Code::Unauthenticated, "TWO_FACTOR_CODE_INVALID".into()));
    client.disable(disable(&fresh[0])).await.unwrap();
    assert!(!client.get_status(GetStatusRequest {}).await.unwrap().into_inner().enabled);
    assert_eq!((world.count("two_factor").await, world.count("backup_codes").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_set_up_enabled_and_disabled_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    assert_eq!(ann.get(&node, "/v1/twofa/status").await.ok()["enabled"], false);
    let setup = ann.post(&node, "/v1/twofa/setup", json!({ "password": PASSWORD })).await.ok();
    let png = STANDARD.decode(setup["qrPng"].as_str().unwrap()).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n") && setup["qrSvg"].as_str().unwrap().starts_with("<svg "));

    let authenticator = Authenticator::new(setup["secret"].as_str().unwrap());
    // As it is shown, in two groups.
    let code = authenticator.code(&world);
    let spaced = format!("{} {}", &code[..3], &code[3..]);
    let enabled = ann.post(&node, "/v1/twofa/enable", json!({ "code": spaced })).await.ok();
    let codes = strings(&enabled["backupCodes"]);
    for left in [
        ann.get(&node, "/v1/twofa/backup-codes").await.ok(),
        ann.post(&node, "/api/twofa/backup-codes", json!({})).await.ok(),
    ] {
        assert_eq!(left["left"], 10);
        assert!(left["createdAt"].is_string() && !left.to_string().contains(&codes[0]));
    }

    let typed = codes[0].to_lowercase().replace('-', " ");
    let body = json!({ "password": PASSWORD, "backupCode": typed });
    let fresh = ann.post(&node, "/v1/twofa/regenerate-backup-codes", body).await.ok();
    assert_eq!(strings(&fresh["backupCodes"]).len(), 10);
    let body = json!({ "password": PASSWORD, "code": authenticator.next_code(&world) });
    ann.post(&node, "/v1/twofa/disable", body.clone()).await.ok();
    ann.post(&node, "/v1/twofa/disable", body).await.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    assert_eq!(ann.get(&node, "/v1/twofa/status").await.ok()["enabled"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_and_strangers_stay_out() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    for (path, body, field) in [
        ("setup", json!({}), "password"),
        ("enable", json!({}), "code"),
        ("enable", json!({ "code": "12345" }), "code"),
        ("enable", json!({ "code": "+12345" }), "code"),
        ("disable", json!({ "code": "123456" }), "password"),
        ("disable", json!({ "password": PASSWORD }), "code"),
        ("disable", json!({ "password": PASSWORD, "backupCode": "x" }), "backup_code"),
        (
            "disable",
            json!({ "password": PASSWORD, "code": "123456", "backupCode": ann.backup_codes[0] }),
            "backup_code",
        ),
        ("regenerate-backup-codes", json!({ "password": PASSWORD, "code": "x".repeat(17) }), "code"),
    ] {
        let answer = ann.user.post(&node, &format!("/v1/twofa/{path}"), body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field], "{path}");
    }
    for path in ["setup", "enable", "disable", "backup-codes", "regenerate-backup-codes"] {
        let answer = node.rest(Method::POST, &format!("/v1/twofa/{path}"), None, Some(json!({}))).await;
        answer.refused(401, "UNAUTHORIZED", 1001);
    }
    // What Bob does is about Bob.
    let bob = node.user("bob").await;
    assert_eq!(bob.get(&node, "/v1/twofa/status").await.ok()["enabled"], false);
    let body = json!({ "password": PASSWORD, "backupCode": ann.backup_codes[0] });
    bob.post(&node, "/v1/twofa/disable", body).await.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_alone_is_not_enough_to_change_the_second_factor() {
    let world = World::new().await;
    let node = world.node().await;
    let bob = node.user("bob").await;
    let setup = bob.post(&node, "/v1/twofa/setup", json!({ "password": "wrong" })).await;
    setup.refused(401, "INVALID_CREDENTIALS", 1002);

    let ann = Enrolled::new(&world, &node, "ann").await;
    let code = ann.authenticator.next_code(&world);
    ann.disable(&node, json!({ "password": "wrong", "code": code })).await.refused(401, "INVALID_CREDENTIALS", 1002);
    let wrong = if code == "000000" { "000001" } else { "000000" };
    let refused = ann.disable(&node, json!({ "password": PASSWORD, "code": wrong })).await;
    refused.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    // The code that came with a wrong password is still good.
    ann.disable(&node, json!({ "password": PASSWORD, "code": code })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_expires_and_a_second_one_voids_the_first() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let enable = async |secret: &str| {
        let code = Authenticator::new(secret).code(&world);
        ann.post(&node, "/v1/twofa/enable", json!({ "code": code })).await
    };
    let none = ann.post(&node, "/v1/twofa/enable", json!({ "code": "123456" })).await;
    none.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);

    let (first, second) = (set_up(&node, &ann).await, set_up(&node, &ann).await);
    enable(&first).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    world.clock.advance(Duration::from_secs(601));
    enable(&second).await.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    let third = set_up(&node, &ann).await;
    world.clock.advance(Duration::from_secs(200));
    enable(&third).await.ok();
    enable(&third).await.refused(409, "TWO_FACTOR_ALREADY_ENABLED", 3003);

    // What was not finished is forgotten; what was is not.
    let bob = node.user("bob").await;
    set_up(&node, &bob).await;
    world.clock.advance(Duration::from_secs(601));
    assert_eq!(rialto::domains::two_factor::jobs::delete_abandoned_setups(&node.server.app).await.unwrap(), 1);
    assert_eq!(world.count("two_factor WHERE enabled_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_works_once_and_never_after_a_newer_one() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    ann.regenerate(&node, &ann.used_code).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);

    let older = ann.authenticator.next_code(&world);
    let newer = ann.authenticator.ahead(&world, 30);
    ann.regenerate(&node, &newer).await.ok();
    for used in [newer, older] {
        ann.regenerate(&node, &used).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_same_code_sent_many_times_at_once_to_two_nodes_one_works() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = Enrolled::new(&world, &node, "ann").await;
    let code = ann.authenticator.next_code(&world);
    let by_code = join_all((0..8).map(|i| ann.regenerate(if i % 2 == 0 { &node } else { &other }, &code))).await;
    let body = || json!({ "password": PASSWORD, "backupCode": code_of(&by_code) });
    let by_backup_code = join_all((0..8).map(|i| {
        let node = if i % 2 == 0 { &node } else { &other };
        ann.user.post(node, "/v1/twofa/regenerate-backup-codes", body())
    }));
    for answers in [&by_code, &by_backup_code.await] {
        let mut fates: Vec<_> = answers.iter().map(fate).collect();
        fates.sort();
        assert_eq!(fates[0], (200, None));
        assert_eq!(fates[1..], [(401, Some("TWO_FACTOR_CODE_INVALID")); 7]);
    }

    fn code_of(answers: &[Answer]) -> String {
        let won = answers.iter().find(|answer| answer.status == 200).unwrap();
        strings(&won.body["backupCodes"])[0].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_codes_that_are_made_twice_at_once_are_there_once() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    // Somebody holds the account until both have spent their codes and wait: the first deletes the second's.
    let mut conn = world.database().await;
    conn.batch_execute("BEGIN; SELECT FROM accounts FOR UPDATE").await.unwrap();
    let made = join_all(ann.backup_codes.iter().take(2).map(|code| {
        let body = json!({ "password": PASSWORD, "backupCode": code });
        ann.user.post(&node, "/v1/twofa/regenerate-backup-codes", body)
    }));
    let release = async {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        crate::harness::eventually(async || world.count(waiting).await == 2).await;
        conn.batch_execute("COMMIT").await.unwrap();
    };
    let (made, ()) = tokio::join!(made, release);
    let fates: Vec<_> = made.iter().map(fate).collect();
    assert_eq!(fates, [(200, None); 2]);
    assert_eq!(world.count("backup_codes").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_enables_one_works() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let code = Authenticator::new(&set_up(&node, &ann).await).code(&world);
    let answers = join_all((0..4).map(|_| ann.post(&node, "/v1/twofa/enable", json!({ "code": code })))).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert_eq!(fates[1..], [(409, Some("TWO_FACTOR_ALREADY_ENABLED")); 3]);
    assert_eq!(world.count("backup_codes").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_may_be_as_far_off_as_configured() {
    for (skew_steps, off) in [(0, 0), (1, 30), (2, 60)] {
        let mut world = World::new().await;
        world.config.two_factor.skew_steps = skew_steps;
        let node = world.node().await;
        // Away from the edges of a step, which goes on while this runs.
        let to_a_step = || {
            let into_step = u64::try_from(world.clock.now().timestamp() % 30).unwrap();
            world.clock.advance(STEP + Duration::from_secs(5) - Duration::from_secs(into_step));
        };
        to_a_step();
        let ann = Enrolled::new(&world, &node, "ann").await;
        world.clock.advance(4 * STEP);
        for too_far in [off + 30, -off - 30] {
            to_a_step();
            let code = ann.authenticator.ahead(&world, too_far);
            ann.regenerate(&node, &code).await.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
        }
        to_a_step();
        for seconds in [-off, off] {
            let code = ann.authenticator.ahead(&world, seconds);
            let answer = ann.regenerate(&node, &code).await;
            assert!(answer.status == 200 || (off == 0 && seconds == off), "{skew_steps} {seconds}: {}", answer.body);
        }
    }
    let mut world = World::new().await;
    world.config.two_factor.skew_steps = 3;
    let refused = rialto::server::Server::start(world.config.clone(), world.clock.clone()).await;
    assert!(refused.err().unwrap().to_string().contains("skew_steps"));
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_stopped_in_the_session_and_success_costs_nothing() {
    let mut world = World::new().await;
    world.config.auth.throttle = Throttle::default();
    let (node, other) = (world.node().await, world.node().await);
    let ann = Enrolled::new(&world, &node, "ann").await;
    for _ in 0..6 {
        let code = ann.authenticator.next_code(&world);
        ann.regenerate(&node, &code).await.ok();
    }
    // Nothing was guessed without a code.
    for _ in 0..6 {
        let without = ann.user.post(&node, "/v1/auth/reauthenticate", json!({ "password": PASSWORD })).await;
        without.refused(422, "VALIDATION_ERROR", 2001);
    }
    let mut fates = Vec::new();
    for i in 0..12 {
        let body = if i % 2 == 0 { json!({ "password": "wrong", "code": "000000" }) } else { wrong_code(&ann, &world) };
        fates.push(ann.disable(if i % 3 == 0 { &node } else { &other }, body).await);
    }
    assert!(fates[..5].iter().all(|answer| answer.status == 401), "{fates:?}");
    assert!(fates[5..].iter().all(|answer| answer.status == 403), "{fates:?}");
    fates.last().unwrap().refused(403, "ACCOUNT_LOCKED", 1006);
    assert!(fates.last().unwrap().headers.contains_key("retry-after"));
    // The right ones don't get through either, and nobody else is concerned.
    let body = json!({ "password": PASSWORD, "code": ann.authenticator.next_code(&world) });
    ann.disable(&other, body).await.refused(403, "ACCOUNT_LOCKED", 1006);
    Enrolled::new(&world, &node, "bob").await;

    fn wrong_code(ann: &Enrolled, world: &World) -> Value {
        let code = if ann.authenticator.code(world) == "000000" { "000001" } else { "000000" };
        json!({ "password": PASSWORD, "code": code })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn enabling_and_disabling_end_the_other_sessions_on_every_node_at_once() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let phone = node.user("ann").await;
    let laptop = node.log_in(&phone.email, &phone.id).await;
    laptop.get(&other, "/v1/auth/me").await.ok();
    let ann = Enrolled::enrol(&world, &node, phone).await;
    crate::harness::eventually(async || laptop.get(&other, "/v1/auth/me").await.status == 401).await;
    laptop.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    let refresh = json!({ "refreshToken": laptop.refresh });
    node.rest(Method::POST, "/v1/auth/refresh", None, Some(refresh)).await.refused(401, "SESSION_REVOKED", 1004);
    ann.user.get(&other, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sealed_and_backup_codes_hashed_at_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = Enrolled::new(&world, &node, "ann").await;
    let raw = totp_rs::Secret::try_from_base32(&ann.secret).unwrap();
    let hex: String = raw.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let stored = format!("two_factor WHERE secret::text LIKE '%{hex}%' OR two_factor::text ILIKE '%{}%'", ann.secret);
    assert_eq!((world.count("two_factor").await, world.count(&stored).await), (1, 0));
    for code in &ann.backup_codes {
        let stored = format!("backup_codes WHERE backup_codes::text ILIKE '%{code}%' OR octet_length(hash) <> 32");
        assert_eq!(world.count(&stored).await, 0);
    }
    // A secret that is copied to another account is of no use there.
    let bob = Enrolled::new(&world, &node, "bob").await;
    let swap = format!(
        "UPDATE two_factor SET secret = (SELECT secret FROM two_factor WHERE account_id = '{}') WHERE account_id = '{}'",
        ann.user.id, bob.user.id
    );
    world.database().await.batch_execute(&swap).await.unwrap();
    let code = ann.authenticator.next_code(&world);
    let answer = bob.regenerate(&node, &code).await;
    answer.refused(500, "INTERNAL", 5001);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_while_enrolments_are_in_use() {
    let mut world = World::new().await;
    let old = world.node().await;
    let (ann, bob) = (Enrolled::new(&world, &old, "ann").await, Enrolled::new(&world, &old, "bob").await);
    let pending = old.user("cal").await;
    let pending_secret = set_up(&old, &pending).await;

    let key = SealingKey { id: "new".into(), key: Secret::new("OFrIFmCvHScIk4bMqqmaJ0Tq5VLLWVFTB6Mx0fbKv5I=") };
    world.config.secrets.sealing_keys.insert(0, key);
    let new = world.node().await;
    let mut rotate = crate::command::rialto(&["keys", "rotate"]);
    let rotate = rotate.envs(crate::command::production(&world.config));
    // Codes are taken while secrets are sealed again.
    let code = ann.authenticator.next_code(&world);
    let (rotated, used) = tokio::join!(crate::command::output(rotate), ann.regenerate(&new, &code));
    assert!(rotated.0 && rotated.1 == "two_factor.secret: 3 sealed again\n", "{rotated:?}");
    used.ok();
    assert!(crate::command::output(rotate).await.1.contains(": 0 sealed again"));
    assert_eq!(world.count("two_factor WHERE substr(secret, 3, 3) = 'new'").await, 3);

    // The old key can go.
    world.config.secrets.sealing_keys.truncate(1);
    let without = world.node().await;
    for enrolled in [&ann, &bob] {
        let code = enrolled.authenticator.next_code(&world);
        enrolled.regenerate(&without, &code).await.ok();
    }
    let code = Authenticator::new(&pending_secret).code(&world);
    pending.post(&without, "/v1/twofa/enable", json!({ "code": code })).await.ok();

    // A key that went too early is named, and nothing is harmed.
    world.config.secrets.sealing_keys[0].id = "newest".into();
    let mut rotate = crate::command::rialto(&["keys", "rotate"]);
    let lost = crate::command::output(rotate.envs(crate::command::production(&world.config))).await;
    assert!(!lost.0 && lost.2.contains("3 can't be opened") && lost.2.contains(r#"no key \"new\""#), "{lost:?}");
}

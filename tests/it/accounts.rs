//! How accounts begin, are approved and suspended, and get new passwords.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::{
    AccountState, ApproveAccountRequest, ForgotPasswordRequest, LoginRequest, RegisterRequest, RejectAccountRequest,
    ResendVerificationRequest, ResetPasswordRequest, VerifyEmailRequest,
};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Answer, Events, Node, PASSWORD, User, World, eventually, refusal};
use crate::smtp::{Mode, Smtp};

const NEW_PASSWORD: &str = "staple h7-Kq.92z";

/// A world whose mail arrives at a sink.
async fn with_mail() -> (World, Smtp) {
    let (mut world, smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    world.config.server.public_url = "https://app.example.com/".into();
    (world, smtp)
}

fn register(email: &str) -> RegisterRequest {
    RegisterRequest { email: email.into(), password: PASSWORD.into(), display_name: "Ann".into() }
}

fn login(email: &str, password: &str) -> LoginRequest {
    LoginRequest { email: email.into(), password: password.into(), ..Default::default() }
}

async fn post(node: &Node, path: &str, body: Value) -> Answer {
    node.rest(Method::POST, path, None, Some(body)).await
}

/// The state that a refused login tells of.
fn state(result: Result<impl std::fmt::Debug, Status>) -> (String, String) {
    let info = result.unwrap_err().get_details_error_info().unwrap();
    (info.reason, info.metadata.get("state").cloned().unwrap_or_default())
}

fn not_active(state: &str) -> (String, String) {
    ("ACCOUNT_NOT_ACTIVE".into(), state.into())
}

/// How many of these succeed; the others are refused for this reason.
async fn winners<T: std::fmt::Debug + Send + 'static>(
    attempts: impl IntoIterator<Item = impl Future<Output = Result<T, Status>> + Send + 'static>,
    reason: &str,
) -> usize {
    let results = join_all(attempts.into_iter().map(tokio::spawn)).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().map(Result::unwrap).partition(Result::is_ok);
    for lost in lost {
        assert_eq!(refusal(lost).1, reason);
    }
    won.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_begins_when_its_address_is_verified_over_rest() {
    let (mut world, mut smtp) = with_mail().await;
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    node.work();
    let body = json!({ "email": "Ann@Example.com", "password": PASSWORD, "display_name": "Ann <b>" });
    let registered = post(&node, "/v1/auth/register", body).await.ok();
    assert_eq!((&registered["id"], &registered["state"]), (&json!(""), &json!("ACCOUNT_STATE_UNVERIFIED")));
    assert_eq!(world.count("accounts").await, 0);
    let login_body = json!({ "email": "ann@example.com", "password": PASSWORD });
    post(&node, "/v1/auth/login", login_body.clone()).await.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);
    let wrong = json!({ "email": "ann@example.com", "password": "wrong" });
    post(&node, "/v1/auth/login", wrong).await.refused(401, "INVALID_CREDENTIALS", 1002);

    let mail = smtp.next().await;
    assert_eq!(mail.to, "ann@example.com");
    assert!(mail.text.contains("https://app.example.com/verify-email?token="), "{}", mail.text);
    // Whoever registers does not write to strangers in this way.
    assert!(!mail.text.contains("Ann"), "{}", mail.text);
    let token = json!({ "token": mail.token() });
    let verified = post(&node, "/v1/auth/verify-email", token.clone()).await.ok();
    assert_eq!((&verified["email"], &verified["state"]), (&json!("ann@example.com"), &json!("ACCOUNT_STATE_ACTIVE")));
    post(&node, "/v1/auth/login", login_body).await.ok();
    post(&node, "/v1/auth/verify-email", token).await.refused(401, "TOKEN_INVALID", 1004);
    post(&node, "/v1/auth/verify-email", json!({ "token": "x" })).await.refused(401, "TOKEN_INVALID", 1004);
    post(&node, "/v1/auth/verify-email", json!({})).await.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(world.count("accounts WHERE email_verified_at IS NOT NULL").await, 1);
    assert_eq!(world.count("registrations").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_begins_when_its_address_is_verified_over_grpc_and_a_new_token_voids_the_old_one() {
    let (mut world, mut smtp) = with_mail().await;
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    node.work();
    let mut auth = node.auth();
    auth.register(register("ann@example.com")).await.unwrap();
    let first = smtp.next().await.token();
    let resend = || ResendVerificationRequest { email: "ANN@example.com".into() };
    auth.resend_verification(resend()).await.unwrap();
    let second = smtp.next().await.token();
    let refused = refusal(auth.verify_email(VerifyEmailRequest { token: first }).await);
    assert_eq!(refused, (Code::Unauthenticated, "TOKEN_INVALID".into()));
    assert_eq!(state(auth.login(login("ann@example.com", PASSWORD)).await), not_active("unverified"));

    world.clock.advance(Duration::from_secs(24 * 3600 + 1));
    let refused = refusal(auth.verify_email(VerifyEmailRequest { token: second }).await);
    assert_eq!(refused, (Code::Unauthenticated, "TOKEN_EXPIRED".into()));

    auth.resend_verification(resend()).await.unwrap();
    let token = smtp.next().await.token();
    let in_clear = format!("registrations WHERE token_hash = '{token}'::bytea");
    assert_eq!(world.count(&in_clear).await, 0);
    let attempts = (0..6).map(|_| {
        let (mut auth, token) = (node.auth(), token.clone());
        async move { auth.verify_email(VerifyEmailRequest { token }).await }
    });
    assert_eq!(winners(attempts, "TOKEN_INVALID").await, 1);
    auth.login(login("ann@example.com", PASSWORD)).await.unwrap();
    // Nothing is left to be verified, and nobody is told so.
    auth.resend_verification(resend()).await.unwrap();
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_learn_by_registering_whether_an_address_has_an_account() {
    let (mut world, mut smtp) = with_mail().await;
    world.node().await.user("owner").await;
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    let answer = async |name: &str| {
        let body = json!({ "email": format!("{name}@example.com"), "password": NEW_PASSWORD, "display_name": "Eve" });
        let mut answer = post(&node, "/v1/auth/register", body).await;
        answer.body["email"] = json!(answer.body["email"].as_str().unwrap().replace(name, "NAME"));
        answer.body["createdAt"] = json!(null);
        let mut headers: Vec<_> = answer.headers.into_keys().collect();
        headers.sort();
        (answer.status, answer.body, headers)
    };
    assert_eq!(answer("owner").await, answer("nobody").await);
    // The same was done for both, too.
    for email in ["owner@example.com", "nobody@example.com"] {
        assert_eq!(world.count(&format!("registrations WHERE email = '{email}'")).await, 1);
    }
    assert_eq!(world.count("jobs WHERE kind = 'auth.verification'").await, 2);

    let mut auth = node.auth();
    for password in [NEW_PASSWORD, "wrong"] {
        let owner = auth.login(login("owner@example.com", password)).await.unwrap_err();
        let nobody = auth.login(login("nobody@example.com", password)).await.unwrap_err();
        assert_eq!(
            (owner.code(), owner.message(), owner.details()),
            (nobody.code(), nobody.message(), nobody.details())
        );
    }
    assert_eq!(state(auth.login(login("owner@example.com", NEW_PASSWORD)).await), not_active("unverified"));
    auth.login(login("owner@example.com", PASSWORD)).await.unwrap();

    node.work();
    for _ in 0..3 {
        let mail = smtp.next().await;
        if mail.text.contains("New login") {
            // Of the owner, above.
            continue;
        }
        let told = mail.text.contains("You have an account already");
        assert_eq!((mail.to == "owner@example.com", mail.text.contains("?token=")), (told, !told), "{}", mail.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_an_address_first_does_not_choose_the_password_of_its_owner() {
    let (mut world, mut smtp) = with_mail().await;
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    node.work();
    let mut auth = node.auth();
    let thief = RegisterRequest { password: NEW_PASSWORD.into(), ..register("ann@example.com") };
    auth.register(thief.clone()).await.unwrap();
    smtp.next().await;
    auth.register(register("ann@example.com")).await.unwrap();
    let owners = smtp.next().await.token();
    auth.register(thief).await.unwrap();
    smtp.next().await;
    auth.verify_email(VerifyEmailRequest { token: owners }).await.unwrap();
    auth.login(login("ann@example.com", PASSWORD)).await.unwrap();
    let refused = refusal(auth.login(login("ann@example.com", NEW_PASSWORD)).await);
    assert_eq!(refused, (Code::Unauthenticated, "INVALID_CREDENTIALS".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_sent_once_more_when_the_worker_is_killed_while_sending_it() {
    let (mut world, mut smtp) = with_mail().await;
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    let killed = node.work();
    smtp.mode(Mode::Stall);
    node.auth().register(register("ann@example.com")).await.unwrap();
    let first = smtp.next().await;
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());

    smtp.mode(Mode::Take);
    world.clock.advance(Duration::from_secs(61));
    node.work();
    let second = smtp.next().await;
    assert_ne!(first.token(), second.token());
    node.auth().verify_email(VerifyEmailRequest { token: second.token() }).await.unwrap();
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_reset_by_mail_and_every_session_ends() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    node.work();
    let ann = node.user("ann").await;
    ann.get(&node, "/v1/auth/me").await.ok();
    let forgot = async |email: &str| post(&node, "/v1/auth/forgot-password", json!({ "email": email })).await.ok();
    assert_eq!(forgot("ANN@example.com").await, forgot("nobody@example.com").await);
    let old = smtp.next().await;
    assert!(old.text.contains("https://app.example.com/reset-password?token="), "{}", old.text);
    eventually(async || world.count("jobs").await == 0).await;
    assert!(smtp.is_empty());
    forgot(&ann.email).await;
    let token = smtp.next().await.token();

    let reset = async |token: &str, password: &str| {
        post(&node, "/v1/auth/reset-password", json!({ "token": token, "new_password": password })).await
    };
    reset(&old.token(), NEW_PASSWORD).await.refused(401, "TOKEN_INVALID", 1004);
    let weak = reset(&token, "ann@example.com").await;
    weak.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(weak.fields(), ["new_password"]);
    reset(&token, NEW_PASSWORD).await.ok();
    reset(&token, NEW_PASSWORD).await.refused(401, "TOKEN_INVALID", 1004);

    ann.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    let refresh = json!({ "refresh_token": ann.refresh });
    post(&node, "/v1/auth/refresh", refresh).await.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(refusal(node.auth().login(login(&ann.email, PASSWORD)).await).1, "INVALID_CREDENTIALS");
    node.auth().login(login(&ann.email, NEW_PASSWORD)).await.unwrap();
    assert!(smtp.next().await.text.contains("Your password was changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_token_expires_and_of_parallel_resets_one_wins() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    node.work();
    let ann = node.user("ann").await;
    let mut auth = node.auth();
    let request = || ForgotPasswordRequest { email: ann.email.clone() };
    let reset = |token: &str, number: usize| ResetPasswordRequest {
        token: token.into(),
        new_password: format!("{NEW_PASSWORD}{number}"),
    };
    auth.forgot_password(request()).await.unwrap();
    let late = smtp.next().await.token();
    world.clock.advance(Duration::from_secs(30 * 60 + 1));
    assert_eq!(refusal(auth.reset_password(reset(&late, 0)).await), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));

    eventually(async || world.count("jobs").await == 0).await;
    auth.forgot_password(request()).await.unwrap();
    let token = smtp.next().await.token();
    let attempts = (0..4).map(|number| {
        let (mut auth, request) = (node.auth(), reset(&token, number));
        async move { auth.reset_password(request).await }
    });
    assert_eq!(winners(attempts, "TOKEN_INVALID").await, 1);
    let mut opened = 0;
    for number in 0..4 {
        opened += usize::from(auth.login(login(&ann.email, &format!("{NEW_PASSWORD}{number}"))).await.is_ok());
    }
    assert_eq!(opened, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_password_ends_the_other_sessions_and_voids_what_was_mailed() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    node.work();
    let ann = node.user("ann").await;
    let other = node.log_in(&ann.email, &ann.id).await;
    assert!(smtp.next().await.text.contains("New login"));
    other.get(&node, "/v1/auth/me").await.ok();
    node.auth().forgot_password(ForgotPasswordRequest { email: ann.email.clone() }).await.unwrap();
    let mailed = smtp.next().await.token();

    let change = async |by: &User, old: &str, new: &str| {
        by.post(&node, "/v1/auth/change-password", json!({ "current_password": old, "new_password": new })).await
    };
    change(&ann, "wrong", NEW_PASSWORD).await.refused(401, "INVALID_CREDENTIALS", 1002);
    assert_eq!(change(&ann, PASSWORD, "password").await.fields(), ["new_password"]);
    let tokens = change(&ann, PASSWORD, NEW_PASSWORD).await.ok();
    let renewed = User {
        token: tokens["accessToken"].as_str().unwrap().into(),
        refresh: tokens["refreshToken"].as_str().unwrap().into(),
        ..ann.clone()
    };
    renewed.get(&node, "/v1/auth/me").await.ok();
    for ended in [&ann, &other] {
        ended.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    }
    let sessions = renewed.get(&node, "/v1/auth/sessions").await.ok();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    let reset = json!({ "token": mailed, "new_password": NEW_PASSWORD });
    post(&node, "/v1/auth/reset-password", reset).await.refused(401, "TOKEN_INVALID", 1004);

    let refreshed = post(&node, "/v1/auth/refresh", json!({ "refresh_token": renewed.refresh })).await.ok();
    node.rest(Method::GET, "/v1/auth/me", refreshed["accessToken"].as_str(), None).await.ok();
    // The refresh token from before the change counts as used: whoever has it is not who changed the password.
    let before = json!({ "refresh_token": ann.refresh });
    post(&node, "/v1/auth/refresh", before).await.refused(401, "SESSION_REVOKED", 1004);
    assert!(smtp.next().await.text.contains("Your password was changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_password_changes_one_wins() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let attempts = (0..4).map(|number| {
        let body = json!({ "current_password": PASSWORD, "new_password": format!("{NEW_PASSWORD}{number}") });
        let (node, ann) = (&node, &ann);
        async move { ann.post(node, "/v1/auth/change-password", body).await.status }
    });
    let statuses = join_all(attempts).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_passwords_are_refused_and_the_field_is_named() {
    let mut world = World::new().await;
    world.config.auth.password_min_chars = 15;
    let node = world.node().await;
    for password in ["password", "h7-Kq.92z!mZ", "anna.lindqvist@example.com", "aaaaaaaaaaaaaaaaaaaaaaaa"] {
        let body = json!({ "email": "anna.lindqvist@example.com", "password": password, "display_name": "Anna" });
        let answer = post(&node, "/v1/auth/register", body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["password"], "{password}");
    }
    assert_eq!(world.count("accounts").await, 0);
    node.user("ann").await;
}

/// An administrator, and a node that wants accounts approved.
async fn with_approval(world: &mut World) -> (Node, User) {
    let admin = world.node().await.user("admin").await;
    world.promote(&admin).await;
    world.config.auth.require_approval = true;
    (world.node().await, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_approves_accounts_over_rest() {
    let (mut world, mut smtp) = with_mail().await;
    let (node, admin) = with_approval(&mut world).await;
    node.work();
    let mut ids = Vec::new();
    for name in ["ann", "bob", "eve"] {
        let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD, "display_name": name });
        let account = post(&node, "/v1/auth/register", body).await.ok();
        assert_eq!(account["state"], "ACCOUNT_STATE_PENDING");
        ids.push(account["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(state(node.auth().login(login("ann@example.com", PASSWORD)).await), not_active("pending"));
    assert_eq!(refusal(node.auth().login(login("ann@example.com", "wrong")).await).1, "INVALID_CREDENTIALS");

    let first = admin.get(&node, "/v1/auth/accounts/pending?pageSize=2").await.ok();
    let path = format!("/v1/auth/accounts/pending?pageSize=2&pageToken={}", first["nextPageToken"].as_str().unwrap());
    let second = admin.get(&node, &path).await.ok();
    let listed: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|page| page["accounts"].as_array().unwrap())
        .map(|account| account["id"].as_str().unwrap())
        .collect();
    assert_eq!((listed, second["nextPageToken"].as_str()), (ids.iter().map(String::as_str).collect(), Some("")));

    let approve = format!("/v1/auth/accounts/{}/approve", ids[0]);
    assert_eq!(admin.post(&node, &approve, json!({})).await.ok()["state"], "ACCOUNT_STATE_ACTIVE");
    admin.post(&node, &approve, json!({})).await.refused(409, "ACCOUNT_STATE_CONFLICT", 3003);
    assert!(smtp.next().await.text.contains("approved. You can log in now."));
    let ann = node.log_in("ann@example.com", &ids[0]).await;

    let reject = format!("/v1/auth/accounts/{}/reject", ids[1]);
    ann.post(&node, &reject, json!({ "reason": "no" })).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    ann.get(&node, "/v1/auth/accounts/pending").await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    assert_eq!(admin.post(&node, &reject, json!({})).await.fields(), ["reason"]);
    admin.post(&node, &reject, json!({ "reason": "We don't know <you>." })).await.ok();
    let mail = smtp.next().await;
    assert!(mail.to == "bob@example.com" && mail.text.contains("We don't know <you>."), "{}", mail.text);
    assert_eq!(state(node.auth().login(login("bob@example.com", PASSWORD)).await), not_active("rejected"));
    let unknown = "/v1/auth/accounts/01890a5d-ac96-774b-bcce-b302099a8057/approve";
    admin.post(&node, unknown, json!({})).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_decisions_about_an_account_one_wins() {
    let mut world = World::new().await;
    let second = world.node().await.user("second").await;
    world.promote(&second).await;
    let (node, admin) = with_approval(&mut world).await;
    let other = world.node().await;
    let account = node.auth().register(register("ann@example.com")).await.unwrap().into_inner().account.unwrap();
    assert_eq!(account.state(), AccountState::Pending);
    let attempts = (0..6).map(|number| {
        let by = if number < 3 { admin.auth(&node) } else { second.auth(&other) };
        let (mut auth, account_id) = (by, account.id.clone());
        async move {
            if number % 2 == 0 {
                auth.approve_account(ApproveAccountRequest { account_id }).await.map(|_| ())
            } else {
                auth.reject_account(RejectAccountRequest { account_id, reason: "no".into() }).await.map(|_| ())
            }
        }
    });
    assert_eq!(winners(attempts, "ACCOUNT_STATE_CONFLICT").await, 1);
    assert_eq!(world.count("jobs WHERE kind = 'auth.notice'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_accounts_still_have_to_be_approved_where_both_is_wanted() {
    let (mut world, mut smtp) = with_mail().await;
    world.config.auth.require_verified_email = true;
    world.config.auth.require_approval = true;
    let node = world.node().await;
    node.work();
    node.auth().register(register("ann@example.com")).await.unwrap();
    let token = smtp.next().await.token();
    let account = node.auth().verify_email(VerifyEmailRequest { token }).await.unwrap().into_inner().account.unwrap();
    assert_eq!(account.state(), AccountState::Pending);
    assert_eq!(state(node.auth().login(login("ann@example.com", PASSWORD)).await), not_active("pending"));
}

#[tokio::test(flavor = "multi_thread")]
async fn suspending_an_account_ends_its_streams_on_other_nodes() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob, admin) = (one.user("ann").await, one.user("bob").await, one.user("admin").await);
    world.promote(&admin).await;
    let conversation = ann.conversation(&one, &[&bob]).await;
    let mut events = Events::open(&two, &bob, &conversation, "", None).await;

    let path = |action: &str, id: &str| format!("/v1/auth/accounts/{id}/{action}");
    ann.post(&one, &path("suspend", &bob.id), json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    admin.post(&one, &path("suspend", &admin.id), json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    let suspended = admin.post(&one, &path("suspend", &bob.id), json!({})).await.ok();
    assert_eq!(suspended["state"], "ACCOUNT_STATE_SUSPENDED");
    admin.post(&one, &path("suspend", &bob.id), json!({})).await.refused(409, "ACCOUNT_STATE_CONFLICT", 3003);

    let last = events.next().await.unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["reason"]), ("error", &json!("SESSION_REVOKED")));
    eventually(async || bob.get(&two, "/v1/auth/me").await.status == 401).await;
    assert_eq!(state(two.auth().login(login(&bob.email, PASSWORD)).await), not_active("suspended"));
    let refresh = json!({ "refresh_token": bob.refresh });
    post(&two, "/v1/auth/refresh", refresh).await.refused(401, "SESSION_REVOKED", 1004);

    admin.post(&one, &path("reinstate", &bob.id), json!({})).await.ok();
    // Nothing of before comes back.
    bob.get(&two, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    two.log_in(&bob.email, &bob.id).await.get(&two, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_replaces_a_hash_of_other_parameters() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    // Of PASSWORD, with 8 KiB and one pass.
    use argon2::password_hash::PasswordHasher;
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    let weak = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let weak = weak.hash_password(PASSWORD.as_bytes()).unwrap().to_string();
    let store = format!("UPDATE accounts SET password_hash = '{weak}'");
    world.database().await.batch_execute(&store).await.unwrap();
    node.log_in(&ann.email, &ann.id).await;
    assert_eq!(world.count("accounts WHERE password_hash LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'").await, 1);
    node.log_in(&ann.email, &ann.id).await;
}

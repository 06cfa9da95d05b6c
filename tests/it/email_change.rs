//! Another e-mail address for an account.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::{ConfirmEmailChangeRequest, RequestEmailChangeRequest, UndoEmailChangeRequest};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Answer, Node, PASSWORD, User, World, eventually, refusal};
use crate::smtp::{Message, Smtp};

const CHANGE: &str = "/v1/auth/change-email";
const CONFIRM: &str = "/v1/auth/confirm-email-change";
const UNDO: &str = "/v1/auth/undo-email-change";
const NEW_PASSWORD: &str = "staple h7-Kq.92z";

async fn with_mail() -> (World, Smtp) {
    let (mut world, smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    world.config.server.public_url = "https://app.example.com".into();
    (world, smtp)
}

async fn post(node: &Node, path: &str, body: Value) -> Answer {
    node.rest(Method::POST, path, None, Some(body)).await
}

/// Asks for a change; returns the mails to the new and to the old address.
async fn ask(node: &Node, smtp: &mut Smtp, user: &User, new: &str) -> (Message, Message) {
    user.post(node, CHANGE, json!({ "newEmail": new })).await.ok();
    let (first, second) = (smtp.next().await, smtp.next().await);
    if first.to.eq_ignore_ascii_case(new) { (first, second) } else { (second, first) }
}

async fn log_in(node: &Node, email: &str, password: &str) -> Answer {
    post(node, "/v1/auth/login", json!({ "email": email, "password": password })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_changes_when_the_new_one_confirms_and_other_sessions_end() {
    let (world, mut smtp) = with_mail().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = node.user("ann").await;
    let laptop = other.log_in(&ann.email, &ann.id).await;
    node.work();
    assert!(smtp.next().await.text.contains("new to it"));
    let (confirm, undo) = ask(&node, &mut smtp, &ann, "Ann@Example.org").await;
    assert_eq!((confirm.to.as_str(), undo.to.as_str()), ("ann@example.org", "ann@example.com"));
    assert!(confirm.text.contains("https://app.example.com/confirm-email-change?token="), "{}", confirm.text);
    assert!(!undo.text.contains("ann@example.org"), "the old address is told the new one: {}", undo.text);
    // Nothing has changed yet.
    assert_eq!(ann.get(&node, "/v1/auth/me").await.ok()["email"], "ann@example.com");
    laptop.get(&other, "/v1/auth/me").await.ok();
    for token in [confirm.token(), undo.token()] {
        let in_clear = format!(
            "(SELECT token_hash FROM email_changes UNION SELECT token_hash FROM email_undos) t WHERE token_hash = '{token}'::bytea"
        );
        assert_eq!(world.count(&in_clear).await, 0);
    }

    let token = json!({ "token": confirm.token() });
    let changed = post(&node, CONFIRM, token.clone()).await.ok();
    assert_eq!(changed["account"]["email"], "ann@example.org");
    post(&node, CONFIRM, token).await.refused(401, "TOKEN_INVALID", 1004);
    eventually(async || laptop.get(&other, "/v1/auth/me").await.status == 401).await;
    post(&other, "/v1/auth/refresh", json!({ "refreshToken": laptop.refresh })).await.refused(
        401,
        "SESSION_REVOKED",
        1004,
    );
    // The session that asked goes on, with a new access token.
    ann.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    let tokens = post(&node, "/v1/auth/refresh", json!({ "refreshToken": ann.refresh })).await.ok();
    let me = node.rest(Method::GET, "/v1/auth/me", tokens["accessToken"].as_str(), None).await.ok();
    assert_eq!(me["email"], "ann@example.org");
    let ann = User { token: tokens["accessToken"].as_str().unwrap().into(), ..ann };
    let told = crate::account::kinds::told(&other, &ann, 2).await;
    assert_eq!(told, ["session SESSION_END_REASON_SECURITY_CHANGED", "SECURITY_CHANGE_EMAIL_CHANGED"]);
    log_in(&node, "ann@example.com", PASSWORD).await.refused(401, "INVALID_CREDENTIALS", 1002);
    log_in(&node, "ann@example.org", PASSWORD).await.ok();
    // The old address is free for somebody else.
    node.user("ann").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_over_grpc_and_who_asks_has_proved_lately_who_they_are() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    node.work();
    let request = |email: &str| RequestEmailChangeRequest { new_email: email.into() };
    let mut client = ann.auth(&node);
    let refused = refusal(node.auth().request_email_change(request("ann@example.org")).await);
    assert_eq!(refused, (Code::Unauthenticated, "UNAUTHORIZED".into()));
    for (email, field) in [("nonsense", "new_email"), ("", "new_email"), ("ANN@example.com", "new_email")] {
        let answer = ann.post(&node, CHANGE, json!({ "new_email": email })).await;
        assert_eq!((answer.status, answer.fields()), (422, vec![field]), "{email}");
    }
    client.request_email_change(request("ann@example.org")).await.unwrap();
    let mails = [smtp.next().await, smtp.next().await];
    let confirm = mails.iter().find(|mail| mail.to == "ann@example.org").unwrap();
    let token = confirm.token();
    let changed = node.auth().confirm_email_change(ConfirmEmailChangeRequest { token }).await.unwrap();
    assert_eq!(changed.into_inner().account.unwrap().email, "ann@example.org");
    let undo = mails.iter().find(|mail| mail.to == "ann@example.com").unwrap();
    node.auth().undo_email_change(UndoEmailChangeRequest { token: undo.token() }).await.unwrap();
    assert_eq!(world.count("accounts WHERE email = 'ann@example.com'").await, 1);

    let bob = node.user("bob").await;
    world.clock.advance(Duration::from_secs(301));
    let refused = refusal(bob.auth(&node).request_email_change(request("bob@example.org")).await);
    assert_eq!(refused, (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".into()));
    assert_eq!(world.count("email_changes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_by_asking_whether_an_address_has_an_account() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let (ann, _bob) = (node.user("ann").await, node.user("bob").await);
    node.work();
    let free = ann.post(&node, CHANGE, json!({ "newEmail": "free@example.com" })).await.ok();
    let mails = [smtp.next().await, smtp.next().await];
    assert!(mails.iter().any(|mail| mail.to == "free@example.com" && mail.text.contains("token=")));
    let taken = ann.post(&node, CHANGE, json!({ "newEmail": "bob@example.com" })).await.ok();
    assert_eq!(free, taken);
    let mails = [smtp.next().await, smtp.next().await];
    // Who has the address is told, and gets no token with which it could become Ann's.
    let told = mails.iter().find(|mail| mail.to == "bob@example.com").unwrap();
    assert!(told.text.contains("has an account already") && !told.text.contains("token="), "{}", told.text);
    assert_eq!(world.count("email_changes WHERE token_hash IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_void_after_a_newer_request_and_expires() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    node.work();
    let (first, old_undo) = ask(&node, &mut smtp, &ann, "one@example.org").await;
    let (second, undo) = ask(&node, &mut smtp, &ann, "two@example.org").await;
    for (path, mail) in [(CONFIRM, &first), (UNDO, &old_undo), (CONFIRM, &undo), (UNDO, &second)] {
        post(&node, path, json!({ "token": mail.token() })).await.refused(401, "TOKEN_INVALID", 1004);
    }
    world.clock.advance(Duration::from_secs(3601));
    post(&node, CONFIRM, json!({ "token": second.token() })).await.refused(401, "TOKEN_EXPIRED", 1003);
    world.clock.advance(Duration::from_secs(7 * 24 * 3600));
    post(&node, UNDO, json!({ "token": undo.token() })).await.refused(401, "TOKEN_EXPIRED", 1003);
    assert_eq!(world.count("accounts WHERE email = 'ann@example.com'").await, 1);
    // What can't be used any more is forgotten.
    world.node().await.work();
    eventually(async || world.count("email_changes").await + world.count("email_undos").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_accounts_that_confirm_one_address_at_once_one_gets_it_and_a_token_works_once() {
    let (world, mut smtp) = with_mail().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    one.work();
    let (of_ann, _) = ask(&one, &mut smtp, &ann, "both@example.org").await;
    let (of_bob, _) = ask(&one, &mut smtp, &bob, "both@example.org").await;
    let attempts = [(&one, of_ann.token()), (&two, of_bob.token())].map(|(node, token)| {
        let mut client = node.auth();
        async move { client.confirm_email_change(ConfirmEmailChangeRequest { token }).await }
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    for lost in lost {
        assert_eq!(refusal(lost), (Code::AlreadyExists, "RESOURCE_ALREADY_EXISTS".into()));
    }
    assert_eq!(world.count("accounts WHERE email = 'both@example.org'").await, 1);

    let eve = one.user("eve").await;
    let (confirm, undo) = ask(&one, &mut smtp, &eve, "eve@example.org").await;
    let attempts = [&one, &two, &one, &two].map(|node| {
        let (mut client, token) = (node.auth(), confirm.token());
        async move { client.confirm_email_change(ConfirmEmailChangeRequest { token }).await.is_ok() }
    });
    assert_eq!(join_all(attempts).await.into_iter().filter(|won| *won).count(), 1);
    let attempts = [&one, &two, &one].map(|node| {
        let (mut client, token) = (node.auth(), undo.token());
        async move { client.undo_email_change(UndoEmailChangeRequest { token }).await.is_ok() }
    });
    assert_eq!(join_all(attempts).await.into_iter().filter(|won| *won).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_address_takes_an_account_back_from_who_knew_its_password() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let thief = node.user("ann").await;
    node.work();
    // The thief moves the account on, twice.
    let (confirm, undo) = ask(&node, &mut smtp, &thief, "thief@example.org").await;
    post(&node, CONFIRM, json!({ "token": confirm.token() })).await.ok();
    let thief = node.log_in("thief@example.org", &thief.id).await;
    let (mut confirm, mut of_thief) = (None, None);
    thief.post(&node, CHANGE, json!({ "newEmail": "thief@example.net" })).await.ok();
    while confirm.is_none() || of_thief.is_none() {
        let mail = smtp.next().await;
        match mail.to.as_str() {
            "thief@example.net" => confirm = Some(mail),
            _ if mail.text.contains("/undo-email-change?token=") => of_thief = Some(mail),
            // The login from a device that is new.
            _ => {}
        }
    }
    post(&node, CONFIRM, json!({ "token": confirm.unwrap().token() })).await.ok();
    let thief = node.log_in("thief@example.net", &thief.id).await;
    thief.post(&node, CHANGE, json!({ "newEmail": "thief@example.edu" })).await.ok();

    post(&node, UNDO, json!({ "token": undo.token() })).await.ok();
    assert_eq!(world.count("accounts WHERE email = 'ann@example.com'").await, 1);
    assert_eq!(world.count("email_changes").await + world.count("email_undos").await, 0);
    thief.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    post(&node, "/v1/auth/refresh", json!({ "refreshToken": thief.refresh })).await.refused(
        401,
        "SESSION_REVOKED",
        1004,
    );
    // What the thief knows and was mailed is of no use.
    for email in ["ann@example.com", "thief@example.org", "thief@example.net"] {
        log_in(&node, email, PASSWORD).await.refused(401, "INVALID_CREDENTIALS", 1002);
    }
    post(&node, UNDO, json!({ "token": of_thief.unwrap().token() })).await.refused(401, "TOKEN_INVALID", 1004);
    post(&node, UNDO, json!({ "token": undo.token() })).await.refused(401, "TOKEN_INVALID", 1004);
    let reset = loop {
        let mail = smtp.next().await;
        if mail.text.contains("/reset-password?token=") {
            break mail;
        }
    };
    assert_eq!(reset.to, "ann@example.com");
    let body = json!({ "token": reset.token(), "newPassword": NEW_PASSWORD });
    post(&node, "/v1/auth/reset-password", body).await.ok();
    log_in(&node, "ann@example.com", NEW_PASSWORD).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_suspended_or_deleted_changes_no_address() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "boss").await);
    node.work();
    let (confirm, undo) = ask(&node, &mut smtp, &ann, "ann@example.org").await;
    admin.post(&node, &format!("/v1/auth/accounts/{}/suspend", ann.id), json!({})).await.ok();
    let token = json!({ "token": confirm.token() });
    post(&node, CONFIRM, token.clone()).await.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);
    admin.delete(&node, &format!("/v1/users/{}", ann.id)).await.ok();
    post(&node, CONFIRM, token).await.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);
    post(&node, UNDO, json!({ "token": undo.token() })).await.refused(401, "TOKEN_INVALID", 1004);
    assert_eq!(world.count("accounts WHERE email = 'ann@example.com' AND state = 'deleted'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_to_reset_the_password_that_the_old_address_has_is_void() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    node.work();
    post(&node, "/v1/auth/forgot-password", json!({ "email": ann.email })).await.ok();
    let reset = smtp.next().await;
    let (confirm, _) = ask(&node, &mut smtp, &ann, "ann@example.org").await;
    post(&node, CONFIRM, json!({ "token": confirm.token() })).await.ok();
    let body = json!({ "token": reset.token(), "newPassword": NEW_PASSWORD });
    post(&node, "/v1/auth/reset-password", body).await.refused(401, "TOKEN_INVALID", 1004);
}

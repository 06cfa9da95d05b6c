//! From the deletion of an account to its erasure, or back.

use std::collections::BTreeSet;
use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::proto::rialto::privacy::v1::privacy_service_client::PrivacyServiceClient;
use rialto::proto::rialto::privacy::v1::{CancelErasureRequest, RestoreUserRequest};
use rialto::proto::rialto::users::v1::{DeleteMeRequest, DeleteUserRequest};
use serde_json::json;
use tonic::Code;

use super::{DAY, EXPORT, Lives, live, privacy, ready, text, with_mail};
use crate::harness::{Node, PASSWORD, User, World, eventually, refusal};

const CANCEL: &str = "/v1/privacy/cancel-erasure";
/// Longer than the default grace period.
const GRACE: Duration = Duration::from_secs(15 * 24 * 3600);
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// Where a trace is found: tables, and keys of Redis.
async fn found(world: &World, node: &Node, traces: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let tables =
        text(world, "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'");
    for table in tables.await.split(' ') {
        for trace in traces {
            // Bytes show in hexadecimal; ids are stored as 16 of them in some places.
            let hex: String = trace.bytes().map(|byte| format!("{byte:02x}")).collect();
            let bare = trace.replace('-', "");
            let query = format!(
                "{table} t WHERE t::text ILIKE '%{trace}%' OR t::text LIKE '%{hex}%' OR t::text LIKE '%{bare}%'"
            );
            if world.count(&query).await > 0 {
                found.insert(table.to_owned());
            }
        }
    }
    let mut redis = node.server.app.redis.client().get_multiplexed_async_connection().await.unwrap();
    let pattern = node.server.app.redis.name("*");
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut redis).await.unwrap();
    for key in keys {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut redis).await.unwrap_or_default();
        let value = String::from_utf8_lossy(&dump).to_lowercase();
        if traces.iter().any(|trace| key.contains(trace) || value.contains(trace)) {
            found.insert(key);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_period_nothing_is_left_of_somebody_anywhere() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let Lives { ann, bob, traces, with_bob } = live(&world, &node).await;
    let before = found(&world, &node, &traces).await;
    for table in [
        "accounts",
        "audit_log",
        "conversations",
        "devices",
        "jobs",
        "message_edits",
        "message_reactions",
        "messages",
        "one_time_prekeys",
        "registrations",
        "scheduled_messages",
        "sessions",
        "user_blocks",
    ] {
        assert!(before.contains(table), "the test finds nothing in {table}, where there is something: {before:?}");
    }
    assert!(before.iter().any(|key| key.contains(":rate:")), "{before:?}");
    node.work();
    ann.post(&node, EXPORT, json!({})).await.ok();
    ready(&node, &ann).await;

    let deleted = ann.delete(&node, "/v1/users/me").await.ok();
    assert!(deleted["eraseAt"].as_str().is_some(), "{deleted}");
    while !smtp.next().await.text.contains("/cancel-erasure?token=") {}
    // Nobody uses the account meanwhile, and its address and handle are kept for it.
    ann.get(&node, "/v1/users/me").await.refused(401, "SESSION_REVOKED", 1004);
    let login = json!({ "email": ann.email, "password": PASSWORD });
    node.rest(Method::POST, "/v1/auth/login", None, Some(login)).await.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);
    let taken = bob.call(&node, Method::PATCH, "/v1/users/me", json!({ "handle": "annikahandle" })).await;
    taken.refused(409, "RESOURCE_ALREADY_EXISTS", 3002);

    world.clock.advance(GRACE);
    eventually(async || world.count(&format!("accounts WHERE id = '{}'", ann.id)).await == 0).await;
    eventually(async || found(&world, &node, &traces).await.is_empty()).await;

    // What belongs to others stays: the conversation, the numbers of its messages, and what others said.
    let bob = node.log_in(&bob.email, &bob.id).await;
    let conversation = bob.get(&node, &format!("/v1/conversations/{with_bob}")).await.ok();
    assert_eq!((&conversation["createdBy"], &conversation["memberIds"]), (&json!(""), &json!([bob.id])));
    let list = bob.get(&node, &format!("/v1/conversations/{with_bob}/messages?afterSeq=0")).await.ok();
    let said: Vec<_> = list["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let says = message["text"].as_str().unwrap_or("ciphertext");
            (message["seq"].as_str().unwrap(), message["senderId"].as_str().unwrap(), says)
        })
        .collect();
    let bobs = bob.id.as_str();
    assert_eq!(said, [("1", NOBODY, ""), ("2", bobs, "from bob"), ("101", NOBODY, ""), ("102", bobs, "ciphertext")]);
    assert_eq!(world.count("conversations").await, 1);
    // What she did is still one person's, whoever that was.
    let hers =
        "audit_log WHERE method = '/rialto.users.v1.UserService/DeleteMe' AND address IS NULL AND session_id IS NULL";
    assert_eq!(world.count(hers).await, 1);
    let person =
        "account_id = (SELECT account_id FROM audit_log WHERE method = '/rialto.users.v1.UserService/DeleteMe')";
    assert!(world.count(&format!("audit_log WHERE {person}")).await > 3);
    assert_eq!(world.count("roles WHERE name = 'hers' AND created_by IS NULL").await, 1);
    assert_eq!(world.count("account_roles WHERE assigned_by IS NULL").await, 1);

    // Address and handle are free.
    bob.call(&node, Method::PATCH, "/v1/users/me", json!({ "handle": "annikahandle" })).await.ok();
    let next = node.user("annika-qx").await;
    assert_ne!(next.id, ann.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_was_cut_off_goes_on_and_one_that_runs_twice_does_no_harm() {
    let world = World::new().await;
    let node = world.node().await;
    let Lives { ann, traces, .. } = live(&world, &node).await;
    ann.delete(&node, "/v1/users/me").await.ok();
    world.clock.advance(GRACE);
    // As a worker leaves it that was killed in the middle, and a second job for the same account.
    let half = format!(
        "UPDATE erasures SET begun = true; DELETE FROM profiles WHERE account_id = '{id}';
         UPDATE messages SET sender_id = '{NOBODY}', text = '', client_message_id = id::text
             WHERE ctid = (SELECT ctid FROM messages WHERE sender_id = '{id}' LIMIT 1);
         INSERT INTO jobs (id, kind, payload, run_at, created_at)
             SELECT gen_random_uuid(), kind, payload, run_at, created_at FROM jobs WHERE kind = 'privacy.erase'",
        id = ann.id
    );
    world.database().await.batch_execute(&half).await.unwrap();
    node.work();
    eventually(async || world.count("jobs WHERE state = 'ready'").await == 0).await;
    assert_eq!(found(&world, &node, &traces).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_changes_their_mind_by_the_link_of_the_mail_once_and_not_too_late() {
    let (world, mut smtp) = with_mail().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = node.user("ann").await;
    node.work();
    let laptop = other.log_in(&ann.email, &ann.id).await;
    while !smtp.next().await.text.contains("device") {}
    ann.users(&node).delete_me(DeleteMeRequest {}).await.unwrap();
    eventually(async || laptop.get(&other, "/v1/users/me").await.status == 401).await;
    let mail = smtp.next().await;
    assert_eq!(mail.to, "ann@example.com");
    let token = mail.token();
    assert_eq!(world.count(&format!("erasures WHERE token_hash = '{token}'::bytea")).await, 0);
    let cancel = async |token: &str| node.rest(Method::POST, CANCEL, None, Some(json!({ "token": token }))).await;
    cancel("wrong").await.refused(401, "TOKEN_INVALID", 1004);
    assert_eq!(cancel("").await.fields(), ["token"]);
    let attempts = (0..4).map(|_| {
        let (mut client, token) = (PrivacyServiceClient::new(node.channel()), token.clone());
        async move { client.cancel_erasure(CancelErasureRequest { token }).await.is_ok() }
    });
    assert_eq!(join_all(attempts).await.into_iter().filter(|won| *won).count(), 1);
    assert!(smtp.next().await.text.contains("will not be erased"));
    // The sessions have ended all the same.
    ann.get(&node, "/v1/users/me").await.refused(401, "SESSION_REVOKED", 1004);
    let ann = node.log_in(&ann.email, &ann.id).await;
    // The erasure that was cancelled does not come, and another one can be asked for.
    world.clock.advance(DAY);
    let ann = node.log_in(&ann.email, &ann.id).await;
    ann.delete(&node, "/v1/users/me").await.ok();
    let token = loop {
        let mail = smtp.next().await;
        if mail.text.contains("/cancel-erasure?token=") {
            break mail.token();
        }
    };
    // The job of the first is due now, that of the second is not.
    world.clock.advance(GRACE - 2 * DAY + Duration::from_secs(120));
    cancel("wrong").await.refused(401, "TOKEN_INVALID", 1004);
    eventually(async || world.count("jobs WHERE kind = 'privacy.erase'").await == 1).await;
    assert_eq!(world.count("accounts WHERE state = 'deleted'").await, 1);
    world.clock.advance(2 * DAY);
    let late = cancel(&token).await;
    assert!(late.status == 401, "{late:?}");
    eventually(async || world.count("accounts").await == 0).await;
    cancel(&token).await.refused(401, "TOKEN_INVALID", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_deletes_and_restores_and_the_owner_can_not_cancel_that() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let (ann, bob, admin) = (node.user("ann").await, node.user("bob").await, world.administrator(&node, "boss").await);
    node.work();
    let deleted = admin.users(&node).delete_user(DeleteUserRequest { user_id: ann.id.clone() }).await.unwrap();
    assert!(deleted.into_inner().erase_at.is_some());
    ann.get(&node, "/v1/users/me").await.refused(401, "SESSION_REVOKED", 1004);
    let mail = smtp.next().await;
    assert!(mail.text.contains("by an administrator") && !mail.text.contains("token="), "{}", mail.text);
    assert_eq!(world.count("erasures WHERE token_hash IS NULL").await, 1);

    let path = format!("/v1/users/{}/restore", ann.id);
    bob.post(&node, &path, json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    let restore = RestoreUserRequest { user_id: ann.id.clone() };
    privacy(&node, &admin).restore_user(restore.clone()).await.unwrap();
    node.log_in(&ann.email, &ann.id).await;
    let refused = refusal(privacy(&node, &admin).restore_user(restore).await);
    assert_eq!(refused, (Code::NotFound, "RESOURCE_NOT_FOUND".into()));

    // What the owner has deleted can be restored too, with the state that it had.
    let ann = node.log_in(&ann.email, &ann.id).await;
    ann.delete(&node, "/v1/users/me").await.ok();
    admin.post(&node, &path, json!({})).await.ok();
    assert_eq!(world.count("accounts WHERE state = 'active'").await, 3);
    admin.delete(&node, &format!("/v1/users/{}", ann.id)).await.ok();
    world.clock.advance(GRACE);
    eventually(async || world.count("accounts").await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_stays() {
    let world = World::new().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "boss").await;
    admin.delete(&node, "/v1/users/me").await.refused(409, "LAST_ADMINISTRATOR", 3003);
    assert_eq!(world.count("erasures").await + world.count("jobs WHERE kind = 'privacy.erase'").await, 0);
    admin.get(&node, "/v1/users/me").await.ok();
    let second = world.administrator(&node, "second").await;
    // Of two who leave at once, one stays.
    let leave = |user: &User| {
        let mut client = user.users(&node);
        async move { client.delete_me(DeleteMeRequest {}).await.is_ok() }
    };
    let left = join_all([leave(&admin), leave(&second)]).await;
    assert_eq!(left.iter().filter(|left| **left).count(), 1);
    assert_eq!(world.count("accounts WHERE role = 'admin' AND state = 'active'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_oneself_needs_a_recent_proof() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    world.clock.advance(Duration::from_secs(301));
    let refused = ann.delete(&node, "/v1/users/me").await;
    refused.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    assert_eq!(world.count("erasures").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_are_erased_from_one_conversation_do_not_meet() {
    let mut world = World::new().await;
    world.config.privacy.erasure_grace_days = 0;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let conversation = ann.conversation(&node, &[&bob, &eve]).await;
    for user in [&ann, &bob, &eve] {
        user.send(&node, &conversation, "hello").await;
    }
    node.work();
    for (user, left) in [(&ann, 2), (&bob, 1), (&eve, 0)] {
        user.delete(&node, "/v1/users/me").await.ok();
        world.clock.advance(Duration::from_secs(61));
        eventually(async || world.count("accounts").await == left).await;
        let messages = if left == 0 { 0 } else { 3 };
        assert_eq!(world.count("messages").await, messages);
    }
    assert_eq!(world.count("conversations").await, 0);
}

//! That nobody acts on an account that may do what they may not, by whatever way.

use reqwest::Method;
use rialto::proto::rialto::auth::v1::{RevokeSessionsRequest, SuspendAccountRequest};
use rialto::proto::rialto::roles::v1::UnassignRoleRequest;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Answer, Node, User, World, refusal};

/// Every permission over other accounts.
const POWERS: [&str; 7] = [
    "accounts:approve",
    "accounts:suspend",
    "roles:assign",
    "sessions:revoke",
    "two-factor:reset",
    "users:delete",
    "users:update",
];
const ADMIN: &str = "00000000-0000-7000-8000-000000000002";

/// Everything that can be done to somebody else's account, with what it says to one who is an ordinary user, active and
/// without a second factor: every refusal there comes after the question who may.
fn actions(id: &str, role: &str) -> Vec<(Method, String, Value, Option<&'static str>)> {
    let account = |action: &str| format!("/v1/auth/accounts/{id}/{action}");
    let conflict = Some("ACCOUNT_STATE_CONFLICT");
    vec![
        (Method::POST, account("approve"), json!({}), conflict),
        (Method::POST, account("reject"), json!({ "reason": "x" }), conflict),
        (Method::POST, account("reinstate"), json!({}), conflict),
        (Method::POST, format!("/v1/twofa/accounts/{id}/reset"), json!({}), Some("TWO_FACTOR_NOT_ENABLED")),
        (Method::PATCH, format!("/v1/users/{id}"), json!({ "bio": "x" }), None),
        (Method::POST, format!("/v1/accounts/{id}/roles"), json!({ "role_id": role }), None),
        (Method::DELETE, format!("/v1/accounts/{id}/roles/{role}"), json!({}), None),
        (Method::POST, account("revoke-sessions"), json!({}), None),
        (Method::POST, account("suspend"), json!({}), None),
        (Method::DELETE, format!("/v1/users/{id}"), json!({}), None),
    ]
}

async fn new_role(node: &Node, admin: &User, name: &str, allow: &[&str], deny: &[&str]) -> String {
    let grant = |deny: bool| move |permission: &&str| json!({ "permission": permission, "deny": deny });
    let grants: Vec<_> = allow.iter().map(grant(false)).chain(deny.iter().map(grant(true))).collect();
    let role = admin.post(node, "/v1/roles", json!({ "name": name, "grants": grants })).await.ok();
    role["id"].as_str().unwrap().to_owned()
}

async fn assign(node: &Node, admin: &User, user: &User, role: &str) {
    admin.post(node, &format!("/v1/accounts/{}/roles", user.id), json!({ "role_id": role })).await.ok();
}

fn reason(answer: &Answer) -> Option<&str> {
    answer.body["error"]["reason"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_on_an_account_that_may_do_what_they_may_not() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, eve) = (world.administrator(&node, "admin").await, node.user("eve").await);
    let powers = new_role(&node, &admin, "powers", &POWERS, &["messages:send"]).await;
    let plain = new_role(&node, &admin, "plain", &[], &[]).await;
    let reader = new_role(&node, &admin, "reader", &["users:read-private"], &[]).await;
    assign(&node, &admin, &eve, &powers).await;

    // Administrators, and whoever has one permission more, in whatever state.
    let (more, suspended) = (node.user("more").await, node.user("suspended").await);
    for user in [&more, &suspended] {
        assign(&node, &admin, user, &reader).await;
    }
    admin.post(&node, &format!("/v1/auth/accounts/{}/suspend", suspended.id), json!({})).await.ok();
    let ids = [&admin, &more, &suspended].map(|user| user.id.as_str());
    for id in ids {
        for (verb, path, body, _) in actions(id, &plain) {
            let answer = eve.call(&node, verb.clone(), &path, body).await;
            assert_eq!((answer.status, reason(&answer)), (403, Some("INSUFFICIENT_PERMISSIONS")), "{verb} {path}");
        }
    }
    for (path, body) in [
        ("batchSuspend", json!({ "userIds": ids })),
        ("batchSuspend", json!({ "userIds": ids, "reinstate": true })),
        ("batchReview", json!({ "userIds": ids, "decision": "REVIEW_DECISION_APPROVE" })),
        ("batchReview", json!({ "userIds": ids, "decision": "REVIEW_DECISION_REJECT", "reason": "x" })),
    ] {
        let answer = eve.post(&node, &format!("/v1/users:{path}"), body).await.ok();
        for result in answer["results"].as_array().unwrap() {
            assert_eq!(result["failure"]["reason"], "REASON_INSUFFICIENT_PERMISSIONS", "{path} {result}");
        }
    }
    let denied = (Code::PermissionDenied, "INSUFFICIENT_PERMISSIONS".to_owned());
    let request = SuspendAccountRequest { account_id: admin.id.clone() };
    assert_eq!(refusal(eve.auth(&node).suspend_account(request).await), denied);
    let request = RevokeSessionsRequest { account_id: admin.id.clone() };
    assert_eq!(refusal(eve.auth(&node).revoke_sessions(request).await), denied);
    let request = UnassignRoleRequest { account_id: more.id.clone(), role_id: plain.clone() };
    assert_eq!(refusal(eve.roles(&node).unassign_role(request).await), denied);
    for user in [&admin, &more] {
        user.get(&node, "/v1/users/me").await.ok();
    }
    assert_eq!(world.count("accounts WHERE state = 'active'").await, 3);

    // Ordinary users, and those who may do the same.
    let (bob, equal) = (node.user("bob").await, node.user("equal").await);
    assign(&node, &admin, &equal, &powers).await;
    for user in [&bob, &equal] {
        for (verb, path, body, expected) in actions(&user.id, &plain) {
            let answer = eve.call(&node, verb.clone(), &path, body).await;
            assert_eq!(reason(&answer), expected, "{verb} {path}: {}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_that_has_expired_protects_nobody_and_what_a_caller_lost_does_not_help() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, eve, bob) = (world.administrator(&node, "admin").await, node.user("eve").await, node.user("bob").await);
    let suspends = new_role(&node, &admin, "suspends", &["accounts:suspend"], &[]).await;
    let reader = new_role(&node, &admin, "reader", &["users:read-private"], &[]).await;
    assign(&node, &admin, &eve, &suspends).await;
    let until = (world.clock.now() + std::time::Duration::from_secs(60)).to_rfc3339();
    let temporary = json!({ "role_id": reader, "expires_at": until });
    admin.post(&node, &format!("/v1/accounts/{}/roles", bob.id), temporary).await.ok();
    let suspend = async || eve.post(&node, &format!("/v1/auth/accounts/{}/suspend", bob.id), json!({})).await;
    suspend().await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    // Nobody made of `*` is stopped by an administrator, whom they could make themselves.
    let all = new_role(&node, &admin, "all", &["*"], &[]).await;
    let boss = node.user("boss").await;
    assign(&node, &admin, &boss, &all).await;
    let other = world.administrator(&node, "other").await;
    boss.post(&node, &format!("/v1/auth/accounts/{}/suspend", other.id), json!({})).await.ok();
    admin.delete(&node, &format!("/v1/accounts/{}/roles/{all}", boss.id)).await.ok();
    boss.post(&node, &format!("/v1/accounts/{}/roles", boss.id), json!({ "role_id": ADMIN })).await.refused(
        403,
        "INSUFFICIENT_PERMISSIONS",
        1005,
    );

    world.clock.advance(std::time::Duration::from_secs(61));
    suspend().await.ok();
}

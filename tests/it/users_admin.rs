//! Accounts in the hands of administrators.

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use prost_types::FieldMask;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::AccountState;
use rialto::proto::rialto::users::v1::batch_result::Outcome;
use rialto::proto::rialto::users::v1::{
    BatchReviewUsersRequest, DeleteUserRequest, ReviewDecision, UpdateUserRequest, User,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{self, Node, World, refusal};

const UNKNOWN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

async fn set_state(world: &World, user: &harness::User, state: &str) {
    let set = format!("UPDATE accounts SET state = '{state}' WHERE id = '{}'", user.id);
    world.database().await.batch_execute(&set).await.unwrap();
}

async fn listed(node: &Node, user: &harness::User, query: &str) -> Vec<String> {
    let list = user.get(node, &format!("/v1/users?{query}")).await.ok();
    list["users"].as_array().unwrap().iter().map(|user| user["displayName"].as_str().unwrap().to_owned()).collect()
}

async fn suspend(node: &Node, admin: &harness::User, reinstate: bool, ids: &[&str]) -> Vec<Value> {
    let body = json!({ "userIds": ids, "reinstate": reinstate });
    let answer = admin.post(node, "/v1/users:batchSuspend", body).await.ok();
    answer["results"].as_array().unwrap().clone()
}

fn outcome(result: &Value) -> &str {
    result["user"]["state"].as_str().or(result["failure"]["reason"].as_str()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_do_what_administrators_do() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let path = format!("/v1/users/{}", bob.id);
    let suspend = json!({ "userIds": [bob.id] });
    let review = json!({ "userIds": [bob.id], "decision": "REVIEW_DECISION_APPROVE" });
    for (method, path, body) in [
        (Method::PATCH, path.as_str(), json!({ "bio": "x" })),
        (Method::PUT, &path, json!({ "displayName": "x" })),
        (Method::DELETE, &path, json!(null)),
        (Method::POST, "/v1/users:batchSuspend", suspend),
        (Method::POST, "/v1/users:batchReview", review),
        (Method::GET, "/v1/users?state=ACCOUNT_STATE_ACTIVE", json!(null)),
        (Method::GET, "/v1/users?role=ROLE_ADMIN", json!(null)),
        (Method::GET, "/v1/users?emailPrefix=bob", json!(null)),
    ] {
        let body = Some(body).filter(|body| !body.is_null());
        let answer = node.rest(method, path, Some(&ann.token), body).await;
        answer.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    }
    let refused = refusal(ann.users(&node).delete_user(DeleteUserRequest { user_id: bob.id.clone() }).await);
    assert_eq!(refused, (Code::PermissionDenied, "INSUFFICIENT_PERMISSIONS".into()));
    bob.get(&node, "/v1/users/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_changes_and_deletes_others() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "boss").await);
    let path = format!("/v1/users/{}", ann.id);
    let seen = admin.get(&node, &path).await.ok();
    assert_eq!((&seen["email"], &seen["state"]), (&json!("ann@example.com"), &json!("ACCOUNT_STATE_ACTIVE")));
    let patched = admin.call(&node, Method::PATCH, &path, json!({ "bio": "tidied", "handle": "Ann" })).await.ok();
    assert_eq!(
        (&patched["bio"], &patched["handle"], &patched["displayName"]),
        (&json!("tidied"), &json!("ann"), &json!("ann"))
    );
    let put = admin.call(&node, Method::PUT, &path, json!({ "displayName": "Ann" })).await.ok();
    assert_eq!((&put["bio"], &put["displayName"]), (&json!(""), &json!("Ann")));
    let request = UpdateUserRequest {
        user_id: ann.id.clone(),
        user: Some(User { bio: "x".into(), etag: "stale".into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["bio".into()] }),
    };
    let refused = refusal(admin.users(&node).update_user(request).await);
    assert_eq!(refused, (Code::Aborted, "RESOURCE_CONFLICT".into()));
    let answer = admin.call(&node, Method::PATCH, &format!("/v1/users/{UNKNOWN}"), json!({ "bio": "x" })).await;
    answer.refused(404, "RESOURCE_NOT_FOUND", 3001);

    admin.users(&node).delete_user(DeleteUserRequest { user_id: ann.id.clone() }).await.unwrap();
    ann.get(&node, "/v1/users/me").await.refused(401, "SESSION_REVOKED", 1004);
    admin.delete(&node, &path).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    let audited = "audit_log WHERE method = '/rialto.users.v1.UserService/DeleteUser'";
    assert_eq!(world.count(audited).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_filter_by_state_role_and_address() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let admin = world.administrator(&node, "boss").await;
    set_state(&world, &ann, "pending").await;
    set_state(&world, &bob, "suspended").await;
    assert_eq!(listed(&node, &eve, "").await, ["boss", "eve"]);
    assert_eq!(listed(&node, &admin, "").await, ["ann", "bob", "boss", "eve"]);
    assert_eq!(listed(&node, &admin, "state=ACCOUNT_STATE_PENDING").await, ["ann"]);
    assert_eq!(listed(&node, &admin, "state=ACCOUNT_STATE_SUSPENDED&orderBy=created_at").await, ["bob"]);
    assert_eq!(listed(&node, &admin, "state=ACCOUNT_STATE_ACTIVE").await, ["boss", "eve"]);
    assert_eq!(listed(&node, &admin, "role=ROLE_ADMIN").await, ["boss"]);
    assert_eq!(listed(&node, &admin, "emailPrefix=B").await, ["bob", "boss"]);
    assert_eq!(listed(&node, &admin, "emailPrefix=bob@ex&state=ACCOUNT_STATE_SUSPENDED").await, ["bob"]);
    assert_eq!(listed(&node, &admin, "emailPrefix=ob@").await, [""; 0]);
    assert_eq!(listed(&node, &admin, "query=bo&role=ROLE_USER").await, ["bob"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_for_each_account() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, admin) = (node.user("ann").await, node.user("bob").await, world.administrator(&node, "boss").await);
    let ids = [ann.id.as_str(), UNKNOWN, &bob.id];
    set_state(&world, &bob, "pending").await;
    ann.get(&other, "/v1/users/me").await.ok();

    let results = suspend(&node, &admin, false, &ids).await;
    let named: Vec<_> = results.iter().map(|result| result["userId"].as_str().unwrap()).collect();
    assert_eq!(named, ids);
    let outcomes = |results: &[Value]| results.iter().map(|result| outcome(result).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        outcomes(&results),
        ["ACCOUNT_STATE_SUSPENDED", "REASON_RESOURCE_NOT_FOUND", "REASON_ACCOUNT_STATE_CONFLICT"]
    );
    for node in [&node, &other] {
        harness::eventually(async || ann.get(node, "/v1/users/me").await.status == 401).await;
    }
    let login = json!({ "email": ann.email, "password": harness::PASSWORD });
    let login = async || node.rest(Method::POST, "/v1/auth/login", None, Some(login.clone())).await;
    login().await.refused(403, "ACCOUNT_NOT_ACTIVE", 1005);

    let results = suspend(&node, &admin, true, &ids).await;
    assert_eq!(
        outcomes(&results),
        ["ACCOUNT_STATE_ACTIVE", "REASON_RESOURCE_NOT_FOUND", "REASON_ACCOUNT_STATE_CONFLICT"]
    );
    login().await.ok();
    let approve = json!({ "userIds": [bob.id], "decision": "REVIEW_DECISION_APPROVE" });
    let approved = admin.post(&node, "/v1/users:batchReview", approve).await.ok();
    assert_eq!(outcomes(approved["results"].as_array().unwrap()), ["ACCOUNT_STATE_ACTIVE"]);
    assert_eq!(world.count("accounts WHERE approved_at IS NOT NULL").await, 1);
    set_state(&world, &bob, "pending").await;
    let request = BatchReviewUsersRequest {
        user_ids: vec![bob.id.clone()],
        decision: ReviewDecision::Reject.into(),
        reason: "spam".into(),
    };
    let results = admin.users(&node).batch_review_users(request).await.unwrap().into_inner().results;
    assert!(matches!(&results[0].outcome, Some(Outcome::User(user)) if user.state() == AccountState::Rejected));
    assert_eq!(world.count("accounts WHERE rejection_reason = 'spam'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_batches_name_the_field() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "boss").await);
    let many: Vec<_> = (0..101).map(|n| format!("01890a5d-ac96-774b-bcce-{n:012x}")).collect();
    let reject = |reason: &str| json!({ "userIds": [ann.id], "decision": "REVIEW_DECISION_REJECT", "reason": reason });
    for (path, body, reason, field) in [
        ("batchSuspend", json!({ "userIds": [] }), "VALIDATION_ERROR", "user_ids"),
        ("batchSuspend", json!({ "userIds": many }), "VALIDATION_ERROR", "user_ids"),
        ("batchSuspend", json!({ "userIds": [ann.id, "x"] }), "VALIDATION_ERROR", "user_ids[1]"),
        ("batchSuspend", json!({ "userIds": [ann.id, ann.id] }), "VALIDATION_ERROR", "user_ids[1]"),
        ("batchReview", json!({ "userIds": [], "decision": 1 }), "VALIDATION_ERROR", "user_ids"),
        ("batchReview", json!({ "userIds": many, "decision": 1 }), "VALIDATION_ERROR", "user_ids"),
        ("batchReview", json!({ "userIds": [ann.id] }), "VALIDATION_ERROR", "decision"),
        ("batchReview", json!({ "userIds": [ann.id], "decision": 99 }), "VALIDATION_ERROR", "decision"),
        ("batchReview", reject(""), "MISSING_REQUIRED_FIELD", "reason"),
        ("batchReview", reject(" \n"), "MISSING_REQUIRED_FIELD", "reason"),
        ("batchReview", reject(&"x".repeat(501)), "VALIDATION_ERROR", "reason"),
    ] {
        let answer = admin.post(&node, &format!("/v1/users:{path}"), body.clone()).await;
        let error = (answer.status, answer.body["error"]["reason"].as_str(), answer.fields());
        assert_eq!(error, (422, Some(reason), vec![field]), "{body}");
    }
    // As for one account.
    let blank = admin.post(&node, &format!("/v1/auth/accounts/{}/reject", ann.id), json!({ "reason": " " })).await;
    assert_eq!((blank.status, blank.fields()), (422, vec!["reason"]));
    ann.get(&node, "/v1/users/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_suspend_one_account_at_once_one_has_done_it() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, admin) = (node.user("ann").await, world.administrator(&node, "boss").await);
    let ids = [ann.id.as_str()];
    let results = join_all((0..4).map(|_| suspend(&node, &admin, false, &ids))).await;
    let done = results.iter().filter(|results| outcome(&results[0]) == "ACCOUNT_STATE_SUSPENDED").count();
    assert_eq!(done, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_always_an_administrator_left() {
    let world = World::new().await;
    let node = world.node().await;
    let (one, two) = (world.administrator(&node, "one").await, world.administrator(&node, "two").await);
    // Each deletes the other, at the same instant.
    let (path_one, path_two) = (format!("/v1/users/{}", one.id), format!("/v1/users/{}", two.id));
    tokio::join!(one.delete(&node, &path_two), two.delete(&node, &path_one));
    let left = "accounts WHERE role = 'admin' AND state = 'active'";
    assert_eq!(world.count(left).await, 1);

    let last = if one.get(&node, "/v1/users/me").await.status == 200 { one } else { two };
    last.delete(&node, "/v1/users/me").await.refused(409, "LAST_ADMINISTRATOR", 3003);
    last.delete(&node, &format!("/v1/users/{}", last.id)).await.refused(409, "LAST_ADMINISTRATOR", 3003);
    // Nobody suspends themselves, administrator or not.
    let results = suspend(&node, &last, false, &[&last.id]).await;
    assert_eq!(outcome(&results[0]), "REASON_INSUFFICIENT_PERMISSIONS");
    last.get(&node, "/v1/users/me").await.ok();
    assert_eq!(world.count(left).await, 1);
    // One who is suspended does not count.
    let third = world.administrator(&node, "three").await;
    set_state(&world, &third, "suspended").await;
    last.delete(&node, "/v1/users/me").await.refused(409, "LAST_ADMINISTRATOR", 3003);
    set_state(&world, &third, "active").await;
    last.delete(&node, "/v1/users/me").await.ok();
}

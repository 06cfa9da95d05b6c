//! Recent proof, what administrators do, roles that need it.

use std::time::Duration;

use rialto::proto::rialto::auth::v1::ReauthenticateRequest;
use rialto::proto::rialto::twofactor::v1::ResetRequest;
use serde_json::{Value, json};
use tonic::Code;

use super::{Enrolled, challenge, over_grpc, promote, verify};
use crate::harness::{PASSWORD, User, World, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_identity_is_recent_for_five_minutes() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, ann) = (node.user("admin").await, Enrolled::new(&world, &node, "ann").await);
    promote(&world, &node, &admin).await;
    let path = format!("/v1/twofa/accounts/{}/reset", ann.user.id);
    world.clock.advance(Duration::from_secs(301));
    admin.post(&node, &path, json!({})).await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    let grpc = over_grpc(&node, &admin).reset(ResetRequest { account_id: ann.user.id.clone() }).await;
    assert_eq!(refusal(grpc), (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".into()));

    let reauthenticate = async |user: &User, body: Value| user.post(&node, "/v1/auth/reauthenticate", body).await;
    reauthenticate(&admin, json!({ "password": "wrong" })).await.refused(401, "INVALID_CREDENTIALS", 1002);
    admin.post(&node, &path, json!({})).await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    let surplus = reauthenticate(&admin, json!({ "password": PASSWORD, "code": "123456" })).await;
    surplus.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    assert!(reauthenticate(&admin, json!({ "password": PASSWORD })).await.ok()["validUntil"].is_string());
    world.clock.advance(Duration::from_secs(290));
    admin.post(&node, &path, json!({})).await.ok();

    // With a second factor, that is needed too.
    let bob = Enrolled::new(&world, &node, "bob").await;
    let without = reauthenticate(&bob.user, json!({ "password": PASSWORD })).await;
    without.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(without.fields(), ["code"]);
    let code = bob.authenticator.next_code(&world);
    let request = ReauthenticateRequest { password: PASSWORD.into(), code: code.clone(), backup_code: String::new() };
    let valid = bob.user.auth(&node).reauthenticate(request).await.unwrap().into_inner().valid_until.unwrap();
    assert!((290..=300).contains(&(valid.seconds - world.clock.now().timestamp())));
    let again = reauthenticate(&bob.user, json!({ "password": PASSWORD, "code": code })).await;
    again.refused(401, "TWO_FACTOR_CODE_INVALID", 1002);
    reauthenticate(&bob.user, json!({ "password": PASSWORD, "backupCode": bob.backup_codes[0] })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_resets_the_second_factor_of_somebody_else() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (Enrolled::new(&world, &node, "ann").await, node.user("bob").await);
    let admin = Enrolled::new(&world, &node, "admin").await;
    promote(&world, &node, &admin.user).await;
    let path = |id: &str| format!("/v1/twofa/accounts/{id}/reset");

    bob.post(&node, &path(&ann.user.id), json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    let own = admin.user.post(&node, &path(&admin.user.id), json!({})).await;
    own.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(own.fields(), ["account_id"]);
    let none = admin.user.post(&node, &path(&bob.id), json!({})).await;
    none.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    bob.get(&node, "/v1/auth/me").await.ok();
    let unknown = admin.user.post(&node, &path("01890a5d-ac96-774b-bcce-b302099a8057"), json!({})).await;
    unknown.refused(404, "RESOURCE_NOT_FOUND", 3001);

    let pending = challenge(&node, &ann.user.email).await;
    admin.user.post(&node, &path(&ann.user.id), json!({})).await.ok();
    ann.user.get(&node, "/v1/auth/me").await.refused(401, "SESSION_REVOKED", 1004);
    let code = ann.authenticator.next_code(&world);
    verify(&node, &pending, &code).await.refused(401, "TOKEN_INVALID", 1004);
    let ann = node.log_in(&ann.user.email, &ann.user.id).await;
    assert_eq!(ann.get(&node, "/v1/twofa/status").await.ok()["enabled"], false);
    let audited = format!(
        "audit_log WHERE method = '/rialto.twofactor.v1.TwoFactorService/Reset' AND grpc_code = 0 AND account_id = '{}'",
        admin.user.id
    );
    assert_eq!(world.count(&audited).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_role_needs_it_can_do_nothing_but_enable_it() {
    let mut world = World::new().await;
    world.config.two_factor.required_roles = vec!["admin".into()];
    let node = world.node().await;
    let (admin, bob) = (node.user("admin").await, node.user("bob").await);
    promote(&world, &node, &admin).await;

    admin.get(&node, "/v1/conversations").await.refused(403, "TWO_FACTOR_REQUIRED", 1005);
    let revoke = format!("/v1/auth/accounts/{}/revoke-sessions", bob.id);
    admin.post(&node, &revoke, json!({})).await.refused(403, "TWO_FACTOR_REQUIRED", 1005);
    let reset = over_grpc(&node, &admin).reset(ResetRequest { account_id: bob.id.clone() }).await;
    assert_eq!(refusal(reset), (Code::PermissionDenied, "TWO_FACTOR_REQUIRED".into()));
    let status = admin.get(&node, "/v1/twofa/status").await.ok();
    assert_eq!((&status["required"], &status["enabled"]), (&json!(true), &json!(false)));
    bob.get(&node, "/v1/conversations").await.ok();
    assert_eq!(bob.get(&node, "/v1/twofa/status").await.ok()["required"], false);

    let admin = Enrolled::enrol(&world, &node, admin).await;
    admin.user.get(&node, "/v1/conversations").await.ok();
    let body = json!({ "password": PASSWORD, "code": admin.authenticator.next_code(&world) });
    admin.disable(&node, body).await.ok();
    admin.user.get(&node, "/v1/conversations").await.refused(403, "TWO_FACTOR_REQUIRED", 1005);
    admin.user.post(&node, "/v1/auth/logout", json!({})).await.ok();

    world.config.two_factor.required_roles = vec!["admn".into()];
    let refused = rialto::server::Server::start(world.config.clone(), world.clock.clone()).await;
    assert!(refused.err().unwrap().to_string().contains("required_roles"));
}

//! That changes hold on every node, with Redis or without, on time, and without asking the database each time.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use rialto::dev::services::PrivateRedis;
use rialto::proto::rialto::roles::v1::{AssignRoleRequest, Role};
use tonic::Code;

use super::{ADMIN, allow, deny};
use crate::harness::{Events, World, eventually, soon};
use crate::live::subscribe;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_one_node_holds_on_the_other() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (admin, bob) = (world.administrator(&one, "admin").await, one.user("bob").await);
    let role = admin.role(&one, "security", &[allow("sessions:revoke")]).await;
    assert!(!bob.may(&two, "sessions:revoke").await);
    admin.assign(&one, &bob, &role).await.unwrap();
    eventually(async || bob.may(&two, "sessions:revoke").await).await;
    // The role changes, for everybody who has it.
    let nothing = Role { id: role.clone(), ..Role::default() };
    admin.update_role(&one, nothing, &["grants"]).await.unwrap();
    assert!(!bob.may(&one, "sessions:revoke").await);
    eventually(async || !bob.may(&two, "sessions:revoke").await).await;
    let again = Role { id: role.clone(), grants: vec![allow("sessions:revoke")], ..Role::default() };
    admin.update_role(&two, again, &["grants"]).await.unwrap();
    eventually(async || bob.may(&one, "sessions:revoke").await).await;
    admin.unassign(&two, &bob, &role).await.unwrap();
    assert!(!bob.may(&two, "sessions:revoke").await);
    eventually(async || !bob.may(&one, "sessions:revoke").await).await;
    // Built-in ones too.
    admin.assign(&one, &bob, ADMIN).await.unwrap();
    eventually(async || bob.may(&two, "roles:delete").await).await;
    admin.unassign(&two, &bob, ADMIN).await.unwrap();
    eventually(async || !bob.may(&one, "roles:delete").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_change_still_holds_on_the_other_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let (admin, bob) = (world.administrator(&one, "admin").await, one.user("bob").await);
    let role = admin.role(&one, "security", &[allow("sessions:revoke")]).await;
    admin.assign(&one, &bob, &role).await.unwrap();
    eventually(async || bob.may(&two, "sessions:revoke").await).await;
    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    admin.unassign(&one, &bob, &role).await.unwrap();
    eventually(async || !bob.may(&two, "sessions:revoke").await).await;
    admin.assign(&two, &bob, ADMIN).await.unwrap();
    eventually(async || bob.may(&one, "roles:delete").await).await;
    redis.start_again().unwrap();
    for node in [&one, &two] {
        eventually(async || node.server.app.bus.is_up()).await;
    }
    admin.unassign(&one, &bob, ADMIN).await.unwrap();
    eventually(async || !bob.may(&two, "roles:delete").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_ends_on_time() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (admin, bob) = (world.administrator(&one, "admin").await, one.user("bob").await);
    let role = admin.role(&one, "security", &[allow("sessions:revoke")]).await;
    let until = world.clock.now() + Duration::from_secs(60);
    let expires_at = Some(prost_types::Timestamp { seconds: until.timestamp(), nanos: 0 });
    let request = AssignRoleRequest { account_id: bob.id.clone(), role_id: role.clone(), expires_at };
    admin.roles(&one).assign_role(request).await.unwrap();
    let id = bob.conversation(&one, &[&admin]).await;
    let mut watching = Events::open(&one, &bob, &id, "", None).await;
    for node in [&one, &two] {
        eventually(async || bob.may(node, "sessions:revoke").await).await;
    }
    world.clock.advance(Duration::from_secs(61));
    for node in [&one, &two] {
        assert!(!bob.may(node, "sessions:revoke").await);
    }
    // What was begun with more than that ends.
    assert_eq!(soon(watching.next()).await.unwrap().data["error"]["reason"], "SERVICE_UNAVAILABLE");
    let listed = admin.get(&two, &format!("/v1/accounts/{}/roles", bob.id)).await.ok();
    assert_eq!(listed["assignments"].as_array().unwrap().len(), 1);
    // Nobody who had it hands it on.
    assert_eq!(rialto::domains::roles::jobs::delete_expired_assignments(&one.server.app).await.unwrap(), 1);
    assert_eq!(world.count("account_roles").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_what_its_caller_may_do_changes() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (admin, bob) = (world.administrator(&one, "admin").await, one.user("bob").await);
    let id = bob.conversation(&one, &[&admin]).await;
    let mut by_bob = subscribe(&two, &bob, &id, None).await;
    let mut by_admin = subscribe(&two, &admin, &id, None).await;
    let role = admin.role(&one, "blind", &[deny("conversations:read")]).await;
    // A role that nobody has yet changes nothing for them.
    admin.send(&one, &id, "1").await;
    assert!(soon(by_bob.message()).await.unwrap().is_some());
    admin.assign(&one, &bob, &role).await.unwrap();
    let ended = soon(by_bob.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    bob.get(&two, &format!("/v1/conversations/{id}")).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    assert!(soon(by_admin.message()).await.unwrap().is_some());

    // Also when somebody changed the account by hand.
    let by_hand = format!("UPDATE accounts SET role = 'admin' WHERE id = '{}'", bob.id);
    world.database().await.batch_execute(&by_hand).await.unwrap();
    let demote = format!("UPDATE accounts SET role = 'user' WHERE id = '{}'", admin.id);
    world.database().await.batch_execute(&demote).await.unwrap();
    assert_eq!(soon(by_admin.message()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_asks_no_database_while_nothing_changed() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let role = admin.role(&node, "reader", &[allow("roles:read"), deny("roles:delete")]).await;
    admin.assign(&node, &bob, &role).await.unwrap();
    assert!(bob.may(&node, "roles:read").await);
    let away = "ALTER TABLE account_roles RENAME TO away1; ALTER TABLE role_grants RENAME TO away2; \
                ALTER TABLE role_parents RENAME TO away3; ALTER TABLE roles RENAME TO away4";
    world.database().await.batch_execute(away).await.unwrap();
    for _ in 0..20 {
        assert!(bob.may(&node, "roles:read").await && !bob.may(&node, "roles:delete").await);
    }
    // To see that this would have noticed.
    assert_eq!(bob.get(&node, "/v1/roles").await.status, 500);
}

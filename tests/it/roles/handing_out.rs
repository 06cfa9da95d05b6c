//! Who may hand out roles, and what no two people can do to each other.

use diesel_async::SimpleAsyncConnection;
use rialto::proto::rialto::roles::v1::{DeleteRoleRequest, Role};
use serde_json::json;
use tonic::Code;

use super::{ADMIN, MODERATOR, USER, allow, deny, not_held, own};
use crate::harness::{World, eventually, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn inheritance_makes_no_cycle_also_when_two_edits_meet() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let admin = world.administrator(&one, "admin").await;
    let role = async |name: String, parents: &[&str]| admin.new_role(&one, &name, &[], parents).await.unwrap();
    let (a, b, c) = (role("a".into(), &[]).await, role("b".into(), &[]).await, role("c".into(), &[]).await);
    let inherit = |node, child: &Role, parent: &Role| {
        let (admin, change) = (admin.clone(), Role { parent_ids: vec![parent.id.clone()], ..child.clone() });
        async move { admin.update_role(node, Role { etag: String::new(), ..change }, &["parent_ids"]).await }
    };
    inherit(&one, &a, &b).await.unwrap();
    inherit(&two, &b, &c).await.unwrap();
    for child in [&c, &b] {
        assert_eq!(refusal(inherit(&one, child, &a).await), (Code::FailedPrecondition, "ROLE_CYCLE".into()));
    }
    assert_eq!(refusal(inherit(&two, &a, &a).await).1, "ROLE_CYCLE");
    for round in 0..10 {
        let (x, y) = (role(format!("x{round}"), &[]).await, role(format!("y{round}"), &[]).await);
        let (left, right) = tokio::join!(inherit(&one, &x, &y), inherit(&two, &y, &x));
        let refused = if left.is_ok() { right } else { left };
        assert_eq!(refusal(refused), (Code::FailedPrecondition, "ROLE_CYCLE".into()));
    }
    assert_eq!(world.count("role_parents").await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hands_out_what_they_do_not_hold() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob, eve) = (world.administrator(&node, "admin").await, node.user("bob").await, node.user("eve").await);
    let grants = [allow("roles:*"), own(allow("conversations:read"))];
    let manager = admin.role(&node, "manager", &grants).await;
    let security = admin.role(&node, "security", &[allow("sessions:revoke")]).await;
    let muted = admin.role(&node, "muted", &[deny("messages:send")]).await;
    let exiled = admin.role(&node, "exiled", &[deny("sessions:revoke")]).await;
    admin.assign(&node, &bob, &manager).await.unwrap();
    admin.assign(&node, &eve, &exiled).await.unwrap();

    for beyond in ["*", "sessions:revoke", "sessions:*", "conversations:*", "messages:*"] {
        for grant in [allow(beyond), deny(beyond)] {
            not_held(bob.new_role(&node, "more", &[grant], &[]).await);
        }
        let body = json!({ "name": "more", "grants": [{ "permission": beyond }] });
        bob.post(&node, "/v1/roles", body).await.refused(403, "GRANT_NOT_HELD", 1005);
    }
    not_held(bob.new_role(&node, "by a parent", &[], &[&security]).await);
    not_held(bob.new_role(&node, "by a parent", &[], &[ADMIN]).await);
    for (account, role) in [(&bob, ADMIN), (&eve, ADMIN), (&bob, security.as_str())] {
        not_held(bob.assign(&node, account, role).await);
    }
    // Taking a denial back gives as much as a grant; and an administrator is not made a user by somebody who is less.
    not_held(bob.unassign(&node, &eve, &exiled).await);
    not_held(bob.roles(&node).delete_role(DeleteRoleRequest { role_id: exiled, etag: String::new() }).await);
    not_held(bob.unassign(&node, &admin, ADMIN).await);
    not_held(bob.assign(&node, &admin, USER).await);
    // Neither a role that grants more, nor one's own made more.
    let more = Role { id: security.clone(), grants: vec![], ..Role::default() };
    not_held(bob.update_role(&node, more, &["grants"]).await);
    let mine = bob.new_role(&node, "mine", &[own(allow("conversations:read"))], &[USER]).await.unwrap();
    let wider = Role { grants: vec![allow("sessions:revoke")], ..mine.clone() };
    not_held(bob.update_role(&node, wider, &["grants"]).await);
    let heir = Role { parent_ids: vec![ADMIN.into()], ..mine.clone() };
    not_held(bob.update_role(&node, heir, &["parent_ids"]).await);
    assert!(!bob.may(&node, "sessions:revoke").await && !eve.may(&node, "roles:assign").await);
    assert_eq!(world.count("accounts WHERE role = 'admin'").await, 1);

    // What he holds, he hands on.
    bob.assign(&node, &eve, &mine.id).await.unwrap();
    bob.assign(&node, &eve, &muted).await.unwrap();
    bob.assign(&node, &eve, &manager).await.unwrap();
    assert!(eve.may(&node, "roles:assign").await && !eve.may(&node, "messages:send").await);
    // She is denied what the role denies, and so can't hand it on or take it from herself.
    not_held(eve.unassign(&node, &eve, &muted).await);
    assert_eq!(refusal(eve.assign(&node, &bob, &uuid::Uuid::nil().to_string()).await).0, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_lost_meanwhile_is_not_handed_out() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let manager = admin.role(&node, "manager", &[allow("roles:*")]).await;
    admin.assign(&node, &bob, &manager).await.unwrap();
    assert!(bob.may(&node, "roles:create").await);
    // Behind the node's back, so that its gate still lets him in.
    world.database().await.batch_execute("DELETE FROM account_roles").await.unwrap();
    let refused = refusal(bob.new_role(&node, "too late", &[], &[]).await);
    assert_eq!(refused, (Code::PermissionDenied, "INSUFFICIENT_PERMISSIONS".into()));
    assert_eq!(world.count("roles").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_stays_also_when_two_demote_each_other() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (world.administrator(&one, "ann").await, world.administrator(&two, "bob").await);
    for _ in 0..5 {
        let (left, right) = tokio::join!(ann.unassign(&one, &bob, ADMIN), bob.assign(&two, &ann, MODERATOR));
        assert_eq!(u8::from(left.is_ok()) + u8::from(right.is_ok()), 1, "{left:?} {right:?}");
        let (last, lost, at) = if left.is_ok() { (&ann, &bob, &one) } else { (&bob, &ann, &two) };
        for refused in [last.unassign(at, last, ADMIN).await, last.assign(at, last, USER).await] {
            assert_eq!(refusal(refused), (Code::FailedPrecondition, "LAST_ADMINISTRATOR".into()));
        }
        last.assign(at, lost, ADMIN).await.unwrap();
        for (node, user) in [(&one, &ann), (&two, &bob)] {
            eventually(async || user.get(node, "/v1/roles").await.status == 200).await;
        }
    }
    // Whatever changes accounts: the database keeps one, also from a statement that would take all.
    let mut database = world.database().await;
    for all in [
        "UPDATE accounts SET state = 'suspended'",
        "UPDATE accounts SET role = 'user'",
        "UPDATE accounts SET state = 'deleted' WHERE role = 'admin'",
        "DELETE FROM accounts",
    ] {
        assert!(database.batch_execute(all).await.is_err(), "{all}");
    }
    let one_of_two = format!("UPDATE accounts SET state = 'suspended' WHERE id = '{}'", ann.id);
    database.batch_execute(&one_of_two).await.unwrap();
    assert!(database.batch_execute("UPDATE accounts SET state = 'suspended' WHERE role = 'admin'").await.is_err());
}

//! Who did what to whom: the audit log of what administrators do.

use diesel::sql_types::{Jsonb, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::RejectAccountRequest;
use rialto::proto::rialto::users::v1::{BatchSuspendUsersRequest, BlockUserRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{User, World};

const MODERATOR: &str = "00000000-0000-7000-8000-000000000003";

#[derive(diesel::QueryableByName, Debug)]
struct Entry {
    #[diesel(sql_type = Text)]
    method: String,
    #[diesel(sql_type = SmallInt)]
    grpc_code: i16,
    #[diesel(sql_type = Nullable<Text>)]
    target_kind: Option<String>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    target_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    before: Option<Value>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    after: Option<Value>,
}

/// What somebody did since the last time.
async fn deeds(world: &World, by: &User) -> Vec<Entry> {
    let query = format!("DELETE FROM audit_log WHERE account_id = '{}' RETURNING *", by.id);
    let query = format!("WITH deeds AS ({query}) SELECT * FROM deeds ORDER BY id");
    diesel::sql_query(query).load(&mut world.database().await).await.unwrap()
}

/// The one thing that somebody did: method, code, target, before, after.
async fn deed(world: &World, by: &User) -> (String, i16, Option<(String, String)>, Value, Value) {
    let mut entries = deeds(world, by).await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let entry = entries.remove(0);
    let method = entry.method.rsplit_once('/').unwrap().1.to_owned();
    let target = entry.target_kind.zip(entry.target_id.map(|id| id.to_string()));
    (method, entry.grpc_code, target, entry.before.unwrap_or_default(), entry.after.unwrap_or_default())
}

fn to(kind: &str, id: &str) -> Option<(String, String)> {
    Some((kind.into(), id.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_administrators_do_to_accounts_is_in_the_audit_log_with_whom() {
    let mut world = World::new().await;
    let first = world.node().await;
    let (admin, bob, eve) =
        (world.administrator(&first, "admin").await, first.user("bob").await, first.user("eve").await);
    world.config.auth.require_approval = true;
    let node = world.node().await;
    let mut pending = Vec::new();
    for name in ["new1", "new2"] {
        let body = json!({ "email": format!("{name}@example.com"), "password": crate::harness::PASSWORD, "display_name": name });
        let account = node.rest(Method::POST, "/v1/auth/register", None, Some(body)).await.ok();
        pending.push(account["id"].as_str().unwrap().to_owned());
    }
    deeds(&world, &admin).await;
    let account = |id: &str, action: &str| format!("/v1/auth/accounts/{id}/{action}");
    let state = |state: &str| json!({ "state": state });
    let (none, of_bob) = (Value::Null, to("account", &bob.id));

    admin.post(&node, &account(&pending[0], "approve"), json!({})).await.ok();
    let approved = ("ApproveAccount".into(), 0, to("account", &pending[0]), state("pending"), state("active"));
    assert_eq!(deed(&world, &admin).await, approved);
    let request = RejectAccountRequest { account_id: pending[1].clone(), reason: "no".into() };
    admin.auth(&node).reject_account(request).await.unwrap();
    let rejected = ("RejectAccount".into(), 0, to("account", &pending[1]), state("pending"), state("rejected"));
    assert_eq!(deed(&world, &admin).await, rejected);
    admin.post(&node, &account(&bob.id, "suspend"), json!({})).await.ok();
    let suspended = ("SuspendAccount".into(), 0, of_bob.clone(), state("active"), state("suspended"));
    assert_eq!(deed(&world, &admin).await, suspended);
    // What failed says whom it was about, too, and changed nothing.
    admin.post(&node, &account(&bob.id, "suspend"), json!({})).await.refused(409, "ACCOUNT_STATE_CONFLICT", 3003);
    let again = ("SuspendAccount".into(), 9, of_bob.clone(), none.clone(), none.clone());
    assert_eq!(deed(&world, &admin).await, again);
    admin.post(&node, &account(&bob.id, "reinstate"), json!({})).await.ok();
    let reinstated = ("ReinstateAccount".into(), 0, of_bob.clone(), state("suspended"), state("active"));
    assert_eq!(deed(&world, &admin).await, reinstated);
    admin.post(&node, &account(&bob.id, "revoke-sessions"), json!({})).await.ok();
    let revoked = ("RevokeSessions".into(), 0, of_bob.clone(), none.clone(), none.clone());
    assert_eq!(deed(&world, &admin).await, revoked);
    let reset = admin.post(&node, &format!("/v1/twofa/accounts/{}/reset", bob.id), json!({})).await;
    reset.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
    assert_eq!(deed(&world, &admin).await, ("Reset".into(), 9, of_bob.clone(), none.clone(), none.clone()));
    admin.call(&node, Method::PATCH, &format!("/v1/users/{}", bob.id), json!({ "bio": "x" })).await.ok();
    assert_eq!(deed(&world, &admin).await, ("UpdateUser".into(), 0, of_bob.clone(), none.clone(), none.clone()));
    admin.delete(&node, &format!("/v1/users/{}", bob.id)).await.ok();
    assert_eq!(deed(&world, &admin).await, ("DeleteUser".into(), 0, of_bob.clone(), state("active"), state("deleted")));

    // A batch has an entry for each.
    let request = BatchSuspendUsersRequest { user_ids: vec![eve.id.clone(), bob.id.clone()], reinstate: false };
    admin.users(&node).batch_suspend_users(request).await.unwrap();
    let mut entries = deeds(&world, &admin).await;
    // Ids of one millisecond are in no order.
    entries.sort_by_key(|entry| entry.grpc_code);
    let codes: Vec<_> = entries.iter().map(|entry| (entry.target_id.unwrap().to_string(), entry.grpc_code)).collect();
    assert_eq!(codes, [(eve.id.clone(), 0), (bob.id.clone(), 5)]);
    assert_eq!(entries[0].after, Some(state("suspended")));

    // And what people do to each other.
    let ann = first.user("ann").await;
    deeds(&world, &ann).await;
    ann.users(&node).block_user(BlockUserRequest { user_id: eve.id.clone() }).await.unwrap();
    assert_eq!(deed(&world, &ann).await, ("BlockUser".into(), 0, to("account", &eve.id), none.clone(), none));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_roles_are_in_the_audit_log_with_what_was_before() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    deeds(&world, &admin).await;
    let grants = json!([
        { "permission": "messages:*" },
        { "permission": "conversations:read", "deny": true, "condition": "CONDITION_OWN" },
    ]);
    let role = admin.post(&node, "/v1/roles", json!({ "name": "Editors", "grants": grants })).await.ok();
    let id = role["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/roles/{id}");
    let first = json!({
        "name": "Editors", "description": "", "parents": [],
        "grants": ["allow messages:*", "deny conversations:read (own)"],
    });
    let of_role = to("role", &id);
    assert_eq!(deed(&world, &admin).await, ("CreateRole".into(), 0, of_role.clone(), Value::Null, first.clone()));

    let change = json!({ "grants": [{ "permission": "messages:send" }], "parentIds": [MODERATOR] });
    admin.call(&node, Method::PATCH, &path, change).await.ok();
    let second =
        json!({ "name": "Editors", "description": "", "parents": [MODERATOR], "grants": ["allow messages:send"] });
    assert_eq!(deed(&world, &admin).await, ("UpdateRole".into(), 0, of_role.clone(), first, second.clone()));

    let (of_bob, assignments) = (to("account", &bob.id), format!("/v1/accounts/{}/roles", bob.id));
    let assigned = json!({ "role": "Editors", "role_id": id, "expires_at": null });
    admin.post(&node, &assignments, json!({ "role_id": id })).await.ok();
    assert_eq!(deed(&world, &admin).await, ("AssignRole".into(), 0, of_bob.clone(), Value::Null, assigned.clone()));
    let built_in =
        |name: &str, number: u8| json!({ "role": name, "role_id": format!("00000000-0000-7000-8000-{number:012}") });
    admin.post(&node, &assignments, json!({ "role_id": MODERATOR })).await.ok();
    let promoted = ("AssignRole".into(), 0, of_bob.clone(), built_in("user", 1), built_in("moderator", 3));
    assert_eq!(deed(&world, &admin).await, promoted);
    admin.delete(&node, &format!("{assignments}/{MODERATOR}")).await.ok();
    let demoted = ("UnassignRole".into(), 0, of_bob.clone(), built_in("moderator", 3), built_in("user", 1));
    assert_eq!(deed(&world, &admin).await, demoted);
    admin.delete(&node, &format!("{assignments}/{id}")).await.ok();
    assert_eq!(deed(&world, &admin).await, ("UnassignRole".into(), 0, of_bob.clone(), assigned, Value::Null));
    admin.delete(&node, &format!("{assignments}/{id}")).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    assert_eq!(deed(&world, &admin).await, ("UnassignRole".into(), 5, of_bob, Value::Null, Value::Null));
    admin.delete(&node, &path).await.ok();
    assert_eq!(deed(&world, &admin).await, ("DeleteRole".into(), 0, of_role, second, Value::Null));
}

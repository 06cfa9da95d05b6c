//! Roles: what they grant, who may hand them out, and that changes hold everywhere at once.

mod everywhere;
mod handing_out;

use reqwest::Method;
use rialto::proto::rialto::messaging::v1::{ListConversationsRequest, ListMessagesRequest};
use rialto::proto::rialto::policy::v1::Condition;
use rialto::proto::rialto::roles::v1::{
    AssignRoleRequest, CheckPermissionsRequest, CreateRoleRequest, DeleteRoleRequest, GetMyAbilitiesRequest,
    GetRoleRequest, Grant, ListAccountRolesRequest, ListRolesRequest, Role, UnassignRoleRequest, UpdateRoleRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Node, User, World, refusal};

const ADMIN: &str = "00000000-0000-7000-8000-000000000002";
const USER: &str = "00000000-0000-7000-8000-000000000001";
const MODERATOR: &str = "00000000-0000-7000-8000-000000000003";

fn allow(permission: &str) -> Grant {
    Grant { permission: permission.into(), ..Grant::default() }
}

fn deny(permission: &str) -> Grant {
    Grant { deny: true, ..allow(permission) }
}

fn own(grant: Grant) -> Grant {
    Grant { condition: Condition::Own.into(), ..grant }
}

fn titled(grant: Grant, title: &str) -> Grant {
    let (attribute, value) = ("title".into(), title.into());
    Grant { condition: Condition::Equals.into(), attribute, value, ..grant }
}

impl User {
    async fn new_role(
        &self,
        node: &Node,
        name: &str,
        grants: &[Grant],
        parents: &[&str],
    ) -> Result<Role, tonic::Status> {
        let parent_ids = parents.iter().map(|id| (*id).to_owned()).collect();
        let request =
            CreateRoleRequest { name: name.into(), description: String::new(), grants: grants.to_vec(), parent_ids };
        Ok(self.roles(node).create_role(request).await?.into_inner().role.unwrap())
    }

    async fn role(&self, node: &Node, name: &str, grants: &[Grant]) -> String {
        self.new_role(node, name, grants, &[]).await.unwrap().id
    }

    async fn update_role(&self, node: &Node, role: Role, paths: &[&str]) -> Result<Role, tonic::Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let role_id = role.id.clone();
        let request =
            UpdateRoleRequest { role_id, role: Some(role), update_mask: Some(prost_types::FieldMask { paths }) };
        Ok(self.roles(node).update_role(request).await?.into_inner().role.unwrap())
    }

    async fn assign(&self, node: &Node, account: &User, role: &str) -> Result<(), tonic::Status> {
        let request = AssignRoleRequest { account_id: account.id.clone(), role_id: role.into(), expires_at: None };
        self.roles(node).assign_role(request).await.map(drop)
    }

    async fn unassign(&self, node: &Node, account: &User, role: &str) -> Result<(), tonic::Status> {
        let request = UnassignRoleRequest { account_id: account.id.clone(), role_id: role.into() };
        self.roles(node).unassign_role(request).await.map(drop)
    }

    async fn may(&self, node: &Node, permission: &str) -> bool {
        let request = CheckPermissionsRequest { permissions: vec![permission.into()], account_id: None };
        self.roles(node).check_permissions(request).await.unwrap().into_inner().checks[0].allowed
    }
}

fn not_held<T: std::fmt::Debug>(result: Result<T, tonic::Status>) {
    assert_eq!(refusal(result), (Code::PermissionDenied, "GRANT_NOT_HELD".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_made_read_changed_listed_and_deleted_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "admin").await;
    let mut client = admin.roles(&node);

    let made =
        admin.new_role(&node, "Editors", &[allow("messages:*"), own(deny("conversations:read"))], &[MODERATOR]).await;
    let made = made.unwrap();
    assert_eq!((made.name.as_str(), made.built_in, made.created_by.as_str()), ("Editors", false, admin.id.as_str()));
    assert_eq!(
        (made.grants[1].condition(), made.parent_ids.as_slice()),
        (Condition::Own, [MODERATOR.to_owned()].as_slice())
    );
    let read = client.get_role(GetRoleRequest { role_id: made.id.clone() }).await.unwrap().into_inner().role.unwrap();
    assert_eq!(read, made);

    // Only what the mask names.
    let change = Role { name: "Writers".into(), etag: made.etag.clone(), ..made.clone() };
    let changed = admin.update_role(&node, Role { grants: vec![], ..change.clone() }, &["name"]).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.grants.len()), ("Writers", 2));
    // The state that this change was made from is gone.
    assert_eq!(refusal(admin.update_role(&node, change, &["name"]).await), (Code::Aborted, "RESOURCE_CONFLICT".into()));
    let unknown = admin.update_role(&node, changed.clone(), &["nmae"]).await;
    assert_eq!(refusal(unknown).0, Code::InvalidArgument);
    assert_eq!(refusal(admin.new_role(&node, "writers", &[], &[]).await).0, Code::AlreadyExists);

    let listed = client.list_roles(ListRolesRequest::default()).await.unwrap().into_inner().roles;
    let names: Vec<_> = listed.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["user", "admin", "moderator", "support", "Writers"]);
    assert!(listed[0].grants.iter().any(|grant| grant.permission == "messages:send"));
    let mut request = ListRolesRequest { page_size: 2, ..ListRolesRequest::default() };
    let mut pages = Vec::new();
    loop {
        let page = client.list_roles(request.clone()).await.unwrap().into_inner();
        pages.push(page.roles.len());
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [2, 2, 1]);

    let stale = DeleteRoleRequest { role_id: made.id.clone(), etag: made.etag };
    assert_eq!(refusal(client.delete_role(stale).await).0, Code::Aborted);
    client.delete_role(DeleteRoleRequest { role_id: made.id.clone(), etag: changed.etag }).await.unwrap();
    assert_eq!(refusal(client.get_role(GetRoleRequest { role_id: made.id }).await).0, Code::NotFound);
    for built_in in [USER, ADMIN] {
        let change = Role { id: built_in.into(), name: "mine".into(), ..Role::default() };
        assert_eq!(refusal(admin.update_role(&node, change, &["name"]).await).1, "ROLE_BUILT_IN");
        let delete = DeleteRoleRequest { role_id: built_in.into(), etag: String::new() };
        assert_eq!(refusal(client.delete_role(delete).await).1, "ROLE_BUILT_IN");
    }
    for (method, code, count) in
        [("CreateRole", 0, 1), ("UpdateRole", 0, 1), ("UpdateRole", 9, 2), ("DeleteRole", 0, 1)]
    {
        let entries = format!(
            "audit_log WHERE method = '/rialto.roles.v1.RoleService/{method}' AND grpc_code = {code} AND account_id = '{}'",
            admin.id
        );
        assert_eq!(world.count(&entries).await, count, "{method} {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_made_changed_assigned_and_checked_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let body = json!({ "name": "Security", "grants": [{ "permission": "sessions:revoke" }] });
    let role = admin.post(&node, "/v1/roles", body).await.ok();
    let path = format!("/v1/roles/{}", role["id"].as_str().unwrap());

    let patch = json!({ "description": "Ends sessions.", "etag": role["etag"] });
    let patched = node.rest(Method::PATCH, &path, Some(&admin.token), Some(patch)).await.ok();
    assert_eq!((patched["name"].as_str(), patched["description"].as_str()), (Some("Security"), Some("Ends sessions.")));
    // A PATCH that names nothing changes nothing.
    for nothing in [json!({}), Value::Null] {
        let same = node.rest(Method::PATCH, &path, Some(&admin.token), Some(nothing)).await.ok();
        assert_eq!((&same["name"], &same["grants"]), (&patched["name"], &patched["grants"]));
    }
    let patched = admin.get(&node, &path).await.ok();
    // As it was read, with one change; PUT sets everything.
    let mut whole = patched.clone();
    whole["description"] = json!("");
    let put = node.rest(Method::PUT, &path, Some(&admin.token), Some(whole)).await.ok();
    assert_eq!((put["name"].as_str(), put["description"].as_str()), (Some("Security"), Some("")));
    let stale = node.rest(Method::PATCH, &path, Some(&admin.token), Some(patched)).await;
    stale.refused(409, "RESOURCE_CONFLICT", 3003);
    assert_eq!(stale.fields(), ["etag"]);

    let of_bob = format!("/v1/accounts/{}/roles", bob.id);
    let assigned = admin.post(&node, &of_bob, json!({ "role_id": role["id"] })).await.ok();
    assert_eq!(assigned["roleName"], "Security");
    let list = admin.get(&node, &of_bob).await.ok();
    let names: Vec<_> =
        list["assignments"].as_array().unwrap().iter().map(|one| one["roleName"].as_str().unwrap()).collect();
    assert_eq!(names, ["user", "Security"]);
    bob.get(&node, &of_bob).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);

    let check = json!({ "permissions": ["sessions:revoke", "roles:read", "no:such"] });
    let checks = bob.post(&node, "/v1/roles/check-permissions", check.clone()).await.ok();
    let allowed: Vec<_> =
        checks["checks"].as_array().unwrap().iter().map(|one| one["allowed"].as_bool().unwrap()).collect();
    assert_eq!(allowed, [true, false, false]);
    let mut for_other = check;
    for_other["account_id"] = json!(admin.id);
    bob.post(&node, "/v1/roles/check-permissions", for_other.clone()).await.refused(
        403,
        "INSUFFICIENT_PERMISSIONS",
        1005,
    );
    for_other["account_id"] = json!(bob.id);
    assert_eq!(admin.post(&node, "/v1/roles/check-permissions", for_other).await.ok(), checks);

    let unassign = format!("{of_bob}/{}", role["id"].as_str().unwrap());
    node.rest(Method::DELETE, &unassign, Some(&admin.token), None).await.ok();
    node.rest(Method::DELETE, &unassign, Some(&admin.token), None).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    assert!(!bob.may(&node, "sessions:revoke").await);

    for (body, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": " " }), "name"),
        (json!({ "name": "x", "grants": [{ "permission": "messages:fly" }] }), "grants[0].permission"),
        (
            json!({ "name": "x", "grants": [{ "permission": "messages:send", "condition": "CONDITION_OWN" }] }),
            "grants[0].condition",
        ),
        (
            json!({ "name": "x", "grants": [{ "permission": "*", "condition": "CONDITION_EQUALS", "attribute": "no" }] }),
            "grants[0].attribute",
        ),
        (json!({ "name": "x", "parent_ids": [bob.id] }), "parent_ids[0]"),
    ] {
        let answer = admin.post(&node, "/v1/roles", body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field]);
    }
    let expired = json!({ "role_id": role["id"], "expires_at": "2020-01-01T00:00:00Z" });
    assert_eq!(admin.post(&node, &of_bob, expired).await.fields(), ["expires_at"]);
    let temporary = json!({ "role_id": MODERATOR, "expires_at": "2099-01-01T00:00:00Z" });
    assert_eq!(admin.post(&node, &of_bob, temporary).await.fields(), ["expires_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_inherited_and_a_denial_wins_but_not_over_administrators() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let base = admin.role(&node, "base", &[allow("sessions:revoke")]).await;
    let middle = admin.new_role(&node, "middle", &[], &[&base]).await.unwrap();
    let top = admin.new_role(&node, "top", &[allow("roles:read")], &[&middle.id]).await.unwrap();
    admin.assign(&node, &bob, &top.id).await.unwrap();
    assert!(bob.may(&node, "sessions:revoke").await && bob.may(&node, "roles:read").await);
    assert!(!bob.may(&node, "roles:assign").await);

    // Inherited from one parent, denied by another role.
    let denied = admin.role(&node, "no sessions", &[deny("sessions:*"), deny("messages:send")]).await;
    admin.assign(&node, &bob, &denied).await.unwrap();
    assert!(!bob.may(&node, "sessions:revoke").await && bob.may(&node, "roles:read").await);
    let id = bob.conversation(&node, &[&admin]).await;
    let message = json!({ "client_message_id": "1", "text": "hi" });
    let path = format!("/v1/conversations/{id}/messages");
    bob.post(&node, &path, message.clone()).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);

    admin.assign(&node, &admin, &denied).await.unwrap();
    assert!(admin.may(&node, "sessions:revoke").await);
    admin.post(&node, &path, message.clone()).await.ok();

    // A role that is gone gives and takes nothing, and is inherited by nobody.
    let delete = DeleteRoleRequest { role_id: denied, etag: String::new() };
    admin.roles(&node).delete_role(delete).await.unwrap();
    bob.post(&node, &path, message).await.ok();
    admin.roles(&node).delete_role(DeleteRoleRequest { role_id: base, etag: String::new() }).await.unwrap();
    assert!(!bob.may(&node, "sessions:revoke").await && bob.may(&node, "roles:read").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_part_of_the_query() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let mut by_admin = Vec::new();
    for index in 0..4 {
        let body = json!({ "member_ids": [bob.id], "title": if index == 2 { "secret" } else { "open" } });
        by_admin.push(admin.post(&node, "/v1/conversations", body).await.ok()["id"].as_str().unwrap().to_owned());
        // What bob may not see lies between what he may.
        bob.conversation(&node, &[&admin]).await;
    }
    let grants = [own(deny("conversations:read")), titled(deny("conversations:*"), "secret")];
    let role = admin.role(&node, "sees no own and no secret ones", &grants).await;
    admin.assign(&node, &bob, &role).await.unwrap();
    // A conversation can't be started under a condition: the denial of `conversations:*` covers that wholly.
    let create = json!({ "member_ids": [admin.id] });
    bob.post(&node, "/v1/conversations", create).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);

    let mut seen = Vec::new();
    let mut request = ListConversationsRequest { page_size: 2, ..Default::default() };
    loop {
        let page = bob.messaging(&node).list_conversations(request.clone()).await.unwrap().into_inner();
        // A page is full as long as there is more: nothing was taken out of it afterwards.
        assert!(page.conversations.len() == 2 || page.next_page_token.is_empty());
        seen.extend(page.conversations.into_iter().map(|conversation| conversation.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [&by_admin[3], &by_admin[1], &by_admin[0]].map(String::clone));
    bob.get(&node, &format!("/v1/conversations/{}", by_admin[0])).await.ok();
    bob.get(&node, &format!("/v1/conversations/{}", by_admin[2])).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    let messages = ListMessagesRequest { conversation_id: by_admin[2].clone(), ..ListMessagesRequest::default() };
    assert_eq!(refusal(bob.messaging(&node).list_messages(messages).await).0, Code::NotFound);

    // Somebody who reads, makes and changes only roles of their own.
    let grants = ["roles:read", "roles:update", "roles:assign"].map(|permission| own(allow(permission)));
    let keeper = admin.role(&node, "keeper", &[&grants[..], &[allow("roles:create")]].concat()).await;
    admin.assign(&node, &bob, &keeper).await.unwrap();
    let mine = bob.new_role(&node, "of bob", &[], &[]).await.unwrap();
    let listed = bob.roles(&node).list_roles(ListRolesRequest::default()).await.unwrap().into_inner().roles;
    assert_eq!(listed.iter().map(|role| &role.id).collect::<Vec<_>>(), [&mine.id]);
    assert_eq!(refusal(bob.roles(&node).get_role(GetRoleRequest { role_id: keeper.clone() }).await).0, Code::NotFound);
    let other = Role { id: keeper, name: "stolen".into(), ..Role::default() };
    assert_eq!(refusal(bob.update_role(&node, other, &["name"]).await).0, Code::NotFound);
    assert_eq!(refusal(bob.assign(&node, &bob, USER).await).0, Code::NotFound);
    let eve = node.user("eve").await;
    bob.assign(&node, &eve, &mine.id).await.unwrap();
    let of_eve = ListAccountRolesRequest { account_id: eve.id.clone() };
    let of_eve = bob.roles(&node).list_account_roles(of_eve).await.unwrap().into_inner().assignments;
    assert_eq!(of_eve.iter().map(|one| &one.role_id).collect::<Vec<_>>(), [&mine.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn abilities_are_packed_as_casl_reads_them() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let rules = async |user: &User| user.get(&node, "/v1/roles/my-abilities").await.ok()["rules"].clone();
    assert_eq!(rules(&admin).await, json!([["manage", "all"]]));
    let packed = rules(&bob).await;
    assert!(packed.as_array().unwrap().contains(&json!(["create,read,update", "conversations"])), "{packed}");
    let grants = [
        own(deny("conversations:read")),
        titled(deny("conversations:read"), "secret"),
        own(allow("roles:read")),
        own(allow("roles:update")),
    ];
    let role = admin.role(&node, "limited", &grants).await;
    admin.assign(&node, &bob, &role).await.unwrap();
    let packed = rules(&bob).await;
    let of = |subject: &str| -> Vec<&Value> {
        packed.as_array().unwrap().iter().filter(|rule| rule[1] == subject).collect()
    };
    assert_eq!(
        of("conversations"),
        [
            &json!(["create,read,update", "conversations"]),
            &json!(["read", "conversations", { "createdBy": bob.id }, 1]),
            &json!(["read", "conversations", { "title": "secret" }, 1]),
        ]
    );
    assert_eq!(of("roles"), [&json!(["read,update", "roles", { "createdBy": bob.id }])]);
    let over_grpc = bob.roles(&node).get_my_abilities(GetMyAbilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(over_grpc.rules.len(), packed.as_array().unwrap().len());
}

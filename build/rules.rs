//! The rule table: what `rialto.policy.v1.policy` says of each method, and the catalogue of permissions.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use prost_reflect::{DescriptorPool, DynamicMessage, FileDescriptor, MethodDescriptor, Value};
use prost_types::method_options::IdempotencyLevel;

/// Rust source of `RULES`, sorted by path, and `PERMISSIONS`, sorted by name.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let permissions = permissions(pool)?;
    let mut rules = BTreeMap::new();
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let rule =
            rule(pool, &method, &permissions).with_context(|| format!("the policy of {}", method.full_name()))?;
        rules.insert(path, rule);
    }

    let mut source = String::from("/// The rule of every method, sorted by path.\npub static RULES: &[Rule] = &[\n");
    for (path, rule) in rules {
        writeln!(source, "    Rule {{ path: {path:?}, {rule} }},")?;
    }
    source += "];\n\n/// Every permission, sorted by name.\npub static PERMISSIONS: &[Permission] = &[\n";
    for (name, fields) in permissions {
        writeln!(source, "    Permission {{ name: {name:?}, {fields} }},")?;
    }
    source += "];\n";
    Ok(source)
}

/// The fields of each `Permission` after its name.
type Permissions = BTreeMap<String, String>;

fn permissions(pool: &DescriptorPool) -> Result<Permissions> {
    let mut catalogue = Permissions::new();
    for file in pool.files() {
        for permission in file_permissions(pool, &file)? {
            let name = text(&permission, "name");
            let valid = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            ensure!(
                name.split_once(':').is_some_and(|(resource, action)| valid(resource) && valid(action)),
                "{}: permission {name:?} is not of the form resource:action",
                file.name()
            );
            ensure!(
                !name.starts_with("all:") && !name.ends_with(":manage"),
                "{}: permission {name:?}: `all` and `manage` stand for everything in the rules that clients read",
                file.name()
            );
            let fields =
                permission_fields(&permission).with_context(|| format!("{}: permission {name}", file.name()))?;
            let before = catalogue.insert(name.clone(), fields);
            ensure!(before.is_none(), "{}: permission {name} is declared twice", file.name());
        }
    }
    Ok(catalogue)
}

fn permission_fields(permission: &DynamicMessage) -> Result<String> {
    let description = text(permission, "description");
    ensure!(!description.is_empty(), "it has no description");
    let (owner_field, member_field) = (text(permission, "owner_field"), text(permission, "member_field"));
    let mut holders = Vec::new();
    for role in permission.get_field_by_name("roles").context("roles")?.as_list().unwrap_or_default() {
        holders.push(format!("({}, None)", role_name(role)?));
    }
    let conditional = permission.get_field_by_name("conditional_roles").context("conditional_roles")?;
    for holder in conditional.as_list().unwrap_or_default().iter().filter_map(Value::as_message) {
        let role = role_name(holder.get_field_by_name("role").context("role")?.as_ref())?;
        let condition = holder.get_field_by_name("condition").and_then(|condition| condition.as_enum_number());
        let condition = match condition {
            Some(1) if !owner_field.is_empty() => "Own",
            Some(2) if !member_field.is_empty() => "Member",
            _ => bail!("a built-in role holds it under a condition that the permission has no field for"),
        };
        holders.push(format!("({role}, Some(Condition::{condition}))"));
    }
    let attributes = permission.get_field_by_name("attributes").context("attributes")?;
    let attributes: Vec<_> = attributes.as_list().unwrap_or_default().iter().filter_map(Value::as_str).collect();
    Ok(format!(
        "description: {description:?}, holders: &[{}], owner_field: {owner_field:?}, member_field: {member_field:?}, \
         attributes: &{attributes:?}",
        holders.join(", ")
    ))
}

fn role_name(role: &Value) -> Result<&'static str> {
    Ok(match role.as_enum_number() {
        Some(1) => "Role::User",
        Some(2) => "Role::Admin",
        Some(3) => "Role::Moderator",
        Some(4) => "Role::Support",
        _ => bail!("it names an unknown role"),
    })
}

fn file_permissions(pool: &DescriptorPool, file: &FileDescriptor) -> Result<Vec<DynamicMessage>> {
    let extension = pool.get_extension_by_name("rialto.policy.v1.permissions").context("policy.proto is missing")?;
    let options = file.options();
    let value = options.get_extension(&extension);
    Ok(value.as_list().unwrap_or_default().iter().filter_map(Value::as_message).cloned().collect())
}

/// The fields of a `Rule` after its path.
fn rule(pool: &DescriptorPool, method: &MethodDescriptor, permissions: &Permissions) -> Result<String> {
    let extension = pool.get_extension_by_name("rialto.policy.v1.policy").context("policy.proto is missing")?;
    let options = method.options();
    ensure!(options.has_extension(&extension), "there is none");
    let value = options.get_extension(&extension);
    let policy = value.as_message().context("is not a message")?;

    let access = if flag(policy, "public") {
        "Access::Public".to_owned()
    } else if flag(policy, "authenticated") {
        "Access::Authenticated".to_owned()
    } else {
        let permission = text(policy, "permission");
        ensure!(!permission.is_empty(), "it says neither public, authenticated nor a permission");
        ensure!(permissions.contains_key(&permission), "no file declares the permission {permission:?}");
        format!("Access::Permission({permission:?})")
    };
    let rate = match policy.get_field_by_name("rate").and_then(|rate| rate.as_enum_number()) {
        Some(1) => "Default",
        Some(2) => "Write",
        Some(3) => "Message",
        Some(4) => "Authentication",
        Some(5) => "Sensitive",
        _ => bail!("it says no rate"),
    };
    let idempotency_key = flag(policy, "idempotency_key");
    let streaming = method.is_client_streaming() || method.is_server_streaming();
    ensure!(!(idempotency_key && streaming), "a streaming method can't take an idempotency key");
    ensure!(
        !idempotency_key || !access.contains("Public"),
        "a public method can't take an idempotency key: keys belong to an account"
    );
    let read_only = method.method_descriptor_proto().options.as_ref().map(|options| options.idempotency_level())
        == Some(IdempotencyLevel::NoSideEffects);
    Ok(format!(
        "access: {access}, rate: Rate::{rate}, audit: {}, idempotency_key: {idempotency_key}, streaming: {streaming}, \
         read_only: {read_only}",
        flag(policy, "audit")
    ))
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).and_then(|value| value.as_bool()).unwrap_or_default()
}

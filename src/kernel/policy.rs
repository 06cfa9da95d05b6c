//! The policy of every method and the catalogue of permissions, as `build/rules.rs` reads them out of the contract.

use crate::kernel::abilities::{Abilities, Condition};
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::kernel::rates::Rate;
use crate::proto::rialto::policy::v1::Role;

/// What holds for a method.
#[derive(Debug)]
pub struct Rule {
    /// Its gRPC path, `/package.Service/Method`.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Which limit counts it.
    pub rate: Rate,
    /// Whether it is written to the audit log.
    pub audit: bool,
    /// Whether it takes an idempotency key.
    pub idempotency_key: bool,
    /// Whether either side streams.
    pub streaming: bool,
    /// Whether it changes nothing (`idempotency_level = NO_SIDE_EFFECTS`).
    pub read_only: bool,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Any account.
    Authenticated,
    /// Accounts that hold the permission.
    Permission(&'static str),
}

/// A permission of the catalogue.
#[derive(Debug)]
pub struct Permission {
    /// `resource:action`.
    pub name: &'static str,
    /// What it allows.
    pub description: &'static str,
    /// The built-in roles that hold it, besides those that inherit it, for every object or under a condition.
    pub holders: &'static [(Role, Option<Condition>)],
    /// The field, as JSON calls it, that [`Condition::Own`] compares with the account; empty if it can't be asked.
    pub owner_field: &'static str,
    /// The field that [`Condition::Member`] looks into; empty if it can't be asked.
    pub member_field: &'static str,
    /// The fields that [`Condition::Equals`] may compare.
    pub attributes: &'static [&'static str],
}

impl Permission {
    /// The resource and the action.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once(':').unwrap_or((self.name, ""))
    }

    /// Whether the methods that ask for the permission can put this condition into their queries.
    pub fn applies(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Own => !self.owner_field.is_empty(),
            Condition::Member => !self.member_field.is_empty(),
            Condition::Equals { attribute, .. } => self.attributes.contains(&attribute.as_ref()),
        }
    }
}

/// Every built-in role, with its name in the database.
pub const BUILT_IN: [(Role, &str); 4] =
    [(Role::User, "user"), (Role::Moderator, "moderator"), (Role::Support, "support"), (Role::Admin, "admin")];

/// The name of a built-in role.
pub fn role_name(role: Role) -> &'static str {
    BUILT_IN.iter().find(|(known, _)| *known == role).map_or("user", |(_, name)| name)
}

/// The built-in role of this name. What is not one gives no more than every account has.
pub fn role_by_name(name: &str) -> Role {
    BUILT_IN.iter().find(|(_, known)| *known == name).map_or(Role::User, |(role, _)| *role)
}

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

/// The rule of a gRPC path. A method without one can't be called.
pub fn rule(path: &str) -> Option<&'static Rule> {
    RULES.binary_search_by_key(&path, |rule| rule.path).ok().map(|index| &RULES[index])
}

/// The permission of this name.
pub fn permission(name: &str) -> Option<&'static Permission> {
    index(name).map(|index| &PERMISSIONS[index])
}

/// Its place in [`PERMISSIONS`].
pub(super) fn index(name: &str) -> Option<usize> {
    PERMISSIONS.binary_search_by_key(&name, |permission| permission.name).ok()
}

/// Refuses a caller who does not hold the permission. For permissions without conditions; see [`Caller::scope`].
pub fn require(caller: &Caller, permission: &str) -> Result<(), Error> {
    caller.scope(permission).map(drop)
}

const INTRODUCTION: &str = "# Permissions

<!-- Printed by `rialto permissions`. A test compares. -->

The built-in roles and what they hold; custom roles may hold any of it. A grant may be limited to the objects for which a
condition holds; the last column says which conditions the methods that ask for a permission can put into their queries,
and which field of the object each compares.

| permission | allows | held by | conditions |
|---|---|---|---|
";

/// The catalogue and the method matrix, as Markdown.
pub fn markdown() -> String {
    let mut text = String::from(INTRODUCTION);
    for permission in PERMISSIONS {
        let mut held = Vec::new();
        for (role, name) in BUILT_IN {
            match Abilities::built_in(role).scope(permission.name) {
                Some(scope) if scope.is_all() => held.push(name.to_owned()),
                Some(scope) => held.push(format!("{name} ({scope})")),
                None => {}
            }
        }
        let fields = [("own", permission.owner_field), ("member", permission.member_field)];
        let fields = fields.iter().filter(|(_, field)| !field.is_empty());
        let mut conditions: Vec<_> = fields.map(|(condition, field)| format!("{condition} (`{field}`)")).collect();
        conditions.extend(permission.attributes.iter().map(|attribute| format!("`{attribute}` equals")));
        let Permission { name, description, .. } = permission;
        text += &format!("| `{name}` | {description} | {} | {} |\n", held.join(", "), conditions.join(", "));
    }
    text += "\n# Methods\n\n| method | who may call | rate | audited | idempotency key |\n|---|---|---|---|---|\n";
    let yes = |flag: bool| if flag { "yes" } else { "" };
    for rule in RULES {
        let access = match rule.access {
            Access::Public => "anybody".to_owned(),
            Access::Authenticated => "any account".to_owned(),
            Access::Permission(permission) => format!("`{permission}`"),
        };
        let rate = format!("{:?}", rule.rate).to_lowercase();
        let (audit, key) = (yes(rule.audit), yes(rule.idempotency_key));
        text += &format!("| `{}` | {access} | {rate} | {audit} | {key} |\n", rule.path.trim_start_matches('/'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path_and_no_other() {
        for expected in RULES {
            assert!(rule(expected.path).is_some_and(|found| std::ptr::eq(found, expected)));
        }
        for unknown in ["", "/", "/rialto.auth.v1.AuthService", "/rialto.auth.v1.AuthService/login"] {
            assert!(rule(unknown).is_none());
        }
    }
}

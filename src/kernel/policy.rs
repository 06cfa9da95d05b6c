//! The policy of every method and the catalogue of permissions, as `build/rules.rs` reads them out of the contract.

use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
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
    /// The built-in roles that hold it, besides administrators.
    pub roles: &'static [Role],
}

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

/// The rule of a gRPC path. A method without one can't be called.
pub fn rule(path: &str) -> Option<&'static Rule> {
    RULES.binary_search_by_key(&path, |rule| rule.path).ok().map(|index| &RULES[index])
}

/// Refuses a caller whose role does not hold the permission.
pub fn require(caller: &Caller, permission: &str) -> Result<(), Error> {
    let granted = || PERMISSIONS.iter().any(|known| known.name == permission && known.roles.contains(&caller.role));
    if caller.role == Role::Admin || granted() {
        return Ok(());
    }
    Err(Error::new(Reason::InsufficientPermissions, format!("this needs the permission {permission}")))
}

/// The catalogue and the method matrix, as Markdown.
pub fn markdown() -> String {
    let mut text = String::from("# Permissions\n\n| permission | allows | held by |\n|---|---|---|\n");
    for permission in PERMISSIONS {
        let roles = permission.roles.iter().map(|role| role.as_str_name()).collect::<Vec<_>>();
        let roles = roles.join(", ").to_lowercase().replace("role_", "");
        let held = if roles.is_empty() { "admin".to_owned() } else { format!("{roles}, admin") };
        text += &format!("| `{}` | {} | {held} |\n", permission.name, permission.description);
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

    #[test]
    fn a_permission_is_held_by_the_roles_that_the_contract_names_and_by_administrators() {
        let id = uuid::Uuid::nil();
        let caller = |role| Caller { account_id: id, session_id: id, role, token_version: 0, lacks_two_factor: false };
        assert!(require(&caller(Role::User), "messages:send").is_ok());
        assert!(require(&caller(Role::User), "sessions:revoke").is_err());
        assert!(require(&caller(Role::Admin), "sessions:revoke").is_ok());
        assert!(require(&caller(Role::User), "unheard:of").is_err());
    }
}

//! Between rows and the contract.

use super::graph::{built_in, built_in_id};
use super::model::{self, Contents};
use crate::kernel::abilities::{Abilities, Condition, Grant, built_in_grants, named};
use crate::kernel::error::{Error, Violation};
use crate::kernel::policy::role_name;
use crate::kernel::wire::{self, timestamp};
use crate::proto::rialto::policy::v1::{Condition as WireCondition, Role as BuiltIn};
use crate::proto::rialto::roles::v1::{self as proto, PermissionCheck};

/// A role with what it grants and inherits from.
pub fn role(role: &model::Role, contents: &Contents) -> proto::Role {
    let built_in = built_in(role.id).map(built_in_grants);
    proto::Role {
        id: role.id.to_string(),
        name: role.name.clone(),
        description: role.description.clone(),
        grants: built_in.as_ref().unwrap_or(&contents.grants).iter().map(proto::Grant::from).collect(),
        parent_ids: contents.parents.iter().map(ToString::to_string).collect(),
        built_in: role.built_in,
        created_by: role.created_by.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(timestamp(role.created_at)),
        updated_at: Some(timestamp(role.updated_at)),
        etag: role.version.to_string(),
    }
}

impl From<&Grant> for proto::Grant {
    fn from(grant: &Grant) -> Self {
        let (condition, attribute, value) = match &grant.condition {
            None => (WireCondition::Unspecified, "", ""),
            Some(Condition::Own) => (WireCondition::Own, "", ""),
            Some(Condition::Member) => (WireCondition::Member, "", ""),
            Some(Condition::Equals { attribute, value }) => (WireCondition::Equals, attribute.as_ref(), value.as_ref()),
        };
        Self {
            permission: grant.permission.to_string(),
            deny: grant.deny,
            condition: condition.into(),
            attribute: attribute.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// Grants as a request has them in the field `at`.
pub fn grants(at: &str, grants: Vec<proto::Grant>) -> Result<Vec<Grant>, Error> {
    let mut violations = Vec::new();
    let mut read = Vec::new();
    for (index, grant) in grants.into_iter().enumerate() {
        match self::grant(grant) {
            Ok(grant) => read.push(grant),
            Err((field, description)) => {
                violations.push(Violation { field: format!("{at}[{index}].{field}"), description: description.into() });
            }
        }
    }
    if violations.is_empty() { Ok(read) } else { Err(Error::invalid(violations)) }
}

/// A grant, or the field at fault and what is wrong with it.
fn grant(grant: proto::Grant) -> Result<Grant, (&'static str, &'static str)> {
    let condition = match grant.condition() {
        WireCondition::Own => Some(Condition::Own),
        WireCondition::Member => Some(Condition::Member),
        WireCondition::Equals => {
            Some(Condition::Equals { attribute: grant.attribute.clone().into(), value: grant.value.clone().into() })
        }
        WireCondition::Unspecified if grant.condition == 0 => None,
        WireCondition::Unspecified => return Err(("condition", "is not known")),
    };
    if named(&grant.permission).next().is_none() {
        return Err(("permission", "there is no such permission"));
    }
    if grant.condition() != WireCondition::Equals && !(grant.attribute.is_empty() && grant.value.is_empty()) {
        return Err(("attribute", "needs CONDITION_EQUALS"));
    }
    if let Some(condition) = &condition {
        // Of several permissions, one at least must know it.
        if !named(&grant.permission).any(|permission| permission.applies(condition)) {
            let field = if matches!(condition, Condition::Equals { .. }) { "attribute" } else { "condition" };
            return Err((field, "the permission does not know this condition"));
        }
    }
    Ok(Grant { permission: grant.permission.into(), deny: grant.deny, condition })
}

/// Ids as a request has them in the field `at`, each once.
pub fn parents(at: &str, ids: &[String]) -> Result<Vec<uuid::Uuid>, Error> {
    let mut parents = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        parents.push(wire::id(&format!("{at}[{index}]"), id)?);
    }
    parents.sort_unstable();
    parents.dedup();
    Ok(parents)
}

impl From<(&model::Assignment, &str)> for proto::Assignment {
    fn from((assignment, role_name): (&model::Assignment, &str)) -> Self {
        Self {
            account_id: assignment.account_id.to_string(),
            role_id: assignment.role_id.to_string(),
            role_name: role_name.to_owned(),
            assigned_by: assignment.assigned_by.map(|id| id.to_string()).unwrap_or_default(),
            assigned_at: Some(timestamp(assignment.assigned_at)),
            expires_at: assignment.expires_at.map(timestamp),
        }
    }
}

/// That an account has its built-in role.
pub fn built_in_assignment(account_id: uuid::Uuid, role: BuiltIn) -> proto::Assignment {
    proto::Assignment {
        account_id: account_id.to_string(),
        role_id: built_in_id(role).to_string(),
        role_name: role_name(role).to_owned(),
        ..proto::Assignment::default()
    }
}

/// Whether permissions are held.
pub fn checks(abilities: &Abilities, permissions: Vec<String>) -> Vec<PermissionCheck> {
    let check = |permission: String| {
        let scope = abilities.scope(&permission);
        PermissionCheck {
            allowed: scope.is_some(),
            unconditional: scope.is_some_and(|scope| scope.is_all()),
            permission,
        }
    };
    permissions.into_iter().map(check).collect()
}

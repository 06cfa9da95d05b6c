//! Abilities in the packed-rule format of `@casl/ability/extra` (`packRules`, `unpackRules`; version 7): lists of action,
//! subject, conditions, inverted, with 0 for what is absent and nothing for what is absent at the end. Among rules of one
//! subject the last that matches wins, so denials come last.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use uuid::Uuid;

use crate::kernel::abilities::{Abilities, Condition};
use crate::kernel::policy::{PERMISSIONS, Permission};

/// Whether a rule denies, its subject, and the field that it compares, with what. Denials sort last.
type Key = (bool, &'static str, Option<(&'static str, String)>);

/// The rules of an account.
pub fn pack(abilities: &Abilities, account_id: Uuid) -> Vec<ListValue> {
    if abilities.is_everything() {
        return vec![list([text("manage"), text("all")])];
    }
    let mut rules: BTreeMap<Key, Vec<&str>> = BTreeMap::new();
    for permission in PERMISSIONS {
        let Some(scope) = abilities.scope(permission.name) else { continue };
        let (subject, action) = permission.parts();
        let compared = |condition| Some(comparison(permission, condition, account_id));
        let allowed = scope.any_of().map_or_else(|| vec![None], |any_of| any_of.iter().map(compared).collect());
        for condition in allowed {
            rules.entry((false, subject, condition)).or_default().push(action);
        }
        for condition in scope.none_of().iter().map(compared) {
            rules.entry((true, subject, condition)).or_default().push(action);
        }
    }
    let rule = |((inverted, subject, condition), actions): (Key, Vec<&str>)| {
        let mut parts = vec![text(&actions.join(",")), text(subject)];
        if let Some((field, value)) = condition {
            let fields = BTreeMap::from([(field.to_owned(), text(&value))]);
            parts.push(Value { kind: Some(Kind::StructValue(Struct { fields })) });
        }
        if inverted {
            parts.push(Value { kind: Some(Kind::NumberValue(1.0)) });
        }
        list(parts)
    };
    rules.into_iter().map(rule).collect()
}

/// The field of an object that a condition compares, and with what. Of a list it suffices that one item is equal.
fn comparison(permission: &Permission, condition: &Condition, account_id: Uuid) -> (&'static str, String) {
    match condition {
        Condition::Own => (permission.owner_field, account_id.to_string()),
        Condition::Member => (permission.member_field, account_id.to_string()),
        Condition::Equals { attribute, value } => {
            let known = permission.attributes.iter().find(|known| *known == attribute);
            (known.copied().unwrap_or_default(), value.to_string())
        }
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn list(values: impl Into<Vec<Value>>) -> ListValue {
    ListValue { values: values.into() }
}

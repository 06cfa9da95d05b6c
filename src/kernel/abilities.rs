//! What an account may do: the grants of its roles, resolved to a scope for each permission of the catalogue.
//!
//! A grant names one permission (`messages:send`), all of a resource (`messages:*`) or everything (`*`), allows or denies
//! it, and may hold under a condition. A denial wins over every allowance, wherever either comes from. The one exception
//! are administrators, whose abilities do not come out of this: they hold everything, so that no role can lock them out.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use diesel::dsl::not;
use diesel::expression::BoxableExpression;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use crate::kernel::policy::{self, BUILT_IN, PERMISSIONS, Permission};
use crate::proto::rialto::policy::v1::Role;

/// For which objects a grant holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// Those that belong to the caller.
    Own,
    /// Those that the caller is a member of.
    Member,
    /// Those that have this value in this field.
    Equals {
        /// The field, as JSON calls it.
        attribute: Cow<'static, str>,
        /// Its value.
        value: Cow<'static, str>,
    },
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Member => f.write_str("member"),
            Self::Equals { attribute, value } => write!(f, "{attribute} equals {value:?}"),
        }
    }
}

/// What a role gives or takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `resource:action`, `resource:*` or `*`.
    pub permission: Cow<'static, str>,
    /// Whether it takes.
    pub deny: bool,
    /// For which objects; `None` for all.
    pub condition: Option<Condition>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.deny { "deny" } else { "allow" }, self.permission)?;
        self.condition.as_ref().map_or(Ok(()), |condition| write!(f, " ({condition})"))
    }
}

/// Whether a pattern names all that another pattern, or permission, names.
fn includes(pattern: &str, other: &str) -> bool {
    pattern == other || pattern.strip_suffix('*').is_some_and(|prefix| other.starts_with(prefix))
}

/// The permissions of the catalogue that a pattern names; none if it is not of one of the three forms.
pub fn named(pattern: &str) -> impl Iterator<Item = &'static Permission> {
    // A star stands for all actions of a resource, or for everything, and for nothing less.
    let well_formed = pattern == "*" || !pattern.strip_suffix(":*").unwrap_or(pattern).contains('*');
    PERMISSIONS.iter().filter(move |permission| well_formed && includes(pattern, permission.name))
}

/// For which objects a permission is held: some at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Those for which one of these holds; `None` for all.
    any_of: Option<Vec<Condition>>,
    /// And none of these.
    none_of: Vec<Condition>,
}

/// A condition as part of a query on `QS`.
pub type Predicate<QS> = Box<dyn BoxableExpression<QS, Pg, SqlType = Bool>>;

impl Scope {
    /// Every object.
    const ALL: Self = Self { any_of: None, none_of: Vec::new() };

    /// Whether there is no condition.
    pub fn is_all(&self) -> bool {
        *self == Self::ALL
    }

    /// The conditions of which one must hold; `None` if there is no such condition.
    pub fn any_of(&self) -> Option<&[Condition]> {
        self.any_of.as_deref()
    }

    /// The conditions of which none may hold.
    pub fn none_of(&self) -> &[Condition] {
        &self.none_of
    }

    /// The scope as part of a query, given each condition as one. A condition on a column that is null does not hold, be
    /// it allowed or denied: then there is nothing to see.
    pub fn predicate<QS: 'static>(&self, holds: impl Fn(&Condition) -> Predicate<QS>) -> Predicate<QS> {
        let constant = |value: bool| -> Predicate<QS> { Box::new(value.into_sql::<Bool>()) };
        let allowed = match &self.any_of {
            None => constant(true),
            Some(any_of) => {
                let either = |left: Predicate<QS>, right| -> Predicate<QS> { Box::new(left.or(right)) };
                any_of.iter().map(&holds).reduce(either).unwrap_or_else(|| constant(false))
            }
        };
        self.none_of.iter().map(&holds).fold(allowed, |allowed, denied| Box::new(allowed.and(not(denied))))
    }

    /// Whether all objects of another scope are in this one, as far as their conditions tell.
    fn includes(&self, other: &Self) -> bool {
        let allowed = match (&self.any_of, &other.any_of) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(held), Some(wanted)) => wanted.iter().all(|condition| held.contains(condition)),
        };
        allowed && self.none_of.iter().all(|condition| other.none_of.contains(condition))
    }

    fn resolve(permission: &Permission, grants: &[Grant]) -> Option<Self> {
        let (mut all, mut any_of, mut none_of) = (false, Vec::new(), Vec::new());
        for grant in grants.iter().filter(|grant| includes(&grant.permission, permission.name)) {
            match (&grant.condition, grant.deny) {
                (None, true) => return None,
                (None, false) => all = true,
                (Some(condition), deny) if permission.applies(condition) => {
                    if deny { &mut none_of } else { &mut any_of }.push(condition.clone());
                }
                // What can't be put into a query can't be limited: it is denied for every object, and allowed for none.
                (Some(_), true) => return None,
                (Some(_), false) => {}
            }
        }
        for conditions in [&mut any_of, &mut none_of] {
            conditions.sort_unstable();
            conditions.dedup();
        }
        any_of.retain(|condition| !none_of.contains(condition));
        (all || !any_of.is_empty()).then(|| Self { any_of: (!all).then_some(any_of), none_of })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |conditions: &[Condition]| conditions.iter().map(Condition::to_string).collect::<Vec<_>>().join(" or ");
        f.write_str(&self.any_of.as_deref().map_or_else(|| "all".to_owned(), list))?;
        if self.none_of.is_empty() { Ok(()) } else { write!(f, ", but not {}", list(&self.none_of)) }
    }
}

/// What an account may do.
#[derive(Debug, PartialEq, Eq)]
pub struct Abilities {
    grants: Vec<Grant>,
    /// In the order of [`PERMISSIONS`].
    scopes: Vec<Option<Scope>>,
}

impl Abilities {
    /// What these grants amount to together.
    pub fn new(grants: Vec<Grant>) -> Self {
        let scopes = PERMISSIONS.iter().map(|permission| Scope::resolve(permission, &grants)).collect();
        Self { grants, scopes }
    }

    /// What a built-in role gives by itself.
    pub fn built_in(role: Role) -> Arc<Self> {
        static ROLES: LazyLock<[Arc<Abilities>; 4]> =
            LazyLock::new(|| BUILT_IN.map(|(role, _)| Arc::new(Abilities::new(built_in_grants(role)))));
        static NOTHING: LazyLock<Arc<Abilities>> = LazyLock::new(|| Arc::new(Abilities::new(Vec::new())));
        let place = BUILT_IN.iter().position(|(known, _)| *known == role);
        Arc::clone(place.map_or(&*NOTHING, |place| &ROLES[place]))
    }

    /// For which objects the permission is held; `None` if for none.
    pub fn scope(&self, permission: &str) -> Option<&Scope> {
        self.scopes.get(policy::index(permission)?)?.as_ref()
    }

    /// Whether everything is held, also what later versions add.
    pub fn is_everything(&self) -> bool {
        self.covers(&Grant { permission: "*".into(), deny: false, condition: None })
    }

    /// Whether somebody with these abilities may act on an account with others: they must hold all that it holds. What
    /// every user holds does not count, because who was denied some of it may still keep order.
    pub fn reaches(&self, other: &Self) -> bool {
        let user = Self::built_in(Role::User);
        let within = |((held, user), wanted): ((&Option<Scope>, &Option<Scope>), &Option<Scope>)| {
            let Some(wanted) = wanted else { return true };
            [held, user].into_iter().flatten().any(|scope| scope.includes(wanted))
        };
        (self.is_everything() || !other.is_everything())
            && self.scopes.iter().zip(&user.scopes).zip(&other.scopes).all(within)
    }

    /// Whether somebody with these abilities may hand this grant to others, or take it back. They must hold all that it
    /// names, for every object or under the very same condition, be it allowed or denied: who takes a denial back gives
    /// as much as who allows.
    pub fn covers(&self, wanted: &Grant) -> bool {
        let holds = |held: &Grant| {
            includes(&held.permission, &wanted.permission)
                && (held.condition.is_none() || held.condition == wanted.condition)
        };
        let limits = |held: &Grant| {
            includes(&held.permission, &wanted.permission) || includes(&wanted.permission, &held.permission)
        };
        self.grants.iter().any(|held| !held.deny && holds(held))
            && !self.grants.iter().any(|held| held.deny && limits(held))
    }
}

/// The grants of a built-in role, as the contract names them.
pub fn built_in_grants(role: Role) -> Vec<Grant> {
    if role == Role::Admin {
        return vec![Grant { permission: "*".into(), deny: false, condition: None }];
    }
    let holds = |holder: Role| holder == role || holder == Role::User;
    let mut grants = Vec::new();
    for permission in PERMISSIONS {
        for (_, condition) in permission.holders.iter().filter(|(holder, _)| holds(*holder)) {
            let grant = Grant { permission: permission.name.into(), deny: false, condition: condition.clone() };
            grants.push(grant);
        }
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(permission: &'static str) -> Grant {
        Grant { permission: permission.into(), deny: false, condition: None }
    }

    fn deny(permission: &'static str) -> Grant {
        Grant { deny: true, ..grant(permission) }
    }

    fn only(permission: &'static str, condition: Condition) -> Grant {
        Grant { condition: Some(condition), ..grant(permission) }
    }

    fn scope(grants: &[Grant], permission: &str) -> Option<String> {
        Abilities::new(grants.to_vec()).scope(permission).map(ToString::to_string)
    }

    #[test]
    fn a_pattern_names_one_permission_all_of_a_resource_or_everything() {
        for (pattern, holds) in [
            ("conversations:read", [true, false, false]),
            ("conversations:*", [true, true, false]),
            ("*", [true, true, true]),
        ] {
            let abilities = Abilities::new(vec![grant(pattern)]);
            let permissions = ["conversations:read", "conversations:create", "messages:send"];
            assert_eq!(permissions.map(|permission| abilities.scope(permission).is_some()), holds, "{pattern}");
            assert!(named(pattern).count() > 0 && abilities.scope("unheard:of").is_none());
        }
        for unknown in [
            "",
            ":",
            "conv*",
            "conversations",
            "conversations:",
            "conversation:*",
            "messages:s*",
            "*:read",
            "*:*",
            "**",
            "a:b",
        ] {
            assert_eq!(named(unknown).count(), 0, "{unknown}");
        }
    }

    #[test]
    fn a_denial_wins_over_every_allowance_in_any_order() {
        let allowed = [grant("*"), grant("conversations:read"), only("conversations:read", Condition::Own)];
        for denied in ["conversations:read", "conversations:*", "*"] {
            let before = [&[deny(denied)], &allowed[..]].concat();
            let after = [&allowed[..], &[deny(denied)]].concat();
            assert_eq!((scope(&before, "conversations:read"), scope(&after, "conversations:read")), (None, None));
        }
        assert!(scope(&[grant("*"), deny("conversations:read")], "messages:send").is_some());
    }

    #[test]
    fn conditions_limit_what_a_query_sees() {
        let (own, member) = (Condition::Own, Condition::Member);
        let read = "conversations:read";
        let not_own = Grant { deny: true, ..only(read, Condition::Own) };
        assert_eq!(scope(&[only("*", own.clone())], read), Some("own".into()));
        assert_eq!(scope(&[only(read, own.clone()), only(read, member.clone())], read), Some("own or member".into()));
        assert_eq!(scope(&[only(read, own.clone()), grant(read)], read), Some("all".into()));
        assert_eq!(scope(&[grant(read), not_own.clone()], read), Some("all, but not own".into()));
        assert_eq!(scope(&[only(read, own.clone()), not_own.clone()], read), None);
        // What a method can't put into its query is not given; what it can't leave out is denied.
        let create = "conversations:create";
        assert_eq!(scope(&[only("conversations:*", own)], create), None);
        assert_eq!(scope(&[grant("*"), Grant { permission: "*".into(), ..not_own }], create), None);
    }

    #[test]
    fn nobody_hands_out_more_than_they_hold() {
        let holder = Abilities::new(vec![grant("messages:send"), only("conversations:read", Condition::Own)]);
        assert!(holder.covers(&grant("messages:send")) && holder.covers(&deny("messages:send")));
        assert!(holder.covers(&only("messages:send", Condition::Own)));
        assert!(holder.covers(&only("conversations:read", Condition::Own)));
        for beyond in [
            grant("conversations:read"),
            only("conversations:read", Condition::Member),
            grant("messages:*"),
            grant("*"),
            deny("conversations:create"),
        ] {
            assert!(!holder.covers(&beyond), "{beyond:?}");
        }
        let limited = Abilities::new(vec![grant("*"), deny("roles:assign")]);
        assert!(limited.covers(&grant("messages:*")));
        assert!(!limited.covers(&grant("roles:*")) && !limited.is_everything());
        assert!(Abilities::built_in(Role::Admin).is_everything());
    }

    #[test]
    fn nobody_reaches_an_account_that_may_do_more() {
        let (own, member) = (Condition::Own, Condition::Member);
        let of = |grants: &[Grant]| Abilities::new([built_in_grants(Role::User), grants.to_vec()].concat());
        let (user, admin) = (Abilities::built_in(Role::User), Abilities::built_in(Role::Admin));
        let suspends = of(&[grant("accounts:suspend")]);
        assert!(suspends.reaches(&user) && suspends.reaches(&suspends) && admin.reaches(&suspends));
        assert!(admin.reaches(&admin) && !suspends.reaches(&admin) && !user.reaches(&suspends));
        // Who holds everything that there is now does not hold what comes later.
        let all: Vec<_> = PERMISSIONS.iter().map(|permission| grant(permission.name)).collect();
        assert!(!of(&all).reaches(&admin) && of(&[grant("*")]).reaches(&admin));
        // A denial takes power, and protects nobody; what every user holds is no power.
        let muted = of(&[grant("accounts:suspend"), deny("messages:send")]);
        assert!(muted.reaches(&user) && muted.reaches(&suspends) && user.reaches(&of(&[deny("messages:send")])));
        assert!(!of(&[grant("*"), deny("accounts:suspend")]).reaches(&suspends));
        // Conditions.
        let reads = |condition: &Condition| Abilities::new(vec![only("roles:read", condition.clone())]);
        assert!(of(&[grant("roles:read")]).reaches(&reads(&own)) && reads(&own).reaches(&reads(&own)));
        assert!(!reads(&own).reaches(&of(&[grant("roles:read")])));
        let conversations = |condition| of(&[Grant { deny: true, ..only("conversations:read", condition) }]);
        assert!(conversations(own.clone()).reaches(&conversations(member)));
        let not_own = of(&[grant("roles:*"), Grant { deny: true, ..only("roles:read", own) }]);
        assert!(!not_own.reaches(&of(&[grant("roles:read")])) && not_own.reaches(&not_own));
    }

    #[test]
    fn a_permission_is_held_by_the_built_in_roles_that_the_contract_names_and_by_administrators() {
        let held = |permission: &str| BUILT_IN.map(|(role, _)| Abilities::built_in(role).scope(permission).is_some());
        assert_eq!(held("messages:send"), [true; 4]);
        assert_eq!(held("sessions:revoke"), [false, false, false, true]);
        assert_eq!(held("unheard:of"), [false; 4]);
        assert!(Abilities::built_in(Role::Unspecified).scope("messages:send").is_none());
    }
}

//! A change of roles or assignments, from the lock to its number.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::graph::Graph;
use super::model::{self, Assignment, Contents, Role, Visible};
use crate::domains::auth;
use crate::kernel::abilities::{Abilities, Grant};
use crate::kernel::app::App;
use crate::kernel::caller::{Caller, lacking};
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::policy::BUILT_IN;
use crate::proto::rialto::policy::v1::Role as BuiltIn;

/// Roles that there may be, besides the built-in ones. All of them are in the memory of every node.
const MAX_ROLES: usize = 500;

/// A change under way. Nobody else changes roles or assignments until its transaction ends.
pub struct Change {
    /// Its number.
    pub version: i64,
    /// When it is made.
    pub now: DateTime<Utc>,
    /// All roles before it.
    pub graph: Graph,
    caller_id: Uuid,
    abilities: Arc<Abilities>,
}

impl Change {
    /// Begins a change, first in a transaction. What the caller may do is read again, under the lock: they may have lost
    /// it since the gate let them in.
    pub async fn begin(conn: &mut Conn, app: &App, caller: &Caller) -> Result<Self, Error> {
        let version = model::next_version(conn).await?;
        let now = app.clock.now();
        let graph = model::graph(conn).await?;
        let abilities = match auth::role_of(conn, caller.account_id).await? {
            Some((role, true)) => graph.abilities(role, &live(&Assignment::of(conn, caller.account_id).await?, now)),
            _ => Abilities::built_in(BuiltIn::Unspecified),
        };
        Ok(Self { version, now, graph, caller_id: caller.account_id, abilities })
    }

    /// The roles that the caller holds this permission for.
    pub fn visible(&self, permission: &'static str) -> Result<Visible<'_>, Error> {
        let scope = self.abilities.scope(permission).ok_or_else(|| lacking(permission))?;
        Ok(Visible { caller_id: self.caller_id, scope })
    }

    /// Refuses to hand out, take or change what the caller does not hold.
    pub fn require(&self, grants: &[Grant]) -> Result<(), Error> {
        let Some(beyond) = grants.iter().find(|grant| !self.abilities.covers(grant)) else { return Ok(()) };
        let condition = beyond.condition.as_ref().map(|condition| format!(" ({condition})")).unwrap_or_default();
        let message = format!("the role concerns {}{condition}, which you don't hold yourself", beyond.permission);
        Err(Error::new(Reason::GrantNotHeld, message))
    }

    /// Refuses to hand out or take these roles if the caller does not hold all that is in them.
    pub fn require_roles(&self, roles: &[Uuid]) -> Result<(), Error> {
        self.require(&self.graph.grants(roles))
    }

    /// Refuses to change what an account has, besides these others and its built-in role, that may do what the caller may
    /// not.
    pub fn require_reach(&self, account_id: Uuid, role: BuiltIn, others: &[Uuid]) -> Result<(), Error> {
        let reached = account_id == self.caller_id || self.abilities.reaches(&self.graph.abilities(role, others));
        if reached { Ok(()) } else { Err(beyond_reach()) }
    }

    /// Refuses a role that can't be: by its name, by what it inherits from, or because the caller lacks what it grants.
    /// `at` is where the request has it.
    pub fn check(&self, at: &str, role: &Role, contents: &Contents) -> Result<(), Error> {
        let name = role.name.to_lowercase();
        if role.name.trim().is_empty() {
            return Err(Error::invalid_field(format!("{at}name"), "must not be empty"));
        }
        if self.graph.iter().any(|(id, other)| id != role.id && other.name.to_lowercase() == name) {
            let error = Error::new(Reason::ResourceAlreadyExists, "another role has this name");
            return Err(error.at_field(format!("{at}name")));
        }
        if self.graph.get(role.id).is_none() && self.graph.iter().count() >= MAX_ROLES + BUILT_IN.len() {
            return Err(Error::new(Reason::InvalidInput, format!("there are {MAX_ROLES} roles already")));
        }
        let field = |index: usize| format!("{at}parent_ids[{index}]");
        for (index, parent) in contents.parents.iter().enumerate() {
            if self.graph.get(*parent).is_none() {
                return Err(Error::invalid_field(field(index), "there is no such role"));
            }
            if self.graph.inherits(&[*parent], role.id) {
                let error = Error::new(Reason::RoleCycle, "a role would inherit from itself");
                return Err(error.at_field(field(index)));
            }
        }
        self.require(&contents.grants)?;
        self.require_roles(&contents.parents)
    }
}

/// Refuses a caller who acts on an account of this built-in role that may do what they may not. Reads the account's other
/// roles: to be called under the account's lock.
pub async fn require_reach(
    conn: &mut Conn,
    by: &Caller,
    account_id: Uuid,
    role: BuiltIn,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if by.account_id == account_id || by.role == BuiltIn::Admin {
        return Ok(());
    }
    let others = live(&Assignment::of(conn, account_id).await?, now);
    let abilities = model::graph(conn).await?.abilities(role, &others);
    if by.abilities.reaches(&abilities) { Ok(()) } else { Err(beyond_reach()) }
}

fn beyond_reach() -> Error {
    Error::new(Reason::InsufficientPermissions, "the account may do what you may not")
}

/// The roles of those assignments that have not expired.
pub fn live(assignments: &[Assignment], now: DateTime<Utc>) -> Vec<Uuid> {
    assignments.iter().filter(|assignment| assignment.is_live(now)).map(|assignment| assignment.role_id).collect()
}

/// Refuses to change a role that comes with the server.
pub fn require_custom(role: &Role) -> Result<(), Error> {
    if role.built_in {
        return Err(Error::new(Reason::RoleBuiltIn, "built-in roles can't be changed or deleted"));
    }
    Ok(())
}

/// Refuses to overwrite a state of the role that the caller has not seen.
pub fn require_etag(role: &Role, etag: &str) -> Result<(), Error> {
    if etag.is_empty() || etag == role.version.to_string() {
        return Ok(());
    }
    Err(Error::new(Reason::ResourceConflict, "the role was changed since").at_field("etag"))
}

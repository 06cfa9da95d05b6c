//! Rows and SQL of roles, their grants and parents, and who has them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use uuid::Uuid;

use super::graph::{Graph, Node, built_in_id};
use crate::kernel::abilities::{Condition, Grant, Predicate, Scope};
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::policy;
use crate::proto::rialto::policy::v1::Role as BuiltIn;
use crate::schema::{account_roles, role_grants, role_parents, roles, roles_version};

/// The number of the newest change.
pub async fn version(conn: &mut Conn) -> Result<i64, Error> {
    Ok(roles_version::table.select(roles_version::version).first(conn).await?)
}

/// The number of a change that is being made. To be called first in its transaction: until that ends, nobody else
/// changes roles or assignments.
pub async fn next_version(conn: &mut Conn) -> Result<i64, Error> {
    let next = diesel::update(roles_version::table).set(roles_version::version.eq(roles_version::version + 1));
    Ok(next.returning(roles_version::version).get_result(conn).await?)
}

/// All roles, and the number of the newest change that is in them.
pub async fn read_all(conn: &mut Conn) -> Result<(i64, Graph), Error> {
    let mut transaction = conn.build_transaction().repeatable_read().read_only();
    transaction.run(async |conn| Ok((version(conn).await?, graph(conn).await?))).await
}

/// All roles, in a transaction that sees one state of them.
pub async fn graph(conn: &mut Conn) -> Result<Graph, Error> {
    let names: Vec<(Uuid, String)> = roles::table.select((roles::id, roles::name)).load(conn).await?;
    let node = |(id, name)| (id, Node { name, ..Node::default() });
    let mut nodes: HashMap<_, _> = names.into_iter().map(node).collect();
    for row in role_grants::table.select(GrantRow::as_select()).load(conn).await? {
        if let Some(node) = nodes.get_mut(&row.role_id) {
            node.grants.push(row.into());
        }
    }
    let parents: Vec<(Uuid, Uuid)> = role_parents::table.load(conn).await?;
    for (role_id, parent_id) in parents {
        if let Some(node) = nodes.get_mut(&role_id) {
            node.parents.push(parent_id);
        }
    }
    Ok(Graph::new(nodes))
}

/// What the audit log keeps of the built-in role of an account.
pub fn noted_built_in(role: BuiltIn) -> Value {
    json!({ "role": policy::role_name(role), "role_id": built_in_id(role) })
}

/// A role.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = roles, check_for_backend(Pg), treat_none_as_default_value = false)]
pub struct Role {
    pub id: Uuid,
    pub name: String,
    pub description: String,
    pub built_in: bool,
    pub created_by: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i64,
}

/// What a caller may see or change of the roles.
pub struct Visible<'a> {
    pub caller_id: Uuid,
    pub scope: &'a Scope,
}

impl Visible<'_> {
    fn predicate(&self) -> Predicate<roles::table> {
        self.scope.predicate(|condition| match condition {
            Condition::Own => Box::new(roles::created_by.is_not_distinct_from(Some(self.caller_id))),
            // The contract names no field for these.
            Condition::Member | Condition::Equals { .. } => Box::new(roles::id.ne(roles::id)),
        })
    }
}

impl Role {
    /// What the audit log keeps of it.
    pub fn noted(&self, contents: &Contents) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "grants": contents.grants.iter().map(Grant::to_string).collect::<Vec<_>>(),
            "parents": contents.parents,
        })
    }

    /// A role that the caller may see.
    pub async fn find(conn: &mut Conn, id: Uuid, visible: Visible<'_>) -> Result<Self, Error> {
        let found = roles::table.find(id).filter(visible.predicate()).select(Self::as_select());
        found.first(conn).await.optional()?.ok_or_else(|| Error::not_found("role"))
    }

    /// Those that the caller may see, in the order of their ids, which is that of their creation.
    pub async fn list(
        conn: &mut Conn,
        visible: Visible<'_>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let rows = roles::table.filter(roles::id.gt(after.unwrap_or_default())).filter(visible.predicate());
        Ok(rows.order(roles::id).limit(limit).select(Self::as_select()).load(conn).await?)
    }

    /// Those of these that the caller may see.
    pub async fn among(conn: &mut Conn, ids: &[Uuid], visible: Visible<'_>) -> Result<Vec<Self>, Error> {
        let rows = roles::table.filter(roles::id.eq_any(ids)).filter(visible.predicate());
        Ok(rows.order(roles::id).select(Self::as_select()).load(conn).await?)
    }

    /// What these grant and inherit from, in the order of the roles.
    pub async fn contents(conn: &mut Conn, rows: &[Self]) -> Result<Vec<Contents>, Error> {
        let ids: Vec<_> = rows.iter().map(|role| role.id).collect();
        let grants = role_grants::table.filter(role_grants::role_id.eq_any(&ids));
        let grants = grants.order((role_grants::role_id, role_grants::position));
        let grants = grants.select(GrantRow::as_select()).load(conn).await?;
        let parents = role_parents::table.filter(role_parents::role_id.eq_any(&ids));
        let parents: Vec<(Uuid, Uuid)> = parents.order(role_parents::parent_id).load(conn).await?;
        let mut contents: HashMap<Uuid, Contents> = HashMap::new();
        for row in grants {
            contents.entry(row.role_id).or_default().grants.push(row.into());
        }
        for (role_id, parent_id) in parents {
            contents.entry(role_id).or_default().parents.push(parent_id);
        }
        Ok(ids.iter().map(|id| contents.remove(id).unwrap_or_default()).collect())
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn, contents: &Contents) -> Result<(), Error> {
        diesel::insert_into(roles::table).values(self).execute(conn).await?;
        contents.insert(conn, self.id).await
    }

    /// Stores what was changed in it.
    pub async fn update(&self, conn: &mut Conn, contents: &Contents) -> Result<(), Error> {
        diesel::update(roles::table.find(self.id))
            .set((
                roles::name.eq(&self.name),
                roles::description.eq(&self.description),
                roles::updated_at.eq(self.updated_at),
                roles::version.eq(self.version),
            ))
            .execute(conn)
            .await?;
        diesel::delete(role_grants::table.filter(role_grants::role_id.eq(self.id))).execute(conn).await?;
        diesel::delete(role_parents::table.filter(role_parents::role_id.eq(self.id))).execute(conn).await?;
        contents.insert(conn, self.id).await
    }

    /// Deletes it, takes it from everybody who has it, and out of every role that inherits from it.
    pub async fn delete(conn: &mut Conn, id: Uuid) -> Result<(), Error> {
        diesel::delete(roles::table.find(id)).execute(conn).await?;
        Ok(())
    }
}

/// What a role grants by itself and inherits from.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub grants: Vec<Grant>,
    pub parents: Vec<Uuid>,
}

impl Contents {
    async fn insert(&self, conn: &mut Conn, role_id: Uuid) -> Result<(), Error> {
        let grants: Vec<_> = (0..).zip(&self.grants).map(|(at, grant)| GrantRow::new(role_id, at, grant)).collect();
        diesel::insert_into(role_grants::table).values(grants).execute(conn).await?;
        let parent = |id: &Uuid| (role_parents::role_id.eq(role_id), role_parents::parent_id.eq(*id));
        let parents: Vec<_> = self.parents.iter().map(parent).collect();
        diesel::insert_into(role_parents::table).values(parents).execute(conn).await?;
        Ok(())
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = role_grants, check_for_backend(Pg), treat_none_as_default_value = false)]
struct GrantRow {
    role_id: Uuid,
    position: i32,
    permission: String,
    deny: bool,
    condition: Option<String>,
    attribute: Option<String>,
    value: Option<String>,
}

impl GrantRow {
    fn new(role_id: Uuid, position: i32, grant: &Grant) -> Self {
        let (condition, equals) = match &grant.condition {
            None => (None, None),
            Some(Condition::Own) => (Some("own"), None),
            Some(Condition::Member) => (Some("member"), None),
            Some(Condition::Equals { attribute, value }) => {
                (Some("equals"), Some((attribute.to_string(), value.to_string())))
            }
        };
        let (attribute, value) = equals.unzip();
        let permission = grant.permission.to_string();
        Self { role_id, position, permission, deny: grant.deny, condition: condition.map(Into::into), attribute, value }
    }
}

impl From<GrantRow> for Grant {
    fn from(row: GrantRow) -> Self {
        let condition = row.condition.map(|condition| match condition.as_str() {
            "own" => Condition::Own,
            "member" => Condition::Member,
            _ => Condition::Equals {
                attribute: row.attribute.unwrap_or_default().into(),
                value: row.value.unwrap_or_default().into(),
            },
        });
        Self { permission: row.permission.into(), deny: row.deny, condition }
    }
}

/// That an account has a role besides its built-in one.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = account_roles, check_for_backend(Pg), treat_none_as_default_value = false)]
#[diesel(primary_key(account_id, role_id), treat_none_as_null = true)]
pub struct Assignment {
    pub account_id: Uuid,
    pub role_id: Uuid,
    pub assigned_by: Option<Uuid>,
    pub assigned_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl Assignment {
    /// What the audit log keeps of it.
    pub fn noted(&self, role: &Role) -> Value {
        json!({ "role": role.name, "role_id": role.id, "expires_at": self.expires_at })
    }

    /// Those of an account, in the order of their roles' ids, also such as have expired.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Vec<Self>, Error> {
        let rows = account_roles::table.filter(account_roles::account_id.eq(account_id));
        Ok(rows.order(account_roles::role_id).select(Self::as_select()).load(conn).await?)
    }

    /// Accounts after this one that have one of these roles, in the order of their ids, also such whose role has expired.
    pub async fn holders(conn: &mut Conn, roles: &[Uuid], after: Uuid, limit: i64) -> Result<Vec<Uuid>, Error> {
        let holders = account_roles::table
            .filter(account_roles::role_id.eq_any(roles))
            .filter(account_roles::account_id.gt(after))
            .order(account_roles::account_id)
            .select(account_roles::account_id)
            .distinct()
            .limit(limit);
        Ok(holders.load(conn).await?)
    }

    /// Whether it holds.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }

    /// Stores it, in place of an earlier one of the same role.
    pub async fn store(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(account_roles::table)
            .values(self)
            .on_conflict((account_roles::account_id, account_roles::role_id))
            .do_update()
            .set(self)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Takes a role from an account; false if it did not have it.
    pub async fn delete(conn: &mut Conn, account_id: Uuid, role_id: Uuid) -> Result<bool, Error> {
        Ok(diesel::delete(account_roles::table.find((account_id, role_id))).execute(conn).await? == 1)
    }

    /// Forgets those that expired before `before`; returns how many.
    pub async fn delete_expired(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let expired = account_roles::table.filter(account_roles::expires_at.lt(before));
        Ok(diesel::delete(expired).execute(conn).await?)
    }
}

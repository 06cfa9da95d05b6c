//! Rows and SQL of enrolments and backup codes.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::seal::Place;
use crate::schema::{backup_codes, two_factor};

/// Where an account's secret is sealed.
pub fn place(account_id: Uuid) -> Place {
    Place { table: "two_factor", column: "secret", row: account_id }
}

/// An account's authenticator.
#[derive(Queryable, Selectable)]
#[diesel(table_name = two_factor, check_for_backend(diesel::pg::Pg))]
pub struct Enrolment {
    pub account_id: Uuid,
    /// Sealed.
    pub secret: Vec<u8>,
    pub created_at: DateTime<Utc>,
    pub enabled_at: Option<DateTime<Utc>>,
}

impl Enrolment {
    /// Of an account.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Option<Self>, Error> {
        Ok(two_factor::table.find(account_id).select(Self::as_select()).first(conn).await.optional()?)
    }

    /// That of an account, if it is enabled.
    pub async fn enabled(conn: &mut Conn, account_id: Uuid) -> Result<Option<Self>, Error> {
        Ok(Self::of(conn, account_id).await?.filter(|enrolment| enrolment.enabled_at.is_some()))
    }

    /// Begins one in the place of another that was begun. False when one is enabled.
    pub async fn begin(conn: &mut Conn, account_id: Uuid, secret: &[u8], now: DateTime<Utc>) -> Result<bool, Error> {
        let row = (two_factor::secret.eq(secret), two_factor::created_at.eq(now));
        let insert = diesel::insert_into(two_factor::table)
            .values((two_factor::account_id.eq(account_id), row))
            .on_conflict(two_factor::account_id)
            .do_update()
            .set(row);
        let begin = diesel::query_dsl::methods::FilterDsl::filter(insert, two_factor::enabled_at.is_null());
        Ok(begin.execute(conn).await? == 1)
    }

    /// Enables it, with the step of the code that proved it. False when somebody else was faster.
    pub async fn enable(&self, conn: &mut Conn, step: i64, now: DateTime<Utc>) -> Result<bool, Error> {
        let this = two_factor::table
            .find(self.account_id)
            .filter(two_factor::created_at.eq(self.created_at))
            .filter(two_factor::enabled_at.is_null());
        let values = (two_factor::enabled_at.eq(now), two_factor::last_step.eq(step));
        Ok(diesel::update(this).set(values).execute(conn).await? == 1)
    }

    /// Uses up a step and those before it. False when it was used up already: of two at the same instant one gets true.
    pub async fn spend_step(&self, conn: &mut Conn, step: i64) -> Result<bool, Error> {
        let this = two_factor::table
            .find(self.account_id)
            .filter(two_factor::created_at.eq(self.created_at))
            .filter(two_factor::enabled_at.is_not_null())
            .filter(two_factor::last_step.lt(step));
        Ok(diesel::update(this).set(two_factor::last_step.eq(step)).execute(conn).await? == 1)
    }

    /// Deletes it, enabled or not. False when there is none.
    pub async fn delete(conn: &mut Conn, account_id: Uuid) -> Result<bool, Error> {
        Ok(diesel::delete(two_factor::table.find(account_id)).execute(conn).await? == 1)
    }

    /// Deletes those that were begun before `before` and never enabled; returns how many.
    pub async fn delete_abandoned(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let abandoned =
            two_factor::table.filter(two_factor::enabled_at.is_null()).filter(two_factor::created_at.lt(before));
        Ok(diesel::delete(abandoned).execute(conn).await?)
    }

    /// Sealed secrets in the order of their accounts, after this one.
    pub async fn secrets_after(conn: &mut Conn, last: Uuid, limit: i64) -> Result<Vec<(Uuid, Vec<u8>)>, Error> {
        let page = two_factor::table
            .filter(two_factor::account_id.gt(last))
            .order(two_factor::account_id)
            .limit(limit)
            .select((two_factor::account_id, two_factor::secret));
        Ok(page.load(conn).await?)
    }

    /// Puts a sealed secret in the place of another. False when that has gone meanwhile.
    pub async fn replace_secret(conn: &mut Conn, account_id: Uuid, old: &[u8], new: &[u8]) -> Result<bool, Error> {
        let this = two_factor::table.find(account_id).filter(two_factor::secret.eq(old));
        Ok(diesel::update(this).set(two_factor::secret.eq(new)).execute(conn).await? == 1)
    }
}

/// The backup codes of an account.
pub struct BackupCodes {
    /// How many are left.
    pub left: i64,
    /// When they were made.
    pub created_at: Option<DateTime<Utc>>,
}

impl BackupCodes {
    /// Of an account.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Self, Error> {
        use diesel::dsl::{count, max};
        let codes = backup_codes::table.filter(backup_codes::account_id.eq(account_id));
        let created_at = codes.select(max(backup_codes::created_at)).first(conn).await?;
        let unused = codes.filter(backup_codes::used_at.is_null());
        let left = unused.select(count(backup_codes::hash)).first(conn).await?;
        Ok(Self { left, created_at })
    }

    /// Puts these in the place of all others. To be called in a transaction that has locked the account.
    pub async fn replace(
        conn: &mut Conn,
        account_id: Uuid,
        hashes: &[Vec<u8>],
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        Self::delete(conn, account_id).await?;
        let row = |hash| {
            let id = backup_codes::account_id.eq(account_id);
            (id, backup_codes::hash.eq(hash), backup_codes::created_at.eq(now))
        };
        let rows: Vec<_> = hashes.iter().map(row).collect();
        diesel::insert_into(backup_codes::table).values(rows).execute(conn).await?;
        Ok(())
    }

    /// Deletes all.
    pub async fn delete(conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        diesel::delete(backup_codes::table.filter(backup_codes::account_id.eq(account_id))).execute(conn).await?;
        Ok(())
    }

    /// Uses one up. False when there is none, or it was used: of two at the same instant one gets true.
    pub async fn spend(conn: &mut Conn, account_id: Uuid, hash: &[u8], now: DateTime<Utc>) -> Result<bool, Error> {
        let code = backup_codes::table.find((account_id, hash)).filter(backup_codes::used_at.is_null());
        Ok(diesel::update(code).set(backup_codes::used_at.eq(now)).execute(conn).await? == 1)
    }
}

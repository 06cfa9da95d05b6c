//! Rows and SQL of archives and erasures.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Binary, Integer, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rng::hash_token;
use crate::schema::{accounts, erasures, export_chunks, exports};

const WAITING: &str = "waiting";
const RUNNING: &str = "running";
const READY: &str = "ready";

/// Whom a mail is for: address and name.
pub async fn recipient(conn: &mut Conn, account_id: Uuid) -> Result<Option<(String, String)>, Error> {
    let columns = (accounts::email, accounts::display_name);
    Ok(accounts::table.find(account_id).select(columns).first(conn).await.optional()?)
}

/// An archive.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = exports, check_for_backend(diesel::pg::Pg))]
pub struct Export {
    pub id: Uuid,
    pub account_id: Uuid,
    state: String,
    pub attempt: i32,
    pub files_done: i32,
    pub files: i32,
    pub size: i64,
    pub requested_at: DateTime<Utc>,
    pub ready_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
}

impl Export {
    /// Whether it can be downloaded.
    pub fn is_ready(&self) -> bool {
        self.state == READY
    }

    /// Whether nobody has begun it.
    pub fn is_waiting(&self) -> bool {
        self.state == WAITING
    }

    /// The archive of an account that has not expired.
    pub async fn of(conn: &mut Conn, account_id: Uuid, now: DateTime<Utc>) -> Result<Option<Self>, Error> {
        let own = exports::table
            .filter(exports::account_id.eq(account_id))
            .filter(exports::expires_at.gt(now))
            .select(Self::as_select());
        Ok(own.first(conn).await.optional()?)
    }

    /// Makes room for a new one and inserts it; false when one is being made. To be called in a transaction.
    pub async fn replace(
        conn: &mut Conn,
        id: Uuid,
        account_id: Uuid,
        now: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let own = exports::table.filter(exports::account_id.eq(account_id));
        let finished = own.filter(exports::state.eq(READY).or(exports::expires_at.le(now)));
        diesel::delete(finished).execute(conn).await?;
        let row = (
            exports::id.eq(id),
            exports::account_id.eq(account_id),
            exports::state.eq(WAITING),
            exports::requested_at.eq(now),
            exports::expires_at.eq(expires_at),
        );
        let inserted = diesel::insert_into(exports::table)
            .values(row)
            .on_conflict(exports::account_id)
            .do_nothing()
            .execute(conn)
            .await?;
        Ok(inserted == 1)
    }

    /// Begins it, or begins anew: what an earlier attempt wrote is forgotten, and what it still writes is refused. `None`
    /// when it is ready, or gone.
    pub async fn begin(conn: &mut Conn, id: Uuid, files: i32) -> Result<Option<Self>, Error> {
        let begun = diesel::update(exports::table.find(id).filter(exports::state.ne(READY)))
            .set((
                exports::state.eq(RUNNING),
                exports::attempt.eq(exports::attempt + 1),
                exports::files_done.eq(0),
                exports::files.eq(files),
            ))
            .returning(Self::as_returning())
            .get_result(conn)
            .await
            .optional()?;
        if begun.is_some() {
            diesel::delete(export_chunks::table.filter(export_chunks::export_id.eq(id))).execute(conn).await?;
        }
        Ok(begun)
    }

    /// Notes how many files are done; false when another attempt has begun.
    pub async fn progress(&self, conn: &mut Conn, files_done: i32) -> Result<bool, Error> {
        let this = exports::table.find(self.id).filter(exports::attempt.eq(self.attempt));
        Ok(diesel::update(this).set(exports::files_done.eq(files_done)).execute(conn).await? == 1)
    }

    /// Stores bytes of it; false when another attempt has begun.
    pub async fn store(&self, conn: &mut Conn, position: i32, data: &[u8]) -> Result<bool, Error> {
        let query = "INSERT INTO export_chunks (export_id, attempt, position, data) \
                     SELECT id, attempt, $3, $4 FROM exports WHERE id = $1 AND attempt = $2";
        let stored = diesel::sql_query(query)
            .bind::<SqlUuid, _>(self.id)
            .bind::<Integer, _>(self.attempt)
            .bind::<Integer, _>(position)
            .bind::<Binary, _>(data)
            .execute(conn)
            .await?;
        Ok(stored == 1)
    }

    /// Lets it be downloaded; false when another attempt has begun.
    pub async fn finish(
        &self,
        conn: &mut Conn,
        size: i64,
        now: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let this = exports::table.find(self.id).filter(exports::attempt.eq(self.attempt));
        let values = (
            exports::state.eq(READY),
            exports::files_done.eq(exports::files),
            exports::size.eq(size),
            exports::ready_at.eq(now),
            exports::expires_at.eq(expires_at),
        );
        Ok(diesel::update(this).set(values).execute(conn).await? == 1)
    }

    /// The bytes at this position; `None` behind the last, and when it is gone.
    pub async fn chunk(&self, conn: &mut Conn, position: i32) -> Result<Option<Vec<u8>>, Error> {
        let chunk = export_chunks::table.find((self.id, self.attempt, position)).select(export_chunks::data);
        Ok(chunk.first(conn).await.optional()?)
    }

    /// Forgets those that have expired; returns how many.
    pub async fn delete_expired(conn: &mut Conn, now: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(exports::table.filter(exports::expires_at.le(now))).execute(conn).await?)
    }
}

/// A deleted account that will be erased.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = erasures, check_for_backend(diesel::pg::Pg))]
pub struct Erasure {
    pub account_id: Uuid,
    /// What stands in the audit log afterwards.
    pub pseudonym: Uuid,
    pub state_before: String,
    pub by_owner: bool,
    pub requested_at: DateTime<Utc>,
    pub erase_at: DateTime<Utc>,
}

impl Erasure {
    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(erasures::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// Of an account, if it can still be kept.
    pub async fn of(conn: &mut Conn, account_id: Uuid, now: DateTime<Utc>) -> Result<Option<Self>, Error> {
        let live = erasures::table.find(account_id).filter(erasures::erase_at.gt(now)).select(Self::as_select());
        Ok(live.first(conn).await.optional()?)
    }

    /// By the token that was mailed to cancel it.
    pub async fn by_token(conn: &mut Conn, token: &str) -> Result<Option<Self>, Error> {
        let found = erasures::table.filter(erasures::token_hash.eq(hash_token(token))).select(Self::as_select());
        Ok(found.first(conn).await.optional()?)
    }

    /// Gives it a token to cancel it; the one that it had is void.
    pub async fn set_token(conn: &mut Conn, account_id: Uuid, token: &str) -> Result<(), Error> {
        let erasure = erasures::table.find(account_id);
        diesel::update(erasure).set(erasures::token_hash.eq(hash_token(token))).execute(conn).await?;
        Ok(())
    }

    /// Cancels it; false when that is too late, or somebody else was faster.
    pub async fn cancel(&self, conn: &mut Conn, now: DateTime<Utc>) -> Result<bool, Error> {
        let waiting = erasures::table
            .find(self.account_id)
            .filter(erasures::requested_at.eq(self.requested_at))
            .filter(erasures::begun.eq(false))
            .filter(erasures::erase_at.gt(now));
        Ok(diesel::delete(waiting).execute(conn).await? == 1)
    }

    /// Begins it, from when on nothing can be cancelled; `None` when it is not due, was cancelled, or is done.
    pub async fn begin(conn: &mut Conn, account_id: Uuid, now: DateTime<Utc>) -> Result<Option<Self>, Error> {
        let due = erasures::table.find(account_id).filter(erasures::erase_at.le(now));
        let begun = diesel::update(due).set(erasures::begun.eq(true)).returning(Self::as_returning());
        Ok(begun.get_result(conn).await.optional()?)
    }

    /// Whether there is such an account.
    pub async fn account_exists(conn: &mut Conn, account_id: Uuid) -> Result<bool, Error> {
        Ok(diesel::select(diesel::dsl::exists(accounts::table.find(account_id))).get_result(conn).await?)
    }
}

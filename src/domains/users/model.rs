//! Rows and SQL of profiles and blocks. `accounts` is read in joins and written by `auth` alone.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::edit::Edit;
use crate::domains::auth;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::schema::{profiles, user_blocks};

/// As many others one can block, give or take those that are blocked at the same instant.
const MAX_BLOCKS: i64 = 10_000;

/// The columns of [`Profile`]. An account without a row in `profiles` has the defaults.
pub const COLUMNS: &str = "\
    a.id, a.email, a.display_name, a.role, a.state, a.created_at, p.handle, coalesce(p.bio, '') AS bio, \
    coalesce(p.avatar_url, '') AS avatar_url, coalesce(p.locale, '') AS locale, coalesce(p.time_zone, '') AS time_zone, \
    coalesce(p.visibility, 'members') AS visibility, coalesce(p.messages_from, 'everyone') AS messages_from, \
    coalesce(p.presence_to, 'everyone') AS presence_to, coalesce(p.version, 0) AS version, \
    a.folded_name";

/// Where they come from.
pub const FROM: &str = "accounts a LEFT JOIN profiles p ON p.account_id = a.id";

/// Whether `$1` sees the profile of `a`; `$2` says that it sees all but the deleted.
pub const SHOWN: &str = "\
    a.state <> 'deleted' AND ($2 OR a.id = $1 OR (a.state = 'active' AND coalesce(p.visibility, 'members') <> 'nobody' \
    AND NOT EXISTS (SELECT FROM user_blocks b WHERE b.blocker_id = $1 AND b.blocked_id = a.id) \
    AND NOT EXISTS (SELECT FROM user_blocks b WHERE b.blocked_id = $1 AND b.blocker_id = a.id)))";

/// Who looks.
#[derive(Clone, Copy)]
pub struct Viewer {
    pub account_id: Uuid,
    /// Whether it holds `users:read-private`.
    pub private: bool,
}

/// An account with its profile.
#[derive(Clone, Debug, QueryableByName)]
#[diesel(check_for_backend(Pg))]
pub struct Profile {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub email: String,
    #[diesel(sql_type = Text)]
    pub display_name: String,
    #[diesel(sql_type = Text)]
    pub role: String,
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Text>)]
    pub handle: Option<String>,
    #[diesel(sql_type = Text)]
    pub bio: String,
    #[diesel(sql_type = Text)]
    pub avatar_url: String,
    #[diesel(sql_type = Text)]
    pub locale: String,
    #[diesel(sql_type = Text)]
    pub time_zone: String,
    #[diesel(sql_type = Text)]
    pub visibility: String,
    #[diesel(sql_type = Text)]
    pub messages_from: String,
    #[diesel(sql_type = Text)]
    pub presence_to: String,
    #[diesel(sql_type = BigInt)]
    version: i64,
    /// The name as lists are ordered by it.
    #[diesel(sql_type = Text)]
    pub folded_name: String,
}

/// What `profiles` holds of it.
#[derive(Insertable, AsChangeset)]
#[diesel(table_name = profiles, treat_none_as_default_value = false, treat_none_as_null = true)]
struct ProfileRow {
    account_id: Uuid,
    handle: Option<String>,
    bio: String,
    avatar_url: String,
    locale: String,
    time_zone: String,
    visibility: String,
    messages_from: String,
    presence_to: String,
    version: i64,
    updated_at: DateTime<Utc>,
}

impl Profile {
    /// By id, if the viewer sees it.
    pub async fn by_id(conn: &mut Conn, viewer: Viewer, id: Uuid) -> Result<Self, Error> {
        let query = diesel::sql_query(format!("SELECT {COLUMNS} FROM {FROM} WHERE {SHOWN} AND a.id = $3"))
            .bind::<SqlUuid, _>(viewer.account_id)
            .bind::<Bool, _>(viewer.private)
            .bind::<SqlUuid, _>(id);
        query.get_result(conn).await.optional()?.ok_or_else(|| Error::not_found("user"))
    }

    /// By handle, if the viewer sees it.
    pub async fn by_handle(conn: &mut Conn, viewer: Viewer, handle: &str) -> Result<Self, Error> {
        let query = diesel::sql_query(format!("SELECT {COLUMNS} FROM {FROM} WHERE {SHOWN} AND p.handle = $3"))
            .bind::<SqlUuid, _>(viewer.account_id)
            .bind::<Bool, _>(viewer.private)
            .bind::<Text, _>(handle);
        query.get_result(conn).await.optional()?.ok_or_else(|| Error::not_found("user"))
    }

    /// By handle, if it is shown to everyone.
    pub async fn public(conn: &mut Conn, handle: &str) -> Result<Self, Error> {
        let shown = "a.state = 'active' AND p.visibility = 'everyone' AND p.handle = $1";
        let query = diesel::sql_query(format!("SELECT {COLUMNS} FROM {FROM} WHERE {shown}")).bind::<Text, _>(handle);
        query.get_result(conn).await.optional()?.ok_or_else(|| Error::not_found("profile"))
    }

    /// Changes it, to be called in a transaction; returns how it is then.
    pub async fn update(conn: &mut Conn, id: Uuid, edit: Edit, now: DateTime<Utc>) -> Result<Self, Error> {
        // The lock comes first: the next statement's snapshot then sees what was committed under it.
        diesel::sql_query("SELECT FROM accounts WHERE id = $1 FOR NO KEY UPDATE")
            .bind::<SqlUuid, _>(id)
            .execute(conn)
            .await?;
        let viewer = Viewer { account_id: id, private: true };
        let before = Self::by_id(conn, viewer, id).await?;
        if edit.etag.as_ref().is_some_and(|etag| *etag != before.etag()) {
            let stale = Error::new(Reason::ResourceConflict, "somebody else changed it: read it again");
            return Err(stale.at_field("user.etag"));
        }
        if edit.is_empty() {
            return Ok(before);
        }
        if let Some(name) = edit.display_name.as_ref().filter(|name| **name != before.display_name) {
            auth::rename(conn, id, name, now).await?;
        }
        let row = ProfileRow {
            account_id: id,
            handle: edit.handle.unwrap_or(before.handle),
            bio: edit.bio.unwrap_or(before.bio),
            avatar_url: edit.avatar_url.unwrap_or(before.avatar_url),
            locale: edit.locale.unwrap_or(before.locale),
            time_zone: edit.time_zone.unwrap_or(before.time_zone),
            visibility: edit.visibility.map_or(before.visibility, Into::into),
            messages_from: edit.messages_from.map_or(before.messages_from, Into::into),
            presence_to: edit.presence_to.map_or(before.presence_to, Into::into),
            version: before.version + 1,
            updated_at: now,
        };
        let written = diesel::insert_into(profiles::table)
            .values(&row)
            .on_conflict(profiles::account_id)
            .do_update()
            .set(&row)
            .execute(conn)
            .await;
        match written {
            Err(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info))
                if info.constraint_name() == Some("profiles_handle") =>
            {
                let taken = Error::new(Reason::ResourceAlreadyExists, "this handle is taken");
                return Err(taken.at_field("user.handle"));
            }
            written => written?,
        };
        Self::by_id(conn, viewer, id).await
    }

    /// Another one after each change: `version` counts those of the profile, and what `auth` changes is hashed along.
    pub fn etag(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.id.as_bytes());
        hash.update(self.version.to_be_bytes());
        for text in [&self.email, &self.display_name, &self.role, &self.state] {
            // No text of the database holds U+0000.
            hash.update(text.as_bytes());
            hash.update([0]);
        }
        URL_SAFE_NO_PAD.encode(&hash.finalize()[..16])
    }
}

/// A privacy setting that decides who gets at somebody.
#[derive(Clone, Copy)]
pub enum Setting {
    MessagesFrom,
    PresenceTo,
}

/// Whose settings count.
#[derive(Clone, Copy)]
pub enum Side {
    /// Those of the others: somebody reaches them.
    From,
    /// One's own: they reach somebody.
    To,
}

/// Those of `others` that somebody reaches, or that reach somebody. `contacts` are those of them that it shares a
/// conversation with.
///
/// Nobody reaches who is not active, or on either side of a block; the others are reached by whom their setting says, and
/// those with a hidden profile by contacts only.
pub async fn reached(
    conn: &mut Conn,
    setting: Setting,
    (one, side): (Uuid, Side),
    others: &[Uuid],
    contacts: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    #[derive(QueryableByName)]
    struct Id {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let setting = match setting {
        Setting::MessagesFrom => "p.messages_from",
        Setting::PresenceTo => "p.presence_to",
    };
    let (by, of) = match side {
        Side::From => ("$1", "other.id"),
        Side::To => ("other.id", "$1"),
    };
    let query = format!(
        "SELECT other.id FROM unnest($2) other (id), {FROM} \
         WHERE a.id = {of} AND a.state = 'active' AND ({by} = {of} OR ( \
         NOT EXISTS (SELECT FROM user_blocks b WHERE b.blocker_id = {by} AND b.blocked_id = {of}) \
         AND NOT EXISTS (SELECT FROM user_blocks b WHERE b.blocked_id = {by} AND b.blocker_id = {of}) \
         AND CASE coalesce({setting}, 'everyone') WHEN 'nobody' THEN false \
             WHEN 'contacts' THEN other.id = ANY($3) \
             ELSE coalesce(p.visibility, 'members') <> 'nobody' OR other.id = ANY($3) END))"
    );
    let query = diesel::sql_query(query)
        .bind::<SqlUuid, _>(one)
        .bind::<Array<SqlUuid>, _>(others)
        .bind::<Array<SqlUuid>, _>(contacts);
    Ok(query.load::<Id>(conn).await?.into_iter().map(|row| row.id).collect())
}

/// A block, with what its maker would see of the other one without it.
#[derive(QueryableByName)]
#[diesel(check_for_backend(Pg))]
pub struct Blocked {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Text>)]
    pub handle: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub display_name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub avatar_url: Option<String>,
}

impl Blocked {
    /// Blocks. Whether the id has an account makes no difference.
    pub async fn insert(conn: &mut Conn, blocker: Uuid, blocked: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        let blocks = user_blocks::table.filter(user_blocks::blocker_id.eq(blocker));
        if blocks.count().get_result::<i64>(conn).await? >= MAX_BLOCKS {
            return Err(Error::new(Reason::BlockLimitReached, format!("no more than {MAX_BLOCKS} can be blocked")));
        }
        let row =
            (user_blocks::blocker_id.eq(blocker), user_blocks::blocked_id.eq(blocked), user_blocks::created_at.eq(now));
        diesel::insert_into(user_blocks::table).values(row).on_conflict_do_nothing().execute(conn).await?;
        Ok(())
    }

    /// Takes a block back, if there is one.
    pub async fn delete(conn: &mut Conn, blocker: Uuid, blocked: Uuid) -> Result<(), Error> {
        diesel::delete(user_blocks::table.find((blocker, blocked))).execute(conn).await?;
        Ok(())
    }

    /// Those of these accounts that are on the other side of a block, in either direction.
    pub async fn between(conn: &mut Conn, account_id: Uuid, among: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let by = user_blocks::table.filter(user_blocks::blocker_id.eq(account_id));
        let by = by.filter(user_blocks::blocked_id.eq_any(among)).select(user_blocks::blocked_id);
        let of = user_blocks::table.filter(user_blocks::blocked_id.eq(account_id));
        let of = of.filter(user_blocks::blocker_id.eq_any(among)).select(user_blocks::blocker_id);
        Ok(by.union(of).load(conn).await?)
    }

    /// Whom somebody blocks, the newest block first.
    pub async fn list(
        conn: &mut Conn,
        blocker: Uuid,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let (time, id) = after.unzip();
        let query = diesel::sql_query(
            "SELECT b.blocked_id AS id, b.created_at, s.handle, s.display_name, s.avatar_url \
             FROM user_blocks b LEFT JOIN LATERAL ( \
                 SELECT p.handle, a.display_name, p.avatar_url FROM accounts a \
                 LEFT JOIN profiles p ON p.account_id = a.id \
                 WHERE a.id = b.blocked_id AND a.state = 'active' AND coalesce(p.visibility, 'members') <> 'nobody' \
                 AND NOT EXISTS (SELECT FROM user_blocks o WHERE o.blocker_id = a.id AND o.blocked_id = $1)) s ON true \
             WHERE b.blocker_id = $1 AND ($3::uuid IS NULL OR (b.created_at, b.blocked_id) < ($2, $3)) \
             ORDER BY b.created_at DESC, b.blocked_id DESC LIMIT $4",
        )
        .bind::<SqlUuid, _>(blocker)
        .bind::<Nullable<Timestamptz>, _>(time)
        .bind::<Nullable<SqlUuid>, _>(id)
        .bind::<BigInt, _>(limit);
        Ok(query.load(conn).await?)
    }
}

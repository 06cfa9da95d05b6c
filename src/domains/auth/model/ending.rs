//! How sessions end before their time. Each that does is told on the account's stream: hand the announcement on, after the
//! commit.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{Account, Session};
use crate::kernel::account_events::{self, Announcement, Event};
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::account::v1::{SessionEndReason, SessionEnded};
use crate::schema::{accounts, sessions};

impl Account {
    /// Invalidates every access token and session of the account; an error if there is no such account. In a transaction.
    pub async fn revoke_sessions(
        conn: &mut Conn,
        id: Uuid,
        why: SessionEndReason,
        now: DateTime<Utc>,
    ) -> Result<Announcement, Error> {
        let raised = diesel::update(accounts::table.find(id))
            .set((accounts::token_version.eq(accounts::token_version + 1), accounts::updated_at.eq(now)))
            .execute(conn)
            .await?;
        if raised == 0 {
            return Err(Error::not_found("account"));
        }
        let all = sessions::table.filter(sessions::account_id.eq(id)).filter(sessions::revoked_at.is_null());
        let ended = diesel::update(all)
            .set(sessions::revoked_at.eq(now))
            .returning((sessions::account_id, sessions::id))
            .get_results(conn)
            .await?;
        tell(conn, ended, why, now).await
    }
}

impl Session {
    /// Ends one session. In a transaction.
    pub async fn revoke(
        conn: &mut Conn,
        id: Uuid,
        why: SessionEndReason,
        now: DateTime<Utc>,
    ) -> Result<Announcement, Error> {
        Self::revoke_all(conn, &[id], why, now).await
    }

    /// Ends the other sessions of an account. In a transaction.
    pub async fn revoke_others(
        conn: &mut Conn,
        account_id: Uuid,
        keep: Uuid,
        why: SessionEndReason,
        now: DateTime<Utc>,
    ) -> Result<Announcement, Error> {
        let others = sessions::table
            .filter(sessions::account_id.eq(account_id))
            .filter(sessions::id.ne(keep))
            .filter(sessions::revoked_at.is_null());
        let ended = diesel::update(others)
            .set(sessions::revoked_at.eq(now))
            .returning((sessions::account_id, sessions::id))
            .get_results(conn)
            .await?;
        tell(conn, ended, why, now).await
    }

    /// Ends those of these sessions that go on. In a transaction.
    pub async fn revoke_all(
        conn: &mut Conn,
        ids: &[Uuid],
        why: SessionEndReason,
        now: DateTime<Utc>,
    ) -> Result<Announcement, Error> {
        let live = sessions::table.filter(sessions::id.eq_any(ids)).filter(sessions::revoked_at.is_null());
        let ended = diesel::update(live)
            .set(sessions::revoked_at.eq(now))
            .returning((sessions::account_id, sessions::id))
            .get_results(conn)
            .await?;
        tell(conn, ended, why, now).await
    }

    /// Ends a live session of this account; `None` when there is none. In a transaction.
    pub async fn revoke_own(
        conn: &mut Conn,
        account_id: Uuid,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Option<Announcement>, Error> {
        let own = sessions::table
            .find(id)
            .filter(sessions::account_id.eq(account_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::expires_at.gt(now));
        let ended = diesel::update(own).set(sessions::revoked_at.eq(now)).execute(conn).await?;
        if ended == 0 {
            return Ok(None);
        }
        Ok(Some(tell(conn, vec![(account_id, id)], SessionEndReason::Revoked, now).await?))
    }
}

/// Tells the accounts of these sessions that they have ended.
async fn tell(
    conn: &mut Conn,
    ended: Vec<(Uuid, Uuid)>,
    why: SessionEndReason,
    now: DateTime<Utc>,
) -> Result<Announcement, Error> {
    let event = |(account_id, session_id): (Uuid, Uuid)| {
        let ended = SessionEnded { session_id: session_id.to_string(), reason: why.into() };
        (account_id, Event::SessionEnded(ended))
    };
    let events: Vec<_> = ended.into_iter().map(event).collect();
    account_events::append(conn, &events, now).await
}

//! How many messages are unread.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;

use super::{Conversation, Member};
use crate::kernel::db::Conn;
use crate::kernel::error::Error;

/// How many messages each of these members has not read, of those that are still kept: `kept_since` says since when. Subtracts
/// what is counted already, and asks only where something may be gone.
pub async fn unread(
    conn: &mut Conn,
    rows: &[(Conversation, Member)],
    kept_since: impl Fn(&Conversation) -> DateTime<Utc>,
) -> Result<Vec<i64>, Error> {
    #[derive(QueryableByName)]
    struct First {
        #[diesel(sql_type = Nullable<BigInt>)]
        ordinal: Option<i64>,
    }
    let sent = |(row, member): &(Conversation, Member)| (row.message_count - member.read_count).max(0);
    let mut unread: Vec<_> = rows.iter().map(sent).collect();
    let (mut asked, mut ids, mut read, mut since) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((row, member), count) in rows.iter().zip(&mut unread) {
        let kept = kept_since(row);
        if *count == 0 || row.created_at >= kept {
            continue;
        }
        ids.push(row.id);
        read.push(member.read_seq);
        since.push(kept);
        asked.push((row.message_count, count));
    }
    if asked.is_empty() {
        return Ok(unread);
    }
    let query = "SELECT (SELECT m.ordinal FROM messages_after(c.id, c.read_seq, NULL, c.since, 1) m) AS ordinal \
                 FROM unnest($1, $2, $3) WITH ORDINALITY AS c (id, read_seq, since, place) ORDER BY place";
    let query = diesel::sql_query(query)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(read)
        .bind::<Array<Timestamptz>, _>(since);
    for ((sent, count), First { ordinal }) in asked.into_iter().zip(query.load(conn).await?) {
        *count = ordinal.map_or(0, |first| (*count).min(sent - first + 1));
    }
    Ok(unread)
}

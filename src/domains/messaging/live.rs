//! Watching conversations: what was missed, then what happens.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::model::{self, Visible, partitions};
use super::wire;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::clock::Clock;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::sequence::{self, Event, Sequences};
use crate::proto::rialto::messaging::v1::SubscribeResponse;

/// One reader of one conversation.
pub struct Reader {
    inner: sequence::Reader<SubscribeResponse>,
    clock: Clock,
}

impl Reader {
    /// The last number that the reader has.
    pub fn seq(&self) -> i64 {
        self.inner.seq()
    }

    /// The next events, at least one, when there are some. What has disappeared by now has no content, wherever it was read.
    pub async fn next(&mut self) -> Result<Vec<SubscribeResponse>, Error> {
        let mut events = self.inner.next().await?;
        let now = self.clock.now();
        events.iter_mut().for_each(|event| wire::as_of(event, now));
        Ok(events)
    }
}

/// The conversations that are watched on this node.
#[derive(Clone)]
pub struct Live {
    app: App,
    /// What happens in conversations.
    pub sequences: Sequences<SubscribeResponse>,
}

impl Live {
    /// Starts following what other nodes commit.
    pub fn start(app: &App) -> Self {
        Self { app: app.clone(), sequences: Sequences::start(&app.db, &app.bus, &app.stopping) }
    }

    /// A reader that begins after `after_seq`, or with what happens from now on.
    pub async fn reader(&self, caller: &Caller, id: Uuid, after_seq: Option<i64>) -> Result<Reader, Error> {
        // Before the topic is made: whoever is no member leaves no trace.
        let mut conn = self.app.db.get().await?;
        let (conversation, _) = model::Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        if let Some(after) = after_seq.filter(|after| *after < conversation.last_seq) {
            // What is too old may still be there, until its partition is dropped.
            let days = self.app.config.messaging.retention_days;
            let since = partitions::kept_since(self.app.clock.now(), days, conversation.retention_days);
            let oldest = model::event::oldest(&mut conn, id, since).await?;
            sequence::check_kept::<SubscribeResponse>(after, oldest.unwrap_or(conversation.last_seq + 1))?;
        }
        drop(conn);
        Ok(Reader { inner: self.sequences.reader(id, after_seq).await?, clock: self.app.clock.clone() })
    }
}

impl Event for SubscribeResponse {
    const CHANNEL: &'static str = "conversation";
    const FORGOTTEN: Reason = Reason::HistoryTruncated;

    fn seq(&self) -> i64 {
        self.seq
    }

    async fn heads(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Uuid, i64)>, Error> {
        model::Conversation::heads(conn, ids).await
    }

    async fn oldest(conn: &mut Conn, id: Uuid) -> Result<Option<i64>, Error> {
        model::event::oldest(conn, id, DateTime::<Utc>::UNIX_EPOCH).await
    }

    async fn after(conn: &mut Conn, id: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        model::event::after(conn, id, seq, limit).await
    }
}

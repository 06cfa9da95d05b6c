//! Watching conversations: what was missed, then what happens.

use uuid::Uuid;

use super::encryption::Viewer;
use super::model::{self, Visible};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::sequence::{self, Event, Sequences};
use crate::proto::rialto::messaging::v1::SubscribeResponse;

/// One reader of one conversation, who gets what is for it.
pub struct Reader {
    events: sequence::Reader<SubscribeResponse>,
    viewer: Viewer,
}

impl Reader {
    /// The number of the last event that the reader has.
    pub fn seq(&self) -> i64 {
        self.events.seq()
    }

    /// The next events, at least one, when there are some.
    pub async fn next(&mut self) -> Result<impl Iterator<Item = SubscribeResponse> + Send + use<'_>, Error> {
        let Self { events, viewer } = self;
        Ok(events.next().await?.into_iter().map(|event| viewer.narrow_event(event)))
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
    pub async fn reader(
        &self,
        caller: &Caller,
        viewer: Viewer,
        id: Uuid,
        after_seq: Option<i64>,
    ) -> Result<Reader, Error> {
        // Before the topic is made: whoever is no member leaves no trace.
        model::Conversation::of_member(&mut *self.app.db.get().await?, id, Visible::to(caller)?).await?;
        Ok(Reader { events: self.sequences.reader(id, after_seq).await?, viewer })
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
        model::event::oldest(conn, id).await
    }

    async fn after(conn: &mut Conn, id: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        model::event::after(conn, id, seq, limit).await
    }
}

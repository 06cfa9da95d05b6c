//! Watching conversations: what was missed, then what happens.

use uuid::Uuid;

use super::model::{self, Visible};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::hub::Place;
use crate::kernel::sequence::{self, Event, Sequences};
use crate::proto::rialto::messaging::v1::SubscribeResponse;
use crate::proto::rialto::messaging::v1::subscribe_response::Event as Told;

/// The kinds of values that a conversation has of each member.
const RECEIPT: u8 = 0;
const TYPING: u8 = 1;

/// One reader of one conversation.
pub type Reader = sequence::Reader<SubscribeResponse>;

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
        model::Conversation::of_member(&mut *self.app.db.get().await?, id, Visible::to(caller)?).await?;
        self.sequences.reader(id, after_seq).await
    }
}

impl Event for SubscribeResponse {
    const CHANNEL: &'static str = "conversation";
    const FORGOTTEN: Reason = Reason::HistoryTruncated;

    fn place(&self) -> Place {
        let of = |account_id: &str| account_id.parse().unwrap_or_default();
        match &self.event {
            Some(Told::Receipt(receipt)) => Place::Latest(RECEIPT, of(&receipt.account_id)),
            Some(Told::Typing(typing)) => Place::Latest(TYPING, of(&typing.account_id)),
            _ => Place::Numbered(self.seq),
        }
    }

    fn set_seq(&mut self, seq: i64) {
        self.seq = seq;
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

//! Watching conversations: what was missed, then what happens.

use uuid::Uuid;

use super::encryption::Viewer;
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

/// One reader of one conversation, as long as it is a member, who gets what is for it.
pub struct Reader {
    live: Live,
    caller: Caller,
    id: Uuid,
    events: sequence::Reader<SubscribeResponse>,
    has_left: bool,
    viewer: Viewer,
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
        self.require_member(caller, id).await?;
        let events = self.sequences.reader(id, after_seq).await?;
        Ok(Reader { live: self.clone(), caller: caller.clone(), id, events, has_left: false, viewer })
    }

    async fn require_member(&self, caller: &Caller, id: Uuid) -> Result<(), Error> {
        model::Conversation::of_member(&mut *self.app.db.get().await?, id, Visible::to(caller)?).await?;
        Ok(())
    }
}

impl Reader {
    /// The last number that the reader has.
    pub fn seq(&self) -> i64 {
        self.events.seq()
    }

    /// The next events, at least one, when there are some. The last thing that a reader hears is that it is no longer a member;
    /// after that there is no such conversation.
    pub async fn next(&mut self) -> Result<Vec<SubscribeResponse>, Error> {
        if self.has_left {
            return Err(Error::not_found("conversation"));
        }
        let mut events = self.events.next().await?;
        let account_id = self.caller.account_id.to_string();
        let leaves =
            |told: &SubscribeResponse| matches!(&told.event, Some(Told::Members(it)) if it.left.contains(&account_id));
        if let Some(place) = events.iter().position(leaves) {
            // It may have come back since.
            match self.live.require_member(&self.caller, self.id).await {
                Err(error) if error.reason == Reason::ResourceNotFound => {
                    events.truncate(place + 1);
                    self.has_left = true;
                }
                checked => checked?,
            }
        }
        Ok(events.into_iter().map(|event| self.viewer.narrow_event(event)).collect())
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

//! Watching conversations: what was missed, then what happens.

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;
use uuid::Uuid;

use super::encryption::Viewer;
use super::model::{self, Visible, partitions};
use super::wire;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::encoded::Encoded;
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
        let (conversation, _) = self.membership(caller, id).await?;
        // What is too old may still be there, until its partition is dropped.
        let days = self.app.config.messaging.retention_days;
        let since = partitions::kept_since(self.app.clock.now(), days, conversation.retention_days);
        let events = self.sequences.reader(id, after_seq, since).await?;
        Ok(Reader { live: self.clone(), caller: caller.clone(), id, events, has_left: false, viewer })
    }

    async fn membership(&self, caller: &Caller, id: Uuid) -> Result<(model::Conversation, model::Member), Error> {
        model::Conversation::of_member(&mut *self.app.db.get().await?, id, Visible::to(caller)?).await
    }
}

impl Reader {
    /// The last number that the reader has.
    pub fn seq(&self) -> i64 {
        self.events.seq()
    }

    /// The next events, at least one, when there are some. What has disappeared by now has no content, wherever it was read.
    /// The last thing that a reader hears is that it is no longer a member; after that there is no such conversation.
    pub async fn next(&mut self) -> Result<Vec<Encoded<SubscribeResponse>>, Error> {
        if self.has_left {
            return Err(Error::not_found("conversation"));
        }
        let mut events = self.events.next().await?;
        let account = &self.viewer.account;
        let leaves =
            |told: &SubscribeResponse| matches!(&told.event, Some(Told::Members(it)) if it.left.contains(account));
        if let Some(place) = events.iter().position(|event| leaves(event)) {
            // It may have come back since. Boxed, because most readers wait, each with room for what it may have to do.
            match Box::pin(self.live.membership(&self.caller, self.id)).await {
                Err(error) if error.reason == Reason::ResourceNotFound => {
                    events.truncate(place + 1);
                    self.has_left = true;
                }
                checked => _ = checked?,
            }
        }
        let seen = |event: Encoded<SubscribeResponse>| {
            if wire::is_same_for_all(&event) {
                return event;
            }
            let mut event = self.viewer.narrow_event(&event);
            wire::as_of(&mut event, self.live.app.clock.now());
            Encoded::new(event)
        };
        Ok(events.into_iter().map(seen).collect())
    }

    /// One event after the other. If it fails, the last thing is why.
    pub fn into_stream(self) -> impl Stream<Item = Result<Encoded<SubscribeResponse>, Status>> {
        let batches = stream::try_unfold(self, |mut reader| async {
            let events = reader.next().await?;
            Ok::<_, Status>(Some((stream::iter(events).map(Ok), reader)))
        });
        batches.try_flatten()
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

    async fn first_after(conn: &mut Conn, id: Uuid, seq: i64, since: DateTime<Utc>) -> Result<Option<i64>, Error> {
        model::event::first_after(conn, id, seq, since).await
    }

    async fn after(conn: &mut Conn, id: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        model::event::after(conn, id, seq, limit).await
    }
}

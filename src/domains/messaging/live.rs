//! Watching conversations: what was missed, then what happens.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;
use uuid::Uuid;

use super::model::{self, Visible};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::kernel::hub::{Hub, Ready, Topic};
use crate::proto::rialto::messaging::v1::Message;

/// Events that a reader takes at a time.
const BATCH: usize = 100;
/// How often the heads of watched conversations are read from Postgres, without and with the bus.
const HEADS_ALONE: Duration = Duration::from_millis(500);
const HEADS: Duration = Duration::from_secs(2);

/// The conversations that are watched on this node.
#[derive(Clone)]
pub struct Live {
    app: App,
    hub: Arc<Hub<Message>>,
}

/// One reader of one conversation.
pub struct Reader {
    app: App,
    conversation_id: Uuid,
    topic: Arc<Topic<Message>>,
    head: watch::Receiver<i64>,
    /// The last number that the reader has.
    pub seq: i64,
}

impl Live {
    /// Starts following what other nodes commit.
    pub fn start(app: &App) -> Self {
        let hub = Hub::new(Arc::clone(&app.bus), "conversation", |payload| {
            let message = Message::decode(payload).ok()?;
            Some((message.seq, message))
        });
        tokio::spawn(follow_heads(app.clone(), Arc::clone(&hub)));
        Self { app: app.clone(), hub }
    }

    /// What committed messages are handed to.
    pub fn hub(&self) -> &Arc<Hub<Message>> {
        &self.hub
    }

    /// A reader that begins after `after_seq`, or with what happens from now on.
    pub async fn reader(&self, caller: &Caller, id: Uuid, after_seq: Option<i64>) -> Result<Reader, Error> {
        // Before the topic is made: whoever is no member leaves no trace.
        model::Conversation::of_member(&mut *self.app.db.get().await?, id, Visible::to(caller)?).await?;
        let topic = self.hub.topic(id).await;
        // Read after the topic listens, so that nothing falls in between.
        let now = model::Conversation::of_member(&mut *self.app.db.get().await?, id, Visible::to(caller)?).await?;
        topic.advance(now.last_seq);
        let seq = after_seq.unwrap_or(now.last_seq);
        if seq > now.last_seq {
            return Err(Error::invalid_field("after_seq", format!("is beyond the newest message, {}", now.last_seq)));
        }
        Ok(Reader { app: self.app.clone(), conversation_id: id, head: topic.head(), topic, seq })
    }
}

impl Reader {
    /// The next messages, at least one, when there are some.
    pub async fn next(&mut self) -> Result<Vec<Message>, Error> {
        loop {
            self.head.borrow_and_update();
            let messages = match self.topic.after(self.seq, BATCH) {
                Ready::Events(messages) => messages,
                Ready::InDatabase => self.read().await?,
                Ready::Nothing => Vec::new(),
            };
            if let Some(last) = messages.last() {
                self.seq = last.seq;
                return Ok(messages);
            }
            // The topic lives as long as this reader, and its sender with it.
            let _ = self.head.changed().await;
        }
    }

    async fn read(&self) -> Result<Vec<Message>, Error> {
        let mut conn = self.app.db.get().await?;
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let rows = model::Message::after(&mut conn, self.conversation_id, self.seq, limit).await?;
        Ok(rows.iter().map(Message::from).collect())
    }
}

/// Finds by itself what the bus did not tell: often while it is down, at once when it comes back, and now and then.
async fn follow_heads(app: App, hub: Arc<Hub<Message>>) {
    let mut link = app.bus.link();
    loop {
        let pause = if link.borrow_and_update().up { HEADS } else { HEADS_ALONE };
        tokio::select! {
            () = app.stopping.cancelled() => return,
            Ok(()) = link.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let ids = hub.active();
        if ids.is_empty() {
            continue;
        }
        let heads = async {
            let mut conn = app.db.get().await?;
            model::Conversation::heads(&mut conn, &ids).await
        };
        match heads.await {
            Ok(heads) => heads.into_iter().for_each(|(id, seq)| hub.advance(id, seq)),
            Err(error) => tracing::warn!(%error, "the heads of watched conversations can't be read"),
        }
    }
}

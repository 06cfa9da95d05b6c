//! One stream: events of the account, and latest values, in the order in which the client takes them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::connections::Connection;
use crate::domains::messaging::Heads;
use crate::kernel::account_events::Event;
use crate::kernel::error::{Error, Reason};
use crate::kernel::latest::{self, Taken};
use crate::kernel::sequence::Reader;
use crate::proto::rialto::account::v1::{Opened, Refresh, SubscribeResponse};

/// Messages that wait for a stream's window. The rest waits in the topic or in Postgres.
const BUFFER: usize = 16;

/// What a client hears.
pub type Messages = ReceiverStream<Result<SubscribeResponse, Status>>;

/// A stream that is about to begin.
pub struct Stream {
    pub account_id: Uuid,
    pub reader: Reader<SubscribeResponse>,
    pub values: latest::Stream<Event>,
    pub heads: Arc<Heads>,
    /// How long the client may leave what it is told without reading it.
    pub patience: Duration,
}

impl Stream {
    /// Begins, as this connection.
    pub fn begin(mut self, mut connection: Connection) -> Messages {
        let (sender, receiver) = mpsc::channel(BUFFER + 1);
        tokio::spawn(async move {
            // Room for the last word, which must not wait for a client that does not read.
            let Ok(last) = sender.clone().reserve_owned().await else { return };
            let opened = Opened { connection_id: connection.id.to_string() };
            let why = tokio::select! {
                () = sender.closed() => return,
                why = connection.ended() => why,
                Err(why) = self.tell(opened, &sender) => why,
            };
            last.send(Err(why.into()));
        });
        ReceiverStream::new(receiver)
    }

    /// Tells what there is, until something is wrong.
    async fn tell(&mut self, opened: Opened, sender: &Sender) -> Result<Infallible, Error> {
        let unnumbered = |seq, event| SubscribeResponse { seq: Some(seq), at: None, event: Some(event) };
        send(sender, unnumbered(self.reader.seq(), Event::Opened(opened)), self.patience).await?;
        loop {
            let events = self.reader.ready().await?;
            let Taken { values: latest, overflowed } = self.values.take();
            if events.is_empty() && latest.is_empty() && !overflowed {
                tokio::select! {
                    () = self.reader.moved() => {}
                    () = self.values.filled() => {}
                }
                continue;
            }
            for event in events {
                self.follow(&event);
                send(sender, event.into_message(), self.patience).await?;
            }
            let refresh = overflowed.then_some(Event::Refresh(Refresh {}));
            for event in refresh.into_iter().chain(latest) {
                send(sender, unnumbered(self.reader.seq(), event), self.patience).await?;
            }
        }
    }

    /// Follows the conversations that the account is in.
    fn follow(&self, told: &SubscribeResponse) {
        let (id, joined) = match &told.event {
            Some(Event::ConversationJoined(joined)) => (&joined.conversation_id, true),
            Some(Event::ConversationLeft(left)) => (&left.conversation_id, false),
            _ => return,
        };
        if let (Ok(id), Some(seq)) = (id.parse(), told.seq) {
            self.heads.follow(self.account_id, id, joined, seq);
        }
    }
}

type Sender = mpsc::Sender<Result<SubscribeResponse, Status>>;

async fn send(sender: &Sender, message: SubscribeResponse, patience: Duration) -> Result<(), Error> {
    match tokio::time::timeout(patience, sender.send(Ok(message))).await {
        // Who has gone away is noticed by the caller.
        Ok(_) => Ok(()),
        Err(_) => {
            let message = "the client has not read for too long; connect again";
            Err(Error::new(Reason::ServiceUnavailable, message).retry_after(Duration::from_secs(1)))
        }
    }
}

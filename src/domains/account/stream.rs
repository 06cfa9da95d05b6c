//! One stream: events of the account, and latest values, in the order in which the client takes them.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::connections::Connection;
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
    pub reader: Reader<SubscribeResponse>,
    pub values: latest::Stream<Event>,
    pub connection: Connection,
    /// How long the client may leave what it is told without reading it.
    pub patience: Duration,
}

impl Stream {
    /// Begins.
    pub fn begin(mut self) -> Messages {
        let (sender, receiver) = mpsc::channel(BUFFER + 1);
        tokio::spawn(async move {
            // Room for the last word, which must not wait for a client that does not read.
            let Ok(last) = sender.clone().reserve_owned().await else { return };
            let id = self.connection.id.to_string();
            let why = tokio::select! {
                () = sender.closed() => return,
                why = self.connection.ended() => why,
                Err(why) = tell(id, &mut self.reader, &self.values, &sender, self.patience) => why,
            };
            last.send(Err(why.into()));
        });
        ReceiverStream::new(receiver)
    }
}

type Sender = mpsc::Sender<Result<SubscribeResponse, Status>>;

/// Tells what there is, until something is wrong.
async fn tell(
    connection_id: String,
    reader: &mut Reader<SubscribeResponse>,
    values: &latest::Stream<Event>,
    sender: &Sender,
    patience: Duration,
) -> Result<Infallible, Error> {
    let unnumbered = |seq, event| SubscribeResponse { seq: Some(seq), at: None, event: Some(event) };
    send(sender, unnumbered(reader.seq(), Event::Opened(Opened { connection_id })), patience).await?;
    loop {
        let events = reader.ready().await?;
        let Taken { values: latest, overflowed } = values.take();
        if events.is_empty() && latest.is_empty() && !overflowed {
            tokio::select! {
                () = reader.moved() => {}
                () = values.filled() => {}
            }
            continue;
        }
        for event in events {
            send(sender, event, patience).await?;
        }
        let refresh = overflowed.then_some(Event::Refresh(Refresh {}));
        for event in refresh.into_iter().chain(latest) {
            send(sender, unnumbered(reader.seq(), event), patience).await?;
        }
    }
}

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

//! The write path of messages: writers share commits.
//!
//! What arrives while a transaction is in flight is the next batch; there is no timer. A conversation always goes
//! through the same lane, so its messages keep the order in which they arrived; several lanes keep Postgres busy while
//! one waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use diesel_async::AsyncConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use uuid::Uuid;

use super::heads::{self, Heads};
use super::model::partitions::Partitions;
use super::model::{Content, NewMessage};
use super::wire;
use crate::kernel::app::App;
use crate::kernel::bus::Bus;
use crate::kernel::encoded::Encoded;
use crate::kernel::error::{Error, Reason};
use crate::kernel::sequence::Sequences;
use crate::proto::rialto::messaging::v1::{Message, SubscribeResponse};

const LANES: usize = 2;
/// Messages that wait in a lane; more are refused.
const WAITING: usize = 2048;
/// Bytes of ciphertext that wait in all lanes; more is refused. Text is small enough to be counted by messages.
const WAITING_BYTES: usize = 32 << 20;
/// Messages of one transaction.
const BATCH: usize = 256;
/// Messages on their way to the other nodes. More are not announced: the other nodes find them by themselves.
const ANNOUNCED: usize = 16_384;

/// Commits messages.
#[derive(Clone)]
pub struct Committer {
    lanes: Arc<[mpsc::Sender<Pending>]>,
    room: Arc<Semaphore>,
}

struct Pending {
    new: NewMessage,
    /// For ciphertext; until it is answered.
    room: Option<OwnedSemaphorePermit>,
    answer: oneshot::Sender<Result<Message, Error>>,
}

struct Lane {
    app: App,
    sequences: Sequences<SubscribeResponse>,
    heads: Arc<Heads>,
    announce: mpsc::Sender<(Uuid, Encoded<SubscribeResponse>)>,
    partitions: Partitions,
}

impl Committer {
    /// Starts the lanes, which live as long as somebody may send.
    pub fn start(
        app: &App,
        sequences: &Sequences<SubscribeResponse>,
        heads: &Arc<Heads>,
        partitions: &Partitions,
    ) -> Self {
        let (announce, announced) = mpsc::channel(ANNOUNCED);
        tokio::spawn(announce_to_nodes(sequences.clone(), Arc::clone(&app.bus), announced));
        let lane = |_| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let (sequences, heads, announce) = (sequences.clone(), Arc::clone(heads), announce.clone());
            let lane = Lane { app: app.clone(), sequences, heads, announce, partitions: partitions.clone() };
            tokio::spawn(lane.run(receiver));
            sender
        };
        Self { lanes: (0..LANES).map(lane).collect(), room: Arc::new(Semaphore::new(WAITING_BYTES)) }
    }

    /// Takes a message, in order; the receiver gets it when it was committed.
    pub fn submit(&self, new: NewMessage) -> Result<oneshot::Receiver<Result<Message, Error>>, Error> {
        let lane = usize::try_from(new.conversation_id.as_u128() % LANES as u128).unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let overloaded = || {
            Error::new(Reason::RateLimitExceeded, "too many messages wait to be written")
                .retry_after(Duration::from_millis(500))
        };
        let room = match &new.content {
            Content::Text(_) => None,
            Content::Encrypted(encrypted) => {
                let bytes = u32::try_from(encrypted.content.len()).unwrap_or(u32::MAX);
                Some(Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| overloaded())?)
            }
        };
        self.lanes[lane].try_send(Pending { new, room, answer }).map_err(|_| overloaded())?;
        Ok(answered)
    }

    /// Commits a message.
    pub async fn commit(&self, new: NewMessage) -> Result<Message, Error> {
        answer(self.submit(new)?).await
    }
}

/// Waits for the answer of a message that was submitted.
pub async fn answer(answered: oneshot::Receiver<Result<Message, Error>>) -> Result<Message, Error> {
    answered.await.unwrap_or_else(|_| Err(Error::new(Reason::ServiceUnavailable, "the server stops")))
}

impl Lane {
    async fn run(mut self, mut waiting: mpsc::Receiver<Pending>) {
        let mut batch = Vec::with_capacity(BATCH);
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            let (new, answers): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|pending| (pending.new, (pending.answer, pending.room))).unzip();
            for (result, (answer, _)) in self.commit(new).await.into_iter().zip(answers) {
                // Who has gone away may send again and gets the same message.
                let _ = answer.send(result);
            }
        }
    }

    /// Commits a batch; if that fails, each of its messages alone, so that one doesn't fail the others.
    async fn commit(&mut self, new: Vec<NewMessage>) -> Vec<Result<Message, Error>> {
        let error = match self.transaction(&new).await {
            Ok(results) => return results,
            Err(error) => error,
        };
        if new.len() == 1 || error.reason == Reason::ConnectionError {
            return new.iter().map(|_| Err(error.clone())).collect();
        }
        let mut results = Vec::new();
        for one in new {
            let alone = self.transaction(std::slice::from_ref(&one)).await;
            results.extend(alone.unwrap_or_else(|error| vec![Err(error)]));
        }
        results
    }

    async fn transaction(&mut self, new: &[NewMessage]) -> Result<Vec<Result<Message, Error>>, Error> {
        let (app, now) = (self.app.clone(), self.app.clock.now());
        let mut conn = app.db.get().await?;
        self.partitions.ensure(&mut conn, now, app.config.messaging.retention_days).await?;
        let rows = conn.transaction(async |conn| NewMessage::insert_batch(conn, new, now).await).await?;
        drop(conn);
        let results = rows.into_iter().zip(new).map(|(row, new)| {
            let row = row?;
            if row.id == new.id {
                let event = Encoded::new(SubscribeResponse::from(&row));
                self.sequences.publish(row.conversation_id, event.clone());
                self.heads.advance(row.conversation_id, row.seq);
                // A full queue is no loss: the other nodes look at the heads by themselves.
                let _ = self.announce.try_send((row.conversation_id, event));
            }
            Ok(wire::sent(row))
        });
        Ok(results.collect())
    }
}

/// Tells the other nodes what was committed here, as many at a time as there are.
async fn announce_to_nodes(
    sequences: Sequences<SubscribeResponse>,
    bus: Arc<Bus>,
    mut committed: mpsc::Receiver<(Uuid, Encoded<SubscribeResponse>)>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while committed.recv_many(&mut batch, BATCH).await > 0 {
        sequences.tell_nodes(&batch).await;
        heads::tell_servers(&bus, batch.iter().map(|(id, event)| (*id, event.seq))).await;
        batch.clear();
    }
}

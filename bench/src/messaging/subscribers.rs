//! Those who are subscribed to a room, and one who writes to it, with rialto and with socket.io.

use std::net::SocketAddr;
use std::str;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::PathAndQuery;
use prost::Message;
use rialto::kernel::rng::Rng;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{SendMessageRequest, SubscribeRequest, send_message_request};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::client::Grpc;

use super::socketio::Socket;
use crate::client::{Http2, Raw};
use crate::world::Account;

/// How many subscribe at once.
const OPENING: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
/// The time at which a message was sent follows this in its text, in microseconds. No number of a message looks like it.
const MARK: &[u8] = b" @";
/// About as long as a message of people, with the time.
const PADDING: &str = "A message of ordinary length, such as people send each other all day long.";
const SUBSCRIBE: &str = "/rialto.messaging.v1.MessagingService/Subscribe";

/// Who serves the room.
#[derive(Clone, Copy)]
pub enum Room<'a> {
    /// This conversation; all streams on one connection, or each on its own.
    Rialto {
        /// Where.
        address: SocketAddr,
        /// Its members.
        accounts: &'a [Account],
        /// Its id.
        conversation: &'a str,
        /// All streams on one connection, instead of each on its own.
        shared: bool,
    },
    /// The first conversation.
    SocketIo {
        /// Where.
        address: SocketAddr,
    },
}

/// What subscribers have got.
struct Tally {
    started: Instant,
    subscribers: usize,
    /// How many messages, all subscribers together.
    delivered: AtomicUsize,
    /// How long each of them took.
    latencies: Mutex<Vec<Duration>>,
    /// As many have been delivered as there are subscribers, or twice as many, and so on.
    round: Notify,
}

impl Tally {
    fn count(&self, packet: &[u8]) -> Result<()> {
        let mark = packet.windows(MARK.len()).position(|bytes| bytes == MARK).context("a message without a time")?;
        let digits = packet[mark + MARK.len()..].split(|byte| !byte.is_ascii_digit()).next().unwrap_or_default();
        let sent = Duration::from_micros(str::from_utf8(digits)?.parse()?);
        self.latencies().push(self.started.elapsed().saturating_sub(sent));
        if (self.delivered.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.subscribers) {
            self.round.notify_waiters();
        }
        Ok(())
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, Vec<Duration>> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everybody who is subscribed. Dropping it ends the subscriptions.
pub struct Subscribers {
    tally: Arc<Tally>,
    sent: AtomicUsize,
    reading: Mutex<JoinSet<Result<()>>>,
}

enum Subscription {
    Rialto(Streaming<Bytes>),
    SocketIo(Socket),
}

impl Subscription {
    async fn read(self, tally: Arc<Tally>) -> Result<()> {
        match self {
            Self::Rialto(mut stream) => {
                while let Some(message) = stream.message().await? {
                    tally.count(&message)?;
                }
                bail!("a stream ended")
            }
            Self::SocketIo(mut socket) => loop {
                let packet = socket.next().await?;
                // Anything else is no event.
                if packet.starts_with("42") {
                    tally.count(packet.as_bytes())?;
                }
            },
        }
    }
}

impl Room<'_> {
    /// Subscribes so many.
    pub async fn subscribe(self, count: usize) -> Result<Subscribers> {
        let first = match self {
            Self::Rialto { address, shared: true, .. } => Some(Http2::connect(address).await?),
            _ => None,
        };
        let open = |index| self.open(index, first.clone());
        let open: Vec<_> = stream::iter(0..count).map(open).buffer_unordered(OPENING).try_collect().await?;
        let tally = Arc::new(Tally {
            started: Instant::now(),
            subscribers: count,
            delivered: AtomicUsize::new(0),
            latencies: Mutex::default(),
            round: Notify::new(),
        });
        let mut reading = JoinSet::new();
        for subscription in open {
            reading.spawn(subscription.read(Arc::clone(&tally)));
        }
        Ok(Subscribers { tally, sent: AtomicUsize::new(0), reading: Mutex::new(reading) })
    }

    async fn open(self, index: usize, connection: Option<Http2>) -> Result<Subscription> {
        match self {
            Self::SocketIo { address } => {
                let mut socket = Socket::connect(address).await?;
                socket.call(&json!(["join", 1])).await?;
                Ok(Subscription::SocketIo(socket))
            }
            Self::Rialto { address, accounts, conversation, .. } => {
                let connection = match connection {
                    Some(connection) => connection,
                    None => Http2::connect(address).await?,
                };
                let request = SubscribeRequest { conversation_id: conversation.to_owned(), ..Default::default() };
                let request = accounts[index % accounts.len()].request(Bytes::from(request.encode_to_vec()));
                let mut client = Grpc::with_origin(connection.clone(), connection.origin.clone());
                client.ready().await.context("the connection ended")?;
                let path = PathAndQuery::from_static(SUBSCRIBE);
                Ok(Subscription::Rialto(client.server_streaming(request, path, Raw).await?.into_inner()))
            }
        }
    }

    /// One who writes.
    pub async fn writer(self) -> Result<Writer> {
        match self {
            Self::SocketIo { address } => Ok(Writer::SocketIo(Socket::connect(address).await?)),
            Self::Rialto { address, accounts, conversation, .. } => {
                let connection = Http2::connect(address).await?;
                let client = MessagingServiceClient::with_origin(connection.clone(), connection.origin);
                let account = accounts.first().context("there are no accounts")?.clone();
                Ok(Writer::Rialto { client, account, conversation: conversation.to_owned() })
            }
        }
    }
}

/// One who writes to a room.
pub enum Writer {
    /// To a conversation.
    Rialto {
        /// On a connection of its own.
        client: MessagingServiceClient<Http2>,
        /// A member.
        account: Account,
        /// Its id.
        conversation: String,
    },
    /// To the first conversation.
    SocketIo(Socket),
}

impl Writer {
    /// Sends a message that was due at some time, and waits until it is acknowledged.
    pub async fn send(&mut self, subscribers: &Subscribers, due: Instant) -> Result<()> {
        let micros = due.saturating_duration_since(subscribers.tally.started).as_micros();
        let text = format!("{PADDING} @{micros}");
        let id = format!("{:032x}", u128::from_be_bytes(Rng.bytes()?));
        subscribers.sent.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::SocketIo(socket) => socket.call(&json!(["send", 1, 1, id, text])).await,
            Self::Rialto { client, account, conversation } => {
                let request = SendMessageRequest {
                    conversation_id: conversation.clone(),
                    client_message_id: id,
                    content: Some(send_message_request::Content::Text(text)),
                    ..Default::default()
                };
                client.send_message(account.request(request)).await?;
                Ok(())
            }
        }
    }
}

impl Subscribers {
    /// Waits until no more than so many of the messages that were sent have not reached everybody.
    pub async fn have_read_all_but(&self, messages: usize) -> Result<()> {
        loop {
            let round = self.tally.round.notified();
            let sent = self.sent.load(Ordering::Relaxed).saturating_sub(messages) * self.tally.subscribers;
            if self.tally.delivered.load(Ordering::Relaxed) >= sent {
                return Ok(());
            }
            timeout(PATIENCE, round).await.context("a message did not reach everybody").or_else(|silent| {
                let ended = self.reading.lock().unwrap_or_else(PoisonError::into_inner).try_join_next();
                match ended {
                    None => Err(silent),
                    Some(ended) => ended.context("a subscriber panicked")?.context("a subscription ended"),
                }
            })?;
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.tally.subscribers
    }

    /// How long each delivery took since this was asked last.
    pub fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.tally.latencies())
    }
}

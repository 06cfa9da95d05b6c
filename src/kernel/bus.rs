//! What nodes tell each other, over Redis publish and subscribe.
//!
//! A published message is a hint and may be lost. Who relies on the bus watches its [`Link`]: when the link goes down
//! or comes back, what was missed must be read from Postgres.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use redis::RedisError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kernel::redis::Redis;

/// How often the link proves that it carries messages, and after how long without proof it counts as lost.
const HEARTBEAT: Duration = Duration::from_millis(500);
const LOST_AFTER: Duration = Duration::from_millis(1500);
const RECONNECT_AFTER: Duration = Duration::from_millis(250);

type Handler = Arc<dyn Fn(Bytes) + Send + Sync>;

/// The state of the subscriber connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Whether messages arrive.
    pub up: bool,
    /// Grows with each connection. A new epoch means that messages may have been missed.
    pub epoch: u64,
}

/// The bus of this node.
pub struct Bus {
    redis: Redis,
    handlers: Mutex<HashMap<String, Handler>>,
    /// Channels whose subscription has changed, with who waits for it to be in force.
    changes: mpsc::UnboundedSender<(String, CancellationToken)>,
    link: watch::Sender<Link>,
    heartbeat: String,
}

impl Bus {
    /// Starts the subscriber connection, which lives until `stop`. `node` is unique among the nodes.
    pub fn start(redis: Redis, node: &str, stop: CancellationToken) -> Arc<Self> {
        let (changes, changed) = mpsc::unbounded_channel();
        let heartbeat = redis.name(&format!("node:{node}"));
        let (link, _) = watch::channel(Link::default());
        let bus = Arc::new(Self { redis, handlers: Mutex::default(), changes, link, heartbeat });
        tokio::spawn(Arc::clone(&bus).run(changed, stop));
        bus
    }

    /// The link's state, to read and to watch.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Whether messages arrive.
    pub fn is_up(&self) -> bool {
        self.link.borrow().up
    }

    /// Calls `handler` with each message of the channel; returns when the subscription is in force, or at once while the
    /// link is down (it will be in force when the link's next epoch begins).
    pub async fn subscribe(&self, channel: &str, handler: impl Fn(Bytes) + Send + Sync + 'static) {
        let channel = self.redis.name(channel);
        self.handlers().insert(channel.clone(), Arc::new(handler));
        let in_force = CancellationToken::new();
        let mut link = self.link();
        let up_now = link.borrow_and_update().up;
        if self.changes.send((channel, in_force.clone())).is_ok() && up_now {
            tokio::select! {
                () = in_force.cancelled() => {}
                _ = link.changed() => {}
            }
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, channel: &str) {
        let channel = self.redis.name(channel);
        self.handlers().remove(&channel);
        // The receiver is gone only when the node stops.
        let _ = self.changes.send((channel, CancellationToken::new()));
    }

    /// Tells the other nodes, in one round trip.
    pub async fn publish(&self, messages: impl IntoIterator<Item = (String, Bytes)>) -> Result<(), RedisError> {
        let mut pipeline = redis::pipe();
        for (channel, message) in messages {
            pipeline.publish(self.redis.name(&channel), message.as_ref()).ignore();
        }
        self.redis.run(&pipeline).await
    }

    fn handlers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Handler>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(
        self: Arc<Self>,
        mut changed: mpsc::UnboundedReceiver<(String, CancellationToken)>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.listen(&mut changed) => if let Err(error) = result {
                    tracing::debug!(%error, "the subscriber connection ended");
                },
            }
            self.link.send_if_modified(|link| std::mem::replace(&mut link.up, false));
            self.redis.set_available(false);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT_AFTER) => {}
            }
        }
    }

    /// One life of the subscriber connection.
    async fn listen(
        &self,
        changed: &mut mpsc::UnboundedReceiver<(String, CancellationToken)>,
    ) -> Result<(), RedisError> {
        let connect = async { self.redis.client().get_async_pubsub().await };
        let pubsub = tokio::time::timeout(LOST_AFTER, connect).await.map_err(|_| silent())??;
        let (mut sink, mut messages) = pubsub.split();
        sink.subscribe(&self.heartbeat).await?;
        let channels: Vec<_> = self.handlers().keys().cloned().collect();
        if !channels.is_empty() {
            sink.subscribe(&channels).await?;
        }
        self.redis.set_available(true);
        self.link.send_modify(|link| *link = Link { up: true, epoch: link.epoch + 1 });

        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut last_heard = Instant::now();
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = message.ok_or_else(silent)?;
                    last_heard = Instant::now();
                    self.dispatch(message.get_channel_name(), message.get_payload_bytes());
                }
                Some((channel, in_force)) = changed.recv() => {
                    if self.handlers().contains_key(&channel) {
                        sink.subscribe(&channel).await?;
                    } else {
                        sink.unsubscribe(&channel).await?;
                    }
                    in_force.cancel();
                }
                _ = heartbeat.tick() => {
                    if last_heard.elapsed() > LOST_AFTER {
                        return Err(silent());
                    }
                    let mut pipeline = redis::pipe();
                    pipeline.publish(&self.heartbeat, "").ignore();
                    self.redis.run::<()>(&pipeline).await?;
                }
            }
        }
    }

    fn dispatch(&self, channel: &str, payload: &[u8]) {
        let handler = self.handlers().get(channel).cloned();
        if let Some(handler) = handler {
            handler(Bytes::copy_from_slice(payload));
        }
    }
}

fn silent() -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "the subscriber connection is silent"))
}

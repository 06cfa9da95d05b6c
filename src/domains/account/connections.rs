//! The streams that are open. Postgres has those of all nodes, under the node that has them; a node that is killed is no longer
//! seen, and its streams with it.
//!
//! Who wants a stream to end notes it in its row, and tells the nodes by the bus. What the bus did not tell, a node reads with
//! its heartbeat.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diesel_async::AsyncConnection;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::model::{self, Node};
use super::presence::{Change, Presences};
use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason};

const CHANNEL: &str = "connections";
/// How often a node says that it runs, and looks for streams that are to end; without and with the bus.
const HEARTBEAT_ALONE: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long to wait with rows that can't be deleted now.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long forgetting the node may take when it stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// The streams of this node.
pub struct Connections {
    app: App,
    open: Mutex<HashMap<Uuid, watch::Sender<Option<Error>>>>,
    /// Those that have ended, whose rows are still there.
    ended: Mutex<Vec<Uuid>>,
    has_ended: Notify,
    /// Who is told whose they are.
    pub presences: Arc<Presences>,
}

/// One of them. It is open until this is dropped.
pub struct Connection {
    connections: Arc<Connections>,
    /// Its id.
    pub id: Uuid,
    end: watch::Receiver<Option<Error>>,
}

impl Connections {
    /// Makes the node known, and begins to end what is to end.
    pub async fn start(app: App) -> Result<Arc<Self>, Error> {
        Node::insert(&mut *app.db.get().await?, app.node_id).await?;
        let connections = Arc::new(Self {
            app: app.clone(),
            open: Mutex::default(),
            ended: Mutex::default(),
            has_ended: Notify::new(),
            presences: Presences::start(&app).await,
        });
        let listener = Arc::downgrade(&connections);
        let hear = move |message: Bytes| {
            if let (Some(connections), Ok(id)) = (listener.upgrade(), Uuid::from_slice(&message)) {
                connections.end(id, revoked());
            }
        };
        app.bus.subscribe(CHANNEL, hear).await;
        tokio::spawn(Arc::clone(&connections).beat());
        tokio::spawn(Arc::clone(&connections).forget_ended());
        Ok(connections)
    }

    /// Forgets the node. To be called when no stream is open any more.
    pub async fn finish(&self) {
        let forget = async {
            let now = self.app.clock.now();
            let accounts = Node::delete(&mut *self.app.db.get().await?, self.app.node_id, now).await?;
            self.presences.announce(Change::Left, &accounts).await;
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(PATIENCE, forget).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the node's streams are listed for another minute"),
            Err(_) => tracing::warn!("the node's streams are listed for another minute: the database did not answer"),
        }
    }

    /// Notes that a stream is open. An error if its account has as many as it may.
    pub async fn open(self: &Arc<Self>, row: model::Connection) -> Result<Connection, Error> {
        let connections = Arc::clone(self);
        // In a task of its own: a client that goes away leaves no transaction half done.
        let opened = tokio::spawn(async move {
            let app = Arc::clone(&connections.app);
            // Before there is a row, so that whatever happens it is deleted.
            let connection = connections.add(row.id);
            let limit = app.config.account.max_connections;
            let mut conn = app.db.get().await?;
            let before = conn.transaction(async |conn| row.insert(conn, i64::from(limit)).await).await?;
            drop(conn);
            match before {
                None => {
                    let message = format!("the account has {limit} open streams already");
                    return Err(Error::new(Reason::ConnectionLimitReached, message));
                }
                Some(0) => connections.presences.announce(Change::Came, &[row.account_id]).await,
                Some(_) => {}
            }
            Ok(connection)
        });
        opened.await.unwrap_or_else(|panic| Err(Error::internal("a stream can't be opened", panic)))
    }

    /// Ends a stream of an account, wherever it is; false if there is none such.
    pub async fn revoke(&self, account_id: Uuid, id: Uuid) -> Result<bool, Error> {
        let mut conn = self.app.db.get().await?;
        if !model::Connection::revoke(&mut conn, account_id, id, self.app.clock.now()).await? {
            return Ok(false);
        }
        drop(conn);
        self.end(id, revoked());
        // Nodes look for it by themselves.
        if let Err(error) = self.app.bus.publish([(CHANNEL.to_owned(), Bytes::copy_from_slice(id.as_bytes()))]).await {
            tracing::debug!(%error, "the other nodes were not told of a stream that is to end");
        }
        Ok(true)
    }

    fn add(self: &Arc<Self>, id: Uuid) -> Connection {
        let (sender, end) = watch::channel(None);
        self.opened().insert(id, sender);
        self.app.metrics.account_streams.inc();
        Connection { connections: Arc::clone(self), id, end }
    }

    fn end(&self, id: Uuid, why: Error) {
        if let Some(stream) = self.opened().get(&id) {
            stream.send_replace(Some(why));
        }
    }

    async fn beat(self: Arc<Self>) {
        let mut link = self.app.bus.link();
        loop {
            let pause = if link.borrow_and_update().up { HEARTBEAT } else { HEARTBEAT_ALONE };
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                Ok(()) = link.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "streams that are to end can't be read");
            }
        }
    }

    /// Says that the node runs, and ends what is to end.
    async fn look(&self) -> Result<(), Error> {
        let mut conn = self.app.db.get().await?;
        if !Node::seen(&mut conn, self.app.node_id).await? {
            // It was taken for dead: nobody can see its streams, or say that one should end.
            tracing::warn!("the node was stopped for so long that its streams were forgotten");
            for stream in self.opened().values() {
                stream.send_replace(Some(forgotten()));
            }
            return Node::insert(&mut conn, self.app.node_id).await;
        }
        for id in model::Connection::revoked(&mut conn, self.app.node_id).await? {
            self.end(id, revoked());
        }
        Ok(())
    }

    /// Deletes the rows of streams that have ended, as many at a time as there are.
    async fn forget_ended(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                () = self.has_ended.notified() => {}
            }
            let ended = std::mem::take(&mut *self.ended());
            let now = self.app.clock.now();
            let delete = async { model::Connection::delete_all(&mut *self.app.db.get().await?, &ended, now).await };
            match delete.await {
                Ok(accounts) => self.presences.announce(Change::Left, &accounts).await,
                Err(error) => {
                    tracing::warn!(%error, "streams that have ended can't be deleted yet");
                    self.ended().extend(ended);
                    tokio::time::sleep(AGAIN_AFTER).await;
                    self.has_ended.notify_one();
                }
            }
        }
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Option<Error>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Uuid>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Waits until the stream is to end; returns why.
    pub async fn ended(&mut self) -> Error {
        let why = self.end.wait_for(Option::is_some).await;
        // The sender is there as long as this is.
        why.ok().and_then(|why| why.clone()).unwrap_or_else(forgotten)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.opened().remove(&self.id);
        self.connections.app.metrics.account_streams.dec();
        self.connections.ended().push(self.id);
        self.connections.has_ended.notify_one();
    }
}

fn revoked() -> Error {
    Error::new(Reason::ConnectionRevoked, "the account has ended this stream")
}

fn forgotten() -> Error {
    let message = "the server was away for too long; connect again";
    Error::new(Reason::ServiceUnavailable, message).retry_after(Duration::from_secs(1))
}

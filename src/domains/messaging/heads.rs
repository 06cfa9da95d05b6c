//! How far conversations have got, told to the account streams of their members: a number for each conversation, not a copy of
//! each message for each member.
//!
//! A stream's account follows its conversations on the stream's node. Whoever commits tells all nodes on one channel; what that
//! loses is read from Postgres: every second while the bus is down, at once when it comes back, and every ten seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use uuid::Uuid;

use super::model::{Conversation, Member};
use crate::kernel::account_events::{self, Event};
use crate::kernel::app::App;
use crate::kernel::bus::Bus;
use crate::kernel::error::Error;
use crate::proto::rialto::account::v1::{ConversationHead, ConversationRead};

const HEADS: &str = "conversation-heads";
const READS: &str = "conversation-reads";
/// How often heads are read from Postgres, without and with the bus.
const SWEEP_ALONE: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(10);
/// Conversations that are asked for at a time.
const ASKED: usize = 5000;

/// Tells all servers how far conversations have got.
pub async fn tell_servers(bus: &Bus, heads: impl IntoIterator<Item = (Uuid, i64)>) {
    let mut newest: HashMap<Uuid, i64> = HashMap::new();
    for (id, seq) in heads {
        let head = newest.entry(id).or_default();
        *head = seq.max(*head);
    }
    let records: Vec<_> =
        newest.iter().flat_map(|(id, seq)| [id.as_bytes().as_slice(), &seq.to_be_bytes()].concat()).collect();
    // The sweep finds what they are not told.
    if let Err(error) = bus.publish([(HEADS.to_owned(), Bytes::from(records))]).await {
        tracing::debug!(%error, "the servers were not told how far conversations have got");
    }
}

/// The heads of the conversations that are followed on this node.
pub struct Heads {
    app: App,
    /// The last number that followers were told, or might have read.
    told: Mutex<HashMap<Uuid, i64>>,
}

impl Heads {
    /// Starts listening to the other nodes.
    pub fn start(app: &App) -> Arc<Self> {
        let heads = Arc::new(Self { app: app.clone(), told: Mutex::default() });
        tokio::spawn(Arc::clone(&heads).listen());
        heads
    }

    /// Has an account that has a stream here follow the conversations that it is in.
    pub async fn follow_all(&self, account_id: Uuid) -> Result<(), Error> {
        let mut conn = self.app.db.get().await?;
        // Before its conversations: of those it tells that it joins or leaves one meanwhile.
        let since = account_events::last_seq(&mut conn, account_id).await?;
        let heads = Conversation::heads_of(&mut conn, account_id).await?;
        self.app.account_events.latest.follow_all(account_id, &heads.iter().map(|(id, _)| *id).collect(), since);
        let mut told = self.told();
        for (id, seq) in heads {
            told.entry(id).or_insert(seq);
        }
        Ok(())
    }

    /// Has such an account follow a conversation that it has joined with its event of this number, or not one that it has left.
    pub fn follow(&self, account_id: Uuid, id: Uuid, joined: bool, since: i64) {
        self.app.account_events.latest.follow(account_id, id, joined, since);
        if joined {
            self.told().entry(id).or_default();
        }
    }

    /// Tells this node's followers how far a conversation has got.
    pub fn advance(&self, id: Uuid, seq: i64) {
        // Whoever nobody follows is not there.
        let moved = self.told().get_mut(&id).is_some_and(|told| {
            let moved = *told < seq;
            *told = seq.max(*told);
            moved
        });
        if moved {
            let head = ConversationHead { conversation_id: id.to_string(), last_seq: seq };
            self.app.account_events.latest.publish(id, &Event::ConversationHead(head));
        }
    }

    /// Tells the other streams of an account how far it has read a conversation.
    pub async fn read(&self, member: &Member, unread_count: i64) {
        let (account, id, read_seq) = (member.account_id, member.conversation_id, member.read_seq);
        let numbers = [read_seq.to_be_bytes(), unread_count.to_be_bytes()].concat();
        let record = [account.as_bytes().as_slice(), id.as_bytes(), &numbers].concat();
        // This node hears it by the bus too.
        if !self.app.bus.is_up() || self.app.bus.publish([(READS.to_owned(), Bytes::from(record))]).await.is_err() {
            self.hear_read(account, id, read_seq, unread_count);
        }
    }

    fn hear_read(&self, account_id: Uuid, id: Uuid, read_seq: i64, unread_count: i64) {
        let read = ConversationRead { conversation_id: id.to_string(), read_seq, unread_count };
        self.app.account_events.latest.put(account_id, id, &Event::ConversationRead(read));
    }

    async fn listen(self: Arc<Self>) {
        let (heads, reads) = (Arc::downgrade(&self), Arc::downgrade(&self));
        let hear_heads = move |mut payload: Bytes| {
            let Some(heads) = heads.upgrade() else { return };
            while payload.remaining() >= 24 {
                heads.advance(Uuid::from_u128(payload.get_u128()), payload.get_i64());
            }
        };
        let hear_reads = move |mut payload: Bytes| {
            let Some(heads) = reads.upgrade() else { return };
            if payload.remaining() == 48 {
                let (account, id) = (Uuid::from_u128(payload.get_u128()), Uuid::from_u128(payload.get_u128()));
                heads.hear_read(account, id, payload.get_i64(), payload.get_i64());
            }
        };
        self.app.bus.subscribe(HEADS, hear_heads).await;
        self.app.bus.subscribe(READS, hear_reads).await;
        self.sweep().await;
    }

    /// Finds by itself what the bus did not tell.
    async fn sweep(&self) {
        let mut link = self.app.bus.link();
        loop {
            let pause = if link.borrow_and_update().up { SWEEP } else { SWEEP_ALONE };
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                Ok(()) = link.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let followed = {
                // Before the topics are read: whoever begins to follow meanwhile waits, and is not taken out again.
                let mut told = self.told();
                let followed = self.app.account_events.latest.topics();
                told.retain(|id, _| followed.contains(id));
                followed
            };
            let followed: Vec<_> = followed.into_iter().collect();
            for ids in followed.chunks(ASKED) {
                let heads = async { Conversation::heads(&mut *self.app.db.get().await?, ids).await };
                match heads.await {
                    Ok(heads) => heads.into_iter().for_each(|(id, seq)| self.advance(id, seq)),
                    Err(error) => tracing::warn!(%error, "the heads of conversations can't be read"),
                }
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Uuid, i64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

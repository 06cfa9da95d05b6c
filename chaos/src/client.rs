//! Those who send and those who read. They see nothing but the ways to the nodes, and note what they see.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{
    ListMessagesRequest, Message, SendMessageRequest, message, send_message_request,
};
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::account;
use crate::check::{Acknowledgement, Delivery, Entry, History, Kind, Label, Reader, Sent, Violation};
use crate::outbox::Outbox;
use crate::plan::NODES;
use crate::stream::{Stream, Way};
use crate::world::{Account, World, endpoint};

/// After so long without anything a client gives a call or a stream up.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Between two messages of a sender, and between two attempts.
const PAUSE: std::ops::Range<u64> = 0..40;
pub const RETRY: std::ops::Range<u64> = 20..200;
/// After so many acknowledgements one that a sender has already is asked for again.
const AGAIN: f64 = 0.03;
/// A slow reader stops after some of its messages, for so many milliseconds, until it is enough.
const SLOW_AFTER: f64 = 0.005;
const SLOW: std::ops::Range<u64> = 500..6000;

/// What everybody notes.
pub struct Notes {
    started: Instant,
    /// A history for each conversation.
    histories: Vec<Mutex<History>>,
    /// And one for each account.
    accounts: Vec<Mutex<account::History>>,
    /// What was seen that is wrong by itself.
    violations: Mutex<Vec<Violation>>,
    /// Answers after which the same was tried again, by what they were.
    retried: Mutex<BTreeMap<String, usize>>,
    /// Streams that were opened.
    pub streams: AtomicUsize,
    /// Senders end with the message that they are at, and nobody is slow or restless any more.
    pub enough: AtomicBool,
    /// Who is in the hall stays.
    pub closing: AtomicBool,
}

impl Notes {
    /// Empty ones.
    pub fn new(conversations: usize, accounts: usize) -> Self {
        Self {
            started: Instant::now(),
            histories: (0..conversations).map(|_| Mutex::default()).collect(),
            accounts: (0..accounts).map(|_| Mutex::default()).collect(),
            violations: Mutex::default(),
            retried: Mutex::default(),
            streams: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What happened in a conversation.
    pub fn history(&self, conversation: usize) -> MutexGuard<'_, History> {
        lock(&self.histories[conversation])
    }

    /// What happened to an account.
    pub fn account(&self, account: usize) -> MutexGuard<'_, account::History> {
        lock(&self.accounts[account])
    }

    /// What was seen that is wrong by itself.
    pub fn violations(&self) -> MutexGuard<'_, Vec<Violation>> {
        lock(&self.violations)
    }

    /// Answers after which the same was tried again, by what they were.
    pub fn retried(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        lock(&self.retried)
    }

    /// Notes something that is wrong by itself.
    pub fn failed(&self, what: String) {
        self.violations().push(Violation { kind: Kind::Failed, what });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message as a client sees it.
pub fn entry(message: &Message) -> Entry {
    let text = match &message.content {
        Some(message::Content::Text(text)) => text.as_str(),
        _ => "no text",
    };
    let rest = [message.id.as_str(), &message.conversation_id, &message.sender_id, text];
    Entry::new(message.seq, &message.client_message_id, &rest)
}

/// One who is at work.
pub struct Client {
    /// What it uses.
    pub world: Arc<World>,
    /// Where it notes what it sees.
    pub notes: Arc<Notes>,
    /// The index of its conversation.
    pub conversation: usize,
    /// Its number, among senders or among the readers of its conversation.
    pub index: usize,
    /// Of its own.
    pub rng: StdRng,
}

impl Client {
    /// One with a seed.
    pub fn new(world: &Arc<World>, notes: &Arc<Notes>, conversation: usize, index: usize, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { world: Arc::clone(world), notes: Arc::clone(notes), conversation, index, rng }
    }

    fn id(&self) -> &str {
        &self.world.conversations[self.conversation].id
    }

    /// In whose name it is at work.
    pub fn account(&self) -> Account {
        let members = &self.world.conversations[self.conversation].members;
        self.world.accounts[members[self.index % members.len()]].clone()
    }

    /// Does nothing for a while.
    pub async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(milliseconds))).await;
    }

    /// Sends one message after the other, each until it is acknowledged, and now and then one again, until it is enough.
    pub async fn send(mut self) -> Result<()> {
        let mut outbox = if self.index % 3 == 1 { Outbox::Commands(None) } else { Outbox::calls(&self.world)? };
        let mut node = self.index % NODES;
        let mut acknowledged = Vec::new();
        while !self.notes.enough.load(Ordering::Relaxed) {
            self.pause(PAUSE).await;
            let label = Label { sender: u32::try_from(self.index)?, number: u32::try_from(acknowledged.len() + 1)? };
            let text = format!("message {label}, {}", "…".repeat(self.rng.random_range(0..200)));
            let request = SendMessageRequest {
                conversation_id: self.id().to_owned(),
                client_message_id: label.to_string(),
                content: Some(send_message_request::Content::Text(text)),
                ..Default::default()
            };
            let place = {
                let mut history = self.notes.history(self.conversation);
                history.sent.push(Sent { label, began: self.notes.now(), acknowledged: None, again: Vec::new() });
                history.sent.len() - 1
            };
            let Some(answer) = self.deliver(&mut outbox, &mut node, &request).await else { return Ok(()) };
            self.notes.history(self.conversation).sent[place].acknowledged = Some(answer);
            acknowledged.push((place, request));
            if self.rng.random_bool(AGAIN) {
                let oldest = if self.rng.random_bool(0.5) { 0 } else { acknowledged.len() - 1 };
                let (place, request) = &acknowledged[self.rng.random_range(oldest..acknowledged.len())];
                node = self.rng.random_range(0..NODES);
                self.notes.history(self.conversation).sent[*place].again.push(None);
                let Some(answer) = self.deliver(&mut outbox, &mut node, request).await else { return Ok(()) };
                let again = &mut self.notes.history(self.conversation).sent[*place].again;
                again.last_mut().context("it was sent again")?.replace(answer);
            }
        }
        Ok(())
    }

    /// Sends a message until it is acknowledged. None if it was refused.
    async fn deliver(
        &mut self,
        outbox: &mut Outbox,
        node: &mut usize,
        request: &SendMessageRequest,
    ) -> Option<Acknowledgement> {
        let account = self.account();
        loop {
            let sending = outbox.send(&self.world, &account, *node, request.clone());
            let answer = timeout(SILENCE, sending).await;
            if let ControlFlow::Break(message) = self.judge(node, &request.client_message_id, answer).await {
                return Some((self.notes.now(), *node, entry(&message?)));
            }
        }
    }

    /// What came of trying something on a node: its answer, or nothing where it was refused, which is noted. Otherwise it is
    /// to be tried again, now, and on either node.
    pub async fn judge<T>(
        &mut self,
        node: &mut usize,
        what: &str,
        answer: Result<Result<T, Status>, Elapsed>,
    ) -> ControlFlow<Option<T>> {
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("silence"))) {
            Ok(answer) => ControlFlow::Break(Some(answer)),
            Err(status) if worth_retrying(&status) => {
                *self.notes.retried().entry(what_of(&status)).or_default() += 1;
                self.pause(RETRY).await;
                *node = self.rng.random_range(0..NODES);
                ControlFlow::Continue(())
            }
            Err(status) => {
                self.notes.failed(format!("{what} was refused: {status:?}"));
                ControlFlow::Break(None)
            }
        }
    }

    /// Reads until it is aborted, from a stream to either node, and when that ends from another one.
    pub async fn read(mut self, way: Way, slow: bool) -> Result<()> {
        let after = {
            // Some come later, with what is there by then.
            if self.rng.random_bool(0.3) {
                self.pause(1000..8000).await;
            }
            let history = self.notes.history(self.conversation);
            let seqs = history.sent.iter().filter_map(|sent| sent.acknowledged.as_ref().map(|(_, _, entry)| entry.seq));
            if self.rng.random_bool(0.5) { 0 } else { seqs.max().unwrap_or(0) }
        };
        let place = {
            let pace = if slow { ", slow" } else { "" };
            let name = format!("reader {} of conversation {} ({way:?}{pace})", self.index, self.conversation);
            let readers = &mut self.notes.history(self.conversation).readers;
            readers.push(Reader { name, slow, after, deliveries: Vec::new() });
            readers.len() - 1
        };
        let mut seq = after;
        loop {
            let node = self.rng.random_range(0..NODES);
            let ended = self.follow(node, way, slow, place, &mut seq).await;
            if self.was_refused(&ended, format!("a {way:?} reader that had {seq}")) {
                return Ok(());
            }
            self.pause(RETRY).await;
        }
    }

    /// Whether a stream ended because of what its client has done wrong, which is noted.
    pub fn was_refused(&self, ended: &Result<()>, who: String) -> bool {
        let status = ended.as_ref().err().and_then(|error| error.downcast_ref::<Status>());
        let refused = status.filter(|status| !worth_retrying(status));
        if let Some(status) = refused {
            self.notes.failed(format!("{who} was refused: {status:?}"));
        }
        refused.is_some()
    }

    /// Reads from one stream until it ends.
    async fn follow(&mut self, node: usize, way: Way, slow: bool, place: usize, seq: &mut i64) -> Result<()> {
        let account = self.account();
        let open = Stream::open(way, &self.world.cables[node], &account, self.id(), *seq);
        let mut stream = timeout(SILENCE, open).await??;
        self.notes.streams.fetch_add(1, Ordering::Relaxed);
        let since = self.notes.now();
        loop {
            let message = stream.next().await?;
            let entry = entry(&message);
            *seq = entry.seq;
            let delivery = Delivery { entry, at: self.notes.now(), node, since };
            self.notes.history(self.conversation).readers[place].deliveries.push(delivery);
            // In the end it has to get through.
            let stops = slow && !self.notes.enough.load(Ordering::Relaxed);
            if stops && self.rng.random_bool(SLOW_AFTER) {
                self.pause(SLOW).await;
            }
        }
    }

    /// Walks the whole conversation, and again if that fails, for so long.
    pub async fn list(&self, at_most: Duration) -> Result<Vec<Entry>> {
        let deadline = Instant::now() + at_most;
        loop {
            match timeout(at_most, self.walk()).await? {
                // A node's connections to Postgres may be those from before it was killed.
                Err(error) if Instant::now() < deadline => eprintln!("listing once more: {error:#}"),
                walked => return walked,
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn walk(&self) -> Result<Vec<Entry>> {
        let mut client =
            MessagingServiceClient::new(endpoint(&self.world.cables[self.index % NODES])?.connect().await?);
        let (account, mut stored, mut page_token) = (self.account(), Vec::new(), String::new());
        loop {
            let request = ListMessagesRequest {
                conversation_id: self.id().to_owned(),
                page_size: 200,
                page_token,
                after_seq: Some(0),
                ..Default::default()
            };
            let page = client.list_messages(account.request(request)).await?.into_inner();
            stored.extend(page.messages.iter().map(entry));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(stored);
            }
            ensure!(!page.messages.is_empty(), "an empty page before the last one");
        }
    }
}

/// Whether the same may go well later or elsewhere. What a client has done wrong does not.
fn worth_retrying(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    let codes = [Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown];
    codes.contains(&status.code())
}

/// Waits until everybody has read and was told what is there, at most so long: who is behind then shows in the history.
pub async fn caught_up(notes: &Notes, at_most: Duration) {
    let behind = |conversation: usize| {
        let history = notes.history(conversation);
        let head = history.stored.last().map_or(0, |entry| entry.seq);
        let last = |reader: &Reader| reader.deliveries.last().map_or(reader.after, |delivery| delivery.entry.seq);
        history.readers.iter().any(|reader| last(reader) < head)
    };
    let deadline = Instant::now() + at_most;
    let somebody_is_behind = || (0..notes.histories.len()).any(behind) || account::somebody_lacks_something(notes);
    while somebody_is_behind() && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The code of a status, and the reason that the server gives, if it is the server's.
fn what_of(status: &Status) -> String {
    let reason = status.get_details_error_info().map(|info| info.reason);
    format!("{:?}{}", status.code(), reason.map(|reason| format!(" {reason}")).unwrap_or_default())
}

//! The streams of accounts: those who are told, what there is to tell, and what of it must have been told.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::RngExt;
use rialto::proto::rialto::account::v1::SubscribeRequest;
use rialto::proto::rialto::account::v1::account_service_client::AccountServiceClient;
use rialto::proto::rialto::account::v1::subscribe_response::Event;
use rialto::proto::rialto::messaging::v1::group_service_client::GroupServiceClient;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{AddMembersRequest, ListConversationsRequest, RemoveMemberRequest};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::check::{Kind, Violation};
use crate::client::{Client, Notes, RETRY, SILENCE};
use crate::plan::NODES;
use crate::stream::wrong;
use crate::world::{Account, endpoint};

/// The accounts that are watched. The first of all is not: it lets them into the hall and out again.
pub const WATCHED: [usize; 3] = [1, 2, 3];
/// Between going in and out.
const PAUSE: std::ops::Range<u64> = 50..400;
/// How long somebody restless listens, and stays away then.
const STAYS: std::ops::Range<u64> = 500..6000;
const AWAY: std::ops::Range<u64> = 20..3000;

/// What a stream has told.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub enum What {
    /// It has begun.
    Opened,
    /// The account is in the hall now, or no longer.
    Hall(bool),
    /// Another event that has a number.
    Event(String),
    /// How far a conversation has got; or that was read because the stream does not tell what was before.
    Head(usize, i64),
    /// Something else without a number.
    Value,
}

impl What {
    /// Whether it has a number of its own.
    pub fn is_numbered(&self) -> bool {
        matches!(self, Self::Hall(_) | Self::Event(_))
    }
}

/// When a stream of which node has told what, as which number.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// What to come back with.
    pub seq: i64,
    /// What.
    pub what: What,
    /// When.
    pub at: Duration,
    /// Which node.
    pub node: usize,
}

/// Everything that one reader was told, over all its streams.
#[derive(Clone, Debug, Serialize)]
pub struct Reader {
    /// Who it is.
    pub name: String,
    /// Its first stream began after this number; without one, with what happened then.
    pub after: Option<i64>,
    /// In the order in which it came.
    pub told: Vec<Told>,
}

impl Reader {
    /// What it does not know.
    fn lacks(&self, history: &History) -> Option<String> {
        let last = self.told.last().map_or(0, |told| told.seq);
        if last < history.last {
            return Some(format!("event {} (it got no further than {last})", history.last));
        }
        let mut known = HashMap::new();
        for told in &self.told {
            if let What::Head(conversation, seq) = told.what {
                let head = known.entry(conversation).or_insert(seq);
                *head = seq.max(*head);
            }
        }
        history.heads.iter().find_map(|(conversation, head)| {
            let known = known.get(conversation).copied().unwrap_or_default();
            (known < *head).then(|| format!("{head}, the head of conversation {conversation} (it knows {known})"))
        })
    }
}

/// What happened to one account.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    /// How often it was let into the hall or out of it, and how often that was acknowledged.
    pub moves: [usize; 2],
    /// The number of its last event, in the end.
    pub last: i64,
    /// How far its conversations have got, in the end.
    pub heads: BTreeMap<usize, i64>,
    /// Everybody who was told.
    pub readers: Vec<Reader>,
}

/// Finds what is not as promised.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |kind, what| found.push(Violation { kind, what });
    let mut events = BTreeMap::new();
    for reader in &history.readers {
        let (name, mut last) = (&reader.name, reader.after);
        for Told { seq, what, .. } in &reader.told {
            let due = last.map_or(*seq, |last| last + i64::from(what.is_numbered()));
            if *seq != due {
                let kind = if *seq > due { Kind::Gap } else { Kind::Overlap };
                report(kind, format!("{name}: {what:?} has number {seq}, and should have {due}"));
            }
            last = Some(last.map_or(*seq, |last| last.max(*seq)));
            match what {
                _ if *seq > history.last => report(Kind::Lost, format!("{name}: event {seq} is not there")),
                What::Head(conversation, head) if history.heads.get(conversation).is_some_and(|last| head > last) => {
                    report(Kind::Lost, format!("{name}: {head} of conversation {conversation} is not there"));
                }
                _ if !what.is_numbered() => {}
                _ if events.entry(*seq).or_insert(what) != &what => {
                    report(Kind::Changed, format!("{name}: event {seq} is {what:?}, and elsewhere {:?}", events[seq]));
                }
                _ => {}
            }
        }
        if let Some(what) = reader.lacks(history) {
            report(Kind::Stuck, format!("{name} was not told {what}"));
        }
    }
    let [asked, acknowledged] = history.moves;
    if acknowledged < asked {
        report(Kind::Stuck, "somebody waits at the door of the hall".into());
    }
    // Where an event is missing, that was found.
    if i64::try_from(events.len()) != Ok(history.last) {
        return found;
    }
    let moves: Vec<_> = events.iter().filter(|(_, what)| matches!(what, What::Hall(_))).collect();
    for pair in moves.windows(2).filter(|pair| pair[0].1 == pair[1].1) {
        report(Kind::Doubled, format!("events {} and {} are {:?}", pair[0].0, pair[1].0, pair[0].1));
    }
    if moves.len() < acknowledged || moves.len() > asked {
        let kind = if moves.len() < acknowledged { Kind::Lost } else { Kind::Invented };
        report(kind, format!("{} times in or out, of which {} were told", acknowledged, moves.len()));
    }
    found
}

impl Client {
    /// Lets an account into the hall and out again until it stays.
    pub async fn keep_hall(mut self, whom: usize) -> Result<()> {
        let (world, owner, mut node, mut inside) = (Arc::clone(&self.world), self.account(), whom % NODES, false);
        let channels = world.cables.iter().map(|cable| Ok(endpoint(cable)?.connect_lazy()));
        let channels = channels.collect::<Result<Vec<Channel>>>()?;
        while !inside || !self.notes.closing.load(Ordering::Relaxed) {
            self.pause(PAUSE).await;
            inside = !inside;
            self.notes.account(whom).moves[0] += 1;
            loop {
                let going = go(channels[node].clone(), &owner, &world.hall, &world.accounts[whom].id, inside);
                match self.judge(&mut node, "who goes in or out", timeout(SILENCE, going).await).await {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(Some(())) => break,
                    ControlFlow::Break(None) => return Ok(()),
                }
            }
            self.notes.account(whom).moves[1] += 1;
        }
        Ok(())
    }

    /// Is told what concerns its account until it is aborted: what happens from some moment on; or everything, as somebody
    /// restless, who hangs up and stays away now and then, until it is enough.
    pub async fn be_told(mut self, restless: bool) -> Result<()> {
        if !restless {
            self.pause(1000..8000).await;
        }
        let mut seq = restless.then_some(0);
        let place = {
            let readers = &mut self.notes.account(self.index).readers;
            let name = format!("reader {} of account {}", readers.len(), self.index);
            readers.push(Reader { name, after: seq, told: Vec::new() });
            readers.len() - 1
        };
        loop {
            let node = self.rng.random_range(0..NODES);
            let stays = Duration::from_millis(self.rng.random_range(STAYS));
            let hangs_up = restless && !self.notes.enough.load(Ordering::Relaxed);
            let hearing = self.hear(node, place, &mut seq);
            let ended = if hangs_up { timeout(stays, hearing).await.unwrap_or(Ok(())) } else { hearing.await };
            if self.was_refused(&ended, format!("an account's reader that had {seq:?}")) {
                return Ok(());
            }
            self.pause(if hangs_up { AWAY } else { RETRY }).await;
        }
    }

    /// Is told by one stream until that ends.
    async fn hear(&self, node: usize, place: usize, after_seq: &mut Option<i64>) -> Result<()> {
        let account = self.account();
        let channel = endpoint(&self.world.cables[node])?.connect().await?;
        let mut client = AccountServiceClient::new(channel.clone());
        let request = account.request(SubscribeRequest { after_seq: *after_seq, ..Default::default() });
        let mut stream = timeout(SILENCE, client.subscribe(request)).await??.into_inner();
        self.notes.streams.fetch_add(1, Ordering::Relaxed);
        let note = |seq, what| {
            let told = Told { seq, what, at: self.notes.now(), node };
            self.notes.account(self.index).readers[place].told.push(told);
        };
        let mut is_open = false;
        loop {
            let response = stream.message().await?.context("the stream ended")?;
            let (Some(seq), Some(event)) = (response.seq, &response.event) else {
                return Err(wrong(format!("an account is told {response:?}")));
            };
            if is_open == matches!(event, Event::Opened(_)) {
                return Err(wrong(format!("the stream of an account begins with or goes on with {event:?}")));
            }
            is_open = true;
            *after_seq = Some(seq);
            note(seq, self.what(event)?);
            // What is followed from now on has got somewhere already.
            let joined = match event {
                Event::Opened(_) | Event::Refresh(_) => None,
                Event::ConversationJoined(joined) => Some(self.place_of(&joined.conversation_id)?),
                _ => continue,
            };
            let heads = timeout(SILENCE, self.heads(channel.clone())).await??;
            for (conversation, head) in
                heads.into_iter().filter(|(place, _)| joined.is_none_or(|joined| joined == *place))
            {
                note(seq, What::Head(conversation, head));
            }
        }
    }

    fn what(&self, event: &Event) -> Result<What> {
        Ok(match event {
            Event::Opened(_) => What::Opened,
            Event::ConversationHead(head) => What::Head(self.place_of(&head.conversation_id)?, head.last_seq),
            Event::ConversationRead(_) | Event::Refresh(_) | Event::Presence(_) => What::Value,
            Event::ConversationJoined(joined) if joined.conversation_id == self.world.hall => What::Hall(true),
            Event::ConversationLeft(left) if left.conversation_id == self.world.hall => What::Hall(false),
            other => What::Event(format!("{other:?}")),
        })
    }

    /// The index of a conversation; of the hall, the one after the last.
    fn place_of(&self, id: &str) -> Result<usize> {
        let conversations = &self.world.conversations;
        let place = conversations.iter().position(|conversation| conversation.id == id);
        let hall = (id == self.world.hall).then_some(conversations.len());
        place.or(hall).ok_or_else(|| wrong(format!("an account is told of conversation {id}")))
    }

    /// How far the account's conversations have got.
    async fn heads(&self, channel: Channel) -> Result<BTreeMap<usize, i64>> {
        let request = self.account().request(ListConversationsRequest { page_size: 200, ..Default::default() });
        let list = MessagingServiceClient::new(channel).list_conversations(request).await?.into_inner();
        let heads = list.conversations.iter();
        heads.map(|conversation| Ok((self.place_of(&conversation.id)?, conversation.last_seq))).collect()
    }

    /// Notes where everything about the account has got to.
    pub async fn note_ends(&self, at_most: Duration) -> Result<()> {
        let deadline = Instant::now() + at_most;
        let (last, mut heads) = loop {
            match timeout(at_most, self.ends()).await? {
                Err(error) if Instant::now() < deadline => eprintln!("asking once more: {error:#}"),
                ends => break ends?,
            }
            sleep(Duration::from_millis(200)).await;
        };
        for (conversation, head) in &mut heads {
            // What is stored counts, whatever its conversation says.
            if *conversation < self.world.conversations.len() {
                *head = self.notes.history(*conversation).stored.last().map_or(0, |entry| entry.seq);
            }
        }
        let mut history = self.notes.account(self.index);
        (history.last, history.heads) = (last, heads);
        Ok(())
    }

    async fn ends(&self) -> Result<(i64, BTreeMap<usize, i64>)> {
        let channel = endpoint(&self.world.cables[0])?.connect().await?;
        let mut client = AccountServiceClient::new(channel.clone());
        let stream = client.subscribe(self.account().request(SubscribeRequest::default())).await?;
        let opened = stream.into_inner().message().await?.context("the stream ended")?;
        Ok((opened.seq.context("a stream that is nowhere")?, self.heads(channel).await?))
    }
}

/// Lets somebody in or out.
async fn go(channel: Channel, owner: &Account, hall: &str, whom: &str, inside: bool) -> Result<(), Status> {
    let (mut groups, conversation_id) = (GroupServiceClient::new(channel), hall.to_owned());
    if inside {
        let request = AddMembersRequest { conversation_id, account_ids: vec![whom.to_owned()] };
        return groups.add_members(owner.request(request)).await.map(drop);
    }
    let request = RemoveMemberRequest { conversation_id, account_id: whom.to_owned() };
    groups.remove_member(owner.request(request)).await.map(drop)
}

/// Whether somebody was not told everything yet.
pub fn somebody_lacks_something(notes: &Notes) -> bool {
    WATCHED.into_iter().any(|account| {
        let history = notes.account(account);
        history.readers.iter().any(|reader| reader.lacks(&history).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(seq: i64, what: What) -> Told {
        Told { seq, what, at: Duration::ZERO, node: 0 }
    }

    /// An account that was let in twice and out once. The second reader has come back after event 3.
    fn whole() -> History {
        let joined = || What::Event("joined".into());
        let everything = vec![
            told(0, What::Opened),
            told(0, What::Head(0, 5)),
            told(1, joined()),
            told(2, What::Hall(true)),
            told(2, What::Head(0, 9)),
            told(3, What::Hall(false)),
            told(4, What::Hall(true)),
            told(4, What::Head(1, 3)),
        ];
        let later = vec![
            told(2, What::Opened),
            told(3, What::Hall(false)),
            told(3, What::Opened),
            told(3, What::Head(0, 9)),
            told(3, What::Head(1, 2)),
            told(4, What::Hall(true)),
            told(4, What::Head(1, 3)),
        ];
        let reader = |name: &str, after, told| Reader { name: name.into(), after, told };
        let readers = vec![reader("everything", Some(0), everything), reader("later", None, later)];
        History { moves: [3, 3], last: 4, heads: BTreeMap::from([(0, 9), (1, 3)]), readers }
    }

    /// The kinds that are found after a history was doctored, each once.
    fn found(doctor: impl FnOnce(&mut History)) -> Vec<Kind> {
        let mut history = whole();
        doctor(&mut history);
        let mut kinds: Vec<_> = check(&history).into_iter().map(|violation| violation.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn a_gap_and_an_overlap_are_found() {
        assert_eq!(found(|history| drop(history.readers[0].told.remove(5))), [Kind::Gap]);
        let overlap = found(|history| history.readers[1].told.insert(2, told(3, What::Hall(false))));
        assert_eq!(overlap, [Kind::Overlap]);
        // What has no number of its own has that of the last event, and a stream begins where it was asked to.
        assert_eq!(found(|history| history.readers[0].told[4].seq = 3), [Kind::Gap, Kind::Overlap]);
        assert_eq!(found(|history| history.readers[1].told[2].seq = 2), [Kind::Overlap]);
    }

    #[test]
    fn an_event_that_is_another_elsewhere_is_found() {
        let another = |history: &mut History| history.readers[1].told[1].what = What::Event("left".into());
        assert_eq!(found(another), [Kind::Changed]);
    }

    #[test]
    fn an_event_that_is_told_and_not_there_is_found() {
        assert_eq!(found(|history| history.last = 3), [Kind::Lost]);
        assert_eq!(found(|history| history.heads = BTreeMap::from([(0, 8), (1, 3)])), [Kind::Lost]);
    }

    #[test]
    fn what_was_done_and_is_not_told_once_is_found() {
        assert_eq!(found(|history| history.moves = [4, 4]), [Kind::Lost]);
        assert_eq!(found(|history| history.moves = [2, 2]), [Kind::Invented]);
        assert_eq!(found(|history| history.moves = [3, 2]), [Kind::Stuck]);
        let doubled = found(|history| {
            for (reader, place) in [(0, 5), (1, 1)] {
                history.readers[reader].told[place].what = What::Hall(true);
            }
        });
        assert_eq!(doubled, [Kind::Doubled]);
    }

    #[test]
    fn a_reader_that_is_behind_is_found() {
        assert_eq!(found(|history| history.readers[1].told.truncate(5)), [Kind::Stuck]);
        assert_eq!(found(|history| drop(history.readers[1].told.pop())), [Kind::Stuck]);
        assert_eq!(found(|history| history.heads.extend([(2, 1)])), [Kind::Stuck]);
    }
}

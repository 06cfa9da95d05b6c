//! What messaging promises, checked from what clients have seen.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::Serialize;

/// Which message it is: what its client message id says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct Label {
    /// Who sent it.
    pub sender: u32,
    /// Which of the sender's messages it is, from 1.
    pub number: u32,
}

impl Label {
    /// Out of a client message id.
    pub fn parse(client_message_id: &str) -> Option<Self> {
        let (sender, number) = client_message_id.split_once('-')?;
        Some(Self { sender: sender.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sender, self.number)
    }
}

/// A message as somebody was told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Entry {
    /// Its place in the conversation.
    pub seq: i64,
    /// Which it is; none of ours where nobody can tell.
    pub label: Option<Label>,
    /// Stands for everything else in it.
    pub digest: u64,
}

impl Entry {
    /// A message of this place and client message id, with what else must be the same wherever it is seen.
    pub fn new(seq: i64, client_message_id: &str, rest: &[&str]) -> Self {
        let mut hasher = DefaultHasher::new();
        rest.hash(&mut hasher);
        Self { seq, label: Label::parse(client_message_id), digest: hasher.finish() }
    }
}

/// When a message was acknowledged, by which node, and as what.
pub type Acknowledgement = (Duration, usize, Entry);

/// A message that was sent.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// Which.
    pub label: Label,
    /// When it was sent for the first time.
    pub began: Duration,
    /// How it was acknowledged first.
    pub acknowledged: Option<Acknowledgement>,
    /// And each time that it was sent again although it had been.
    pub again: Vec<Option<Acknowledgement>>,
}

/// A message that a reader got.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// The message.
    pub entry: Entry,
    /// When it came.
    pub at: Duration,
    /// From which node.
    pub node: usize,
    /// When the stream that it came on was opened.
    pub since: Duration,
}

/// Everything that one reader got, over all its streams.
#[derive(Clone, Debug, Serialize)]
pub struct Reader {
    /// Who it is.
    pub name: String,
    /// It stops reading now and then.
    pub slow: bool,
    /// Its first stream began after this place.
    pub after: i64,
    /// In the order in which they came.
    pub deliveries: Vec<Delivery>,
}

/// What happened in one conversation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    /// Everything that was sent.
    pub sent: Vec<Sent>,
    /// What the conversation consists of in the end, in the order in which it is listed.
    pub stored: Vec<Entry>,
    /// Everybody who read.
    pub readers: Vec<Reader>,
}

/// A kind of broken promise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// An acknowledged message is not there.
    Lost,
    /// A message is there more than once.
    Doubled,
    /// A message stands before one that came before it.
    Reordered,
    /// Numbers were left out.
    Gap,
    /// Numbers came again.
    Overlap,
    /// A message is not what it was elsewhere.
    Changed,
    /// A message that nobody has sent.
    Invented,
    /// A message was not acknowledged, or a reader did not get everything, long after all was well again.
    Stuck,
    /// A server refused what it must not refuse, or ended by itself.
    Failed,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// What was seen.
    pub what: String,
}

/// Finds what is not as promised.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    contiguous("the list of messages", 0, history.stored.iter(), &mut found);
    once(history, &mut found);
    acknowledged(history, &mut found);
    in_order(history, &mut found);
    for reader in &history.readers {
        read(reader, &history.stored, &mut found);
    }
    found
}

fn report(found: &mut Vec<Violation>, kind: Kind, what: String) {
    found.push(Violation { kind, what });
}

/// Numbers that follow each other without gap and overlap.
fn contiguous<'a>(who: &str, after: i64, entries: impl Iterator<Item = &'a Entry>, found: &mut Vec<Violation>) {
    let mut last = after;
    for entry in entries {
        if entry.seq > last + 1 {
            report(found, Kind::Gap, format!("{who}: {} follows {last}", entry.seq));
        } else if entry.seq <= last {
            report(found, Kind::Overlap, format!("{who}: {} comes after {last}", entry.seq));
        }
        last = last.max(entry.seq);
    }
}

/// No message twice, and none that nobody has sent.
fn once(history: &History, found: &mut Vec<Violation>) {
    let sent: HashSet<_> = history.sent.iter().map(|sent| sent.label).collect();
    let mut seen = HashMap::new();
    for entry in &history.stored {
        let Some(label) = entry.label.filter(|label| sent.contains(label)) else {
            report(found, Kind::Invented, format!("nobody has sent message {}: {:?}", entry.seq, entry.label));
            continue;
        };
        if let Some(first) = seen.insert(label, entry.seq) {
            report(found, Kind::Doubled, format!("{label} is message {first} and message {}", entry.seq));
        }
    }
}

/// Everything that was acknowledged is there, as it was acknowledged.
fn acknowledged(history: &History, found: &mut Vec<Violation>) {
    let stored: HashMap<_, _> = history.stored.iter().map(|entry| (entry.label, entry)).collect();
    for sent in &history.sent {
        let label = sent.label;
        let Some((_, _, entry)) = &sent.acknowledged else {
            report(found, Kind::Stuck, format!("{label} was never acknowledged"));
            continue;
        };
        match stored.get(&Some(label)) {
            None => report(found, Kind::Lost, format!("{label} was acknowledged as message {}", entry.seq)),
            Some(stored) if *stored != entry => {
                report(found, Kind::Changed, format!("{label} was acknowledged as {entry:?} and is {stored:?}"));
            }
            Some(_) => {}
        }
        for again in &sent.again {
            match again {
                None => report(found, Kind::Stuck, format!("{label} was never acknowledged again")),
                Some((_, _, again)) if again != entry => {
                    let what = format!("{label} was acknowledged as {entry:?}, and sent again as {again:?}");
                    report(found, Kind::Changed, what);
                }
                Some(_) => {}
            }
        }
    }
}

/// Whatever was acknowledged before a message was sent stands before it: of the same sender, and of others.
fn in_order(history: &History, found: &mut Vec<Violation>) {
    let mut numbers = HashMap::new();
    for label in history.stored.iter().filter_map(|entry| entry.label) {
        let number = numbers.entry(label.sender).or_insert(0);
        if label.number < *number {
            report(found, Kind::Reordered, format!("{label} stands after {}-{number}", label.sender));
        }
        *number = label.number.max(*number);
    }
    let mut begun: Vec<_> = history.sent.iter().filter_map(|sent| Some((sent, sent.acknowledged.as_ref()?))).collect();
    let mut ended = begun.clone();
    begun.sort_by_key(|(sent, _)| sent.began);
    ended.sort_by_key(|(_, (at, _, _))| *at);
    let mut ended = ended.into_iter().peekable();
    let mut newest: Option<(&Sent, i64)> = None;
    for (sent, (_, _, entry)) in begun {
        while let Some((earlier, (_, _, of_earlier))) = ended.next_if(|(_, (at, _, _))| *at < sent.began) {
            if newest.is_none_or(|(_, seq)| of_earlier.seq > seq) {
                newest = Some((earlier, of_earlier.seq));
            }
        }
        if let Some((earlier, seq)) = newest.filter(|(_, seq)| *seq > entry.seq) {
            let what = format!(
                "{} is message {seq}, and {}, which was sent after that was acknowledged, is message {}",
                earlier.label, sent.label, entry.seq
            );
            report(found, Kind::Reordered, what);
        }
    }
}

/// A reader got everything once, in order, as it is.
fn read(reader: &Reader, stored: &[Entry], found: &mut Vec<Violation>) {
    let name = &reader.name;
    contiguous(name, reader.after, reader.deliveries.iter().map(|delivery| &delivery.entry), found);
    let by_seq: HashMap<_, _> = stored.iter().map(|entry| (entry.seq, entry)).collect();
    for Delivery { entry, .. } in &reader.deliveries {
        match by_seq.get(&entry.seq) {
            Some(stored) if *stored == entry => {}
            Some(stored) => report(found, Kind::Changed, format!("{name} got {entry:?}, and it is {stored:?}")),
            None => report(found, Kind::Lost, format!("{name} got message {}, which is not there", entry.seq)),
        }
    }
    let last = reader.deliveries.iter().map(|delivery| delivery.entry.seq).fold(reader.after, i64::max);
    let head = stored.last().map_or(0, |entry| entry.seq);
    if last < head {
        report(found, Kind::Stuck, format!("{name} got no further than {last} of {head}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u32) -> Duration {
        Duration::from_secs(seconds.into())
    }

    fn entry(seq: i64, sender: u32, number: u32) -> Entry {
        Entry::new(seq, &format!("{sender}-{number}"), &["text"])
    }

    /// Two senders that take turns, and a reader that has read everything after message 2.
    fn whole() -> History {
        let mut history = History::default();
        for turn in 0..10 {
            let entry = entry(i64::from(turn) + 1, turn % 2, turn / 2 + 1);
            let acknowledged = Some((seconds(2 * turn + 1), 0, entry));
            history.sent.push(Sent {
                label: entry.label.unwrap(),
                began: seconds(2 * turn),
                acknowledged,
                again: vec![acknowledged],
            });
            history.stored.push(entry);
        }
        let deliver = |entry: &Entry| Delivery { entry: *entry, at: seconds(30), node: 1, since: seconds(0) };
        let deliveries = history.stored[2..].iter().map(deliver).collect();
        history.readers.push(Reader { name: "reader".into(), slow: false, after: 2, deliveries });
        history
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
    fn a_lost_message_is_found() {
        // The newest, which leaves no hole.
        let lost = found(|history| {
            history.stored.pop();
            history.readers[0].deliveries.pop();
        });
        assert_eq!(lost, [Kind::Lost]);
        // A reader had it, but nobody else.
        assert_eq!(found(|history| history.stored.truncate(9)), [Kind::Lost]);
    }

    #[test]
    fn a_hole_is_found() {
        assert_eq!(found(|history| history.stored.retain(|entry| entry.seq != 1)), [Kind::Lost, Kind::Gap]);
    }

    #[test]
    fn a_doubled_message_is_found() {
        let doubled = found(|history| {
            let again = Entry { seq: 11, ..history.stored[4] };
            history.stored.push(again);
            let delivery = Delivery { entry: again, ..history.readers[0].deliveries[0].clone() };
            history.readers[0].deliveries.push(delivery);
        });
        // It stands elsewhere than acknowledged, and behind later ones of its sender.
        assert_eq!(doubled, [Kind::Doubled, Kind::Reordered, Kind::Changed]);
    }

    #[test]
    fn a_message_before_an_earlier_one_of_its_sender_is_found() {
        let reordered = found(|history| {
            // Both of sender 0, everywhere alike; neither was acknowledged before the other was sent.
            for (index, number) in [(2, 3), (4, 2)] {
                let swapped = entry(history.stored[index].seq, 0, number);
                history.stored[index] = swapped;
                history.readers[0].deliveries[index - 2].entry = swapped;
                history.sent[index].label.number = number;
                history.sent[index].began = seconds(0);
                history.sent[index].acknowledged = Some((seconds(40), 0, swapped));
                history.sent[index].again.clear();
            }
        });
        assert_eq!(reordered, [Kind::Reordered]);
    }

    #[test]
    fn a_message_before_one_of_another_sender_that_was_acknowledged_earlier_is_found() {
        let reordered = found(|history| {
            // Message 3 was sent only after 4, of somebody else, had been acknowledged.
            history.sent[2].began = seconds(8);
            history.sent[2].acknowledged.as_mut().unwrap().0 = seconds(9);
        });
        assert_eq!(reordered, [Kind::Reordered]);
    }

    #[test]
    fn a_gap_and_an_overlap_of_a_reader_are_found() {
        assert_eq!(found(|history| history.readers[0].deliveries.retain(|got| got.entry.seq != 6)), [Kind::Gap]);
        let overlap = found(|history| {
            let again = history.readers[0].deliveries[3].clone();
            history.readers[0].deliveries.insert(5, again);
        });
        assert_eq!(overlap, [Kind::Overlap]);
        // What comes late is out of place on both sides.
        assert_eq!(found(|history| history.readers[0].deliveries.swap(3, 4)), [Kind::Gap, Kind::Overlap]);
        assert_eq!(found(|history| history.readers[0].after = 0), [Kind::Gap]);
    }

    #[test]
    fn a_message_that_is_not_what_it_was_is_found() {
        assert_eq!(found(|history| history.readers[0].deliveries[0].entry.digest ^= 1), [Kind::Changed]);
        let acknowledged = |history: &mut History| history.sent[0].acknowledged.as_mut().unwrap().2.digest ^= 1;
        assert_eq!(found(acknowledged), [Kind::Changed]);
    }

    #[test]
    fn a_message_that_is_another_when_it_is_sent_again_is_found() {
        let changed = found(|history| history.sent[3].again[0].as_mut().unwrap().2.seq = 11);
        assert_eq!(changed, [Kind::Changed]);
        // It was not only answered as a new one.
        let doubled = found(|history| {
            let again = Entry { seq: 11, ..history.stored[9] };
            history.sent[9].acknowledged.as_mut().unwrap().2 = again;
            history.sent[9].again[0].as_mut().unwrap().2 = history.stored[9];
            history.stored.push(again);
            let delivery = Delivery { entry: again, ..history.readers[0].deliveries[0].clone() };
            history.readers[0].deliveries.push(delivery);
        });
        assert_eq!(doubled, [Kind::Doubled, Kind::Changed]);
    }

    #[test]
    fn a_message_that_nobody_has_sent_is_found() {
        assert_eq!(found(|history| history.sent.truncate(9)), [Kind::Invented]);
    }

    #[test]
    fn a_message_without_an_answer_and_a_reader_that_is_behind_are_found() {
        assert_eq!(found(|history| history.sent[0].acknowledged = None), [Kind::Stuck]);
        assert_eq!(found(|history| history.sent[0].again[0] = None), [Kind::Stuck]);
        assert_eq!(found(|history| history.readers[0].deliveries.truncate(7)), [Kind::Stuck]);
    }
}

//! What a run comes to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::account::{self, What};
use crate::check::{History, Kind, Violation};
use crate::client::Notes;
use crate::faults::Outage;
use crate::plan::{Kind as Fault, Target};

/// How many violations are printed.
const FIRST: usize = 20;
/// A node that has come back needs a moment until deliveries say something about Redis again.
const SETTLE: Duration = Duration::from_secs(3);

/// What a run comes to.
pub struct Report {
    seed: u64,
    sent: usize,
    acknowledged: usize,
    again: usize,
    retried: BTreeMap<String, usize>,
    delivered: usize,
    readers: usize,
    events: usize,
    heads: usize,
    told: usize,
    streams: usize,
    faults: BTreeMap<String, usize>,
    /// Deliveries to readers on another node than the message was sent to: while Redis was away and everything else well,
    /// and while everything was well.
    without_redis: Deliveries,
    all_well: Deliveries,
    /// Everything that was not as promised.
    pub violations: Vec<Violation>,
}

/// Some deliveries.
#[derive(Clone, Copy, Default)]
struct Deliveries {
    count: usize,
    /// The longest time from the acknowledgement to the delivery.
    longest: Duration,
}

impl Report {
    /// Counts.
    pub fn new(
        seed: u64,
        notes: &Notes,
        histories: &[History],
        accounts: &[account::History],
        outages: &[Outage],
    ) -> Self {
        let sent = || histories.iter().flat_map(|history| &history.sent);
        let readers = || histories.iter().flat_map(|history| &history.readers);
        let told = || accounts.iter().flat_map(|account| &account.readers);
        let count =
            |is: fn(&What) -> bool| told().flat_map(|reader| &reader.told).filter(|told| is(&told.what)).count();
        let mut faults = BTreeMap::new();
        for outage in outages {
            *faults.entry(name(outage)).or_default() += 1;
        }
        let [without_redis, all_well] = across_nodes(histories, outages);
        Self {
            seed,
            sent: sent().count(),
            acknowledged: sent().filter(|sent| sent.acknowledged.is_some()).count(),
            again: sent().map(|sent| sent.again.len()).sum(),
            retried: notes.retried().clone(),
            delivered: readers().map(|reader| reader.deliveries.len()).sum(),
            readers: readers().count(),
            events: count(What::is_numbered),
            heads: count(|what| matches!(what, What::Head(..))),
            told: told().count(),
            streams: notes.streams.load(Ordering::Relaxed),
            faults,
            without_redis,
            all_well,
            violations: notes.violations().clone(),
        }
    }

    fn found(&self, kind: Kind) -> usize {
        self.violations.iter().filter(|violation| violation.kind == kind).count()
    }
}

fn name(outage: &Outage) -> String {
    let target = match outage.fault.target {
        Target::Node(_) => "a node".to_owned(),
        target => format!("{target:?}"),
    };
    match outage.fault.kind {
        Fault::Kill => format!("kill -9 of {target}"),
        Fault::Pause => format!("SIGSTOP of {target}"),
        Fault::Cut => format!("connections to {target} cut"),
    }
}

/// How fast messages reached readers who keep reading, on streams that were open before, on the other node.
fn across_nodes(histories: &[History], outages: &[Outage]) -> [Deliveries; 2] {
    let (mut without_redis, mut all_well) = (Deliveries::default(), Deliveries::default());
    for history in histories {
        let acknowledged = history.sent.iter().filter_map(|sent| sent.acknowledged.as_ref());
        let by_seq: HashMap<_, _> = acknowledged.map(|(at, node, entry)| (entry.seq, (*at, *node))).collect();
        for delivery in history.readers.iter().filter(|reader| !reader.slow).flat_map(|reader| &reader.deliveries) {
            let Some((acknowledged, node)) = by_seq.get(&delivery.entry.seq).copied() else { continue };
            if node == delivery.node || acknowledged < delivery.since {
                continue;
            }
            let meanwhile = |outage: &&Outage| {
                outage.began <= delivery.at.max(acknowledged) && acknowledged <= outage.healed + SETTLE
            };
            let mut meanwhile = outages.iter().filter(meanwhile);
            let deliveries = match (meanwhile.next(), meanwhile.next()) {
                (None, _) => &mut all_well,
                (Some(outage), None) if outage.fault.target == Target::Redis && acknowledged <= outage.healed => {
                    &mut without_redis
                }
                _ => continue,
            };
            deliveries.count += 1;
            deliveries.longest = deliveries.longest.max(delivery.at.saturating_sub(acknowledged));
        }
    }
    [without_redis, all_well]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, usize>| {
            let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            counts.join(", ")
        };
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "faults: {}", list(&self.faults))?;
        let retries: usize = self.retried.values().sum();
        writeln!(
            f,
            "messages: {} sent, {} acknowledged, {} sent again, {retries} attempts repeated ({})",
            self.sent,
            self.acknowledged,
            self.again,
            list(&self.retried)
        )?;
        writeln!(f, "deliveries: {} to {} readers", self.delivered, self.readers)?;
        writeln!(f, "accounts: {} events and {} heads to {} readers", self.events, self.heads, self.told)?;
        writeln!(f, "streams: {}", self.streams)?;
        for (when, deliveries) in [("with all well", self.all_well), ("with Redis away", self.without_redis)] {
            let Deliveries { count, longest } = deliveries;
            writeln!(
                f,
                "from node to node {when}: {count} deliveries, the longest after {:.2} s",
                longest.as_secs_f64()
            )?;
        }
        for violation in self.violations.iter().take(FIRST) {
            writeln!(f, "{:?}: {}", violation.kind, violation.what)?;
        }
        let kinds = [
            (Kind::Lost, "lost"),
            (Kind::Doubled, "doubled"),
            (Kind::Reordered, "reordered"),
            (Kind::Gap, "gaps"),
            (Kind::Overlap, "overlaps"),
            (Kind::Changed, "changed"),
            (Kind::Invented, "invented"),
            (Kind::Stuck, "stuck"),
            (Kind::Failed, "failed"),
        ];
        let counts: Vec<_> = kinds.iter().map(|(kind, name)| format!("{} {name}", self.found(*kind))).collect();
        write!(f, "{}", counts.join(", "))
    }
}

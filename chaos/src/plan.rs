//! Which fault comes when. The same seed gives the same plan.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// How many nodes there are.
pub const NODES: usize = 2;
/// How many things can be broken: the nodes, Postgres, Redis.
pub const TARGETS: usize = NODES + 2;

/// Everything runs for so long before the first fault.
const QUIET: Duration = Duration::from_secs(1);
/// From one fault to the next. Faults last longer than that, so several can be there at once.
const GAP: RangeInclusive<f64> = 0.3..=4.0;
const LASTS: RangeInclusive<f64> = 0.3..=5.0;

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A server.
    Node(usize),
    /// The database.
    Postgres,
    /// What wakes the other node.
    Redis,
}

impl Target {
    /// Its place among all targets.
    pub fn index(self) -> usize {
        match self {
            Self::Node(node) => node,
            Self::Postgres => NODES,
            Self::Redis => NODES + 1,
        }
    }
}

/// How it is broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `kill -9`, and started again.
    Kill,
    /// `SIGSTOP`, and `SIGCONT`.
    Pause,
    /// All connections of clients to a node are cut.
    Cut,
}

/// One fault.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    /// When, from the start.
    pub at: Duration,
    /// Until it is healed, which takes a while by itself.
    pub lasts: Duration,
    /// How.
    pub kind: Kind,
    /// What.
    pub target: Target,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::Node(node) => write!(f, "{:?} node {}", self.kind, node + 1),
            target => write!(f, "{:?} {target:?}", self.kind),
        }
    }
}

/// The faults of a run that lasts `wall`, in order: each kind on each kind of target comes once before any comes again.
pub fn plan(seed: u64, wall: Duration) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut busy_until = [Duration::ZERO; TARGETS];
    let (mut faults, mut deck, mut now) = (Vec::new(), Vec::new(), QUIET);
    loop {
        if deck.is_empty() {
            let node = Target::Node(rng.random_range(0..NODES));
            deck = vec![
                (Kind::Kill, node),
                (Kind::Kill, Target::Postgres),
                (Kind::Kill, Target::Redis),
                (Kind::Pause, Target::Node(rng.random_range(0..NODES))),
                (Kind::Pause, Target::Postgres),
                (Kind::Pause, Target::Redis),
                (Kind::Cut, Target::Node(rng.random_range(0..NODES))),
            ];
            deck.shuffle(&mut rng);
        }
        let Some((kind, target)) = deck.pop() else { return faults };
        // One thing has one fault at a time.
        let at = now.max(busy_until[target.index()]);
        let lasts = match kind {
            Kind::Cut => Duration::ZERO,
            _ => Duration::from_secs_f64(rng.random_range(LASTS)),
        };
        if at + lasts > wall {
            return faults;
        }
        let gap = Duration::from_secs_f64(rng.random_range(GAP));
        busy_until[target.index()] = at + lasts + gap;
        faults.push(Fault { at, lasts, kind, target });
        now = at + gap;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_and_another_seed_another_one() {
        let wall = Duration::from_secs(60);
        assert_eq!(plan(7, wall), plan(7, wall));
        assert_ne!(plan(7, wall), plan(8, wall));
    }

    #[test]
    fn every_kind_of_fault_comes_within_time_and_a_target_has_one_at_a_time() {
        let wall = Duration::from_secs(120);
        for seed in 0..100 {
            let faults = plan(seed, wall);
            let kinds: BTreeSet<_> = faults
                .iter()
                .map(|fault| {
                    (fault.kind, if let Target::Node(_) = fault.target { Target::Node(0) } else { fault.target })
                })
                .collect();
            assert_eq!(kinds.len(), 7, "{faults:?}");
            assert!(faults.iter().all(|fault| fault.at + fault.lasts <= wall), "{faults:?}");
            for (index, fault) in faults.iter().enumerate() {
                let next = faults[index + 1..].iter().find(|next| next.target == fault.target);
                assert!(next.is_none_or(|next| next.at >= fault.at + fault.lasts), "{faults:?}");
            }
        }
    }

    #[test]
    fn the_short_run_of_the_tests_has_every_kind_of_fault() {
        let kinds: BTreeSet<_> = plan(1, Duration::from_secs(25))
            .iter()
            .map(|fault| (fault.kind, fault.target.index().max(NODES - 1)))
            .collect();
        assert_eq!(kinds.len(), 7, "choose another seed in scripts/test.sh: {kinds:?}");
    }
}

//! A room with many subscribers: how much memory they cost while nothing happens, how many deliveries a second there can
//! be, and how long one takes when there are fewer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;

use super::subscribers::{Room, Subscribers, Writer};
use super::{Bench, make_accounts};
use crate::WARM_UP;
use crate::client::Http2;
use crate::load::{Sample, Subjects};
use crate::process::{Server, raise_open_files};
use crate::report::{self, Comparison, Measured, Section, Spread, cpu, p99, rate, ratios, two_digits};
use crate::world::{Account, start_conversation};

/// Files that a process needs besides its subscribers.
const SPARE_FILES: u64 = 200;
/// Subscribers that come before those whose memory is counted, and go after that: so many that they fill what a server that has
/// just started holds and does not need, the memory of its first password hash above all (19 MiB).
const FIRST: usize = 4_000;
const QUIET: Duration = Duration::from_secs(1);
/// Deliveries on their way at once, at full load, and how many messages those may be: enough to share commits.
const DELIVERIES: usize = 32_000;
const MESSAGES: std::ops::RangeInclusive<usize> = 4..=32;
/// Those who send, at the fixed load: one that still waits for its acknowledgement does not keep the next from being sent.
const WRITERS: usize = 8;
/// The fixed load: of what socket.io manages, and how much more of it the others get.
const EASY: f64 = 0.4;
const TIMES: f64 = 5.0;

/// Who serves the room, and how.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Shared,
    Alone,
    SocketIo,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Shared => "Subscribe, streams of one connection",
            Self::Alone => "Subscribe, a connection each",
            Self::SocketIo => "socket.io",
        }
    }

    /// KiB that an idle subscriber may cost.
    fn memory(self) -> Option<f64> {
        match self {
            Self::Shared => Some(15.0),
            Self::Alone => Some(25.0),
            Self::SocketIo => None,
        }
    }
}

/// What came out of one kind of room, over all rounds.
struct Results {
    kind: Kind,
    full: Measured,
    easy: Measured,
    /// KiB a subscriber.
    memory: Vec<f64>,
}

impl Bench {
    pub(super) async fn fanout(&self) -> Result<Section> {
        let files = files()?;
        let server = self.stack.serve(self.cores)?;
        let connection = Http2::connect(server.address).await?;
        let accounts = make_accounts(&connection, self.flags.accounts, "fanout").await?;
        let messaging = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
        let (first, others) = accounts.split_first().context("there are no accounts")?;
        let conversation = start_conversation(messaging, first, &others.iter().collect::<Vec<_>>()).await?;
        drop((connection, server));
        self.make_peers_tables(1).await?;

        let mut text = String::new();
        for wanted in &self.flags.subscribers {
            let count = (*wanted).min(files - first_subscribers(files));
            if count < *wanted {
                text += &format!("{count} subscribers instead of {wanted}: the limit of open files.\n\n");
            }
            text += &self.fanout_to(count, &accounts, &conversation).await?;
        }
        Ok(Section { text, versions: self.versions()? })
    }

    async fn fanout_to(&self, count: usize, accounts: &[Account], conversation: &str) -> Result<String> {
        let mut kinds = vec![Kind::Shared, Kind::Alone];
        kinds.extend(self.node.is_ok().then_some(Kind::SocketIo));
        // What is easy for socket.io, in messages a second; without it, what was seen elsewhere.
        let mut easy = two_digits(27_000.0 / count as f64);
        if self.node.is_ok() {
            let server = self.start_room(Kind::SocketIo)?;
            let room = Room::SocketIo { address: server.address };
            let subscribers = room.subscribe(count).await?;
            let sample = full_load(room, &subscribers, WARM_UP, self.subjects(&server)?).await?;
            easy = two_digits(sample.rate * EASY / count as f64);
        }
        let mut results: Vec<_> = kinds
            .into_iter()
            .map(|kind| {
                let offered = if kind == Kind::SocketIo { easy } else { easy * TIMES };
                let measured = |title| Measured { title, samples: Vec::new() };
                let title = format!("{}, {} deliveries/s offered", kind.title(), offered * count as f64);
                Results { kind, full: measured(kind.title().to_owned()), easy: measured(title), memory: Vec::new() }
            })
            .collect();
        for round in 1..=self.flags.rounds {
            for index in report::order(round, results.len()) {
                let results = &mut results[index];
                let offered = if results.kind == Kind::SocketIo { easy } else { easy * TIMES };
                self.fanout_once(count, results, offered, accounts, conversation).await?;
                let (rounds, title) = (self.flags.rounds, results.kind.title());
                let last = |measured: &Measured| measured.samples.last().copied().unwrap_or_default();
                eprintln!(
                    "round {round}/{rounds}: {count} subscribers: {title}: {:.0} deliveries/s; {:.1} ms p99 at {offered} \
                     messages/s; {:.1} KiB a subscriber",
                    last(&results.full).rate,
                    p99(&last(&results.easy)),
                    results.memory.last().copied().unwrap_or_default(),
                );
            }
        }
        Ok(text(count, &results))
    }

    /// A server of its own, because memory that was in use once may stay.
    async fn fanout_once(
        &self,
        count: usize,
        results: &mut Results,
        offered: f64,
        accounts: &[Account],
        conversation: &str,
    ) -> Result<()> {
        let server = self.start_room(results.kind)?;
        let (address, shared) = (server.address, results.kind == Kind::Shared);
        let room = match results.kind {
            Kind::SocketIo => Room::SocketIo { address },
            Kind::Shared | Kind::Alone => Room::Rialto { address, accounts, conversation, shared },
        };
        let first = room.subscribe(first_subscribers(files()?)).await?;
        room.writer().await?.send(&first, Instant::now()).await?;
        first.have_read_all_but(0).await?;
        tokio::time::sleep(QUIET).await;
        let before = server.pid().resident()?;
        let subscribers = room.subscribe(count).await?;
        tokio::time::sleep(QUIET).await;
        let bytes = server.pid().resident()?.saturating_sub(before) as f64;
        drop(first);
        tokio::time::sleep(QUIET).await;
        results.memory.push(bytes / 1024.0 / count as f64);
        let subjects = self.subjects(&server)?;
        results.full.samples.push(full_load(room, &subscribers, self.wall(), subjects).await?);
        results.easy.samples.push(fixed_load(room, &subscribers, offered, self.wall(), subjects).await?);
        Ok(())
    }

    fn start_room(&self, kind: Kind) -> Result<Server> {
        match kind {
            Kind::SocketIo => self.start_socketio()?.context("there is no server on Node.js"),
            Kind::Shared | Kind::Alone => self.stack.serve(self.cores),
        }
    }

    fn subjects(&self, server: &Server) -> Result<Subjects> {
        Ok(Subjects { server: Some(server.pid()), database: Some(self.stack.postgres()?), ..Subjects::default() })
    }
}

/// How many connections there can be.
fn files() -> Result<usize> {
    Ok(usize::try_from(raise_open_files()?.saturating_sub(SPARE_FILES))?)
}

fn first_subscribers(files: usize) -> usize {
    FIRST.min(files / 2)
}

/// As much as goes: the next message is sent as soon as fewer than [`DELIVERIES`] are on their way.
async fn full_load(room: Room<'_>, subscribers: &Subscribers, wall: Duration, subjects: Subjects) -> Result<Sample> {
    let messages = (DELIVERIES / subscribers.count()).clamp(*MESSAGES.start(), *MESSAGES.end());
    let writers = try_join_all((0..messages).map(|_| room.writer())).await?;
    let write = async |mut writer: Writer, end: Instant| {
        while Instant::now() < end {
            subscribers.have_read_all_but(messages - 1).await?;
            writer.send(subscribers, Instant::now()).await?;
        }
        anyhow::Ok(())
    };
    let work = async {
        subscribers.take_latencies();
        let started = Instant::now();
        let end = started + wall;
        try_join_all(writers.into_iter().map(|writer| write(writer, end))).await?;
        subscribers.have_read_all_but(0).await?;
        Ok((subscribers.take_latencies(), started.elapsed()))
    };
    subjects.measure(work).await
}

/// So many messages a second, evenly. A delivery takes as long as from when the message was due.
async fn fixed_load(
    room: Room<'_>,
    subscribers: &Subscribers,
    offered: f64,
    wall: Duration,
    subjects: Subjects,
) -> Result<Sample> {
    let mut writers = try_join_all((0..WRITERS).map(|_| room.writer())).await?;
    let work = async {
        subscribers.take_latencies();
        let started = Instant::now();
        let (period, count) = (Duration::from_secs_f64(1.0 / offered), writers.len());
        let write = async |index: usize, writer: &mut Writer| {
            for turn in (index..).step_by(count) {
                let due = started + period.mul_f64(turn as f64);
                if due >= started + wall {
                    break;
                }
                tokio::time::sleep_until(due.into()).await;
                writer.send(subscribers, due).await?;
            }
            anyhow::Ok(())
        };
        try_join_all(writers.iter_mut().enumerate().map(|(index, writer)| write(index, writer))).await?;
        subscribers.have_read_all_but(0).await?;
        Ok((subscribers.take_latencies(), started.elapsed()))
    };
    subjects.measure(work).await
}

fn p50(sample: &Sample) -> f64 {
    sample.p50.as_secs_f64() * 1e3
}

fn text(count: usize, results: &[Results]) -> String {
    let measured: Vec<_> = results
        .iter()
        .flat_map(|results| [&results.full, &results.easy])
        .map(|measured| Measured { title: measured.title.clone(), samples: measured.samples.clone() })
        .collect();
    let mut compared = Vec::new();
    let compare = |target, ratios, wanted, otherwise| Comparison { target, ratios, wanted: Some(wanted), otherwise };
    let (peers, ours): (Vec<_>, Vec<_>) = results.iter().partition(|results| results.kind == Kind::SocketIo);
    for (ours, peer) in ours.iter().flat_map(|ours| peers.iter().map(move |peer| (ours, peer))) {
        let of = |figure: fn(&Sample) -> f64| (ours.full.figures(figure), peer.full.figures(figure));
        let ((our_rates, their_rates), (our_cpu, their_cpu)) = (of(rate), of(cpu));
        let target = format!("{} : {}", ours.full.title, peer.full.title);
        compared.push(compare(target, ratios(&our_rates, &their_rates), 5.0, ratios(&their_cpu, &our_cpu)));
        for (name, figure) in [("p50", p50 as fn(&Sample) -> f64), ("p99", p99)] {
            let target = format!("{name}, lower is better: {} : {}", peer.easy.title, ours.easy.title);
            let ratios = ratios(&peer.easy.figures(figure), &ours.easy.figures(figure));
            compared.push(compare(target, ratios, 1.0, Vec::new()));
        }
    }
    let mut memory =
        "| idle subscriber | resident KiB, median of rounds (min–max) | wanted | |\n|---|---:|---:|---|\n".to_owned();
    for results in results {
        let spread = Spread::of(&results.memory);
        let (wanted, verdict) = match results.kind.memory() {
            None => (String::new(), ""),
            Some(wanted) => (format!("≤ {wanted}"), if spread.median <= wanted { "met" } else { "MISSED" }),
        };
        let Spread { median, min, max } = spread;
        memory += &format!("| {} | {median:.1} ({min:.1}–{max:.1}) | {wanted} | {verdict} |\n", results.kind.title());
    }
    format!(
        "### {count} subscribers\n\nA call is a delivery.\n\n{}\n{}\n{memory}\n",
        report::loads(&measured, true),
        report::comparisons(&compared, "ratio by CPU"),
    )
}

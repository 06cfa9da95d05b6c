//! `make chaos`: breaks two nodes, their Postgres and their Redis while clients send and read, and checks from what those
//! have seen that messaging kept its promises. docs/chaos.md says what is broken and what is checked.

mod account;
mod cable;
mod check;
mod client;
mod faults;
mod node;
mod outbox;
mod plan;
mod report;
mod stream;
mod world;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;

use account::WATCHED;
use check::{Kind, Violation, check};
use client::{Client, Notes};
use faults::Outage;
use plan::{Fault, Target};
use report::Report;
use stream::Way;
use world::World;

/// How long it may take, when all is well again, until everything that was sent is acknowledged, and until everybody has
/// read it. Much more than it takes, because other things may run on the machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Of the hot conversation, and of each of the others.
const SENDERS: [usize; 2] = [8, 2];
/// Who reads the hot conversation. The first three read each of the others, too.
const READERS: [(Way, bool); 8] = [
    (Way::Subscribe, false),
    (Way::Events, false),
    (Way::Connect, false),
    (Way::Subscribe, true),
    (Way::Events, true),
    (Way::Connect, true),
    (Way::Subscribe, false),
    (Way::Subscribe, false),
];
const READERS_ELSEWHERE: usize = 3;

/// Breaks Rialto's servers under load and checks what messaging promises.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Decides which faults come when, and what clients do.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long faults come.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// What the nodes log.
    #[arg(long, default_value = "warn")]
    log_filter: String,
    /// The server's program (default: rialto, beside this one).
    #[arg(long)]
    rialto: Option<PathBuf>,
    /// Keep logs and histories also where nothing was found.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    ensure!(flags.seconds > 0, "--seconds must be more than 0");
    let ourselves = std::env::current_exe().context("finding this program")?;
    let program = flags.rialto.clone().unwrap_or_else(|| ourselves.with_file_name("rialto"));
    let target = ourselves.ancestors().nth(2).context("finding the build's folder")?;
    // Postgres drops root's privileges and has to get through.
    let open = Permissions::from_mode(0o711);
    let mut folder =
        tempfile::Builder::new().prefix(&format!("chaos-{}-", flags.seed)).permissions(open).tempdir_in(target)?;
    // Until it is known that nothing in it will be missed.
    folder.disable_cleanup(true);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let result = tokio::select! {
        result = run(&flags, &program, folder.path()) => result,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let report = result.with_context(|| format!("logs are in {}", folder.path().display()))?;
    println!("{report}");
    if report.violations.is_empty() {
        folder.disable_cleanup(flags.keep);
        return Ok(ExitCode::SUCCESS);
    }
    println!("logs and histories are in {}", folder.path().display());
    Ok(ExitCode::FAILURE)
}

async fn run(flags: &Flags, program: &Path, folder: &Path) -> Result<Report> {
    let world = Arc::new(World::start(program, folder, &flags.log_filter).await?);
    let notes = Arc::new(Notes::new(world.conversations.len(), world.accounts.len()));
    let (senders, keepers, mut readers) = start_clients(&world, &notes, flags.seed);
    let wall = Duration::from_secs(flags.seconds);
    let mut outages = faults::inject(&world, &notes, plan::plan(flags.seed, wall)).await?;
    tokio::time::sleep(wall.saturating_sub(notes.now())).await;
    eprintln!("{:6.1} s  all is well; waiting until everything is acknowledged and read", notes.now().as_secs_f64());
    outages.extend(settle(&world, &notes, senders, keepers).await?);
    // A reader ends by itself only when it was refused, which it has noted, or cannot begin.
    while let Some(ended) = readers.try_join_next() {
        ended??;
    }
    readers.shutdown().await;

    let ended = world.ended_nodes().await;
    notes.violations().extend(ended.into_iter().map(|what| Violation { kind: Kind::Failed, what }));
    notes.violations().extend(panics(folder)?);
    let histories: Vec<_> = (0..world.conversations.len()).map(|index| notes.history(index).clone()).collect();
    ensure!(histories.iter().any(|history| !history.sent.is_empty()), "nobody has sent anything");
    for (index, history) in histories.iter().enumerate() {
        let within = |violation: Violation| {
            let what = format!("conversation {index}: {}", violation.what);
            Violation { what, ..violation }
        };
        notes.violations().extend(check(history).into_iter().map(within));
    }
    let accounts: Vec<_> = WATCHED.into_iter().map(|account| notes.account(account).clone()).collect();
    notes.violations().extend(accounts.iter().flat_map(account::check));
    if !notes.violations().is_empty() || flags.keep {
        fs::write(folder.join("histories.json"), serde_json::to_vec(&histories)?)?;
        fs::write(folder.join("accounts.json"), serde_json::to_vec(&accounts)?)?;
    }
    Ok(Report::new(flags.seed, &notes, &histories, &accounts, &outages))
}

type Clients = JoinSet<Result<()>>;

/// Starts senders, who keeps the hall, and readers.
fn start_clients(world: &Arc<World>, notes: &Arc<Notes>, mut seed: u64) -> (Clients, Clients, Clients) {
    let mut client = |conversation, index| {
        // Each its own, and the same in each run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Client::new(world, notes, conversation, index, seed)
    };
    let (mut senders, mut keepers, mut readers) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for conversation in 0..world.conversations.len() {
        let (sending, reading) =
            if conversation == 0 { (SENDERS[0], READERS.len()) } else { (SENDERS[1], READERS_ELSEWHERE) };
        for index in 0..sending {
            senders.spawn(client(conversation, index).send());
        }
        for (index, (way, slow)) in READERS.into_iter().take(reading).enumerate() {
            readers.spawn(client(conversation, index).read(way, slow));
        }
    }
    // Everybody is in the hot conversation, in this order.
    for account in WATCHED {
        keepers.spawn(client(0, 0).keep_hall(account));
        readers.spawn(client(0, account).be_told(true));
        readers.spawn(client(0, account).be_told(false));
    }
    (senders, keepers, readers)
}

/// Waits until all have come to an end. False if that takes too long.
async fn have_ended(mut clients: Clients) -> Result<bool> {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    Ok(timeout(PATIENCE, all).await.ok().transpose()?.is_some())
}

/// Lets senders come to an end, kills Postgres once more, lets readers catch up, and notes what is stored.
async fn settle(world: &Arc<World>, notes: &Arc<Notes>, senders: Clients, keepers: Clients) -> Result<Vec<Outage>> {
    notes.enough.store(true, Ordering::Relaxed);
    // Who was not answered by then shows in the history.
    let all = have_ended(senders).await?;
    // What was acknowledged a moment ago is as safe as all else.
    let fault = Fault { at: notes.now(), lasts: Duration::ZERO, kind: plan::Kind::Kill, target: Target::Postgres };
    let outages = faults::inject(world, notes, vec![fault]).await?;
    notes.closing.store(true, Ordering::Relaxed);
    have_ended(keepers).await?;
    for conversation in 0..world.conversations.len() {
        let list = |index| Client::new(world, notes, conversation, index, 0);
        let lists = [list(0).list(PATIENCE).await?, list(1).list(PATIENCE).await?];
        if lists[0] != lists[1] && all {
            let what = format!("the nodes list different messages of conversation {conversation}");
            notes.violations().push(Violation { kind: Kind::Changed, what });
        }
        let [stored, _] = lists;
        notes.history(conversation).stored = stored;
    }
    for account in WATCHED {
        Client::new(world, notes, 0, account, 0).note_ends(PATIENCE).await?;
    }
    client::caught_up(notes, PATIENCE).await;
    Ok(outages)
}

/// Panics in the nodes' logs.
fn panics(folder: &Path) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for node in 1..=plan::NODES {
        let log = fs::read_to_string(folder.join(format!("node-{node}.log")))?;
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        found.extend(panics.map(|line| Violation { kind: Kind::Failed, what: format!("node {node}: {line}") }));
    }
    Ok(found)
}

//! Measures Rialto side by side with references, in one run. README.md says what is measured and how to read it.

mod argon2;
mod client;
mod gateway;
mod hello;
mod judged;
mod legs;
mod load;
mod messaging;
mod pgbench;
mod process;
mod report;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use legs::{Leg, Load};
use process::Cores;
use report::Measured;
use world::World;

// The server's allocator, so that the reference has the same, and the load generator leaves as much room as it can.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the gateway instead of the server.
    Gateway(gateway::Flags),
    /// Measure messaging, side by side with others.
    Messaging(messaging::Flags),
    /// Serve as the reference for gRPC. The bench starts this by itself.
    Hello {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// How large answers are.
        #[arg(long)]
        bytes: usize,
    },
    /// Serve as the reference for logins. The bench starts this by itself.
    Argon2 {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Be the server, with methods that the gate lets in for nothing and for a permission. The bench starts this by itself.
    Judged {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// The server's configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Serve orders, over gRPC and, with the gateway in process, over REST. The bench starts this by itself.
    Orders {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// How to measure.
#[derive(Args)]
struct Flags {
    /// What to measure; everything unless given. Can be given several times.
    #[arg(long, value_enum)]
    leg: Vec<Leg>,
    /// How often each load is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each load is measured in a round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Three rounds of a second.
    #[arg(long)]
    quick: bool,
    /// Calls of GetMe and of the reference at once.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// HTTP/2 connections. Over HTTP/1.1 each call at once has its own.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Calls of SendMessage at once, and clients of pgbench.
    #[arg(long, default_value_t = 32)]
    senders: usize,
    /// Logins at once, each of an account of its own.
    #[arg(long, default_value_t = 8)]
    logins: usize,
    /// Accounts that call.
    #[arg(long, default_value_t = 64)]
    accounts: usize,
    /// Conversations that are written to.
    #[arg(long, default_value_t = 1000)]
    conversations: usize,
    /// What the server logs. It logs to a file.
    #[arg(long, default_value = "info")]
    log_filter: String,
    /// The server's program (default: rialto, beside this one).
    #[arg(long)]
    rialto: Option<PathBuf>,
    /// pgbench's program.
    #[arg(long, env = "PGBENCH", default_value = "pgbench")]
    pgbench: PathBuf,
    /// Write the result to bench/RESULTS.md.
    #[arg(long)]
    record: bool,
}

fn main() -> Result<()> {
    let Cli { command, flags } = Cli::parse();
    // As the server's own runtime is built.
    let serve = || Builder::new_multi_thread().enable_all().build();
    match command {
        Some(Command::Hello { listen, bytes }) => serve()?.block_on(hello::serve(listen, bytes)),
        Some(Command::Argon2 { listen }) => serve()?.block_on(argon2::serve(listen)),
        Some(Command::Judged { listen, config }) => serve()?.block_on(judged::serve(listen, &config)),
        Some(Command::Orders { listen }) => serve()?.block_on(gateway::orders::serve(listen)),
        Some(Command::Gateway(flags)) => {
            run(flags.quick && !flags.record, async |cores| gateway::measure(flags, cores).await)
        }
        Some(Command::Messaging(flags)) => {
            run(flags.quick && !flags.record, async |cores| messaging::measure(flags, cores).await)
        }
        None => run(flags.quick && !flags.record, async |cores| measure(flags, cores).await),
    }
}

/// Measures, on a core, until that is done or somebody wants it to end.
fn run(only_try: bool, measure: impl AsyncFnOnce(Cores) -> Result<()>) -> Result<()> {
    let optimised = !cfg!(debug_assertions);
    ensure!(optimised || only_try, "only optimised builds are worth measuring: cargo build --release");
    // Before there is a second thread.
    let cores = Cores::take()?;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // What was started is stopped when it is dropped.
        tokio::select! {
            result = measure(cores) => result,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn measure(mut flags: Flags, cores: Cores) -> Result<()> {
    if flags.quick {
        (flags.rounds, flags.seconds) = (3, 1);
    }
    ensure!(flags.rounds.min(flags.connections).min(flags.conversations) > 0, "there must be at least one of each");
    ensure!(flags.accounts > 1, "a conversation needs two accounts");
    let load_before = report::load_average()?;
    let world = World::start(&flags, cores).await?;
    let load = Load::new(&flags, &world);
    let legs = if flags.leg.is_empty() { <Leg as clap::ValueEnum>::value_variants() } else { &flags.leg };
    eprintln!("warming up…");
    for leg in legs {
        load.run(*leg, WARM_UP).await?;
    }
    let mut measured: Vec<_> =
        legs.iter().map(|leg| Measured { title: leg.title().to_owned(), samples: Vec::new() }).collect();
    for round in 1..=flags.rounds {
        for index in report::order(round, legs.len()) {
            let (leg, Measured { title, samples }) = (legs[index], &mut measured[index]);
            let sample = load.run(leg, Duration::from_secs(flags.seconds)).await?;
            eprintln!("round {round}/{}: {title}: {:.0} calls/s", flags.rounds, sample.rate);
            samples.push(sample);
        }
    }
    let tables = format!(
        "{}\n{}",
        report::loads(&measured, true),
        report::comparisons(&legs::comparisons(legs, &measured), "ratio by CPU"),
    );
    println!("{tables}");
    if flags.record {
        let header = circumstances(&flags, &load_before);
        report::record("The server", &format!("{header}\n{tables}"))?;
    }
    Ok(())
}

fn circumstances(flags: &Flags, load_before: &str) -> String {
    let redis = report::output_of(&["redis-server", "--version"]);
    let redis = redis.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("?");
    let postgres = report::output_of(&[&flags.pgbench.to_string_lossy(), "--version"]);
    let Flags { rounds, seconds, in_flight, connections, senders, logins, accounts, conversations, log_filter, .. } =
        flags;
    let run = format!(
        "{rounds} rounds of {seconds} s a load; {in_flight} calls in flight over \
         {connections} connections (REST: a connection each); {senders} senders, {conversations} conversations, \
         {accounts} accounts, {logins} logins at once; log filter `{log_filter}`"
    );
    report::circumstances(&[postgres, format!("Redis {redis}")], &run, load_before)
}

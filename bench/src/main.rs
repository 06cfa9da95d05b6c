//! Measures Rialto side by side with references, in one run. README.md says what is measured and how to read it.

mod client;
mod hello;
mod legs;
mod load;
mod pgbench;
mod process;
mod report;
mod world;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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

/// Where `--record` writes, from the root of the repository.
const RESULTS: &str = "bench/RESULTS.md";
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    reference: Option<Reference>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Reference {
    /// Serve as the reference for gRPC. The bench starts this by itself.
    Hello {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// How large answers are.
        #[arg(long)]
        bytes: usize,
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
    let Cli { reference, mut flags } = Cli::parse();
    if let Some(Reference::Hello { listen, bytes }) = reference {
        // As the server's own runtime is built.
        return Builder::new_multi_thread().enable_all().build()?.block_on(hello::serve(listen, bytes));
    }
    if flags.quick {
        (flags.rounds, flags.seconds) = (3, 1);
    }
    ensure!(flags.rounds.min(flags.connections).min(flags.conversations) > 0, "there must be at least one of each");
    ensure!(flags.accounts > 1, "a conversation needs two accounts");
    ensure!(!cfg!(debug_assertions), "only optimised builds are worth measuring: cargo build --release");
    // Before there is a second thread.
    let cores = Cores::take()?;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // What was started is stopped when it is dropped.
        tokio::select! {
            result = measure(&flags, cores) => result,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn measure(flags: &Flags, cores: Cores) -> Result<()> {
    let load_before = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let load_before = load_before.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let world = World::start(flags, cores).await?;
    let load = Load::new(flags, &world);
    let legs = if flags.leg.is_empty() { <Leg as clap::ValueEnum>::value_variants() } else { &flags.leg };
    eprintln!("warming up…");
    for leg in legs {
        load.run(*leg, WARM_UP).await?;
    }
    let mut measured: Vec<_> = legs.iter().map(|leg| Measured { leg: *leg, samples: Vec::new() }).collect();
    for round in 1..=flags.rounds {
        for Measured { leg, samples } in &mut measured {
            let sample = load.run(*leg, Duration::from_secs(flags.seconds)).await?;
            eprintln!("round {round}/{}: {}: {:.0} calls/s", flags.rounds, leg.title(), sample.rate);
            samples.push(sample);
        }
        // The other way round the next time, so that no leg always follows the same one.
        measured.reverse();
    }
    measured.sort_by_key(|measured| legs.iter().position(|leg| *leg == measured.leg));
    let tables = report::tables(&measured);
    println!("{tables}");
    if flags.record {
        fs::write(RESULTS, report::document(flags, &tables, &load_before))
            .with_context(|| format!("writing {RESULTS}"))?;
    }
    Ok(())
}

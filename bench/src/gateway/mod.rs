//! Measures the gateway side by side with what else people use. README.md says what is measured and how to read it.

mod caller;
mod codec;
#[path = "../../../gateway/examples/speed/floor.rs"]
mod floor;
mod http;
mod listener;
pub mod orders;
pub mod peers;
mod streams;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::process::Cores;
use crate::report::{self, Section};

/// How to measure the gateway.
#[derive(Args)]
pub struct Flags {
    /// What to measure, such as `codec,envoy`; everything unless given.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Leg>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each load is measured in a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// One round of a second: does it work?
    #[arg(long)]
    pub quick: bool,
    /// Calls at once. Over HTTP/1.1 each has a connection of its own.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// HTTP/2 connections that share those calls, where they are shared.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Idle event streams.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// The server's program, for `rialto gateway` (default: rialto, beside this one).
    #[arg(long)]
    rialto: Option<PathBuf>,
    /// Write the results to bench/RESULTS.md, each into its section.
    #[arg(long)]
    pub record: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Leg {
    /// In process, with native gRPC.
    Native,
    /// As a process of its own, with Envoy.
    Envoy,
    /// In process, with fastify and NestJS.
    Node,
    /// The codec alone, with serde_json, pbjson and prost-reflect.
    Codec,
    /// Idle event streams.
    Streams,
}

impl Leg {
    fn title(self) -> &'static str {
        match self {
            Self::Native => "The gateway in process, and native gRPC",
            Self::Envoy => "The gateway as a process of its own, and Envoy",
            Self::Node => "The gateway in process, and Node.js",
            Self::Codec => "The gateway's codec alone",
            Self::Streams => "The gateway's idle event streams",
        }
    }
}

/// Where and how it is measured.
struct Bench {
    flags: Flags,
    cores: Cores,
}

impl Bench {
    fn wall(&self) -> Duration {
        Duration::from_secs(self.flags.seconds)
    }

    async fn measure(&self, leg: Leg) -> Result<Section> {
        match leg {
            Leg::Native => self.native().await,
            Leg::Envoy => self.envoy().await,
            Leg::Node => self.node().await,
            Leg::Codec => self.codec(),
            Leg::Streams => self.streams().await,
        }
    }
}

/// Measures, prints, and records if that is wanted. A leg that fails does not keep the others from being measured.
pub async fn measure(mut flags: Flags, cores: Cores) -> Result<()> {
    if flags.quick {
        (flags.rounds, flags.seconds) = (1, 1);
    }
    let least = flags.rounds.min(flags.connections).min(flags.in_flight).min(flags.streams);
    ensure!(least > 0 && flags.seconds > 0, "there must be at least one of each");
    let load_before = report::load_average()?;
    let legs = if flags.only.is_empty() { Leg::value_variants().to_vec() } else { flags.only.clone() };
    let bench = Bench { flags, cores };
    let arguments: Vec<_> = std::env::args().skip(2).collect();
    let mut failed = Vec::new();
    for leg in legs {
        eprintln!("== {}", leg.title());
        let Section { text, versions } = match bench.measure(leg).await {
            Ok(section) => section,
            Err(error) => {
                eprintln!("failed: {error:#}");
                failed.push(leg.title());
                continue;
            }
        };
        println!("## {}\n\n{text}", leg.title());
        if bench.flags.record {
            let Flags { rounds, seconds, in_flight, connections, .. } = bench.flags;
            let run = format!(
                "`make bench-gateway ARGS=\"{}\"`: {rounds} rounds of {seconds} s a load; {in_flight} calls in flight, \
                 where connections are shared over {connections}",
                arguments.join(" ")
            );
            let circumstances = report::circumstances(&versions, &run, &load_before);
            report::record(leg.title(), &format!("{circumstances}\n{text}"))?;
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

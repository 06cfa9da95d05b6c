//! Measures messaging side by side with what else people use. README.md says what is measured and how to read it.

mod ejabberd;
mod fanout;
mod history;
mod sends;
mod socketio;
mod subscribers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, TryStreamExt, stream};
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;

use crate::client::Http2;
use crate::gateway::peers;
use crate::process::{Cores, Server};
use crate::report::{self, Section};
use crate::world::{Account, SETUP_IN_FLIGHT, Stack, account, execute};

/// Where pgbench and the server on Node.js keep their messages.
const PEERS_DATABASE: &str = "peers";

/// How to measure messaging.
#[derive(Args)]
pub struct Flags {
    /// What to measure, such as `many,hot`; everything unless given.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Leg>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each load is measured in a round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// One round of a second with little of everything: does it work?
    #[arg(long)]
    pub quick: bool,
    /// Messages that are sent at once. pgbench has 32 clients, which is what it is fastest with.
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// HTTP/2 connections that share those messages.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Conversations, where there are many.
    #[arg(long, default_value_t = 10_000)]
    conversations: usize,
    /// Accounts that send and read.
    #[arg(long, default_value_t = 64)]
    accounts: usize,
    /// Subscribers of the room that is fanned out to.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    subscribers: Vec<usize>,
    /// Messages that there are when they are read.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 10_000_000])]
    history: Vec<usize>,
    /// What the server logs. It logs to a file.
    #[arg(long, default_value = "info")]
    log_filter: String,
    /// The server's program (default: rialto, beside this one).
    #[arg(long)]
    rialto: Option<PathBuf>,
    /// pgbench's program.
    #[arg(long, env = "PGBENCH", default_value = "pgbench")]
    pgbench: PathBuf,
    /// Write the results to bench/RESULTS.md, each into its section.
    #[arg(long)]
    pub record: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Leg {
    /// Durable sends over many conversations.
    Many,
    /// Durable sends in one conversation.
    Hot,
    /// Fan-out of one room.
    Fanout,
    /// Reading, with little history and with much.
    History,
}

impl Leg {
    fn title(self) -> &'static str {
        match self {
            Self::Many => "Messages over many conversations",
            Self::Hot => "Messages in one hot conversation",
            Self::Fanout => "Fan-out of one room",
            Self::History => "Reading, by the length of history",
        }
    }
}

/// Where and how it is measured.
struct Bench {
    flags: Flags,
    cores: Cores,
    /// Why there is no server on Node.js, or where its packages are.
    node: Result<PathBuf, String>,
    stack: Stack,
}

impl Bench {
    fn wall(&self) -> Duration {
        Duration::from_secs(self.flags.seconds)
    }

    async fn measure(&self, leg: Leg) -> Result<Section> {
        match leg {
            Leg::Many => self.sends(self.flags.conversations).await,
            Leg::Hot => self.sends(1).await,
            Leg::Fanout => self.fanout().await,
            Leg::History => self.history().await,
        }
    }

    /// The server on Node.js, if its packages are there.
    fn start_socketio(&self) -> Result<Option<Server>> {
        let Ok(installed) = &self.node else { return Ok(None) };
        let database = self.stack.database_url_for(PEERS_DATABASE);
        let start = || {
            Server::start(|address| {
                let mut node = Command::new("node");
                node.current_dir(installed).args(["socketio.js", &address.port().to_string(), &database]);
                node.env("NODE_ENV", "production").stdout(Stdio::null());
                Ok(node)
            })
        };
        self.cores.on_server(start).map(Some)
    }

    /// The peers' tables, empty, with so many conversations.
    async fn make_peers_tables(&self, conversations: usize) -> Result<()> {
        let database = self.make_database(PEERS_DATABASE).await?;
        execute(&database, include_str!("tables.sql")).await?;
        let fill = format!("INSERT INTO conversations (id) SELECT generate_series(1, {conversations})");
        execute(&database, &fill).await?;
        execute(&database, "VACUUM (ANALYZE) conversations").await
    }

    /// A database, empty.
    async fn make_database(&self, name: &str) -> Result<String> {
        let admin = self.stack.database_url_for("postgres");
        execute(&admin, &format!("DROP DATABASE IF EXISTS {name}")).await?;
        execute(&admin, &format!("CREATE DATABASE {name}")).await?;
        Ok(self.stack.database_url_for(name))
    }

    fn versions(&self) -> Result<Vec<String>> {
        let pgbench = report::output_of(&[&self.flags.pgbench.to_string_lossy(), "--version"]);
        let node = if self.node.is_ok() { peers::node_versions(&["socket.io", "pg"])? } else { Vec::new() };
        Ok([pgbench].into_iter().chain(node).collect())
    }
}

/// Accounts that have logged in, with a beginning of their addresses that no others have.
async fn make_accounts(connection: &Http2, count: usize, prefix: &str) -> Result<Vec<Account>> {
    let auth = AuthServiceClient::with_origin(connection.clone(), connection.origin.clone());
    let accounts = stream::iter(0..count).map(|index| account(auth.clone(), format!("{prefix}-{index}")));
    accounts.buffered(SETUP_IN_FLIGHT).try_collect().await
}

/// Measures, prints, and records if that is wanted. A leg that fails does not keep the others from being measured.
pub async fn measure(mut flags: Flags, cores: Cores) -> Result<()> {
    if flags.quick {
        (flags.rounds, flags.seconds, flags.conversations, flags.accounts) = (1, 1, 200, 8);
        flags.subscribers = vec![100];
        flags.history = vec![10_000, 100_000];
    }
    let least = flags.rounds.min(flags.connections).min(flags.in_flight).min(flags.conversations);
    let subscribers = flags.subscribers.iter().copied().min().unwrap_or(0);
    ensure!(least.min(subscribers) > 0 && flags.seconds > 0, "there must be at least one of each");
    ensure!((2..256).contains(&flags.accounts), "a conversation has 2 to 255 accounts");
    let shortest = flags.history.iter().copied().min().unwrap_or(0);
    ensure!(shortest >= history::LEAST_MESSAGES, "a history has at least {} messages", history::LEAST_MESSAGES);
    let load_before = report::load_average()?;
    let legs = if flags.only.is_empty() { Leg::value_variants().to_vec() } else { flags.only.clone() };
    let stack = Stack::start(flags.rialto.as_deref().map(Path::new), cores, &flags.log_filter)?;
    let bench = Bench { node: peers::install("node"), flags, cores, stack };
    let arguments: Vec<_> = std::env::args().skip(2).collect();
    let mut failed = Vec::new();
    for leg in legs {
        eprintln!("== {}", leg.title());
        let Section { mut text, versions } = match bench.measure(leg).await {
            Ok(section) => section,
            Err(error) => {
                eprintln!("failed: {error:#}");
                failed.push(leg.title());
                continue;
            }
        };
        if let Err(why) = &bench.node {
            text += &format!("\nWithout socket.io: {why}\n");
        }
        println!("## {}\n\n{text}", leg.title());
        if bench.flags.record {
            let Flags { rounds, seconds, in_flight, connections, accounts, .. } = bench.flags;
            let run = format!(
                "`make bench-messaging ARGS=\"{}\"`: {rounds} rounds of {seconds} s a load; {in_flight} messages in \
                 flight (rialto: over {connections} connections), {accounts} accounts; log filter `{}`",
                arguments.join(" "),
                bench.flags.log_filter,
            );
            let circumstances = report::circumstances(&versions, &run, &load_before);
            report::record(leg.title(), &format!("{circumstances}\n{text}"))?;
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

//! The reference for messages: pgbench, making the same change to the same tables, one message a transaction.

use std::path::Path;
use std::time::Duration;
use std::{fs, str};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::load::{Sample, Subjects};

/// What the server does to its own tables, one message a transaction.
pub const SAME_SQL: &str = include_str!("../pgbench.sql");
/// The least that takes the next number and keeps a message: one statement, on tables of its own.
pub const ONE_STATEMENT: &str = include_str!("../pgbench-messages.sql");
/// The text of every message.
pub const TEXT: &str = "A message of ordinary length, such as people send each other all day long.";

/// The same rows that the server makes, under ids that pgbench can count: a fixed beginning, and then digits. Accounts and
/// conversations have the digits `100000000000 + index`.
pub fn seed(accounts: usize, conversations: usize) -> String {
    let id = "('00000000-0000-7000-8000-' || 100000000000 + ";
    format!(
        "INSERT INTO accounts (id, email, display_name, password_hash, role, state, created_at, updated_at)
         SELECT {id} n)::uuid, n || '@example.com', 'Bench ' || n, '', 'user', 'active', now(), now()
         FROM generate_series(0, {accounts} - 1) n;
         INSERT INTO conversations (id, title, created_by, created_at, active_at)
         SELECT {id} n)::uuid, '', {id} n % {accounts})::uuid, now(), now()
         FROM generate_series(0, {conversations} - 1) n;
         INSERT INTO conversation_members (conversation_id, account_id, joined_at)
         SELECT {id} n)::uuid, {id} (n + other) % {accounts})::uuid, now()
         FROM generate_series(0, {conversations} - 1) n, generate_series(0, 1) other;"
    )
}

/// A run of pgbench.
pub struct Pgbench<'a> {
    /// The program.
    pub program: &'a Path,
    /// The transaction.
    pub script: &'a str,
    /// The database that was seeded.
    pub database: &'a str,
    /// For its log.
    pub folder: &'a Path,
    /// Clients.
    pub clients: usize,
    /// As seeded.
    pub accounts: usize,
    /// As seeded.
    pub conversations: usize,
}

impl Pgbench<'_> {
    /// Runs it for so long, in whole seconds, and measures.
    pub async fn run(&self, wall: Duration, subjects: Subjects) -> Result<Sample> {
        subjects.measure(self.transactions(wall)).await
    }

    async fn transactions(&self, wall: Duration) -> Result<(Vec<Duration>, Duration)> {
        let logs = tempfile::tempdir_in(self.folder)?;
        let script = logs.path().join("pgbench.sql");
        fs::write(&script, self.script)?;
        let mut command = Command::new(self.program);
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--log"]).kill_on_drop(true);
        command.arg(format!("--client={}", self.clients)).arg(format!("--time={}", wall.as_secs().max(1)));
        command.arg(format!("--define=accounts={}", self.accounts));
        command.arg(format!("--define=conversations={}", self.conversations)).arg(format!("--define=text={TEXT}"));
        command.arg("--file").arg(&script).arg("--log-prefix").arg(logs.path().join("log")).arg(self.database);
        let output = command.output().await.with_context(|| format!("running {}", self.program.display()))?;
        let report = format!("{}{}", str::from_utf8(&output.stdout)?, str::from_utf8(&output.stderr)?);
        ensure!(output.status.success() && !report.contains("aborted"), "pgbench ended with {report}");

        let mut latencies = Vec::new();
        for entry in fs::read_dir(logs.path())? {
            let path = entry?.path();
            if path != script {
                latencies.extend(fs::read_to_string(&path)?.lines().filter_map(latency));
            }
        }
        let rate = report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
        let rate = rate.filter(|rate| *rate > 0.0).with_context(|| format!("pgbench has no rate: {report}"))?;
        // Without the time in which its clients connected.
        let wall = Duration::from_secs_f64(latencies.len() as f64 / rate);
        Ok((latencies, wall))
    }
}

/// A line of the log has the client, the number of its transaction, microseconds, and more.
fn latency(line: &str) -> Option<Duration> {
    line.split(' ').nth(2)?.parse().ok().map(Duration::from_micros)
}

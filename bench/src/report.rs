//! The tables.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::Flags;
use crate::legs::{Leg, TARGETS};
use crate::load::Sample;

/// The samples of a leg, one a round.
pub struct Measured {
    /// The leg.
    pub leg: Leg,
    /// In the order of rounds.
    pub samples: Vec<Sample>,
}

impl Measured {
    fn over_rounds(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(value))
    }
}

/// Middle, least and most.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(values.len() / 2)), min: at(0), max: at(last) }
    }
}

/// Both tables, in Markdown.
pub fn tables(measured: &[Measured]) -> String {
    let mut text = String::from(
        "| load | calls/s, median (min–max) | p50 ms | p99 ms | server CPU µs/call | Postgres CPU µs/call | servers' core | load's core |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for leg in measured {
        let rate = leg.over_rounds(|sample| sample.rate);
        let median = |value: fn(&Sample) -> f64| leg.over_rounds(value).median;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {:.0} ({:.0}–{:.0}) | {:.2} | {:.2} | {:.1} | {:.1} | {:.0} % | {:.0} % |",
            leg.leg.title(),
            rate.median,
            rate.min,
            rate.max,
            median(|sample| sample.p50.as_secs_f64() * 1e3),
            median(|sample| sample.p99.as_secs_f64() * 1e3),
            median(|sample| sample.server_cpu.as_secs_f64() * 1e6),
            median(|sample| sample.database_cpu.as_secs_f64() * 1e6),
            median(|sample| sample.server_core * 100.0),
            median(|sample| sample.load_core * 100.0),
        );
    }
    text + "\n" + &targets(measured)
}

fn targets(measured: &[Measured]) -> String {
    let mut text = String::from(
        "| target | ratio, median of rounds (min–max) | wanted | | ratio by CPU |\n|---|---:|---:|---|---:|\n",
    );
    let find = |leg: Leg| measured.iter().find(|measured| measured.leg == leg);
    for target in TARGETS {
        let (Some(subject), Some(reference)) = (find(target.subject), find(target.reference)) else { continue };
        let ratio = |of: fn(&Sample, &Sample) -> f64| {
            Spread::of(
                subject.samples.iter().zip(&reference.samples).map(|(subject, reference)| of(subject, reference)),
            )
        };
        let rate = ratio(|subject, reference| subject.rate / reference.rate);
        let cpu = ratio(|subject, reference| reference.servers_cpu().div_duration_f64(subject.servers_cpu()));
        let verdict = if rate.median >= target.ratio { "pass" } else { "MISS" };
        let _ = writeln!(
            text,
            "| {} : {} | {:.2} ({:.2}–{:.2}) | ≥ {} | {verdict} | {:.2} |",
            target.subject.title(),
            target.reference.title(),
            rate.median,
            rate.min,
            rate.max,
            target.ratio,
            cpu.median,
        );
    }
    text
}

/// The whole of `RESULTS.md`.
pub fn document(flags: &Flags, tables: &str, load_before: &str) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).unwrap_or_default().1;
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default().trim();
    let [date, kernel, commit, rustc, postgres, redis] = [
        &["date", "-u", "+%Y-%m-%d %H:%M UTC"][..],
        &["uname", "-sr"],
        &["git", "describe", "--always", "--dirty"],
        &["rustc", "--version"],
        &[&flags.pgbench.to_string_lossy(), "--version"],
        &["redis-server", "--version"],
    ]
    .map(output_of);
    let redis = redis.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
    let Flags { rounds, seconds, in_flight, connections, senders, accounts, conversations, log_filter, .. } = flags;
    format!(
        "# Results\n\n\
         Written by `make bench ARGS=--record`; README.md says how to read it.\n\n\
         - Date: {date}, commit {commit}\n\
         - Machine: {cpu}, {cores} cores, {memory}, {kernel}; load average before the run: {load_before}\n\
         - Versions: rialto {version}, {rustc}, {postgres}, Redis {redis}\n\
         - Run: {rounds} rounds of {seconds} s a load; {in_flight} calls in flight over {connections} connections (REST: \
           a connection each); {senders} senders, {conversations} conversations, {accounts} accounts; log filter \
           `{log_filter}`\n\n\
         {tables}",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// What a command prints, or `?`.
fn output_of(command: &[&str]) -> String {
    let output = command.split_first().and_then(|(program, words)| Command::new(program).args(words).output().ok());
    let output = output.filter(|output| output.status.success());
    output.map_or("?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

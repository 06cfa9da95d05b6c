//! The tables, and the file that they are recorded in.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::load::Sample;

/// Where `--record` writes, from the root of the repository.
const RESULTS: &str = "bench/RESULTS.md";

/// What a leg found.
pub struct Section {
    /// In Markdown.
    pub text: String,
    /// What else took part.
    pub versions: Vec<String>,
}

impl Section {
    /// Of a leg that could not be measured.
    pub fn skipped(why: &str) -> Self {
        eprintln!("skipped: {why}");
        Self { text: format!("skipped: {why}\n"), versions: Vec::new() }
    }
}

/// The samples of a load, one a round.
pub struct Measured {
    /// What the tables call it.
    pub title: String,
    /// In the order of rounds.
    pub samples: Vec<Sample>,
}

impl Measured {
    /// One figure of each round.
    pub fn figures(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(of).collect()
    }
}

/// In which order `count` loads run in a round: every second round backwards, so that none always follows the same one.
pub fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| if round.is_multiple_of(2) { count - 1 - index } else { index })
}

/// CPU time that the servers used for a call, in microseconds. Its inverse is throughput per core.
pub fn cpu(sample: &Sample) -> f64 {
    sample.servers_cpu().as_secs_f64() * 1e6
}

/// Calls a second.
pub fn rate(sample: &Sample) -> f64 {
    sample.rate
}

/// The 99th percentile, in milliseconds.
pub fn p99(sample: &Sample) -> f64 {
    sample.p99.as_secs_f64() * 1e3
}

/// How one thing compares with another. More is better.
pub struct Comparison {
    /// What is compared.
    pub target: String,
    /// The ratio of each round.
    pub ratios: Vec<f64>,
    /// The least that is wanted of their median.
    pub wanted: Option<f64>,
    /// The same ratios measured in another way, if there is one.
    pub otherwise: Vec<f64>,
}

/// The ratios of two series, round by round.
pub fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(above, below)| above / below).collect()
}

/// Middle, least and most.
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of some figures; not a number if there are none.
    pub fn of(figures: &[f64]) -> Self {
        let mut figures = figures.to_vec();
        figures.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let last = figures.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(figures.len() / 2)), min: at(0), max: at(last) }
    }
}

/// Rounded down to two digits, at least 1.
pub fn two_digits(rate: f64) -> f64 {
    let unit = 10_f64.powf((rate.log10().floor() - 1.0).max(0.0));
    ((rate / unit).floor() * unit).max(1.0)
}

/// What was measured, in Markdown, with Postgres if that took part.
pub fn loads(measured: &[Measured], with_postgres: bool) -> String {
    let (title, line) = if with_postgres { (" Postgres CPU µs/call |", "---:|") } else { ("", "") };
    let mut text = format!(
        "| load | calls/s, median (min–max) | p50 ms | p99 ms | server CPU µs/call |{title} servers' core | load's core |\n\
         |---|---:|---:|---:|---:|{line}---:|---:|\n",
    );
    for load in measured {
        let rate = Spread::of(&load.figures(rate));
        let median = |of: fn(&Sample) -> f64| Spread::of(&load.figures(of)).median;
        let postgres = median(|sample| sample.database_cpu.as_secs_f64() * 1e6);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {:.0} ({:.0}–{:.0}) | {:.2} | {:.2} | {:.1} |{} {:.0} % | {:.0} % |",
            load.title,
            rate.median,
            rate.min,
            rate.max,
            median(|sample| sample.p50.as_secs_f64() * 1e3),
            median(p99),
            median(|sample| sample.server_cpu.as_secs_f64() * 1e6),
            if with_postgres { format!(" {postgres:.1} |") } else { String::new() },
            median(|sample| sample.server_core * 100.0),
            median(|sample| sample.load_core * 100.0),
        );
    }
    text
}

/// How it compares, in Markdown. `otherwise` says how the last column was measured.
pub fn comparisons(comparisons: &[Comparison], otherwise: &str) -> String {
    let mut text =
        format!("| target | ratio, median of rounds (min–max) | wanted | | {otherwise} |\n|---|---:|---:|---|---:|\n");
    for Comparison { target, ratios, wanted, otherwise } in comparisons {
        let ratio = Spread::of(ratios);
        let (wanted, verdict) = match wanted {
            None => (String::new(), ""),
            Some(wanted) => (format!("≥ {wanted}"), if ratio.median >= *wanted { "met" } else { "MISSED" }),
        };
        let otherwise =
            if otherwise.is_empty() { String::new() } else { format!("{:.2}", Spread::of(otherwise).median) };
        let _ = writeln!(
            text,
            "| {target} | {:.2} ({:.2}–{:.2}) | {wanted} | {verdict} | {otherwise} |",
            ratio.median, ratio.min, ratio.max,
        );
    }
    text
}

/// When, on what, and with what, as a list in Markdown.
pub fn circumstances(versions: &[String], run: &str, load_before: &str) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).unwrap_or_default().1;
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default().trim();
    let [date, kernel, commit, rustc] = [
        &["date", "-u", "+%Y-%m-%d %H:%M UTC"][..],
        &["uname", "-sr"],
        &["git", "describe", "--always", "--dirty"],
        &["rustc", "--version"],
    ]
    .map(output_of);
    let versions: String = versions.iter().map(|version| format!(", {version}")).collect();
    format!(
        "- Date: {date}, commit {commit}\n\
         - Machine: {cpu}, {cores} cores, {memory}, {kernel}; load average before the run: {load_before}\n\
         - Versions: rialto {version}, {rustc}{versions}\n\
         - Run: {run}\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The load average.
pub fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Puts a section into `RESULTS.md`, in place of what it said before.
pub fn record(title: &str, text: &str) -> Result<()> {
    let before = fs::read_to_string(RESULTS).with_context(|| format!("reading {RESULTS}"))?;
    fs::write(RESULTS, with_section(&before, title, text)).with_context(|| format!("writing {RESULTS}"))
}

fn with_section(document: &str, title: &str, text: &str) -> String {
    let section = format!("## {title}\n\n{}\n", text.trim_end());
    let heading = format!("\n## {title}\n");
    let Some(start) = document.find(&heading).map(|index| index + 1) else {
        return format!("{}\n\n{section}", document.trim_end());
    };
    let (before, rest) = document.split_at(start);
    match rest.find("\n## ") {
        Some(next) => format!("{before}{section}{}", rest.split_at(next).1),
        None => format!("{before}{section}"),
    }
}

/// What a command prints, its first line, or `?`.
pub fn output_of(command: &[&str]) -> String {
    let output = command.split_first().and_then(|(program, words)| Command::new(program).args(words).output().ok());
    let output = output.filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().lines().next().map(str::to_owned));
    text.flatten().unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_former_self_and_leaves_the_others() {
        let document = "# Results\n\n## One\n\nold\n\n## Two\n\nkept\n";
        assert_eq!(with_section(document, "One", "new\n\n"), "# Results\n\n## One\n\nnew\n\n## Two\n\nkept\n");
        assert_eq!(with_section(document, "Two", "new"), "# Results\n\n## One\n\nold\n\n## Two\n\nnew\n");
        let with_third = "# Results\n\n## One\n\nold\n\n## Two\n\nkept\n\n## Three\n\nnew\n";
        assert_eq!(with_section(document, "Three", "new"), with_third);
        assert_eq!(with_section(with_third, "Three", "new"), with_third);
    }

    #[test]
    fn offered_rates_are_round_and_never_more_than_asked_for() {
        assert_eq!([2345.6, 99.9, 10.0, 7.5, 0.3].map(two_digits), [2300.0, 99.0, 10.0, 7.0, 1.0]);
    }

    #[test]
    fn the_median_decides_over_a_target() {
        let compare = |ratios: &[f64]| {
            let target = Comparison {
                target: "a : b".to_owned(),
                ratios: ratios.to_vec(),
                wanted: Some(2.0),
                otherwise: vec![],
            };
            comparisons(&[target], "by rate").lines().last().map(str::to_owned)
        };
        assert_eq!(compare(&[1.0, 2.5, 2.0]).as_deref(), Some("| a : b | 2.00 (1.00–2.50) | ≥ 2 | met |  |"));
        assert_eq!(compare(&[1.0, 2.5]).as_deref(), Some("| a : b | 1.75 (1.00–2.50) | ≥ 2 | MISSED |  |"));
    }
}

//! `rialto services -- CMD…`: a command with a database and a Redis around it.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::child::Child;
use super::error::At;
use super::identity::{Identity, Ties};
use super::{Options, Services, ServicesError};

/// Where the command finds them: the names under which the configuration reads them.
const DATABASE_VARIABLE: &str = "RIALTO_DATABASE__URL";
const REDIS_VARIABLE: &str = "RIALTO_REDIS__URL";

/// Starts the services, runs `command` with their addresses in its environment, stops the services. The command's exit code
/// is returned, 128 + n where signal n ended it. Interrupt, termination and hang-up are passed on to the command.
///
/// Where a service fails meanwhile, the command is ended and the failure returned.
pub async fn run_with_services(options: Options, command: Vec<OsString>) -> Result<i32, ServicesError> {
    // Before the services start, so that no signal is missed and none ends us without an orderly stop.
    let listen = |kind| signal(kind).at("listen for signals in", Path::new("this process"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;

    let mut services = Services::start(options, |text| eprintln!("{text}"))?;
    // Whoever asked us to end while they started need not ask again.
    let early = tokio::select! {
        biased;
        _ = interrupt.recv() => Some(Signal::INT),
        _ = terminate.recv() => Some(Signal::TERM),
        _ = hangup.recv() => Some(Signal::HUP),
        () = tokio::time::sleep(Duration::from_millis(1)) => None,
    };
    if let Some(signal) = early {
        services.stop()?;
        return Ok(128 + signal.as_raw());
    }
    let (child, mut exit) = start(&services, command)?;
    // A terminal's Ctrl-C reaches the command directly, it is in the same foreground group.
    let interactive = io::stdin().is_terminal();
    let status = loop {
        tokio::select! {
            status = &mut exit => break Ok(status.unwrap_or_else(|_| ExitStatus::from_raw(1 << 8))),
            failure = services.failed() => break Err(failure),
            _ = interrupt.recv() => if !interactive { child.signal(Signal::INT) },
            _ = terminate.recv() => child.signal(Signal::TERM),
            _ = hangup.recv() => child.signal(Signal::HUP),
        }
    };
    match status {
        Ok(status) => {
            services.stop()?;
            Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
        }
        Err(failure) => {
            child.expect_exit();
            child.signal(Signal::TERM);
            child.see_off(&[(Duration::from_secs(10), Signal::KILL)]);
            Err(failure.into())
        }
    }
}

fn start(services: &Services, command: Vec<OsString>) -> Result<(Child, oneshot::Receiver<ExitStatus>), ServicesError> {
    let mut words = command.into_iter();
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(words);
    command.env(DATABASE_VARIABLE, services.database_url()).env(REDIS_VARIABLE, services.redis_url());
    let (report, exit) = oneshot::channel();
    // It stays in our session, so that it keeps the terminal.
    let ties = Ties { death_signal: Signal::TERM, own_session: false };
    let child = Child::spawn(command, &Identity::Same, ties, None, move |status| {
        report.send(status).ok();
    })
    .at("run", Path::new(&program))?;
    Ok((child, exit))
}

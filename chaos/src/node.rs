//! A server of ours: a process that is killed, paused and started again.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Postgres may have to recover before a node starts.
const START_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// The process, killed when dropped.
pub struct Node {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Where it listens; elsewhere after each start, because somebody else may have taken the port meanwhile.
    pub address: SocketAddr,
}

impl Node {
    /// Starts it, and waits until it listens.
    pub fn start(program: PathBuf, config: PathBuf, log: PathBuf) -> Result<Self> {
        let mut node = Self { program, config, log, child: None, address: (Ipv4Addr::LOCALHOST, 0).into() };
        node.start_again()?;
        Ok(node)
    }

    /// Starts it again, as often as it takes: it does not start without Postgres.
    pub fn start_again(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.try_start()? {
                None => return Ok(()),
                Some(status) if started.elapsed() > START_DEADLINE => {
                    bail!("a node does not start ({status}); its log is {}", self.log.display())
                }
                Some(_) => thread::sleep(POLL),
            }
        }
    }

    /// Starts it once, and waits until it listens or has ended.
    fn try_start(&mut self) -> Result<Option<ExitStatus>> {
        self.address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = command(&self.program);
        command.arg("--config").arg(&self.config).args(["serve", "--listen", &self.address.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = self.child.insert(command.spawn().with_context(|| format!("starting {}", self.program.display()))?);
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(Some(status));
            }
            if started.elapsed() > START_DEADLINE {
                bail!("a node does not listen on {}; its log is {}", self.address, self.log.display());
            }
            thread::sleep(POLL);
        }
        Ok(None)
    }

    /// How it ended, if it did although nobody has killed it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// `kill -9`, waited for.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops it where it is, or lets it go on.
    pub fn pause(&self, paused: bool) -> Result<()> {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        match &self.child {
            Some(child) => kill_process(Pid::from_child(child), signal).context("signalling a node"),
            None => Ok(()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program, with nothing of a server's configuration in its environment.
pub fn command(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RIALTO_")) {
        command.env_remove(name);
    }
    command
}

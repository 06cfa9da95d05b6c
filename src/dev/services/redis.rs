//! The private Redis. It keeps nothing: whatever it holds can be built again from PostgreSQL.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedSender;

use super::binaries;
use super::child::Child;
use super::error::{At, ServiceFailure, ServicesError};
use super::identity::{Identity, Ties};
use super::layout::{self, DataDir, LogPlace, url_encode};
use super::{POLL, START_DEADLINE};

const NAME: &str = "Redis";
const PROCESSES: [&str; 2] = ["redis-server", "valkey-server"];

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Redis {
    child: Child,
    log: LogPlace,
    socket: PathBuf,
    url: String,
}

impl Redis {
    /// Starts it, without waiting until it answers.
    pub(super) fn spawn(
        data: &DataDir,
        failures: UnboundedSender<ServiceFailure>,
        progress: impl Fn(&str),
    ) -> Result<Self, ServicesError> {
        let program = binaries::redis()?;
        // Unlike PostgreSQL it may be root, where nothing else works.
        let identity = match Identity::choose(NAME, &program, &data.root) {
            Err(ServicesError::NoIdentity { .. }) => Identity::Same,
            chosen => chosen?,
        };
        let steps = [(Duration::from_secs(3), Signal::TERM), (Duration::from_secs(3), Signal::KILL)];
        layout::see_off_leftovers(NAME, &PROCESSES, &[&data.root.join("redis")], &steps, progress)?;
        let folder = data.folder("redis", &identity)?;
        let socket = data.socket_folder("redis", &identity)?.join("redis.sock");
        let log = data.log("redis")?;
        let place = log.place();

        let mut command = binaries::command(&program);
        command.args(["--port", "0", "--unixsocketperm", "700", "--unixsocket"]).arg(&socket);
        command.args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]);
        command.args(["--daemonize", "no", "--logfile", "", "--dir"]).arg(&folder);
        command.stdin(Stdio::null()).stdout(log.handle()?).stderr(log.handle()?);
        let on_exit = {
            let place = place.clone();
            move |status: ExitStatus| drop(failures.send(failure(&place, &status.to_string())))
        };
        let ties = Ties { death_signal: Signal::TERM, own_session: true };
        let child = Child::spawn(command, &identity, ties, Some(&folder), on_exit).at("start", &program)?;
        let url = url(&socket);
        Ok(Self { child, log: place, socket, url })
    }

    pub(super) fn wait_ready(&self) -> Result<(), ServicesError> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.exited() {
                return Err(failure(&self.log, &status.to_string()).into());
            }
            let last = match self.ping() {
                Ok(answer) if answer == "+PONG" => return Ok(()),
                Ok(answer) => answer,
                Err(error) => error.to_string(),
            };
            if started.elapsed() > START_DEADLINE {
                let (log, seconds) = (self.log.path.clone(), START_DEADLINE.as_secs());
                return Err(ServicesError::NotReady { service: NAME, seconds, last, log });
            }
            thread::sleep(POLL);
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn begin_stop(&self) {
        self.child.expect_exit();
        self.child.signal(Signal::TERM);
    }

    pub(super) fn stop(&self) -> Result<(), ServicesError> {
        self.begin_stop();
        match self.child.see_off(&[(Duration::from_secs(5), Signal::KILL)]) {
            true => Ok(()),
            false => Err(ServicesError::Killed { service: NAME }),
        }
    }

    /// As if the machine had failed.
    pub(super) fn kill(&self) {
        self.child.expect_exit();
        self.child.signal(Signal::KILL);
        self.child.wait(Duration::from_secs(5));
    }

    /// Stops its processes where they are, or lets them go on.
    pub(super) fn pause(&self, paused: bool) {
        self.child.signal_family(if paused { Signal::STOP } else { Signal::CONT });
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<rustix::process::Pid> {
        self.child.pid()
    }

    fn ping(&self) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // There is nobody to tell.
        self.stop().ok();
    }
}

fn failure(log: &LogPlace, status: &str) -> ServiceFailure {
    ServiceFailure { service: NAME, status: status.to_owned(), log: log.path.clone(), tail: log.tail() }
}

/// `redis+unix:///path/to/redis.sock`
fn url(socket: &Path) -> String {
    format!("redis+unix://{}", url_encode(socket, b"/"))
}

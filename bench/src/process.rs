//! Processes: which core they run on, how much CPU they use, how they start and stop.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// The cores: one for servers, one for load.
#[derive(Clone, Copy)]
pub struct Cores {
    server: usize,
    load: usize,
}

impl Cores {
    /// The first two that this process may use. It moves to the second.
    pub fn take() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("which cores may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (Some(server), Some(load)) = (cores.next(), cores.next()) else {
            bail!("two cores are needed: one for the servers, one for the load");
        };
        pin(load)?;
        Ok(Self { server, load })
    }

    /// Runs what starts processes or threads, so that they stay on the servers' core.
    pub fn on_server<T>(self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        pin(self.server)?;
        let started = start();
        pin(self.load)?;
        started
    }
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("moving to core {core}"))
}

/// Lets this process, and those that it starts, open as many files as the system allows. Returns how many that is.
pub fn raise_open_files() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raising the limit of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// A process.
#[derive(Clone, Copy)]
pub struct Pid(u32);

/// This process.
pub fn load_generator() -> Pid {
    Pid(std::process::id())
}

impl Pid {
    /// The process whose number is in the first line of a file.
    pub fn in_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.map(Self).with_context(|| format!("no process number in {}", path.display()))
    }

    /// The CPU time that it and its children that have ended used.
    pub fn cpu(self) -> Result<Duration> {
        Stat::of(self.0).map(|stat| stat.cpu()).with_context(|| format!("process {} is not there", self.0))
    }

    /// The same with its children that live.
    pub fn family_cpu(self) -> Result<Duration> {
        let processes = fs::read_dir("/proc").context("reading /proc")?;
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = pids.filter_map(Stat::of).filter(|stat| stat.parent == self.0);
        Ok(self.cpu()? + children.map(|stat| stat.cpu()).sum::<Duration>())
    }

    /// The memory that it holds, in bytes.
    pub fn resident(self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0));
        let status = status.with_context(|| format!("process {} is not there", self.0))?;
        let kibibytes =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kibibytes.map(|kibibytes: u64| kibibytes << 10).context("no VmRSS")
    }
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program, in parentheses, may contain anything. What follows begins with field 3.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            // utime, stime, cutime, cstime
            ticks: (14..=17).map(field).sum::<Option<u64>>()?,
        })
    }

    fn cpu(&self) -> Duration {
        Duration::from_secs(self.ticks).div_f64(rustix::param::clock_ticks_per_second() as f64)
    }
}

/// A server of ours, stopped when dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server on a free port, which the command is told, and waits until it listens.
    pub fn start(command: impl FnOnce(SocketAddr) -> Result<Command>) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())?;
        let mut command = command(address)?;
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        let mut server = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            ensure!(started.elapsed() < START_DEADLINE, "{command:?} does not listen on {address}");
            thread::sleep(POLL);
        }
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let asked = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), Signal::TERM);
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < STOP_DEADLINE {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(POLL);
        }
        // It does not go by itself, or is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

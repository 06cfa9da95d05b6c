//! The data directory: its lock, its folders, its logs, and what an earlier run left in it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::error::{At, ServicesError};
use super::identity::Identity;

/// `sun_path` holds 108 bytes, the last of which is a zero.
const SOCKET_PATH_LIMIT: usize = 107;
/// The longest name of a socket that we make, with its service's folder.
const LONGEST_SOCKET: usize = "/postgres/.s.PGSQL.5432".len();
const LOG_LIMIT: u64 = 10 * 1024 * 1024;

/// A data directory that this process alone works on.
#[derive(Debug)]
pub(super) struct DataDir {
    /// Absolute, without links.
    pub(super) root: PathBuf,
    lock: File,
}

impl DataDir {
    pub(super) fn open(path: &Path) -> Result<Self, ServicesError> {
        // Others may pass through, to a folder that is theirs, but not look around.
        DirBuilder::new().recursive(true).mode(0o711).create(path).at("create the data directory", path)?;
        let root = fs::canonicalize(path).at("find the data directory", path)?;
        let lock = lock(&root)?;
        Ok(Self { root, lock })
    }

    /// The folder `name`, which only `identity` (and root) can enter.
    pub(super) fn folder(&self, name: &str, identity: &Identity) -> Result<PathBuf, ServicesError> {
        let path = self.root.join(name);
        private_folder(&path)?;
        identity.own(&path)?;
        Ok(path)
    }

    /// The folder for sockets: `run`, or where its path is too long for a socket, one under the system's temporary folder.
    pub(super) fn socket_folder(&self, service: &str, identity: &Identity) -> Result<PathBuf, ServicesError> {
        let wanted = self.root.join("run");
        if fits(&wanted) {
            // Each service has its own, because each may have its own identity.
            private_parent(&wanted)?;
            return self.folder(&format!("run/{service}"), identity);
        }
        // The same name at each start, so that addresses stay good.
        let mut hasher = DefaultHasher::new();
        (self.root.as_os_str().as_bytes(), service).hash(&mut hasher);
        let fallback = std::env::temp_dir().join(format!("rialto-{:012x}", hasher.finish() >> 16));
        let failed =
            |reason: String| ServicesError::SocketPath { wanted: wanted.clone(), fallback: fallback.clone(), reason };
        if !fits(&fallback) {
            return Err(failed("it is too long as well".to_owned()));
        }
        private_folder(&fallback)?;
        let meta = fs::symlink_metadata(&fallback).at("look at", &fallback)?;
        let us = rustix::process::geteuid();
        // Anybody can make a folder there: take none that isn't ours.
        if !meta.is_dir() || (meta.uid() != us.as_raw() && !us.is_root()) || meta.mode() & 0o077 != 0 {
            return Err(failed("it exists and belongs to somebody else".to_owned()));
        }
        identity.own(&fallback)?;
        Ok(fallback)
    }

    /// Opens the log of a service for appending.
    pub(super) fn log(&self, name: &str) -> Result<Log, ServicesError> {
        let path = self.root.join(format!("{name}.log"));
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
            fs::rename(&path, path.with_extension("log.1")).at("rotate", &path)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).at("open the log", &path)?;
        let start = file.metadata().at("look at", &path)?.len();
        Ok(Log { path, file, start })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread is just starting holds a copy until it executes.
        self.lock.unlock().ok();
    }
}

fn fits(folder: &Path) -> bool {
    // PostgreSQL takes a list of folders, in which these characters mean something.
    let bytes = folder.as_os_str().as_bytes();
    bytes.len() + LONGEST_SOCKET <= SOCKET_PATH_LIMIT && !bytes.iter().any(|byte| b",\"\\".contains(byte))
}

fn lock(root: &Path) -> Result<File, ServicesError> {
    let path = root.join("lock");
    let mut file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let owner = fs::metadata(root).at("look at", root)?.uid();
            return Err(ServicesError::Foreign { path: root.to_owned(), owner });
        }
        opened => opened.at("open", &path)?,
    };
    // Another process that is just ending gets a moment.
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).ok();
                let pid = text.trim().parse().ok();
                return Err(ServicesError::Locked { dir: root.to_owned(), pid });
            }
        }
    }
    // Written in one piece and only for people to read.
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).at("write", &path)?;
    Ok(file)
}

/// Makes a folder that only its owner can enter, unless it exists.
fn private_folder(path: &Path) -> Result<(), ServicesError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("create", path),
    }
}

/// A folder of private folders.
fn private_parent(path: &Path) -> Result<(), ServicesError> {
    match DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made
            // Whatever the umask is, the children have to get through.
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o711)))
            .at("create", path),
    }
}

/// A child's log file, and where this run's part of it begins.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) file: File,
    start: u64,
}

impl Log {
    /// Another handle on it, to become a child's output.
    pub(super) fn handle(&self) -> Result<File, ServicesError> {
        self.file.try_clone().at("open the log", &self.path)
    }

    /// Where to look, after a failure, for what this run wrote.
    pub(super) fn place(&self) -> LogPlace {
        LogPlace { path: self.path.clone(), start: self.start }
    }
}

#[derive(Debug, Clone)]
pub(super) struct LogPlace {
    pub(super) path: PathBuf,
    start: u64,
}

impl LogPlace {
    /// The last lines that this run wrote.
    pub(super) fn tail(&self) -> Vec<String> {
        const LINES: usize = 15;
        const BYTES: u64 = 16 * 1024;
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.start.max(length.saturating_sub(BYTES)).min(length)))?;
            let mut bytes = Vec::new();
            file.take(BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(LINES)..].to_vec()
    }
}

/// The processes with one of these names whose current folder is one of `dirs`: an earlier run's children.
///
/// The name is compared as well, because a shell may stand in that folder.
fn processes_in(names: &[&str], dirs: &[&Path]) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
            fs::read_to_string(proc.join("comm")).is_ok_and(|comm| names.contains(&comm.trim_end()))
                && fs::read_link(proc.join("cwd")).is_ok_and(|cwd| dirs.contains(&cwd.as_path()))
        })
        .collect()
}

/// Waits for an earlier run's children to go (they got a signal when their parent died), then asks, then insists.
///
/// We hold the lock of the data directory, so whatever works in it belongs to nobody who still lives.
pub(super) fn see_off_leftovers(
    service: &'static str,
    names: &[&str],
    dirs: &[&Path],
    steps: &[(Duration, Signal)],
    progress: impl Fn(&str),
) -> Result<(), ServicesError> {
    let mut said = false;
    let steps = steps.iter().map(|(patience, signal)| (*patience, Some(*signal)));
    for (patience, signal) in steps.chain([(Duration::from_secs(5), None)]) {
        let deadline = Instant::now() + patience;
        let pids = loop {
            let pids = processes_in(names, dirs);
            let Some(first) = pids.first() else {
                return Ok(());
            };
            if !said {
                let pid = first.as_raw_nonzero();
                progress(&format!("waiting for an earlier {service} to stop (pid {pid})…"));
                said = true;
            }
            if Instant::now() >= deadline {
                break pids;
            }
            thread::sleep(Duration::from_millis(20));
        };
        match (signal, pids.first()) {
            (Some(signal), _) => {
                for pid in pids {
                    // What can't be signalled shows in the next round.
                    rustix::process::kill_process(pid, signal).ok();
                }
            }
            (None, Some(pid)) => {
                let dir = dirs.first().map(|dir| dir.to_path_buf()).unwrap_or_default();
                return Err(ServicesError::Leftover { service, pid: pid.as_raw_nonzero().get(), dir });
            }
            (None, None) => {}
        }
    }
    Ok(())
}

/// Percent-encodes all but letters, digits, `-._~` and `also`.
pub(super) fn url_encode(path: &Path, also: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte);
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if plain(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

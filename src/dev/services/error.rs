//! What can go wrong, in words that say what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A child that exited on its own.
#[derive(Debug, Clone)]
pub struct ServiceFailure {
    /// `PostgreSQL` or `Redis`.
    pub service: &'static str,
    /// How it ended, such as `exit status: 1` or `signal: 9 (SIGKILL)`.
    pub status: String,
    pub log: PathBuf,
    /// The last lines that this run wrote to its log.
    pub tail: Vec<String>,
}

impl fmt::Display for ServiceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended unexpectedly ({}); its log is {}", self.service, self.status, self.log.display())?;
        self.tail.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl std::error::Error for ServiceFailure {}

#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    #[error("another rialto is running on this data directory ({}{}): stop it, or choose another with --data-dir",
        dir.display(), pid.map(|pid| format!(", pid {pid}")).unwrap_or_default())]
    Locked { dir: PathBuf, pid: Option<u32> },

    #[error("{what} is not installed. This command installs what is needed:\n\n    {install}\n")]
    Missing { what: &'static str, install: String },

    #[error("PostgreSQL {found} ({}) is too old, {needed} or newer is needed. This command installs what is needed:\n\n    {install}\n",
        path.display())]
    TooOld { path: PathBuf, found: u32, needed: u32, install: String },

    #[error("the database cluster in {} was made by PostgreSQL {cluster}, which is not installed or not supported (there is {installed}): \
        install PostgreSQL {cluster}, or move that folder away to start with an empty database", dir.display())]
    WrongVersion { dir: PathBuf, cluster: u32, installed: u32 },

    #[error("{program} refuses to run as root, and no other way works for {}: {reasons}. Choose a data directory that other \
        users can reach, such as --data-dir /var/lib/rialto, or start rialto as an ordinary user", dir.display())]
    NoIdentity { program: &'static str, dir: PathBuf, reasons: String },

    #[error("{} belongs to another user (uid {owner}): start rialto as that user, choose another --data-dir, or remove it",
        path.display())]
    Foreign { path: PathBuf, owner: u32 },

    #[error("no folder for unix sockets: {} is too long a path for them (the limit is 107 bytes) and {} can't be used: {reason}. \
        Choose a shorter --data-dir", wanted.display(), fallback.display())]
    SocketPath { wanted: PathBuf, fallback: PathBuf, reason: String },

    #[error("an earlier {service} (pid {pid}) still uses {} and doesn't stop: end it with `kill -9 {pid}` and try again",
        dir.display())]
    Leftover { service: &'static str, pid: i32, dir: PathBuf },

    #[error("{0}")]
    Failed(#[from] ServiceFailure),

    #[error("{service} didn't get ready within {seconds} s ({last}); its log is {}", log.display())]
    NotReady { service: &'static str, seconds: u64, last: String, log: PathBuf },

    #[error("{service} had to be killed: it didn't stop in time")]
    Killed { service: &'static str },

    #[error("{program} failed ({status}):\n{output}")]
    Program { program: &'static str, status: String, output: String },

    #[error("can't {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Says what was being done to which path.
pub(super) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, ServicesError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, ServicesError> {
        self.map_err(|source| ServicesError::Io { action, path: path.to_owned(), source })
    }
}

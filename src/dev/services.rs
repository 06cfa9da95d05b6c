//! A private PostgreSQL and Redis, run as children of this process.
//!
//! Used by `rialto dev`, `rialto services`, the tests, the bench and `make lint`. What this module promises:
//!
//! - Unix sockets only, in a folder that nobody else can enter; a system's own PostgreSQL or Redis is never touched.
//! - One process per data directory (`lock`), and the children never outlive it: an orderly stop on [`Services::stop`]
//!   or drop, and a parent-death signal when this process is killed.
//! - An interrupted first start leaves no half-made cluster; a killed start leaves nothing that the next one trips over.
//! - Started as root, the children are not root ([`identity`]).
//!
//! Below the data directory: `lock`, `postgres/data`, `redis/`, `run/` (sockets), `postgres.log`, `redis.log`.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

mod binaries;
mod child;
mod error;
mod identity;
mod layout;
mod postgres;
mod private;
mod redis;
mod run;
#[cfg(test)]
mod tests;

pub use error::{ServiceFailure, ServicesError};
pub use private::{PrivatePostgres, PrivateRedis};
pub use run::run_with_services;

use layout::DataDir;
use postgres::Postgres;
use redis::Redis;

/// Where the services keep their data, and whether it has to survive a power cut.
#[derive(Debug, Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    /// `false` turns `fsync` and its relatives off, for tests: data survives a crash, but not a power cut.
    pub durable: bool,
}

/// A running PostgreSQL and a running Redis. Dropping it stops both.
#[derive(Debug)]
pub struct Services {
    // Declaration order is drop order: the lock goes last.
    postgres: Postgres,
    redis: Redis,
    failures: mpsc::UnboundedReceiver<ServiceFailure>,
    data: DataDir,
}

impl Services {
    /// Starts both and returns when both answer. Blocks; `progress` hears of anything that can take a while.
    pub fn start(options: Options, progress: impl Fn(&str)) -> Result<Self, ServicesError> {
        let data = DataDir::open(&options.data_dir)?;
        let (report, failures) = mpsc::unbounded_channel();
        // Redis comes up while PostgreSQL does.
        let redis = Redis::spawn(&data, report.clone(), &progress)?;
        let postgres = Postgres::start(&data, options.durable, report, &progress)?;
        redis.wait_ready()?;
        Ok(Self { postgres, redis, failures, data })
    }

    /// The database `rialto`, over the unix socket, as its superuser. Understood by `tokio-postgres`, psql and pgbench.
    pub fn database_url(&self) -> &str {
        self.postgres.url()
    }

    /// The same server, another database.
    pub fn database_url_for(&self, database: &str) -> String {
        self.postgres.url_for(database)
    }

    /// `redis+unix:///…`, understood by redis-rs.
    pub fn redis_url(&self) -> &str {
        self.redis.url()
    }

    /// The data directory, absolute.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.data.root
    }

    /// Whether this start made the database cluster, so that it is empty.
    pub fn created(&self) -> bool {
        self.postgres.created()
    }

    /// Resolves when a child exits although nobody asked it to. Cancel-safe.
    pub async fn failed(&mut self) -> ServiceFailure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // Both children were stopped on purpose: there is nothing left to fail.
            None => std::future::pending().await,
        }
    }

    /// Stops both, PostgreSQL by a fast shutdown, and waits. What doesn't go in time is killed, and named in the error.
    pub fn stop(self) -> Result<(), ServicesError> {
        self.postgres.begin_stop();
        self.redis.begin_stop();
        let redis = self.redis.stop();
        let postgres = self.postgres.stop();
        redis.and(postgres)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // Both at once; the fields' own drops wait.
        self.postgres.begin_stop();
        self.redis.begin_stop();
    }
}

/// How long a server may take to answer after its start, unless it says that it is recovering.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long crash recovery may take.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(600);
/// How often a starting server is asked whether it is ready.
const POLL: Duration = Duration::from_millis(5);

//! One of the two alone, for tests that kill it and start it again.

use std::path::Path;

use tokio::sync::mpsc;

use super::error::ServicesError;
use super::layout::DataDir;
use super::postgres::Postgres;
use super::redis::Redis;

/// A Redis in a folder of its own. Dropping it stops it.
#[derive(Debug)]
pub struct PrivateRedis {
    server: Redis,
    data: DataDir,
}

impl PrivateRedis {
    /// Starts it and returns when it answers.
    pub fn start(dir: &Path) -> Result<Self, ServicesError> {
        let data = DataDir::open(dir)?;
        let server = Self::launch(&data)?;
        Ok(Self { server, data })
    }

    fn launch(data: &DataDir) -> Result<Redis, ServicesError> {
        // Nobody listens for failures: the test that owns it notices.
        let server = Redis::spawn(data, mpsc::unbounded_channel().0, |_| {})?;
        server.wait_ready()?;
        Ok(server)
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// `kill -9`, waited for.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops its processes where they are (`SIGSTOP`), or lets them go on. One that is paused does not stop either.
    pub fn pause(&self, paused: bool) {
        self.server.pause(paused);
    }

    /// Again, at the same address.
    pub fn start_again(&mut self) -> Result<(), ServicesError> {
        self.server.stop()?;
        self.server = Self::launch(&self.data)?;
        Ok(())
    }

    pub fn stop(self) -> Result<(), ServicesError> {
        self.server.stop()
    }
}

/// A PostgreSQL in a folder of its own. Dropping it stops it.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Postgres,
    durable: bool,
    data: DataDir,
}

impl PrivatePostgres {
    /// Starts it, on a new cluster if there is none, and returns when it answers.
    pub fn start(dir: &Path, durable: bool) -> Result<Self, ServicesError> {
        let data = DataDir::open(dir)?;
        let server = Self::launch(&data, durable)?;
        Ok(Self { server, durable, data })
    }

    fn launch(data: &DataDir, durable: bool) -> Result<Postgres, ServicesError> {
        Postgres::start(data, durable, mpsc::unbounded_channel().0, |_| {})
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    pub fn url_for(&self, database: &str) -> String {
        self.server.url_for(database)
    }

    /// `kill -9` of the server process, waited for. Its sessions' processes notice and go by themselves.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops its processes where they are (`SIGSTOP`), or lets them go on. One that is paused does not stop either.
    pub fn pause(&self, paused: bool) {
        self.server.pause(paused);
    }

    /// Again, at the same address; after a kill it recovers first.
    pub fn start_again(&mut self) -> Result<(), ServicesError> {
        self.server.stop()?;
        self.server = Self::launch(&self.data, self.durable)?;
        Ok(())
    }

    pub fn stop(self) -> Result<(), ServicesError> {
        self.server.stop()
    }
}

//! Redis: makes things fast and wakes things up. Nothing that was acknowledged lives only here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bb8::{ManageConnection, Pool};
use bb8_redis::RedisConnectionManager;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError};

use crate::kernel::config;

/// A command that takes longer is treated as failed.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);

/// The pool.
#[derive(Clone)]
pub struct Redis {
    pool: Pool<Manager>,
    client: redis::Client,
    prefix: Arc<str>,
    available: Arc<AtomicBool>,
}

impl Redis {
    /// A pool that connects when it is first used.
    pub fn new(config: &config::Redis) -> Result<Self, RedisError> {
        let client = redis::Client::open(config.url.expose())?;
        let pool = Pool::builder()
            .max_size(config.pool_size)
            .connection_timeout(COMMAND_TIMEOUT)
            .test_on_check_out(false)
            .build_unchecked(Manager(RedisConnectionManager::new(config.url.expose())?));
        let available = Arc::new(AtomicBool::new(true));
        Ok(Self { pool, client, prefix: config.prefix.as_str().into(), available })
    }

    /// For connections of one's own, such as those of subscribers.
    pub fn client(&self) -> &redis::Client {
        &self.client
    }

    /// A key or channel of this installation.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether the last command reached Redis. While it did not, nobody waits for it; the bus looks for its return.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Tells whether Redis was reached.
    pub fn set_available(&self, available: bool) {
        if self.available.swap(available, Ordering::Relaxed) != available {
            tracing::warn!(available, "Redis is {}", if available { "back" } else { "away" });
        }
    }

    /// Runs a pipeline of commands; fails at once while Redis is away.
    pub async fn run<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RedisError> {
        if !self.is_available() {
            return Err(away());
        }
        let result = self.attempt(pipeline).await;
        if result.as_ref().is_err_and(lost) {
            self.set_available(false);
        }
        result
    }

    async fn attempt<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RedisError> {
        let mut conn = self.pool.get().await.map_err(|_| away())?;
        let result = tokio::time::timeout(COMMAND_TIMEOUT, pipeline.query_async(&mut conn.inner)).await;
        let result = result.unwrap_or_else(|_| Err(away()));
        conn.broken = result.as_ref().is_err_and(lost);
        result
    }
}

fn away() -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "Redis is away"))
}

/// Whether the error says that the connection, not the command, is at fault.
fn lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}

/// bb8-redis never calls a connection broken, so a lost one would come back for ever. This remembers.
struct Manager(RedisConnectionManager);

struct Connection {
    inner: MultiplexedConnection,
    broken: bool,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        Ok(Connection { inner: self.0.connect().await?, broken: false })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        self.0.is_valid(&mut connection.inner).await
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken
    }
}

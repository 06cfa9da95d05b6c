//! Postgres: the pool and the migrations.

use std::time::Duration;

use bb8::{Pool, QueueStrategy};
use diesel::ConnectionError;
use diesel::migration::{MigrationSource, MigrationVersion};
use diesel::pg::Pg;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncConnection, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::kernel::config;
use crate::kernel::error::Error;

/// The migrations, inside the binary.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// What queries run on.
pub type Conn = AsyncPgConnection;

/// The pool.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncDieselConnectionManager<AsyncPgConnection>>,
}

/// A connection of the pool.
pub type PooledConn<'a> = bb8::PooledConnection<'a, AsyncDieselConnectionManager<AsyncPgConnection>>;

impl Db {
    /// A pool that connects when it is first used.
    pub fn new(config: &config::Database) -> Self {
        let timeout = config.statement_timeout_seconds;
        let mut manager = ManagerConfig::default();
        // A check at each checkout would cost a round trip; a connection that broke is seen by its state.
        manager.recycling_method = RecyclingMethod::Fast;
        manager.custom_setup = Box::new(move |url| {
            let url = url.to_owned();
            Box::pin(async move {
                let mut conn = AsyncPgConnection::establish(&url).await?;
                // What a client, a bug or a stopped process leaves behind does not stay for ever.
                let limits = format!(
                    "SET statement_timeout = '{timeout}s'; SET lock_timeout = '{timeout}s'; \
                     SET idle_in_transaction_session_timeout = '{timeout}s'"
                );
                conn.batch_execute(&limits).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
                Ok(conn)
            })
        });
        let manager = AsyncDieselConnectionManager::new_with_config(config.url.expose(), manager);
        let pool = Pool::builder()
            .max_size(config.pool_size)
            // The one that was used last: few processes of Postgres then have in their caches what is asked often.
            .queue_strategy(QueueStrategy::Lifo)
            .connection_timeout(Duration::from_secs(config.connect_timeout_seconds))
            .build_unchecked(manager);
        Self { pool }
    }

    /// A connection.
    pub async fn get(&self) -> Result<PooledConn<'_>, Error> {
        Ok(self.pool.get().await?)
    }

    /// Connections that are open, and those of them that are free.
    pub fn connections(&self) -> (u32, u32) {
        let state = self.pool.state();
        (state.connections, state.idle_connections)
    }
}

/// Which migrations there are: applied and pending, by name.
pub struct MigrationStatus {
    /// Applied, the oldest first.
    pub applied: Vec<String>,
    /// Not yet applied, the oldest first.
    pub pending: Vec<String>,
}

/// A connection for migrations. Needs a multi-thread runtime.
async fn harness(url: &str) -> anyhow::Result<AsyncMigrationHarness<AsyncPgConnection>> {
    let mut conn = AsyncPgConnection::establish(url).await?;
    // Two servers that start at once migrate one after the other.
    conn.batch_execute("SELECT pg_advisory_lock(7215380418)").await?;
    Ok(AsyncMigrationHarness::new(conn))
}

/// As the migration harness answers.
type Attempt<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> anyhow::Error {
    anyhow::anyhow!("a migration failed: {error}")
}

/// The name of a migration, such as `2026-11-21-000001_accounts`.
fn name(version: &MigrationVersion<'_>) -> Attempt<String> {
    let known = MigrationSource::<Pg>::migrations(&MIGRATIONS)?;
    let found = known.iter().find(|migration| migration.name().version() == *version);
    Ok(found.map_or_else(|| version.to_string(), |migration| migration.name().to_string()))
}

/// Applies what is pending; returns the names.
pub async fn migrate_up(url: &str) -> anyhow::Result<Vec<String>> {
    let mut harness = harness(url).await?;
    let ran: Attempt<_> =
        tokio::task::block_in_place(|| harness.run_pending_migrations(MIGRATIONS)?.iter().map(name).collect());
    ran.map_err(failed)
}

/// Takes the newest migration back, or all; returns the names.
pub async fn migrate_down(url: &str, all: bool) -> anyhow::Result<Vec<String>> {
    let mut harness = harness(url).await?;
    let reverted: Attempt<_> = tokio::task::block_in_place(|| {
        let reverted = if all {
            harness.revert_all_migrations(MIGRATIONS)?
        } else if harness.applied_migrations()?.is_empty() {
            Vec::new()
        } else {
            vec![harness.revert_last_migration(MIGRATIONS)?]
        };
        reverted.iter().map(name).collect()
    });
    reverted.map_err(failed)
}

/// What is applied and what is pending.
pub async fn migration_status(url: &str) -> anyhow::Result<MigrationStatus> {
    let mut harness = harness(url).await?;
    let status: Attempt<_> = tokio::task::block_in_place(|| {
        let mut applied = harness.applied_migrations()?.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        applied.reverse();
        let pending = harness.pending_migrations(MIGRATIONS)?;
        Ok(MigrationStatus { applied, pending: pending.iter().map(|migration| migration.name().to_string()).collect() })
    });
    status.map_err(failed)
}

//! What every part of the server shares.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::kernel::account_events::AccountEvents;
use crate::kernel::bus::Bus;
use crate::kernel::clock::Clock;
use crate::kernel::config::Config;
use crate::kernel::db::Db;
use crate::kernel::error::Error;
use crate::kernel::mail::Mailer;
use crate::kernel::metrics::Metrics;
use crate::kernel::rates::Rates;
use crate::kernel::redis::Redis;
use crate::kernel::rng::Rng;
use crate::kernel::seal::Sealer;
use crate::kernel::security::Recorder;

/// A node's shared state. Cheap to clone.
pub type App = Arc<Shared>;

/// See [`App`].
pub struct Shared {
    /// What this node is called among the others that run.
    pub node_id: Uuid,
    /// The configuration.
    pub config: Config,
    /// Postgres.
    pub db: Db,
    /// Redis.
    pub redis: Redis,
    /// The other nodes.
    pub bus: Arc<Bus>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// What seals small secrets.
    pub sealer: Sealer,
    /// Rate limits.
    pub rates: Rates,
    /// Mail. Jobs send it, calls don't.
    pub mail: Mailer,
    /// Takes note of security events. Never waits, never fails.
    pub security: Recorder,
    /// What accounts are told on their streams.
    pub account_events: AccountEvents,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the node begins to stop: streams end, background work ends.
    pub stopping: CancellationToken,
}

/// Connects everything.
pub fn start(config: Config, clock: Clock, stopping: CancellationToken) -> Result<App, Error> {
    config.security.check()?;
    config.messaging.check()?;
    let rng = Rng;
    let redis = Redis::new(&config.redis).map_err(|error| Error::internal("redis.url can't be used", error))?;
    let metrics = Arc::new(Metrics::with_database());
    let node_id = rng.id(clock.now())?;
    let db = Db::new(&config.database);
    let bus = Bus::start(redis.clone(), &node_id.to_string(), stopping.clone());
    Ok(Arc::new(Shared {
        node_id,
        account_events: AccountEvents::start(&db, &bus, &stopping),
        db,
        bus,
        rates: Rates::new(config.rates.clone(), redis.clone(), clock.clone()),
        sealer: Sealer::new(&config.secrets, rng)?,
        mail: Mailer::new(&config.mail)?,
        security: Recorder::new(&config, clock.clone(), Arc::clone(&metrics)),
        metrics,
        redis,
        clock,
        rng,
        stopping,
        config,
    }))
}

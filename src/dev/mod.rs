//! `rialto dev`: the whole server on a private Postgres and Redis, with demo data, for trying out and developing.

pub mod demo;
pub mod services;

mod banner;

use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::kernel::clock::Clock;
use crate::kernel::config::{self, Config};
use crate::kernel::rng::Rng;
use crate::kernel::{db, telemetry};
use crate::server::{Server, worker};
use services::{Options, Services};

/// How to run.
pub struct Dev {
    /// Where data is kept.
    pub data_dir: PathBuf,
    /// A configuration file, for settings other than the database and Redis.
    pub config_file: Option<PathBuf>,
    /// Flags of the command line, as configuration.
    pub flags: serde_json::Value,
    /// Print one line of JSON instead of the banner.
    pub json: bool,
}

/// Runs until Ctrl-C, SIGTERM or the end of a child.
pub async fn run(dev: Dev) -> anyhow::Result<()> {
    let mut stop_signal = std::pin::pin!(crate::server::stop_signal()?);
    let progress = |what: &str| eprintln!("{what}");
    let options = Options { data_dir: dev.data_dir.clone(), durable: true };
    let mut services = tokio::task::spawn_blocking(move || Services::start(options, progress)).await??;

    let data_dir = services.data_dir().to_owned();
    let config = configure(&dev, &services)?;
    let _log = telemetry::start(&config.log)?;
    let running = async {
        for migration in db::migrate_up(config.database.url.expose()).await? {
            tracing::info!(migration, "migrated");
        }
        let server = Server::start(config, Clock::default()).await?;
        let accounts = demo::load_or_seed(&server.app, &data_dir).await?;
        let worker = tokio::spawn(worker::run(server.app.clone()));
        anyhow::Ok((server, worker, accounts))
    };
    let (server, worker, accounts) = tokio::select! {
        started = running => started?,
        failure = services.failed() => anyhow::bail!("{failure}"),
        _ = stop_signal.as_mut() => return Ok(services.stop()?),
    };
    if dev.json {
        println!("{}", banner::json(server.address, &accounts));
    } else {
        println!("{}", banner::text(server.address, &accounts));
    }

    let failure = tokio::select! {
        failure = services.failed() => Some(failure),
        _ = stop_signal => None,
    };
    tracing::info!("stopping");
    server.stop().await;
    worker.await?;
    tokio::task::spawn_blocking(move || services.stop()).await??;
    match failure {
        None => Ok(()),
        Some(failure) => anyhow::bail!("{failure}"),
    }
}

/// The configuration of dev: open to try things out, and always on the private database and Redis.
fn configure(dev: &Dev, services: &Services) -> anyhow::Result<Config> {
    let mut defaults = json!({
        "server": { "reflection": true, "metrics": true, "cors_origins": ["*"], "shutdown_seconds": 5 },
        "mail": { "transport": "inbox" },
        "rates": { "factor": 100 },
        // Everything comes from one address here.
        "auth": { "throttle": { "address_free_failures": 1_000_000 } },
        "log": { "format": "pretty" },
    });
    let key = |name| random_key(&services.data_dir().join(name));
    defaults["auth"]["signing_keys"] = json!([{ "id": "dev", "seed": key("signing-key")? }]);
    defaults["secrets"]["sealing_keys"] = json!([{ "id": "dev", "key": key("sealing-key")? }]);
    let private = json!({
        "database": { "url": services.database_url() },
        "redis": { "url": services.redis_url() },
    });
    let sources = config::sources(&defaults, dev.config_file.as_deref(), &dev.flags);
    Ok(Config::read(&sources.merge(figment::providers::Serialized::defaults(private)))?)
}

/// A key of this data directory, made at the first start.
fn random_key(path: &Path) -> anyhow::Result<String> {
    if let Ok(key) = std::fs::read_to_string(path) {
        return Ok(key.trim().to_owned());
    }
    let key = STANDARD.encode(Rng.bytes::<32>()?);
    write_private(path, &key)?;
    Ok(key)
}

/// Writes a file that only this user can read, whole or not at all.
fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path).with_context(|| format!("{} can't be written", path.display()))
}

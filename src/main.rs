//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rialto::dev::services::{Options, run_with_services};
use rialto::dev::{self, demo};
use rialto::domains::two_factor;
use rialto::kernel::clock::Clock;
use rialto::kernel::config::{self, Config};
use rialto::kernel::{app, db, policy, telemetry};
use rialto::proxy::{self, Proxy};
use rialto::server::{self, Server, doctor, openapi, worker};
use serde_json::{Value, json};

// Measured: 10 to 15 % less CPU than the system's allocator under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// Configuration file (default: rialto.toml, or rialto-gateway.toml for `gateway`, if it is there).
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything for trying out: a private Postgres and Redis, demo data, this server.
    Dev {
        /// Where data is kept.
        #[arg(long, default_value = ".rialto")]
        data_dir: PathBuf,
        #[command(flatten)]
        flags: Flags,
        /// Print one line of JSON instead of the banner.
        #[arg(long)]
        json: bool,
    },
    /// Serve in production, as configured.
    Serve(Flags),
    /// Do the background work, as configured. Run at least one of these beside `serve`.
    Worker,
    /// Serve REST, JSON, event streams and gRPC-Web in front of other gRPC servers. Needs no database.
    #[command(long_about = GATEWAY, after_long_help = GATEWAY_EXAMPLES)]
    Gateway(GatewayFlags),
    /// Migrate the configured database.
    Migrate {
        #[command(subcommand)]
        action: Migrate,
    },
    /// Put demo data into the configured database.
    Seed,
    /// Look after the keys that seal secrets in the database.
    Keys {
        #[command(subcommand)]
        action: KeysAction,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Check what the server needs, and say what to do about each failure.
    Doctor,
    /// Print the OpenAPI document.
    Openapi {
        /// Print the AsyncAPI document instead: what streams.
        #[arg(long = "async")]
        asynchronous: bool,
    },
    /// Print the permissions and who may call each method, as Markdown.
    Permissions,
    /// Run a command with a private Postgres and Redis: RIALTO_DATABASE__URL and RIALTO_REDIS__URL are set for it.
    Services {
        /// Where data is kept.
        #[arg(long, default_value = ".rialto")]
        data_dir: PathBuf,
        /// Don't wait for the disk. For tests.
        #[arg(long)]
        volatile: bool,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Args)]
struct Flags {
    /// Where to listen (configuration: server.listen).
    #[arg(long)]
    listen: Option<SocketAddr>,
}

impl Flags {
    fn as_config(&self) -> Value {
        match self.listen {
            Some(listen) => json!({ "server": { "listen": listen } }),
            None => json!({}),
        }
    }
}

const GATEWAY: &str = "\
Serve REST, JSON, event streams and gRPC-Web in front of other gRPC servers.

The contract comes from descriptor files or from the servers themselves (reflection); its google.api.http options are the \
routes. gRPC passes through on the same port. No database, no Redis, no secrets.

Beside the routes there are /health, /ready (is an upstream there?) and /openapi.json. gateway.example.toml has every option; \
each can also be set as RIALTO_GATEWAY_SECTION__KEY in the environment.";

const GATEWAY_EXAMPLES: &str = "\
Examples:
  buf build -o contract.binpb                     # or: protoc --include_imports -o contract.binpb …
  rialto gateway --descriptor-set contract.binpb --upstream http://127.0.0.1:50051

  # The contract by reflection; one service on a server of its own, over TLS
  rialto gateway --reflect --upstream http://127.0.0.1:50051 --upstream my.pkg.Billing=https://billing.internal

  # Everything else from a file
  rialto gateway --config rialto-gateway.toml";

#[derive(Args)]
struct GatewayFlags {
    /// Encoded FileDescriptorSet with all imports; may be given several times (configuration: descriptors.files).
    #[arg(long, value_name = "FILE", conflicts_with = "reflect")]
    descriptor_set: Vec<PathBuf>,
    /// Read the contract from the upstreams by server reflection (configuration: descriptors.reflect).
    #[arg(long)]
    reflect: bool,
    /// Where calls go: http://host:port or https://host:port. With a service's full name in front, calls of that service;
    /// may be given several times (configuration: upstream.default, upstream.services).
    #[arg(long, value_name = "[SERVICE=]URL")]
    upstream: Vec<String>,
    /// Where to listen (configuration: server.listen) [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl GatewayFlags {
    fn as_config(&self) -> anyhow::Result<Value> {
        let mut config = json!({});
        if let Some(listen) = self.listen {
            config["server"]["listen"] = json!(listen);
        }
        if self.reflect {
            config["descriptors"]["reflect"] = json!(true);
        }
        if !self.descriptor_set.is_empty() {
            config["descriptors"]["files"] = json!(self.descriptor_set);
        }
        for upstream in &self.upstream {
            let (at, url) = match upstream.split_once('=') {
                Some((service, url)) if !service.contains("://") => (&mut config["upstream"]["services"][service], url),
                _ => (&mut config["upstream"]["default"], upstream.as_str()),
            };
            anyhow::ensure!(at.is_null(), "--upstream {upstream}: there is one for the same services already");
            *at = json!(url);
        }
        Ok(config)
    }
}

#[derive(Subcommand)]
enum Migrate {
    /// Apply what is pending.
    Up,
    /// Take the newest migration back.
    Down {
        /// Take all of them back. This deletes all data.
        #[arg(long)]
        all: bool,
    },
    /// Show what is applied and what is pending.
    Status,
}

#[derive(Subcommand)]
enum KeysAction {
    /// Seal again what is not under the first of secrets.sealing_keys, while servers run. All of them must have that key.
    Rotate,
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Print every value with its source, secrets redacted.
    Print(Flags),
}

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which every byte is resident once one was touched: a connection would cost all
    // of the buffers that HTTP/2 has ready for it, most of which it never touches (docs/measured.md).
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("rialto: huge pages stay: {error}");
    }
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rialto: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli.config;
    let sources = |flags: &Value| config::sources(&json!({}), file.as_deref(), flags);
    match cli.command {
        Command::Dev { data_dir, flags, json } => {
            dev::run(dev::Dev { data_dir, config_file: file, flags: flags.as_config(), json }).await?;
        }
        Command::Serve(flags) => serve(Config::read(&sources(&flags.as_config()))?).await?,
        Command::Gateway(flags) => {
            gateway(proxy::config::Config::read(&proxy::config::sources(file.as_deref(), &flags.as_config()?))?)
                .await?;
        }
        Command::Worker => {
            let config = Config::read(&sources(&json!({})))?;
            config.require_production()?;
            let _log = telemetry::start(&config.log)?;
            let stop = server::stop_signal()?;
            let app = app::start(config, Clock::default(), tokio_util::sync::CancellationToken::new())?;
            let stopping = app.stopping.clone();
            tokio::spawn(async move {
                stop.await;
                stopping.cancel();
            });
            worker::run(app).await;
        }
        Command::Migrate { action } => migrate(&Config::read(&sources(&json!({})))?, &action).await?,
        Command::Seed => {
            let app = app::start(Config::read(&sources(&json!({})))?, Clock::default(), Default::default())?;
            let accounts = demo::new_accounts()?;
            anyhow::ensure!(demo::seed(&app, &accounts).await?, "the demo accounts exist already");
            println!("{}", serde_json::to_string_pretty(&accounts)?);
        }
        Command::Keys { action: KeysAction::Rotate } => {
            let config = Config::read(&sources(&json!({})))?;
            let _log = telemetry::start(&config.log)?;
            let app = app::start(config, Clock::default(), Default::default())?;
            return rotate_keys(&app).await;
        }
        Command::Config { action: ConfigAction::Print(flags) } => {
            print!("{}", config::print(&sources(&flags.as_config()))?);
        }
        Command::Doctor => {
            let (report, well) = doctor::examine(&Config::read(&sources(&json!({})))?).await;
            print!("{report}");
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Openapi { asynchronous } => {
            let document = if asynchronous { openapi::async_document()? } else { openapi::document()? };
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        Command::Permissions => print!("{}", policy::markdown()),
        Command::Services { data_dir, volatile, command } => {
            let code = run_with_services(Options { data_dir, durable: !volatile }, command).await?;
            return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    config.require_production()?;
    let _log = telemetry::start(&config.log)?;
    let stop = server::stop_signal()?;
    let status = db::migration_status(config.database.url.expose()).await?;
    anyhow::ensure!(status.pending.is_empty(), "migrations are pending; run `rialto migrate up`");
    let server = Server::start(config, Clock::default()).await?;
    tracing::info!(address = %server.address, "serving");
    stop.await;
    tracing::info!("stopping");
    server.stop().await;
    Ok(())
}

async fn gateway(config: proxy::config::Config) -> anyhow::Result<()> {
    let _log = telemetry::start(&config.log)?;
    let mut stop = Box::pin(server::stop_signal()?);
    // Reading the contract may wait for an upstream.
    let proxy = tokio::select! {
        proxy = Proxy::start(config) => proxy?,
        () = &mut stop => return Ok(()),
    };
    tracing::info!(address = %proxy.address, ops_address = proxy.ops_address.map(tracing::field::display), "serving");
    stop.await;
    tracing::info!("stopping");
    proxy.stop().await;
    Ok(())
}

async fn rotate_keys(app: &app::App) -> anyhow::Result<ExitCode> {
    let two_factor::Resealed { resealed, unreadable } = two_factor::reseal(app).await?;
    println!("two_factor.secret: {resealed} sealed again");
    if unreadable == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("rialto: two_factor.secret: {unreadable} can't be opened; keep the old key, and see the log for which");
    Ok(ExitCode::FAILURE)
}

async fn migrate(config: &Config, action: &Migrate) -> anyhow::Result<()> {
    let url = config.database.url.expose();
    anyhow::ensure!(!url.is_empty(), "database.url is not set");
    match action {
        Migrate::Up => {
            for migration in db::migrate_up(url).await? {
                println!("applied {migration}");
            }
        }
        Migrate::Down { all } => {
            for migration in db::migrate_down(url, *all).await? {
                println!("reverted {migration}");
            }
        }
        Migrate::Status => {
            let status = db::migration_status(url).await?;
            status.applied.iter().for_each(|name| println!("applied  {name}"));
            status.pending.iter().for_each(|name| println!("pending  {name}"));
        }
    }
    Ok(())
}

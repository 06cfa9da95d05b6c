//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rialto::dev::services::{Options, run_with_services};
use rialto::dev::{self, demo};
use rialto::kernel::clock::Clock;
use rialto::kernel::config::{self, Config};
use rialto::kernel::{app, db, policy, telemetry};
use rialto::server::{self, Server, doctor, openapi, worker};
use serde_json::{Value, json};

// Measured: 10 to 15 % less CPU than the system's allocator under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// Configuration file (default: rialto.toml, if it is there).
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
    /// Migrate the configured database.
    Migrate {
        #[command(subcommand)]
        action: Migrate,
    },
    /// Put demo data into the configured database.
    Seed,
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
enum ConfigAction {
    /// Print every value with its source, secrets redacted.
    Print(Flags),
}

fn main() -> ExitCode {
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

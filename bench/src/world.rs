//! What is measured, all of it started by us: PostgreSQL, Redis, the server, the reference, accounts, conversations.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;
use rialto::dev::services::{Options, Services};
use rialto::kernel::rng::Rng;
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;
use rialto::proto::rialto::auth::v1::{GetMeRequest, LoginRequest, RegisterRequest};
use rialto::proto::rialto::messaging::v1::CreateConversationRequest;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};

use crate::Flags;
use crate::argon2;
use crate::client::Http2;
use crate::pgbench;
use crate::process::{Cores, Pid, Server};

const DATABASE: &str = "rialto";
/// Where Postgres says what it is, below the stack's folder.
const POSTMASTER: &str = "postgres/data/postmaster.pid";
/// The database that pgbench works on.
const REFERENCE_DATABASE: &str = "reference";
const PASSWORD: &str = "correct horse battery staple";
/// Calls at once while accounts and conversations are made.
pub const SETUP_IN_FLIGHT: usize = 16;

/// PostgreSQL, Redis and a database that was migrated, for a server with the configuration of production.
pub struct Stack {
    services: Services,
    folder: TempDir,
    program: PathBuf,
    config: PathBuf,
}

impl Stack {
    /// Starts PostgreSQL and Redis on the servers' core. The program is `rialto` beside this one unless given.
    pub fn start(program: Option<&Path>, cores: Cores, log_filter: &str) -> Result<Self> {
        let ourselves = std::env::current_exe().context("finding this program")?;
        let target = ourselves.ancestors().nth(2).context("finding the build's folder")?;
        // Postgres drops root's privileges and has to get through.
        let open = Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().prefix("bench-").permissions(open).tempdir_in(target)?;
        let options = Options { data_dir: folder.path().to_owned(), durable: true };
        let services = cores.on_server(|| Ok(Services::start(options, |text| eprintln!("{text}"))?))?;
        let program = program.map_or_else(|| ourselves.with_file_name("rialto"), Path::to_owned);
        let config = folder.path().join("rialto.toml");
        fs::write(&config, configuration(&services, log_filter)?)?;
        let stack = Self { services, folder, program, config };
        let migrated = stack.rialto().args(["migrate", "up"]).stdout(Stdio::null()).status();
        let migrated = migrated.with_context(|| format!("running {}", stack.program.display()))?;
        ensure!(migrated.success(), "migrate ended with {migrated}");
        Ok(stack)
    }

    /// A server on them, on the servers' core.
    pub fn serve(&self, cores: Cores) -> Result<Server> {
        self.serve_database(cores, DATABASE)
    }

    /// A server on another database.
    pub fn serve_database(&self, cores: Cores, database: &str) -> Result<Server> {
        let log = File::options().create(true).append(true).open(self.folder().join("rialto.log"))?;
        cores.on_server(|| {
            Server::start(|address| {
                let mut serve = self.rialto();
                serve.env("RIALTO_DATABASE__URL", self.database_url_for(database));
                serve.args(["serve", "--listen", &address.to_string()]).stderr(log);
                Ok(serve)
            })
        })
    }

    fn rialto(&self) -> Command {
        let mut rialto = command(&self.program);
        rialto.arg("--config").arg(&self.config);
        rialto
    }

    /// Another database of the same PostgreSQL.
    pub fn database_url_for(&self, database: &str) -> String {
        self.services.database_url_for(database)
    }

    /// Copies the server's database, which nobody may be connected to.
    pub async fn copy_database(&self, name: &str) -> Result<()> {
        let copy = format!("CREATE DATABASE {name} TEMPLATE {DATABASE}");
        execute(&self.database_url_for("postgres"), &copy).await
    }

    /// For files of a run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Postgres.
    pub fn postgres(&self) -> Result<Pid> {
        Pid::in_file(&self.folder().join(POSTMASTER))
    }

    /// The Unix socket that Postgres listens on.
    pub fn postgres_socket(&self) -> Result<PathBuf> {
        let text = fs::read_to_string(self.folder().join(POSTMASTER)).context("reading Postgres's lock file")?;
        // Its process, its data, when it started, its port, the folder of its socket, and more.
        let mut lines = text.lines().skip(3);
        let (port, folder) = (lines.next(), lines.next());
        let (port, folder) = port.zip(folder).context("Postgres's lock file has no socket")?;
        Ok(Path::new(folder).join(format!(".s.PGSQL.{port}")))
    }
}

/// All of it. Fields are dropped in order: servers, what they use, and at last the folder.
pub struct World {
    /// The server under test.
    pub rialto: Server,
    /// The reference for gRPC.
    pub hello: Server,
    /// The server once more, with methods of the bench behind its gate.
    pub judged: Server,
    /// The reference for logins.
    pub argon2: Server,
    stack: Stack,
    /// Accounts that are logged in.
    pub accounts: Vec<Account>,
    /// Conversations, each started by the account `index % accounts`.
    pub conversations: Vec<String>,
    /// Logins of accounts that do nothing else, each from a device that the account knows.
    pub logins: Vec<LoginRequest>,
}

/// An account that is logged in.
#[derive(Clone)]
pub struct Account {
    id: String,
    /// The value of its `authorization` header.
    pub authorization: MetadataValue<Ascii>,
}

impl Account {
    /// A request in its name.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }
}

impl World {
    /// Starts everything on the servers' core.
    pub async fn start(flags: &Flags, cores: Cores) -> Result<Self> {
        let ourselves = std::env::current_exe().context("finding this program")?;
        let stack = Stack::start(flags.rialto.as_deref(), cores, &flags.log_filter)?;
        stack.copy_database(REFERENCE_DATABASE).await?;

        let rialto = stack.serve(cores)?;
        eprintln!("making {} accounts and {} conversations…", flags.accounts, flags.conversations);
        let connection = Http2::connect(rialto.address).await?;
        let auth = AuthServiceClient::with_origin(connection.clone(), connection.origin.clone());
        let accounts: Vec<_> = stream::iter(0..flags.accounts)
            .map(|index| account(auth.clone(), format!("bench-{index}")))
            .buffered(SETUP_IN_FLIGHT)
            .try_collect()
            .await?;
        let logins = stream::iter(0..flags.logins)
            .map(|index| login(auth.clone(), index))
            .buffered(SETUP_IN_FLIGHT)
            .try_collect()
            .await?;
        let other = format!("accounts WHERE password_hash NOT LIKE '{}%'", argon2::PARAMETERS);
        let check = format!("DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM {other}), 'other parameters'; END $$");
        execute(&stack.database_url_for(DATABASE), &check).await.context("the reference hashes otherwise")?;
        let messaging = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
        let conversations = stream::iter(0..flags.conversations)
            .map(|index| conversation(messaging.clone(), &accounts, index))
            .buffered(SETUP_IN_FLIGHT)
            .try_collect()
            .await?;
        let reference = pgbench::seed(flags.accounts, flags.conversations);
        execute(&stack.database_url_for(REFERENCE_DATABASE), &reference).await?;
        // Both databases begin with the same statistics: of what is there. Statements must not be planned for a table of
        // messages that is known to be empty.
        for database in [DATABASE, REFERENCE_DATABASE] {
            let analyze = "VACUUM (ANALYZE) accounts, conversations, conversation_members";
            execute(&stack.database_url_for(database), analyze).await?;
        }

        let bytes = auth.clone().get_me(accounts[0].request(GetMeRequest {})).await?.get_ref().encoded_len();
        let hello = |address: std::net::SocketAddr| {
            let mut hello = Command::new(&ourselves);
            hello.args(["hello", "--listen", &address.to_string(), "--bytes", &bytes.to_string()]);
            Ok(hello)
        };
        let hello = cores.on_server(|| Server::start(hello))?;
        let judged_log = stack.folder().join("judged.log");
        let judged = |address: std::net::SocketAddr| {
            let mut judged = command(&ourselves);
            judged.args(["judged", "--listen", &address.to_string(), "--config"]).arg(&stack.config);
            judged.stderr(File::create(&judged_log)?);
            Ok(judged)
        };
        let judged = cores.on_server(|| Server::start(judged))?;
        let argon2 = |address: std::net::SocketAddr| {
            let mut argon2 = Command::new(&ourselves);
            argon2.args(["argon2", "--listen", &address.to_string()]);
            Ok(argon2)
        };
        let argon2 = cores.on_server(|| Server::start(argon2))?;
        Ok(Self { rialto, hello, judged, argon2, stack, accounts, conversations, logins })
    }

    /// The database that pgbench works on.
    pub fn reference_database(&self) -> String {
        self.stack.database_url_for(REFERENCE_DATABASE)
    }

    /// PostgreSQL, and a folder for files of a run.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }
}

/// Defaults, but for the limits: they stay on, high enough not to be met by a handful of accounts at one address, nor by
/// nobody in particular and by logins, and by as many streams on one connection as messaging is measured with.
fn configuration(services: &Services, log_filter: &str) -> Result<String> {
    let (seed, key) = (STANDARD.encode(Rng.bytes::<32>()?), STANDARD.encode(Rng.bytes::<32>()?));
    let (database, redis) = (services.database_url(), services.redis_url());
    Ok(format!(
        "[server]\nflood_per_second = 10000\nmax_concurrent_streams = 20000\n\n\
         [database]\nurl = {database:?}\n\n\
         [redis]\nurl = {redis:?}\n\n\
         [auth]\naccess_token_seconds = 86400\nsigning_keys = [{{ id = \"bench\", seed = {seed:?} }}]\n\n\
         [secrets]\nsealing_keys = [{{ id = \"bench\", key = {key:?} }}]\n\n\
         [mail]\ntransport = \"none\"\n\n\
         [rates]\nfactor = 100\nanonymous = {{ calls = 10000000, seconds = 60 }}\n\
         authentication = {{ calls = 1000000, seconds = 60 }}\n\n\
         [log]\nfilter = {log_filter:?}\n"
    ))
}

/// A program, with nothing of a server's configuration in its environment.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RIALTO_")) {
        command.env_remove(name);
    }
    command
}

/// Runs statements on a database.
pub async fn execute(database: &str, sql: &str) -> Result<()> {
    let mut conn = AsyncPgConnection::establish(database).await.with_context(|| format!("connecting to {database}"))?;
    conn.batch_execute(sql).await.with_context(|| sql.to_owned())
}

/// A new account that has logged in.
pub async fn account(mut auth: AuthServiceClient<Http2>, name: String) -> Result<Account> {
    let (email, password) = (format!("{name}@example.com"), PASSWORD.to_owned());
    let register = RegisterRequest { email: email.clone(), password: password.clone(), display_name: name };
    let account = auth.register(register).await?.into_inner().account.context("an account without an account")?;
    let login = auth.login(LoginRequest { email, password, ..Default::default() }).await?.into_inner();
    Ok(Account { id: account.id, authorization: format!("Bearer {}", login.access_token).parse()? })
}

/// A login of a new account, from a device that it knows.
async fn login(mut auth: AuthServiceClient<Http2>, index: usize) -> Result<LoginRequest> {
    let (email, password) = (format!("login-{index}@example.com"), PASSWORD.to_owned());
    let display_name = format!("Login {index}");
    auth.register(RegisterRequest { email: email.clone(), password: password.clone(), display_name }).await?;
    let mut login = LoginRequest { email, password, ..Default::default() };
    login.device_token = auth.login(login.clone()).await?.into_inner().device_token;
    Ok(login)
}

async fn conversation(messaging: MessagingServiceClient<Http2>, accounts: &[Account], index: usize) -> Result<String> {
    start_conversation(messaging, &accounts[index % accounts.len()], &[&accounts[(index + 1) % accounts.len()]]).await
}

/// A new conversation of somebody with others.
pub async fn start_conversation(
    mut messaging: MessagingServiceClient<Http2>,
    account: &Account,
    others: &[&Account],
) -> Result<String> {
    let member_ids = others.iter().map(|other| other.id.clone()).collect();
    let request = CreateConversationRequest { member_ids, ..Default::default() };
    let response = messaging.create_conversation(account.request(request)).await?;
    Ok(response.into_inner().conversation.context("a conversation without a conversation")?.id)
}

//! What is broken and who uses it: Postgres, Redis, two nodes, the ways to them, accounts and conversations.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rialto::dev::services::{PrivatePostgres, PrivateRedis};
use rialto::kernel::rng::Rng;
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;
use rialto::proto::rialto::auth::v1::{LoginRequest, RegisterRequest};
use rialto::proto::rialto::messaging::v1::CreateConversationRequest;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::cable::Cable;
use crate::node::{Node, command};
use crate::plan::{Kind, NODES};

const PASSWORD: &str = "correct horse battery staple";
/// All of them are in the hot conversation, and each is in a conversation with the next one.
const ACCOUNTS: usize = 6;

/// Something that can be broken.
pub enum Victim {
    /// A server, with the way to it.
    Node(Node, Arc<Cable>),
    /// The database.
    Postgres(PrivatePostgres),
    /// What wakes the other node.
    Redis(PrivateRedis),
}

impl Victim {
    /// Breaks it. Blocks.
    pub fn harm(&mut self, kind: Kind) -> Result<()> {
        match (self, kind) {
            (Self::Node(node, _), Kind::Kill) => {
                if let Some(status) = node.ended() {
                    bail!("it had ended by itself: {status}");
                }
                node.kill();
            }
            (Self::Node(node, _), Kind::Pause) => node.pause(true)?,
            (Self::Node(_, cable), Kind::Cut) => drop(cable.cut()),
            (Self::Postgres(postgres), Kind::Kill) => postgres.kill(),
            (Self::Postgres(postgres), _) => postgres.pause(true),
            (Self::Redis(redis), Kind::Kill) => redis.kill(),
            (Self::Redis(redis), _) => redis.pause(true),
        }
        Ok(())
    }

    /// Makes it well again, and returns when it is. Blocks.
    pub fn heal(&mut self, kind: Kind) -> Result<()> {
        match (self, kind) {
            (Self::Node(node, cable), Kind::Kill) => {
                node.start_again()?;
                cable.move_to(node.address);
            }
            (Self::Node(node, _), _) => node.pause(false)?,
            (Self::Postgres(postgres), Kind::Kill) => postgres.start_again()?,
            (Self::Postgres(postgres), _) => postgres.pause(false),
            (Self::Redis(redis), Kind::Kill) => redis.start_again()?,
            (Self::Redis(redis), _) => redis.pause(false),
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // What is paused can't stop, and what it holds goes anyway.
        match self {
            Self::Node(..) => {}
            Self::Postgres(postgres) => {
                postgres.pause(false);
                postgres.kill();
            }
            Self::Redis(redis) => {
                redis.pause(false);
                redis.kill();
            }
        }
    }
}

/// Somebody who has logged in.
#[derive(Clone)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// What goes into the `authorization` header.
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

/// A conversation and who is in it.
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// Indexes of accounts.
    pub members: Vec<usize>,
}

/// All of it. Nodes go before what they use.
pub struct World {
    /// In the order of [`crate::plan::Target::index`].
    pub victims: Vec<Arc<Mutex<Victim>>>,
    /// The ways to the nodes.
    pub cables: Vec<Arc<Cable>>,
    /// Everybody.
    pub accounts: Vec<Account>,
    /// The first one is hot, the others are of two.
    pub conversations: Vec<Conversation>,
    /// The id of a conversation in which nothing is said: accounts come and go.
    pub hall: String,
}

impl World {
    /// Starts everything in a folder. Postgres is durable.
    pub async fn start(program: &Path, folder: &Path, log_filter: &str) -> Result<Self> {
        let postgres = PrivatePostgres::start(&folder.join("postgres"), true)?;
        let redis = PrivateRedis::start(&folder.join("redis"))?;
        let config = folder.join("rialto.toml");
        fs::write(&config, configuration(postgres.url(), redis.url(), log_filter)?)?;
        let mut migrate = command(program);
        migrate.arg("--config").arg(&config).args(["migrate", "up"]).stdout(Stdio::null());
        let migrated = migrate.status().with_context(|| format!("running {}", program.display()))?;
        ensure!(migrated.success(), "migrate ended with {migrated}");
        let (mut victims, mut cables) = (Vec::new(), Vec::new());
        for index in 1..=NODES {
            let log = folder.join(format!("node-{index}.log"));
            let node = Node::start(program.to_owned(), config.clone(), log)?;
            let cable = Arc::new(Cable::to(node.address).await?);
            cables.push(Arc::clone(&cable));
            victims.push(Victim::Node(node, cable));
        }
        victims.extend([Victim::Postgres(postgres), Victim::Redis(redis)]);
        let channel = endpoint(&cables[0])?.connect().await?;
        let mut accounts = Vec::new();
        for index in 0..ACCOUNTS {
            accounts.push(account(AuthServiceClient::new(channel.clone()), index).await?);
        }
        let hot = (0..ACCOUNTS).collect();
        let pairs = (1..ACCOUNTS).map(|index| vec![index - 1, index]);
        let mut conversations = Vec::new();
        for members in [hot].into_iter().chain(pairs) {
            let messaging = MessagingServiceClient::new(channel.clone());
            conversations.push(conversation(messaging, &accounts, members).await?);
        }
        let hall = conversation(MessagingServiceClient::new(channel), &accounts, vec![0]).await?.id;
        let victims = victims.into_iter().map(|victim| Arc::new(Mutex::new(victim))).collect();
        Ok(Self { victims, cables, accounts, conversations, hall })
    }

    /// How the nodes ended that did although nobody has killed them. Waits until everything is well.
    pub async fn ended_nodes(&self) -> Vec<String> {
        let mut ended = Vec::new();
        for victim in &self.victims {
            if let Victim::Node(node, _) = &mut *victim.lock().await {
                ended.extend(node.ended().map(|status| format!("a node ended by itself: {status}")));
            }
        }
        ended
    }
}

/// Where a client connects, with what makes it notice a server that has stopped.
pub fn endpoint(cable: &Cable) -> Result<Endpoint> {
    Ok(Channel::from_shared(format!("http://{}", cable.address))?
        .connect_timeout(crate::client::SILENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(crate::client::SILENCE / 2)
        .keep_alive_timeout(crate::client::SILENCE / 2))
}

/// Defaults, but for limits that clients at one address would meet.
fn configuration(database: &str, redis: &str, log_filter: &str) -> Result<String> {
    let (seed, key) = (STANDARD.encode(Rng.bytes::<32>()?), STANDARD.encode(Rng.bytes::<32>()?));
    Ok(format!(
        "[database]\nurl = {database:?}\n\n\
         [redis]\nurl = {redis:?}\n\n\
         [auth]\naccess_token_seconds = 86400\nsigning_keys = [{{ id = \"chaos\", seed = {seed:?} }}]\n\n\
         [secrets]\nsealing_keys = [{{ id = \"chaos\", key = {key:?} }}]\n\n\
         [mail]\ntransport = \"none\"\n\n\
         [rates]\nfactor = 1000\n\n\
         [log]\nfilter = {log_filter:?}\n"
    ))
}

async fn account(mut auth: AuthServiceClient<Channel>, index: usize) -> Result<Account> {
    let (email, password) = (format!("chaos-{index}@example.com"), PASSWORD.to_owned());
    let display_name = format!("Chaos {index}");
    let register = RegisterRequest { email: email.clone(), password: password.clone(), display_name };
    let account = auth.register(register).await?.into_inner().account.context("an account without an account")?;
    let login = auth.login(LoginRequest { email, password, ..Default::default() }).await?.into_inner();
    Ok(Account { id: account.id, authorization: format!("Bearer {}", login.access_token).parse()? })
}

async fn conversation(
    mut messaging: MessagingServiceClient<Channel>,
    accounts: &[Account],
    members: Vec<usize>,
) -> Result<Conversation> {
    let (first, others) = members.split_first().context("a conversation without members")?;
    let member_ids = others.iter().map(|index| accounts[*index].id.clone()).collect();
    let request = CreateConversationRequest { member_ids, ..Default::default() };
    let response = messaging.create_conversation(accounts[*first].request(request)).await?;
    let id = response.into_inner().conversation.context("a conversation without a conversation")?.id;
    Ok(Conversation { id, members })
}

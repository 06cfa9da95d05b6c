//! What tests stand on: a database and a Redis prefix of their own, nodes, and clients of each kind.

use std::collections::HashMap;
use std::time::Duration;

use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use reqwest::Method;
use rialto::kernel::clock::Clock;
use rialto::kernel::config::{Config, SealingKey, SigningKey, Throttle};
use rialto::kernel::db;
use rialto::kernel::rng::Rng;
use rialto::kernel::secret::Secret;
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{Message, SendMessageRequest, message, send_message_request};
use rialto::proto::rialto::roles::v1::role_service_client::RoleServiceClient;
use rialto::proto::rialto::users::v1::user_service_client::UserServiceClient;
use rialto::server::Server;
use serde_json::{Value, json};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// Longer than anything takes unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The seed of the tests' signing key: 32 random bytes.
pub const SEED: &str = "5iEC1h4mHVbGthv6WAjz5WtNW0by4dJu4okz0F1iyAw=";

/// The tests' sealing key.
const KEY: &str = "Wn0xVt1pQh2vJYd6mLrS9bKc8uEo3fTgXzAaNi5Pq7M=";

/// A database and a Redis prefix that no other test has.
pub struct World {
    pub config: Config,
    pub clock: Clock,
    admin_url: String,
    database: String,
}

impl World {
    /// On the Postgres and Redis that `rialto services` has started.
    pub async fn new() -> Self {
        let service = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: use `make test`, or `rialto services -- …`"))
        };
        Self::on(&service("RIALTO_DATABASE__URL"), &service("RIALTO_REDIS__URL")).await
    }

    /// On these services.
    pub async fn on(admin_url: &str, redis_url: &str) -> Self {
        let name = u128::from_be_bytes(Rng.bytes().unwrap());
        let database = format!("test_{name:032x}");
        let template = template(admin_url).await;
        let mut conn = AsyncPgConnection::establish(admin_url).await.unwrap();
        let create = format!("CREATE DATABASE {database} TEMPLATE {template} STRATEGY FILE_COPY");
        conn.batch_execute(&create).await.unwrap();

        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.reflection = true;
        config.server.metrics = true;
        config.server.cors_origins = vec!["https://app.example.com".into()];
        config.server.shutdown_seconds = 5;
        config.database.url = Secret::new(database_url(admin_url, &database));
        config.database.pool_size = 8;
        config.redis.url = Secret::new(redis_url);
        config.redis.prefix = format!("test:{name:032x}:");
        config.auth.signing_keys = vec![SigningKey { id: "test".into(), seed: Secret::new(SEED) }];
        config.secrets.sealing_keys = vec![SealingKey { id: "test".into(), key: Secret::new(KEY) }];
        // Tests of the limits set their own.
        config.rates.factor = 1000;
        config.auth.throttle = Throttle {
            account_free_failures: 80,
            pair_free_failures: 80,
            device_free_failures: 80,
            address_free_failures: 1_000_000,
            account_max_failures: 90,
            device_max_failures: 90,
            ..Throttle::default()
        };
        Self { config, clock: Clock::default(), admin_url: admin_url.into(), database }
    }

    /// A node on this world.
    pub async fn node(&self) -> Node {
        self.node_at(&self.clock).await
    }

    /// A node with a clock of its own.
    pub async fn node_at(&self, clock: &Clock) -> Node {
        let server = Server::start(self.config.clone(), clock.clone()).await.unwrap();
        // Until the bus is up, a node works too, but by other ways than the tests mean.
        let mut link = server.app.bus.link();
        let _ = tokio::time::timeout(Duration::from_secs(5), link.wait_for(|link| link.up)).await;
        Node::new(server)
    }

    /// A new administrator who has logged in.
    pub async fn administrator(&self, node: &Node, name: &str) -> User {
        let email = format!("{name}@example.com");
        let register = json!({ "email": email, "password": PASSWORD, "display_name": name });
        let account = node.rest(Method::POST, "/v1/auth/register", None, Some(register)).await.ok();
        let promote = format!("UPDATE accounts SET role = 'admin' WHERE email = '{email}'");
        self.database().await.batch_execute(&promote).await.unwrap();
        node.log_in(&email, account["id"].as_str().unwrap()).await
    }

    /// Makes somebody an administrator who has made no call yet: nodes remember what they know of those who have.
    pub async fn promote(&self, user: &User) {
        let promote = format!("UPDATE accounts SET role = 'admin' WHERE id = '{}'", user.id);
        self.database().await.batch_execute(&promote).await.unwrap();
    }

    /// A connection to look at what is stored.
    pub async fn database(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(self.config.database.url.expose()).await.unwrap()
    }

    /// A number out of the database.
    pub async fn count(&self, query: &str) -> i64 {
        #[derive(diesel::QueryableByName)]
        struct Count {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            count: i64,
        }
        let query = diesel::sql_query(format!("SELECT count(*) AS count FROM {query}"));
        query.get_result::<Count>(&mut self.database().await).await.unwrap().count
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let (url, database) = (self.admin_url.clone(), self.database.clone());
        let drop = async move {
            if let Ok(mut conn) = AsyncPgConnection::establish(&url).await {
                let _ = conn.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
            }
        };
        // A runtime of its own: this may run inside one, or after it has ended.
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime().block_on(drop)).join();
    }
}

/// The URL of another database on the same server.
fn database_url(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

/// The name of a migrated database to copy, made by whichever test comes first.
async fn template(admin_url: &str) -> String {
    let mut hash = std::hash::DefaultHasher::new();
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("up.sql"))
        .collect();
    files.sort();
    for file in files {
        std::hash::Hash::hash(&(file.to_string_lossy(), std::fs::read(&file).unwrap()), &mut hash);
    }
    let name = format!("template_{:016x}", std::hash::Hasher::finish(&hash));

    let mut conn = AsyncPgConnection::establish(admin_url).await.unwrap();
    conn.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    #[derive(diesel::QueryableByName)]
    struct Exists {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        exists: bool,
    }
    let query = format!("SELECT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') AS exists");
    if !diesel::sql_query(query).get_result::<Exists>(&mut conn).await.unwrap().exists {
        let unfinished = format!("{name}_new");
        conn.batch_execute(&format!("DROP DATABASE IF EXISTS {unfinished}")).await.unwrap();
        conn.batch_execute(&format!("CREATE DATABASE {unfinished}")).await.unwrap();
        db::migrate_up(&database_url(admin_url, &unfinished)).await.unwrap();
        // The migration's connection may take a moment to go.
        let rename = format!("ALTER DATABASE {unfinished} RENAME TO {name}");
        eventually(async || conn.batch_execute(&rename).await.is_ok()).await;
    }
    conn.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    name
}

/// Waits until something holds that nobody announces.
pub async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it never came true");
}

/// Waits for something that must come.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it never came")
}

/// A server under test.
pub struct Node {
    pub server: Server,
    http: reqwest::Client,
    channel: Channel,
}

impl Node {
    fn new(server: Server) -> Self {
        let channel = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
        Self { http: reqwest::Client::new(), channel, server }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A gRPC client without credentials.
    pub fn auth(&self) -> AuthServiceClient<Channel> {
        AuthServiceClient::new(self.channel())
    }

    /// Does the background work of a server beside this one, until aborted.
    pub fn work(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(rialto::server::worker::run(self.server.app.clone()))
    }

    pub async fn stop(self) {
        soon(self.server.stop()).await;
    }

    /// A REST call, with credentials if there is a token.
    pub async fn rest(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A new account that has logged in.
    pub async fn user(&self, name: &str) -> User {
        let email = format!("{name}@example.com");
        let register = json!({ "email": email, "password": PASSWORD, "display_name": name });
        let account = self.rest(Method::POST, "/v1/auth/register", None, Some(register)).await.ok();
        self.log_in(&email, account["id"].as_str().unwrap()).await
    }

    /// A new session of an account.
    pub async fn log_in(&self, email: &str, id: &str) -> User {
        let login = json!({ "email": email, "password": PASSWORD });
        let tokens = self.rest(Method::POST, "/v1/auth/login", None, Some(login)).await.ok();
        let text = |field: &str| tokens[field].as_str().unwrap().to_owned();
        User { id: id.into(), email: email.into(), token: text("accessToken"), refresh: text("refreshToken") }
    }
}

pub const PASSWORD: &str = "correct horse battery";

/// Somebody who has logged in.
#[derive(Clone)]
pub struct User {
    pub id: String,
    pub email: String,
    pub token: String,
    pub refresh: String,
}

pub type Authorized = InterceptedService<Channel, Bearer>;

impl User {
    pub fn auth(&self, node: &Node) -> AuthServiceClient<Authorized> {
        AuthServiceClient::with_interceptor(node.channel(), Bearer(self.token.clone()))
    }

    pub fn messaging(&self, node: &Node) -> MessagingServiceClient<Authorized> {
        MessagingServiceClient::with_interceptor(node.channel(), Bearer(self.token.clone()))
    }

    pub fn roles(&self, node: &Node) -> RoleServiceClient<Authorized> {
        RoleServiceClient::with_interceptor(node.channel(), Bearer(self.token.clone()))
    }

    pub fn users(&self, node: &Node) -> UserServiceClient<Authorized> {
        UserServiceClient::with_interceptor(node.channel(), Bearer(self.token.clone()))
    }

    pub async fn call(&self, node: &Node, method: Method, path: &str, body: Value) -> Answer {
        node.rest(method, path, Some(&self.token), Some(body)).await
    }

    pub async fn delete(&self, node: &Node, path: &str) -> Answer {
        node.rest(Method::DELETE, path, Some(&self.token), None).await
    }

    pub async fn get(&self, node: &Node, path: &str) -> Answer {
        node.rest(Method::GET, path, Some(&self.token), None).await
    }

    pub async fn post(&self, node: &Node, path: &str, body: Value) -> Answer {
        node.rest(Method::POST, path, Some(&self.token), Some(body)).await
    }

    /// A conversation with these people.
    pub async fn conversation(&self, node: &Node, with: &[&User]) -> String {
        let members: Vec<_> = with.iter().map(|user| &user.id).collect();
        let created = self.post(node, "/v1/conversations", json!({ "member_ids": members })).await.ok();
        created["id"].as_str().unwrap().to_owned()
    }

    /// Sends a message; returns its number.
    pub async fn send(&self, node: &Node, conversation: &str, text: &str) -> i64 {
        let path = format!("/v1/conversations/{conversation}/messages");
        let sent = self.post(node, &path, json!({ "client_message_id": text, "text": text })).await.ok();
        number(&sent["seq"])
    }
}

/// A message of text, to be sent.
pub fn message(conversation: &str, client_message_id: &str, text: &str) -> SendMessageRequest {
    SendMessageRequest {
        conversation_id: conversation.into(),
        client_message_id: client_message_id.into(),
        content: Some(send_message_request::Content::Text(text.into())),
        ..Default::default()
    }
}

/// The text of a message that has one.
#[track_caller]
pub fn text_of(message: &Message) -> &str {
    match &message.content {
        Some(message::Content::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

/// A 64-bit number, which ProtoJSON writes as a string.
pub fn number(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).parse().unwrap()
}

/// Adds a token to each call.
#[derive(Clone)]
pub struct Bearer(pub String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value: MetadataValue<_> = format!("Bearer {}", self.0).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// A REST answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap_or_default().to_owned())
        };
        let headers = response.headers().iter().map(header).collect();
        let text = response.text().await.unwrap();
        Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    /// The body of an answer that must be good.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Checks that the call was refused for this reason, and that the body says what the contract says of it.
    #[track_caller]
    pub fn refused(&self, http: u16, reason: &str, legacy: u32) {
        let error = &self.body["error"];
        assert_eq!((self.status, error["reason"].as_str()), (http, Some(reason)), "{}", self.body);
        assert_eq!(error["code"], json!(http), "{error}");
        assert_eq!(error["legacyCode"], json!(legacy), "{error}");
        assert_eq!(error["requestId"].as_str(), self.headers.get("x-request-id").map(String::as_str), "{error}");
    }

    /// The fields that the answer calls invalid.
    pub fn fields(&self) -> Vec<&str> {
        let details = self.body["error"]["details"].as_array().into_iter().flatten();
        details
            .flat_map(|detail| detail["fieldViolations"].as_array().into_iter().flatten())
            .filter_map(|violation| violation["field"].as_str())
            .collect()
    }
}

/// The code and reason of a refused gRPC call.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    (status.code(), reason)
}

/// Server-sent events, as a browser reads them.
pub struct Events {
    response: reqwest::Response,
    buffer: String,
}

/// One of them.
#[derive(Debug, Default)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

impl Events {
    /// Opens a conversation's stream.
    pub async fn open(node: &Node, user: &User, conversation: &str, query: &str, last_event_id: Option<&str>) -> Self {
        Self::open_path(node, user, &format!("/v1/conversations/{conversation}/events{query}"), last_event_id).await
    }

    /// Opens a stream.
    pub async fn open_path(node: &Node, user: &User, path: &str, last_event_id: Option<&str>) -> Self {
        let mut request =
            node.http().get(node.url(path)).bearer_auth(&user.token).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = soon(request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"].to_str().unwrap().split(';').next(), Some("text/event-stream"));
        Self { response, buffer: String::new() }
    }

    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(':').map(|(name, value)| (name, value.trim_start())) {
                        Some(("id", id)) => event.id = id.into(),
                        Some(("event", name)) => event.name = name.into(),
                        Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                if event.name.is_empty() {
                    continue;
                }
                return Some(event);
            }
            let chunk = soon(self.response.chunk()).await.ok().flatten()?;
            self.buffer += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// The text of the next message.
    pub async fn text(&mut self) -> String {
        let event = self.next().await.expect("the stream has ended");
        assert_eq!(event.name, "message", "{event:?}");
        event.data["message"]["text"].as_str().unwrap().to_owned()
    }
}

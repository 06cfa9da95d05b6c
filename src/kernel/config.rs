//! Configuration. A value comes from a flag, else from the environment (`RIALTO_SECTION__KEY`), else from the file
//! (`rialto.toml`), else from the defaults here. `rialto config print` shows each with its source.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::kernel::secret::Secret;

/// All of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The way in.
    pub server: Server,
    /// Postgres.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Accounts, sessions and tokens.
    pub auth: Auth,
    /// Mail.
    pub mail: Mail,
    /// Work that is done later.
    pub jobs: Jobs,
    /// Rate limits.
    pub rates: Rates,
    /// Logs.
    pub log: Log,
}

/// The way in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where clients connect: gRPC, gRPC-Web, REST and WebSockets on one port, HTTP/1.1 and HTTP/2 without TLS.
    pub listen: SocketAddr,
    /// Where people reach the product in their browsers, such as `https://app.example.com`: links in mails begin with it.
    /// Empty takes `http://` and `listen`.
    pub public_url: String,
    /// Where `/metrics` is served for those who operate the server.
    pub ops_listen: Option<SocketAddr>,
    /// Whether `/metrics` is served on `listen` too, for every client. `rialto dev` sets it.
    pub metrics: bool,
    /// How many reverse proxies in front append to `x-forwarded-for`. 0 takes the peer's address.
    pub trusted_proxies: usize,
    /// The network that counts as one client in IPv6, in bits.
    pub ipv6_prefix: u8,
    /// Whether reflection is served. `rialto dev` sets it.
    pub reflection: bool,
    /// Origins that browsers may call from; `*` for any (no cookies are involved).
    pub cors_origins: Vec<String>,
    /// The largest message, either way, decompressed, in bytes.
    pub max_message_bytes: usize,
    /// Concurrent HTTP/2 streams of a connection.
    pub max_concurrent_streams: u32,
    /// Streams of a connection that a client may reset before the server has answered them (CVE-2023-44487).
    pub max_pending_reset_streams: usize,
    /// All headers of a request together, in bytes.
    pub max_header_list_bytes: u32,
    /// Concurrent connections.
    pub max_connections: usize,
    /// The longest that a unary call may take.
    pub request_timeout_seconds: u64,
    /// The longest that an HTTP/1.1 connection waits for the head of its next request. One that has sent nothing yet
    /// counts as idle instead.
    pub header_timeout_seconds: u64,
    /// The longest that a client may pause while it sends the body of a REST request.
    pub body_timeout_seconds: u64,
    /// How often an HTTP/2 connection is pinged, and how long it has to answer.
    pub keepalive_seconds: u64,
    /// A connection without a request for so long is closed.
    pub idle_seconds: u64,
    /// A connection is told to go away after so long, give or take a tenth. What runs on it may finish.
    pub max_connection_age_seconds: u64,
    /// How long what runs may go on after the server was told to stop.
    pub shutdown_seconds: u64,
    /// Requests a second from one address, for everything together, before anything else looks at them.
    pub flood_per_second: u32,
    /// How many of those may come at once.
    pub flood_burst: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: String::new(),
            ops_listen: None,
            metrics: false,
            trusted_proxies: 0,
            ipv6_prefix: 64,
            reflection: false,
            cors_origins: Vec::new(),
            max_message_bytes: 4 << 20,
            max_concurrent_streams: 200,
            max_pending_reset_streams: 100,
            max_header_list_bytes: 16 << 10,
            max_connections: 20_000,
            request_timeout_seconds: 30,
            header_timeout_seconds: 60,
            body_timeout_seconds: 10,
            keepalive_seconds: 20,
            idle_seconds: 300,
            max_connection_age_seconds: 3600,
            shutdown_seconds: 20,
            flood_per_second: 200,
            flood_burst: 2000,
        }
    }
}

/// Postgres.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host/database`, or `postgres:///database?host=/socket/folder&user=…`.
    pub url: Secret,
    /// Connections of this process.
    pub pool_size: u32,
    /// How long a request waits for a connection.
    pub connect_timeout_seconds: u64,
    /// How long a statement may run.
    pub statement_timeout_seconds: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: Secret::default(), pool_size: 16, connect_timeout_seconds: 5, statement_timeout_seconds: 10 }
    }
}

/// Redis.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://…`, or `redis+unix:///path`.
    pub url: Secret,
    /// What every key and channel begins with.
    pub prefix: String,
    /// Connections of this process.
    pub pool_size: u32,
}

impl Default for Redis {
    fn default() -> Self {
        Self { url: Secret::default(), prefix: "rialto:".into(), pool_size: 8 }
    }
}

/// Accounts, sessions and tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `iss` of access tokens, and the only one that is accepted.
    pub issuer: String,
    /// `aud` of access tokens, and the only one that is accepted.
    pub audience: String,
    /// How long an access token is good.
    pub access_token_seconds: u32,
    /// How long a refresh token is good.
    pub refresh_token_seconds: u32,
    /// Ed25519 keys. The first signs, all verify: to rotate, put a new one first, and drop the old one when the last
    /// access token that it signed has expired.
    pub signing_keys: Vec<SigningKey>,
    /// How many passwords are hashed at the same time; 0 for one a core. Each takes 19 MiB.
    pub password_hash_permits: usize,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            issuer: "rialto".into(),
            audience: "rialto".into(),
            access_token_seconds: 15 * 60,
            refresh_token_seconds: 7 * 24 * 3600,
            signing_keys: Vec::new(),
            password_hash_permits: 0,
        }
    }
}

/// A key that signs access tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// The `kid` of its tokens.
    pub id: String,
    /// 32 random bytes in base64: `openssl rand -base64 32`.
    pub seed: Secret,
}

/// Mail.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// How mail leaves. Production wants it said, if only that there is none.
    pub transport: Option<MailTransport>,
    /// The SMTP server.
    pub host: String,
    /// Its port; 0 for the usual one: 587, with `tls` 465, with `none` 25.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// Whom to log in as; empty for nobody.
    pub user: String,
    /// That user's password.
    pub password: Secret,
    /// Who mail is from: `Name <address>`.
    pub from: String,
    /// How long the SMTP server may take for one step.
    pub timeout_seconds: u64,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            transport: None,
            host: String::new(),
            port: 0,
            tls: MailTls::Starttls,
            user: String::new(),
            password: Secret::default(),
            from: "Rialto <rialto@localhost>".into(),
            timeout_seconds: 10,
        }
    }
}

/// How mail leaves.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum MailTransport {
    /// Not at all: it is dropped.
    None,
    /// To an SMTP server.
    Smtp,
    /// It stays in this process, for `/dev/mail`. `rialto dev` sets it.
    Inbox,
}

/// How the connection to the SMTP server is secured.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// It is not.
    None,
    /// By STARTTLS (RFC 3207), which must succeed.
    Starttls,
    /// By TLS from the first byte (RFC 8314).
    Tls,
}

/// Work that is done later.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// How many a worker does at the same time.
    pub concurrency: usize,
    /// How often a job is tried. With the default the last attempt is about nine hours after the first.
    pub max_attempts: i32,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { concurrency: 4, max_attempts: 20 }
    }
}

/// Rate limits. Each allows `calls` in `seconds`, all of them at once if need be, and then one every `seconds / calls`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Multiplies every limit. `rialto dev` sets 100, so that trying things out is not throttled.
    pub factor: u32,
    /// Ordinary calls without an account, per client address.
    pub anonymous: Limit,
    /// Ordinary calls, per account.
    pub account: Limit,
    /// Calls that write, per account.
    pub write: Limit,
    /// Messages, per account.
    pub message: Limit,
    /// Proving who one is, per client address and per account that is named.
    pub authentication: Limit,
    /// Sensitive calls, per account. Refused while Redis is away.
    pub sensitive: Limit,
}

/// One limit.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// How many.
    pub calls: u32,
    /// In how long.
    pub seconds: u32,
}

impl Default for Rates {
    fn default() -> Self {
        let limit = |calls, seconds| Limit { calls, seconds };
        Self {
            factor: 1,
            anonymous: limit(100, 60),
            account: limit(1000, 60),
            write: limit(300, 60),
            // 20 a second with a burst of 100.
            message: limit(100, 5),
            authentication: limit(10, 60),
            sensitive: limit(5, 60),
        }
    }
}

/// Logs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `json` or `pretty`.
    pub format: LogFormat,
    /// What is logged, in the syntax of tracing-subscriber's `EnvFilter`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is missing, unknown or of the wrong type.
    #[error("the configuration can't be read: {0}")]
    Read(#[from] Box<figment::Error>),
    /// Values that would be dangerous.
    #[error("the configuration is not fit for production:\n{}", .0.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
    Unfit(Vec<String>),
}

/// Where values come from, the strongest last: defaults, what a command puts in their place, file, environment, flags.
pub fn sources(command_defaults: &serde_json::Value, file: Option<&Path>, flags: &serde_json::Value) -> Figment {
    let figment = Figment::from(Serialized::defaults(Config::default())).merge(Serialized::defaults(command_defaults));
    let figment = match file {
        Some(file) => figment.merge(Toml::file_exact(file)),
        None => figment.merge(Toml::file("rialto.toml")),
    };
    // RIALTO_GATEWAY_… is for `rialto gateway`.
    let environment = Env::prefixed("RIALTO_").filter(|key| !key.starts_with("gateway_")).split("__");
    figment.merge(environment).merge(named("flag", flags))
}

/// A provider that `config print` can name.
pub fn named<'a>(name: &'static str, values: &'a serde_json::Value) -> impl figment::Provider + 'a {
    struct Named<'a>(&'static str, &'a serde_json::Value);
    impl figment::Provider for Named<'_> {
        fn metadata(&self) -> figment::Metadata {
            figment::Metadata::named(self.0)
        }
        fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
            Serialized::defaults(self.1).data()
        }
    }
    Named(name, values)
}

/// Every value with its source, one a line, secrets redacted.
pub fn print(sources: &Figment) -> Result<String, ConfigError> {
    let config = Config::read(sources)?;
    let values = serde_json::to_value(&config).unwrap_or_default();
    let mut lines = String::new();
    for (section, values) in values.as_object().into_iter().flatten() {
        for (key, value) in values.as_object().into_iter().flatten() {
            let metadata = sources.find_metadata(&format!("{section}.{key}"));
            let source = match metadata {
                Some(metadata) if metadata.name.contains("Config") => "default".to_owned(),
                Some(metadata) if metadata.name.contains("environment") => {
                    format!("environment RIALTO_{}__{}", section.to_uppercase(), key.to_uppercase())
                }
                Some(metadata) => match &metadata.source {
                    Some(source) => format!("file {source}"),
                    None => metadata.name.to_string(),
                },
                None => "default".to_owned(),
            };
            lines += &format!("{section}.{key} = {value}  # {source}\n");
        }
    }
    Ok(lines)
}

impl Config {
    /// Reads the sources.
    pub fn read(sources: &Figment) -> Result<Self, ConfigError> {
        Ok(sources.extract().map_err(Box::new)?)
    }

    /// Refuses what must not reach production: missing values, default and weak secrets.
    pub fn require_production(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        if self.database.url.expose().is_empty() {
            problems.push("database.url is not set".into());
        }
        if self.redis.url.expose().is_empty() {
            problems.push("redis.url is not set".into());
        }
        for (name, url) in [("database.url", &self.database.url), ("redis.url", &self.redis.url)] {
            if url_password(url.expose()).is_some_and(|password| is_weak_password(&password)) {
                problems.push(format!("the password in {name} is a default or shorter than 12 characters"));
            }
        }
        if self.auth.signing_keys.is_empty() {
            problems.push("auth.signing_keys is empty; make a seed with `openssl rand -base64 32`".into());
        }
        for key in &self.auth.signing_keys {
            if let Err(problem) = key.seed_bytes() {
                problems.push(format!("auth.signing_keys {:?}: {problem}", key.id));
            }
        }
        self.mail_problems(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Unfit(problems)) }
    }
}

impl Config {
    fn mail_problems(&self, problems: &mut Vec<String>) {
        let mail = &self.mail;
        match mail.transport {
            None => problems.push(
                "mail.transport is not set: `smtp`, with mail.host and mail.from, or `none` if the server is to send no mail"
                    .into(),
            ),
            Some(MailTransport::None) => {}
            Some(MailTransport::Inbox) => problems.push("mail.transport `inbox` is for `rialto dev`: set `smtp`".into()),
            Some(MailTransport::Smtp) => {
                if mail.host.is_empty() {
                    problems.push("mail.host is not set: the name of your SMTP server".into());
                }
                if mail.from == Mail::default().from {
                    problems.push("mail.from is not set: `Name <address>`, of your own domain".into());
                }
                if mail.tls == MailTls::None && !mail.user.is_empty() {
                    problems.push("mail.tls `none` would send mail.password in the clear: set `starttls` or `tls`".into());
                }
                if !self.server.public_url.starts_with("https://") {
                    problems.push("server.public_url is not an https:// address: links in mails begin with it".into());
                }
            }
        }
        if let Err(problem) = crate::kernel::mail::Mailer::new(mail) {
            problems.push(format!("mail: {}", problem.report()));
        }
    }
}

impl SigningKey {
    /// The seed, when it is 32 bytes that look random.
    pub fn seed_bytes(&self) -> Result<[u8; 32], &'static str> {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD.decode(self.seed.expose()).ok();
        let seed: [u8; 32] =
            bytes.and_then(|bytes| bytes.try_into().ok()).ok_or("the seed is not 32 bytes in base64")?;
        // 32 random bytes have fewer than 16 different values once in 10^12.
        let different = seed.iter().collect::<std::collections::HashSet<_>>().len();
        if different < 16 || seed.is_ascii() {
            Err("the seed is not random; use `openssl rand -base64 32`")
        } else {
            Ok(seed)
        }
    }
}

/// The password in a URL's authority.
fn url_password(url: &str) -> Option<String> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    let (_, password) = authority.rsplit_once('@')?.0.split_once(':')?;
    Some(password.to_owned())
}

fn is_weak_password(password: &str) -> bool {
    const DEFAULTS: [&str; 4] = ["change", "password", "postgres", "rialto"];
    let lower = password.to_lowercase();
    password.len() < 12 || DEFAULTS.iter().any(|default| lower.contains(default))
}

impl Server {
    /// The longest that a unary call may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }

    /// Where people reach the product, without a slash at the end.
    pub fn public_url(&self) -> String {
        match self.public_url.trim_end_matches('/') {
            "" => format!("http://{}", self.listen),
            url => url.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Config {
        let mut config = Config::default();
        config.database.url = Secret::new("postgres://app:ahz5Quoh4oocha3b@db/app");
        config.redis.url = Secret::new("redis://cache:6379");
        let seed = Secret::new("5iEC1h4mHVbGthv6WAjz5WtNW0by4dJu4okz0F1iyAw=");
        config.auth.signing_keys = vec![SigningKey { id: "a".into(), seed }];
        config.server.public_url = "https://app.example.com".into();
        config.mail = Mail {
            transport: Some(MailTransport::Smtp),
            host: "mail.internal".into(),
            from: "App <app@example.com>".into(),
            ..Mail::default()
        };
        config
    }

    #[test]
    fn production_takes_explicit_and_random_secrets() {
        fit().require_production().unwrap();
        let no_mail = Mail { transport: Some(MailTransport::None), ..Mail::default() };
        Config { mail: no_mail, ..fit() }.require_production().unwrap();
    }

    #[test]
    fn production_refuses_missing_default_and_weak_secrets() {
        assert!(Config::default().require_production().is_err());
        let refused = |change: fn(&mut Config)| {
            let mut config = fit();
            change(&mut config);
            assert!(config.require_production().is_err());
        };
        refused(|config| config.database.url = Secret::new("postgres://postgres:postgres@db/app"));
        refused(|config| config.redis.url = Secret::new("redis://:changeme-please@cache"));
        refused(|config| config.auth.signing_keys[0].seed = Secret::new("c2hvcnQ="));
        refused(|config| config.mail.transport = None);
        refused(|config| config.mail.transport = Some(MailTransport::Inbox));
        refused(|config| config.mail.host = String::new());
        refused(|config| config.mail.from = "no address".into());
        refused(|config| config.server.public_url = "http://app.example.com".into());
        refused(|config| (config.mail.tls, config.mail.user) = (MailTls::None, "app".into()));
        let ascii = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
        assert!(SigningKey { id: "a".into(), seed: Secret::new(ascii) }.seed_bytes().is_err());
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_default() {
        let folder = std::env::temp_dir().join(format!("rialto-config-{}", std::process::id()));
        std::fs::write(&folder, "[server]\nlisten = \"127.0.0.1:1\"\nidle_seconds = 7\n").unwrap();
        let flags = serde_json::json!({"server": {"listen": "127.0.0.1:2"}});
        let config = Config::read(&sources(&serde_json::json!({}), Some(&folder), &flags)).unwrap();
        std::fs::remove_file(folder).unwrap();
        assert_eq!((config.server.listen.port(), config.server.idle_seconds), (2, 7));
        assert_eq!(config.server.flood_burst, Server::default().flood_burst);
    }

    #[test]
    fn secrets_do_not_print() {
        let printed = format!("{:?} {}", fit(), serde_json::to_string(&fit()).unwrap());
        assert!(!printed.contains("ahz5Quoh4oocha3b") && !printed.contains("5iEC1h4m"), "{printed}");
    }
}

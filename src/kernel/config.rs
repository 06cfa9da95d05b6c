//! Configuration. A value comes from a flag, else from the environment (`RIALTO_SECTION__KEY`), else from the file
//! (`rialto.toml`), else from the defaults here. `rialto config print` shows each with its source.

mod account;
mod auth;
mod keys;
mod messaging;
mod passkeys;
mod production;
mod security;
mod throttle;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::kernel::secret::Secret;

pub use account::Account;
pub use auth::{Auth, Pepper, SigningKey};
pub use keys::Keys;
pub use messaging::Messaging;
pub use passkeys::{Passkeys, RelyingParty};
pub use security::{Security, Severity, Threshold, Thresholds};
pub use throttle::Throttle;

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
    /// Secrets at rest.
    pub secrets: Secrets,
    /// Two-factor authentication.
    pub two_factor: TwoFactor,
    /// Mail.
    pub mail: Mail,
    /// Personal data.
    pub privacy: Privacy,
    /// End-to-end encryption.
    pub keys: Keys,
    /// Conversations.
    pub messaging: Messaging,
    /// Work that is done later.
    pub jobs: Jobs,
    /// The streams of accounts.
    pub account: Account,
    /// Rate limits.
    pub rates: Rates,
    /// Security events and alerts.
    pub security: Security,
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
    /// Empty takes `http://` and `listen`. Pages of its origin may call by cookie.
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
    /// Origins of pages that may call: `https://app.example.com`. `*` is for any, but without cookies: only pages of origins
    /// that are named, and of the server's own, may send those.
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

/// Secrets at rest.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// AES-256 keys. The first seals, all open. To rotate: add a new one at the end on every server, then put it first on
    /// every server, run `rialto keys rotate`, and drop the old one. Whoever drops one too early loses what it has sealed.
    pub sealing_keys: Vec<SealingKey>,
}

/// A key that seals small secrets (`kernel::seal`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SealingKey {
    /// What sealed values call it: 1 to 64 bytes.
    pub id: String,
    /// 32 random bytes in base64: `openssl rand -base64 32`.
    pub key: Secret,
}

/// Two-factor authentication.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TwoFactor {
    /// What authenticators call this server: 1 to 64 bytes without a colon.
    pub issuer: String,
    /// How many steps of 30 seconds an authenticator's clock may be off, either way; at most 2.
    pub skew_steps: u16,
    /// Roles whose accounts need it: without it they can do nothing but enable it. `user` and `admin` are known.
    pub required_roles: Vec<String>,
}

impl Default for TwoFactor {
    fn default() -> Self {
        Self { issuer: "Rialto".into(), skew_steps: 1, required_roles: Vec::new() }
    }
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

/// Personal data.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    /// How many days after an account was deleted it is erased. Until then that can be cancelled.
    pub erasure_grace_days: u32,
    /// How many days an archive of somebody's data can be downloaded.
    pub export_days: u32,
}

impl Default for Privacy {
    fn default() -> Self {
        Self { erasure_grace_days: 14, export_days: 7 }
    }
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
    /// Proving who one is, per client address; and mails that are asked for, per address that is named. How many guesses
    /// may be wrong is in `auth.throttle`.
    pub authentication: Limit,
    /// Sensitive calls, per account. Refused while Redis is away.
    pub sensitive: Limit,
    /// Accounts whose prekeys somebody claims, per account that claims.
    pub claim: Limit,
    /// Claims of one account's prekeys by another one, per pair.
    pub claim_pair: Limit,
    /// Claims that are given an account's one-time prekeys, per account whose keys they are. What is claimed beyond comes
    /// without any.
    pub claim_target: Limit,
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
            claim: limit(1000, 3600),
            claim_pair: limit(30, 3600),
            // Half of what a device keeps, and so few afterwards that it takes a day to claim the other half.
            claim_target: limit(100, 86_400),
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
}

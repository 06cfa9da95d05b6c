//! Configuration of `rialto gateway`. A value comes from a flag, else from the environment
//! (`RIALTO_GATEWAY_SECTION__KEY`), else from the file, else from the defaults here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::kernel::config::{ConfigError, Log, named};
use crate::server::listener::Limits;

/// All of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The way in.
    pub server: Server,
    /// Where calls go.
    pub upstream: Upstream,
    /// The contract.
    pub descriptors: Descriptors,
    /// How REST is made of it.
    pub gateway: Gateway,
    /// The gateway's own pages.
    pub pages: Pages,
    /// Logs.
    pub log: Log,
}

/// The way in. What has the same name as in `rialto.toml` means the same.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where clients connect: REST, gRPC-Web and gRPC on one port, HTTP/1.1 and HTTP/2 without TLS.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/health` and `/ready` are served for those who operate the gateway.
    pub ops_listen: Option<SocketAddr>,
    /// How many reverse proxies in front append to `x-forwarded-for`, for the address in the log.
    pub trusted_proxies: usize,
    /// Origins that browsers may call from; `*` for any (no cookies are involved).
    pub cors_origins: Vec<String>,
    /// Concurrent connections.
    pub max_connections: usize,
    /// Concurrent HTTP/2 streams of a connection.
    pub max_concurrent_streams: u32,
    /// Streams of a connection that a client may reset before they were answered (CVE-2023-44487).
    pub max_pending_reset_streams: usize,
    /// All headers of a request together, in bytes.
    pub max_header_list_bytes: u32,
    /// The longest that an HTTP/1.1 connection waits for the head of its next request.
    pub header_timeout_seconds: u64,
    /// The longest that a client may pause while it sends the body of a REST request.
    pub body_timeout_seconds: u64,
    /// How often an HTTP/2 connection is pinged, and how long it has to answer.
    pub keepalive_seconds: u64,
    /// A connection without a request for so long is closed.
    pub idle_seconds: u64,
    /// A connection is told to go away after so long, give or take a tenth. What runs on it may finish.
    pub max_connection_age_seconds: u64,
    /// How long what runs may go on after the gateway was told to stop.
    pub shutdown_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            ops_listen: None,
            trusted_proxies: 0,
            cors_origins: Vec::new(),
            max_connections: 20_000,
            max_concurrent_streams: 200,
            max_pending_reset_streams: 100,
            max_header_list_bytes: 16 << 10,
            header_timeout_seconds: 60,
            body_timeout_seconds: 10,
            keepalive_seconds: 20,
            idle_seconds: 300,
            max_connection_age_seconds: 3600,
            shutdown_seconds: 20,
        }
    }
}

impl From<&Server> for Limits {
    fn from(server: &Server) -> Self {
        Self {
            max_connections: server.max_connections,
            max_concurrent_streams: server.max_concurrent_streams,
            max_pending_reset_streams: server.max_pending_reset_streams,
            max_header_list_bytes: server.max_header_list_bytes,
            header_timeout_seconds: server.header_timeout_seconds,
            keepalive_seconds: server.keepalive_seconds,
            idle_seconds: server.idle_seconds,
            max_connection_age_seconds: server.max_connection_age_seconds,
            shutdown_seconds: server.shutdown_seconds,
        }
    }
}

/// Where calls go.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// URL of the server for every service that `services` does not name: `http://host:port` (HTTP/2 without TLS) or
    /// `https://host:port`. Empty: only the named services are served.
    pub default: String,
    /// URLs by full name of the service.
    pub services: BTreeMap<String, String>,
    /// Connections to each upstream, taken in turn. An HTTP/2 server bounds the streams of a connection, often at 100.
    pub connections: usize,
    /// How long a connection may take to be made.
    pub connect_timeout_seconds: u64,
    /// How often a connection is pinged, and how long the upstream has to answer.
    pub keepalive_seconds: u64,
    /// The longest that a unary call over REST or gRPC-Web may take; gRPC clients set their own deadlines.
    pub request_timeout_seconds: u64,
    /// PEM file with the authorities that `https` upstreams are checked against, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            default: String::new(),
            services: BTreeMap::new(),
            connections: 2,
            connect_timeout_seconds: 5,
            keepalive_seconds: 20,
            request_timeout_seconds: 60,
            ca_file: None,
        }
    }
}

/// The contract: from files, or from the upstreams.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Descriptors {
    /// Encoded `FileDescriptorSet`s with all imports.
    pub files: Vec<PathBuf>,
    /// Ask the upstreams by server reflection.
    pub reflect: bool,
    /// How long to try at start while an upstream is not there yet.
    pub reflect_timeout_seconds: u64,
}

impl Default for Descriptors {
    fn default() -> Self {
        Self { files: Vec::new(), reflect: false, reflect_timeout_seconds: 60 }
    }
}

/// How REST is made of the contract: the options of `rialto_gateway::Builder`, one by one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Serve only these services, by full name, in every protocol. Empty: all.
    pub services: Vec<String>,
    /// Serve paths below the key by the routes below the value.
    pub aliases: BTreeMap<String, String>,
    /// Request headers that become metadata, besides the usual ones.
    pub request_headers: Vec<String>,
    /// Response metadata that become headers, besides the usual ones.
    pub response_headers: Vec<String>,
    /// The largest request body, in bytes.
    pub max_request_bytes: usize,
    /// The largest response message, in bytes.
    pub max_response_message_bytes: usize,
    /// Print scalars that are zero, empty lists and empty maps.
    pub always_print_fields: bool,
    /// Skip JSON keys that name no field, instead of refusing them.
    pub ignore_unknown_fields: bool,
    /// Print members under their names in the `.proto` file.
    pub use_proto_names: bool,
    /// Print enum values as numbers.
    pub enum_numbers: bool,
    /// Indent the JSON of unary answers.
    pub pretty: bool,
    /// Bound of an upload after decompression.
    pub max_upload_bytes: usize,
    /// Take the token of a WebSocket from this cookie too, of pages of `server.cors_origins`.
    pub web_socket_cookie: String,
    /// How long an event stream may be silent before a comment keeps it alive.
    pub heartbeat_seconds: u64,
    /// How long the head of a streamed answer waits for the first message.
    pub stream_header_hold_millis: u64,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            aliases: BTreeMap::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            max_request_bytes: 4 << 20,
            max_response_message_bytes: 4 << 20,
            always_print_fields: false,
            ignore_unknown_fields: false,
            use_proto_names: false,
            enum_numbers: false,
            pretty: false,
            max_upload_bytes: 1 << 30,
            web_socket_cookie: String::new(),
            heartbeat_seconds: 15,
            stream_header_hold_millis: 100,
        }
    }
}

/// Paths of the gateway's own pages on `server.listen`. An empty path turns a page off. One that a route of the contract
/// answers too is refused at start.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pages {
    /// 200 while the process lives; how the upstreams are.
    pub health: String,
    /// 200 while new requests should be sent here.
    pub ready: String,
    /// The OpenAPI document.
    pub openapi: String,
    /// Numbers for Prometheus. For every client, so they are off; `server.ops_listen` has them in any case.
    pub metrics: String,
    /// `info.title` of the OpenAPI document.
    pub title: String,
    /// `info.version` of the OpenAPI document.
    pub version: String,
    /// Base URLs in the OpenAPI document.
    pub servers: Vec<String>,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            health: "/health".into(),
            ready: "/ready".into(),
            openapi: "/openapi.json".into(),
            metrics: String::new(),
            title: "API".into(),
            version: "1".into(),
            servers: Vec::new(),
        }
    }
}

/// Where values come from, the strongest last: defaults, file (`rialto-gateway.toml`, if it is there and no other is
/// named), environment, flags.
pub fn sources(file: Option<&Path>, flags: &serde_json::Value) -> Figment {
    let figment = Figment::from(Serialized::defaults(Config::default()));
    let figment = match file {
        Some(file) => figment.merge(Toml::file_exact(file)),
        None => figment.merge(Toml::file("rialto-gateway.toml")),
    };
    figment.merge(Env::prefixed("RIALTO_GATEWAY_").split("__")).merge(named("flag", flags))
}

impl Config {
    /// Reads the sources, and refuses what makes no sense together.
    pub fn read(sources: &Figment) -> anyhow::Result<Self> {
        let config: Self = sources.extract().map_err(|error| ConfigError::Read(Box::new(error)))?;
        let (server, upstream, descriptors) = (&config.server, &config.upstream, &config.descriptors);
        anyhow::ensure!(
            !upstream.default.is_empty() || !upstream.services.is_empty(),
            "no upstream: say `--upstream http://127.0.0.1:50051`, or set upstream.default"
        );
        match (descriptors.files.is_empty(), descriptors.reflect) {
            (true, false) => anyhow::bail!(
                "no contract: say `--descriptor-set FILE` (`protoc -o FILE --include_imports …` or `buf build -o FILE`), \
                 or `--reflect` if the upstreams serve reflection"
            ),
            (false, true) => anyhow::bail!("the contract comes from --descriptor-set or from --reflect, not from both"),
            _ => {}
        }
        for (name, value) in [
            ("server.max_connections", server.max_connections as u64),
            ("server.max_concurrent_streams", server.max_concurrent_streams.into()),
            ("server.header_timeout_seconds", server.header_timeout_seconds),
            ("server.body_timeout_seconds", server.body_timeout_seconds),
            ("server.keepalive_seconds", server.keepalive_seconds),
            ("server.idle_seconds", server.idle_seconds),
            ("server.max_connection_age_seconds", server.max_connection_age_seconds),
            ("upstream.connections", upstream.connections as u64),
            ("upstream.connect_timeout_seconds", upstream.connect_timeout_seconds),
            ("upstream.keepalive_seconds", upstream.keepalive_seconds),
            ("upstream.request_timeout_seconds", upstream.request_timeout_seconds),
            ("gateway.heartbeat_seconds", config.gateway.heartbeat_seconds),
        ] {
            anyhow::ensure!(value > 0, "{name} must be at least 1");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EXAMPLE: &str = include_str!("../../gateway.example.toml");

    /// The example with the keys put in force that stand in comments that begin with `prefix`.
    fn uncommented(prefix: &str) -> String {
        let is_key = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let key =
            |line: &'static str| line.strip_prefix(prefix).filter(|l| l.split_once(" = ").is_some_and(|l| is_key(l.0)));
        EXAMPLE.lines().map(|line| key(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }

    fn parse(text: &str) -> Config {
        Figment::from(Toml::string(text)).extract().unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Names of everything that can be set, except what is nothing by default.
    fn keys(config: &serde_json::Value) -> BTreeSet<String> {
        let sections = config.as_object().unwrap().iter();
        sections
            .flat_map(|(section, values)| {
                let values = values.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
                values.map(move |(key, _)| format!("{section}.{key}"))
            })
            .collect()
    }

    #[test]
    fn the_example_file_says_what_the_defaults_are_and_leaves_none_out() {
        let text = uncommented("# ");
        assert_eq!(parse(&text), Config::default());
        assert_eq!(parse(EXAMPLE), Config::default());
        let written: serde_json::Value = Figment::from(Toml::string(&text)).extract().unwrap();
        assert_eq!(keys(&written), keys(&serde_json::to_value(Config::default()).unwrap()));
    }

    #[test]
    fn the_examples_in_the_example_file_can_be_used() {
        let config = parse(&uncommented("#: "));
        assert_ne!(config, Config::default());
        let config = Config::read(&Figment::from(Serialized::defaults(config))).unwrap();
        let options = serde_json::to_value(config).unwrap();
        assert!(options["server"]["ops_listen"].is_string() && options["upstream"]["ca_file"].is_string());
    }

    #[test]
    fn a_key_that_does_not_exist_is_named() {
        let error = Figment::from(Toml::string("[gateway]\nalways_print = true")).extract::<Config>().unwrap_err();
        assert!(error.to_string().contains("always_print"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            config.upstream.default = "http://127.0.0.1:1".into();
            config.descriptors.reflect = true;
            change(&mut config);
            let read = Config::read(&Figment::from(Serialized::defaults(config)));
            read.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(|_| {}), "");
        assert!(refused(|config| config.upstream.default = String::new()).contains("--upstream"));
        assert!(refused(|config| config.descriptors.reflect = false).contains("--descriptor-set"));
        assert!(refused(|config| config.descriptors.files = vec!["x".into()]).contains("not from both"));
        assert!(refused(|config| config.upstream.connections = 0).contains("upstream.connections"));
    }
}

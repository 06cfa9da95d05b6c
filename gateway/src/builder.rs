//! Configuration, and everything that can be wrong at start.

use std::time::Duration;

use http::HeaderName;
use prost_reflect::DescriptorError;
use thiserror::Error;

use crate::codec::Codec;
use crate::editions::descriptor_pool;
use crate::error::{ErrorBody, ErrorCodes, ErrorRenderer};
use crate::headers::{HeaderRules, is_reserved};
use crate::route::plan;
use crate::service::{Gateway, Shared};
use crate::websocket::{self, Socket};

/// Why a gateway cannot be built: a mistake in the contract or in the configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The bytes are not a consistent `FileDescriptorSet`.
    #[error("descriptor set: {0}")]
    Descriptors(#[from] DescriptorError),
    /// A file of a protobuf edition cannot be put into the terms that the gateway works with.
    #[error("{file}: {problem}")]
    Edition {
        /// Name of the file.
        file: String,
        /// What it has that cannot be expressed.
        problem: &'static str,
    },
    /// A mapping is wrong.
    #[error("{rule}: {problem}")]
    Rule {
        /// The method, and its rule if it has several.
        rule: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No request could tell the two rules apart.
    #[error("{second} has the same route as {first}")]
    Duplicate {
        /// The rule that was declared first.
        first: String,
        /// The one that repeats it.
        second: String,
    },
    /// The descriptors lack a service that was asked for.
    #[error("unknown service {0:?}")]
    UnknownService(String),
    /// A header that is the gateway's own business cannot be passed through.
    #[error("header {0:?} cannot be passed through")]
    ReservedHeader(HeaderName),
    /// An alias is not a pair of paths such as `/api` and `/v1`.
    #[error("alias {0:?} must be a path that begins with '/' and does not end with it")]
    Alias(String),
}

impl BuildError {
    pub(crate) fn rule(rule: &str, problem: impl Into<String>) -> Self {
        BuildError::Rule { rule: rule.to_owned(), problem: problem.into() }
    }
}

/// Configures a [`Gateway`]; made by [`Gateway::builder`].
pub struct Builder {
    descriptor_set: Vec<u8>,
    services: Option<Vec<String>>,
    aliases: Vec<(String, String)>,
    request_headers: Vec<HeaderName>,
    response_headers: Vec<HeaderName>,
    always_print_fields: bool,
    ignore_unknown_fields: bool,
    use_proto_names: bool,
    enum_numbers: bool,
    pretty: bool,
    errors: ErrorRenderer,
    limits: Limits,
    sockets: websocket::Options,
}

/// Sizes and times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub request_bytes: usize,
    pub upload_bytes: usize,
    pub response_message_bytes: usize,
    pub heartbeat: Duration,
    pub header_hold: Duration,
    pub body_patience: Duration,
}

impl Builder {
    pub(crate) fn new(descriptor_set: &[u8]) -> Self {
        Self {
            descriptor_set: descriptor_set.to_vec(),
            services: None,
            aliases: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            always_print_fields: false,
            ignore_unknown_fields: false,
            use_proto_names: false,
            enum_numbers: false,
            pretty: false,
            errors: ErrorRenderer::new(),
            limits: Limits {
                request_bytes: 4 << 20,
                upload_bytes: 1 << 30,
                response_message_bytes: 4 << 20,
                heartbeat: Duration::from_secs(15),
                header_hold: Duration::from_millis(100),
                body_patience: Duration::from_secs(30),
            },
            sockets: websocket::Options::default(),
        }
    }

    /// Serves paths below `prefix` by the routes below `target`. A path is tried as it is first, then by its aliases,
    /// the longest prefix first; prefixes end on a segment boundary.
    pub fn alias(mut self, prefix: impl Into<String>, target: impl Into<String>) -> Self {
        self.aliases.push((prefix.into(), target.into()));
        self
    }

    /// Serves only these services, by full name (default: every service of the descriptor set).
    pub fn services<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.services = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Bound of a request body after decompression (default 4 MiB); more is 413. In the body of a client stream it bounds
    /// each JSON message, and the text fields of a form together; in a WebSocket each message, and more closes it with 1009.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.limits.request_bytes = bytes;
        self
    }

    /// Bound of the whole request body of a client stream, such as an upload, after decompression (default 1 GiB); more
    /// is 413.
    pub fn max_upload_bytes(mut self, bytes: usize) -> Self {
        self.limits.upload_bytes = bytes;
        self
    }

    /// Bound of one response message on the wire (default 4 MiB); more is an upstream error.
    pub fn max_response_message_bytes(mut self, bytes: usize) -> Self {
        self.limits.response_message_bytes = bytes;
        self
    }

    /// Print implicit-presence scalars that are zero, empty lists and empty maps (default: leave them out).
    pub fn always_print_fields(mut self, on: bool) -> Self {
        self.always_print_fields = on;
        self
    }

    /// Skip JSON keys that name no field, and names that no enum value has (default: refuse them).
    pub fn ignore_unknown_fields(mut self, on: bool) -> Self {
        self.ignore_unknown_fields = on;
        self
    }

    /// Print members under their names in the `.proto` file (default: lowerCamelCase or `json_name`). Both are read.
    pub fn use_proto_names(mut self, on: bool) -> Self {
        self.use_proto_names = on;
        self
    }

    /// Print enum values as numbers (default: names). Both are read.
    pub fn enum_numbers(mut self, on: bool) -> Self {
        self.enum_numbers = on;
        self
    }

    /// Indent the JSON of unary answers by two spaces (default: one line). The messages of a stream are one line each
    /// whatever this says, because lines separate them.
    pub fn pretty(mut self, on: bool) -> Self {
        self.pretty = on;
        self
    }

    /// Status and number for error reasons; see [`crate::ErrorCode`].
    pub fn error_codes(mut self, codes: ErrorCodes) -> Self {
        self.errors = self.errors.with_codes(codes);
        self
    }

    /// Writes error bodies in a form of the embedding program's own; see [`crate::ErrorReport`].
    pub fn error_body(mut self, body: ErrorBody) -> Self {
        self.errors = self.errors.with_body(body);
        self
    }

    /// Passes one more request header upstream as metadata.
    pub fn request_header(mut self, name: HeaderName) -> Self {
        self.request_headers.push(name);
        self
    }

    /// Passes one more kind of response metadata to the client as a header.
    pub fn response_header(mut self, name: HeaderName) -> Self {
        self.response_headers.push(name);
        self
    }

    /// How long an event stream may be silent before a comment keeps it alive, and how often a WebSocket is pinged
    /// (default 15 s, at most a year). A WebSocket of which nothing was heard for twice as long is closed.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        // Clocks end somewhere.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.limits.heartbeat = interval.min(YEAR);
        self
    }

    /// How long the head of a streamed answer waits for the first message, so that a failure before that still has its
    /// own HTTP status (default 100 ms).
    pub fn stream_header_hold(mut self, duration: Duration) -> Self {
        self.limits.header_hold = duration;
        self
    }

    /// How long a request body may pause (default 30 s); longer is 408.
    pub fn body_timeout(mut self, duration: Duration) -> Self {
        self.limits.body_patience = duration;
        self
    }

    /// Takes the token of a WebSocket from this cookie too (default: from none). Browsers send cookies whatever page asks,
    /// so it counts only for pages of an [allowed origin](Self::web_socket_origins).
    pub fn web_socket_cookie(mut self, name: impl Into<String>) -> Self {
        self.sockets.cookie = Some(name.into());
        self
    }

    /// Origins such as `https://app.example.com` whose pages may open WebSockets by cookie (default: none). They are
    /// compared as they are; there are no wildcards. Other credentials don't come by themselves and count from anywhere.
    pub fn web_socket_origins<S: Into<String>>(mut self, origins: impl IntoIterator<Item = S>) -> Self {
        self.sockets.origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// Runs open WebSockets (default: [`tokio::spawn`]), so that the embedding program can wait for them, or end them by
    /// dropping them. The [`http::Extensions`] of the request live as long as the WebSocket.
    pub fn web_socket_executor(mut self, spawn: impl Fn(Socket) + Send + Sync + 'static) -> Self {
        self.sockets.spawn = Box::new(spawn);
        self
    }

    /// Resolves every annotation against the descriptors.
    pub fn build<U>(self, upstream: U) -> Result<Gateway<U>, BuildError> {
        let pool = descriptor_pool(&self.descriptor_set)?;
        let codec = Codec::new(&pool)
            .always_print_fields(self.always_print_fields)
            .use_proto_names(self.use_proto_names)
            .enum_numbers(self.enum_numbers)
            .ignore_unknown_fields(self.ignore_unknown_fields);
        let plan = plan::plan(&pool, &codec.schema, self.services.as_deref())?;
        if let Some(name) = self.request_headers.iter().chain(&self.response_headers).find(|n| is_reserved(n)) {
            return Err(BuildError::ReservedHeader(name.clone()));
        }
        let shared = Shared {
            aliases: aliases(&self.aliases)?,
            headers: HeaderRules::new(self.request_headers, self.response_headers),
            errors: self.errors,
            limits: self.limits,
            pretty: self.pretty,
            sockets: self.sockets,
            plan,
            codec,
        };
        Ok(Gateway::new(shared, upstream))
    }
}

/// Prefix and target of an alias, split into segments; longest prefix first.
fn aliases(pairs: &[(String, String)]) -> Result<Vec<crate::service::Alias>, BuildError> {
    let split = |path: &str| {
        let segments = path.strip_prefix('/').map(|rest| rest.split('/').map(Box::from).collect::<Vec<Box<str>>>());
        segments.filter(|s| s.iter().all(|s| !s.is_empty())).ok_or_else(|| BuildError::Alias(path.to_owned()))
    };
    let mut aliases = Vec::new();
    for (prefix, target) in pairs {
        aliases.push(crate::service::Alias { prefix: split(prefix)?, target: split(target)? });
    }
    aliases.sort_by_key(|a| std::cmp::Reverse(a.prefix.len()));
    Ok(aliases)
}

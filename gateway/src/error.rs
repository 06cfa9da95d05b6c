//! One renderer for every error: the gateway's own, and what the upstream answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{BadRequest, ErrorDetail, ErrorInfo, FieldViolation, StatusExt};

use crate::codec::CodecError;
use crate::details;
use crate::headers::{REQUEST_ID, accepted};

/// What an embedding program knows about an error reason beyond its gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// The HTTP status, instead of the canonical one of the gRPC code.
    pub http_status: StatusCode,
    /// A stable number for older clients, shown as `legacyCode`.
    pub legacy_code: Option<u32>,
}

/// What is known about each error reason.
pub type ErrorCodes = Arc<dyn Fn(&str) -> Option<ErrorCode> + Send + Sync>;

/// What there is to say about an error.
#[derive(Debug)]
#[non_exhaustive]
pub struct ErrorReport<'e> {
    /// The status of the response.
    pub http_status: StatusCode,
    /// The gRPC code.
    pub code: Code,
    /// The reason of the `ErrorInfo` detail, or the name of the code.
    pub reason: &'e str,
    /// The number of the reason, if it has an [`ErrorCode`] with one.
    pub legacy_code: Option<u32>,
    /// The message of the status.
    pub message: &'e str,
    /// The `google.rpc` details that clients may see, in their JSON form with `@type`.
    pub details: Vec<Value>,
    /// The `x-request-id` of the request.
    pub request_id: Option<&'e str>,
    /// The client asked for `application/problem+json`.
    pub problem: bool,
}

impl ErrorReport<'_> {
    /// The name of the gRPC code, such as `INVALID_ARGUMENT`.
    pub fn status(&self) -> &'static str {
        code_name(self.code)
    }

    fn json(&self) -> Value {
        let mut error = Map::new();
        error.insert("code".into(), self.http_status.as_u16().into());
        error.insert("status".into(), self.status().into());
        self.write(&mut error, "message");
        json!({ "error": error })
    }

    /// RFC 9457, whose `status` is the HTTP one.
    fn problem(&self) -> Value {
        let mut problem = Map::new();
        problem.insert("type".into(), "about:blank".into());
        problem.insert("title".into(), self.http_status.canonical_reason().unwrap_or(self.status()).into());
        problem.insert("status".into(), self.http_status.as_u16().into());
        problem.insert("grpcStatus".into(), self.status().into());
        self.write(&mut problem, "detail");
        Value::Object(problem)
    }

    /// What both forms have.
    fn write(&self, error: &mut Map<String, Value>, message: &str) {
        error.insert("reason".into(), self.reason.into());
        if let Some(number) = self.legacy_code {
            error.insert("legacyCode".into(), number.into());
        }
        error.insert(message.into(), self.message.into());
        error.insert("details".into(), self.details.clone().into());
        if let Some(id) = self.request_id {
            error.insert("requestId".into(), id.into());
        }
    }
}

/// Writes the body of an error: its content type and its text. Within streams only the text is used; there it must not
/// contain a line break.
pub type ErrorBody = Arc<dyn Fn(&ErrorReport<'_>) -> (HeaderValue, Vec<u8>) + Send + Sync>;

/// Renders errors as JSON:
///
/// ```json
/// {"error": {"code": 400, "status": "INVALID_ARGUMENT", "reason": "INVALID_FORMAT", "message": "…",
///            "details": [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []}],
///            "requestId": "…"}}
/// ```
///
/// or, for clients whose `Accept` names it, as `application/problem+json` (RFC 9457). The HTTP status follows the
/// comments of `google/rpc/code.proto`, unless the reason has an [`ErrorCode`]. `DebugInfo` is never shown.
#[derive(Clone, Default)]
pub struct ErrorRenderer {
    codes: Option<ErrorCodes>,
    body: Option<ErrorBody>,
}

impl ErrorRenderer {
    /// A renderer that knows no reasons.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks this function about each reason. Where an error has no `ErrorInfo`, its reason is the name of its gRPC code.
    pub fn with_codes(mut self, codes: ErrorCodes) -> Self {
        self.codes = Some(codes);
        self
    }

    /// Writes bodies by this function instead.
    pub fn with_body(mut self, body: ErrorBody) -> Self {
        self.body = Some(body);
        self
    }

    /// The response for a status that the embedding program made itself. `request` gives the request id and what the
    /// client accepts; metadata of the status is not copied.
    pub fn render(&self, status: &Status, request: &HeaderMap) -> Response<Body> {
        self.respond(&Failure::from_status(status), &Asker::new(request))
    }

    pub(crate) fn respond(&self, failure: &Failure, asker: &Asker) -> Response<Body> {
        let (status, content_type, body) = self.body(failure, asker);
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
        *response.status_mut() = status;
        *response.headers_mut() = failure.headers.clone();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CONTENT_LENGTH, length);
        if let Some(delay) = failure.retry_after() {
            headers.insert(header::RETRY_AFTER, delay);
        }
        response
    }

    /// HTTP status, content type and text.
    pub(crate) fn body(&self, failure: &Failure, asker: &Asker) -> (StatusCode, HeaderValue, Vec<u8>) {
        let details = failure.details();
        let reason = reason(&details).unwrap_or(code_name(failure.status.code()));
        let known = self.codes.as_ref().and_then(|codes| codes(reason));
        let report = ErrorReport {
            http_status: known.map_or(failure.http, |k| k.http_status),
            code: failure.status.code(),
            reason,
            legacy_code: known.and_then(|k| k.legacy_code),
            message: failure.status.message(),
            details: details.iter().filter_map(details::json).collect(),
            request_id: asker.request_id.as_ref().and_then(|id| id.to_str().ok()),
            problem: asker.problem,
        };
        let (content_type, body) = match &self.body {
            Some(body) => body(&report),
            None if report.problem => {
                (HeaderValue::from_static("application/problem+json"), report.problem().to_string().into_bytes())
            }
            None => (HeaderValue::from_static("application/json"), report.json().to_string().into_bytes()),
        };
        (report.http_status, content_type, body)
    }
}

impl fmt::Debug for ErrorRenderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codes, body } = self;
        f.debug_struct("ErrorRenderer").field("codes", &codes.is_some()).field("body", &body.is_some()).finish()
    }
}

/// What the answer to an error depends on.
pub(crate) struct Asker {
    pub request_id: Option<HeaderValue>,
    problem: bool,
}

impl Asker {
    pub fn new(request: &HeaderMap) -> Self {
        let is_problem = |media: &str| media.eq_ignore_ascii_case("application/problem+json");
        let problem = accepted(request).any(|(media, quality)| quality > 0 && is_problem(media));
        Self { request_id: request.get(&REQUEST_ID).cloned(), problem }
    }

    /// The same, for whom an error is told from a message by its `error` key.
    pub fn without_problem(self) -> Self {
        Self { problem: false, ..self }
    }
}

fn reason(details: &[ErrorDetail]) -> Option<&str> {
    details.iter().find_map(|d| match d {
        ErrorDetail::ErrorInfo(info) if !info.reason.is_empty() => Some(info.reason.as_str()),
        _ => None,
    })
}

/// Whole seconds, rounded up, at least one: less would invite an immediate retry.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1)
}

/// An error on its way to a client; always boxed, so that good answers stay small.
pub(crate) struct Failure {
    pub http: StatusCode,
    pub status: Status,
    pub headers: HeaderMap,
}

impl Failure {
    pub fn from_status(status: &Status) -> Box<Self> {
        Box::new(Self { http: http_status(status.code()), status: status.clone(), headers: HeaderMap::new() })
    }

    /// The upstream cannot be reached, or what it says makes no sense. The cause is not for clients.
    pub fn upstream(code: Code, message: &'static str) -> Box<Self> {
        Self::own(http_status(code), code, "UPSTREAM_ERROR", message, None)
    }

    /// An error that the gateway found itself.
    fn own(
        http: StatusCode,
        code: Code,
        reason: &'static str,
        message: impl Into<String>,
        detail: Option<ErrorDetail>,
    ) -> Box<Self> {
        let info = ErrorDetail::ErrorInfo(ErrorInfo::new(reason, "rialto-gateway", []));
        let status = Status::with_error_details_vec(code, message, detail.into_iter().chain([info]));
        Box::new(Self { http, status, headers: HeaderMap::new() })
    }

    pub fn details(&self) -> Vec<ErrorDetail> {
        self.status.get_error_details_vec()
    }

    /// The value of `Retry-After`, if there is something to say.
    pub fn retry_after(&self) -> Option<HeaderValue> {
        let delay = self.details().iter().find_map(|d| match d {
            ErrorDetail::RetryInfo(info) => info.retry_delay,
            _ => None,
        });
        delay.map(whole_seconds).map(HeaderValue::from)
    }
}

const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// A request that the gateway refuses itself.
#[derive(Debug, Error)]
pub(crate) enum Rejection {
    #[error("no such route")]
    Route,
    #[error("the route does not take this method")]
    Method(Vec<Method>),
    #[error("{0}")]
    Format(#[from] CodecError),
    #[error("{name}: expected {expected}")]
    Header { name: HeaderName, expected: &'static str },
    #[error("the request body could not be read")]
    Body,
    #[error("the request body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("[{index}]: the message is larger than {limit} bytes")]
    MessageTooLarge { index: usize, limit: usize },
    #[error("malformed multipart/form-data: {0}")]
    Multipart(String),
    #[error("{name}: {problem}")]
    Part { name: String, problem: &'static str },
    #[error("the request body must be {0}")]
    MediaType(&'static str),
    /// Of the Connect protocol, whose media types `Accept-Post` names.
    #[error("the request body must be {expected}")]
    Post { expected: &'static str, accepted: &'static str },
    #[error("the request body must be compressed by gzip, br or zstd, or not at all")]
    Encoding,
    #[error("the answer has no representation that the Accept header allows")]
    NotAcceptable,
    #[error("the request body did not come in time")]
    SlowBody,
    #[error("the call took longer than the client wanted to wait")]
    Deadline,
    #[error("the range is not within the {0} bytes that there are")]
    Range(u64),
    /// Of the Connect protocol.
    #[error("{1}")]
    Stream(Code, &'static str),
    #[error("the route is a WebSocket, version 13, over HTTP/1.1")]
    Upgrade,
    #[error("pages of this origin may not use the cookie")]
    Origin,
    #[error("{0}")]
    Frame(&'static str),
    #[error("nothing was heard of the client")]
    Silence,
}

impl Rejection {
    fn kind(&self) -> (StatusCode, Code, &'static str) {
        match self {
            Rejection::Stream(code, _) => (http_status(*code), *code, "INVALID_FORMAT"),
            Rejection::Route => (StatusCode::NOT_FOUND, Code::NotFound, "ROUTE_NOT_FOUND"),
            Rejection::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "METHOD_NOT_ALLOWED"),
            Rejection::Format(_)
            | Rejection::Header { .. }
            | Rejection::Body
            | Rejection::Multipart(_)
            | Rejection::Part { .. }
            | Rejection::Frame(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument, "INVALID_FORMAT"),
            Rejection::TooLarge(_) | Rejection::MessageTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument, "PAYLOAD_TOO_LARGE")
            }
            Rejection::MediaType(_) | Rejection::Post { .. } | Rejection::Encoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE")
            }
            Rejection::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, Code::InvalidArgument, "NOT_ACCEPTABLE"),
            Rejection::SlowBody | Rejection::Silence => {
                (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "REQUEST_TIMEOUT")
            }
            Rejection::Deadline => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "TIMEOUT"),
            Rejection::Upgrade => (StatusCode::UPGRADE_REQUIRED, Code::FailedPrecondition, "UPGRADE_REQUIRED"),
            Rejection::Origin => (StatusCode::FORBIDDEN, Code::PermissionDenied, "ORIGIN_NOT_ALLOWED"),
            Rejection::Range(_) => (StatusCode::RANGE_NOT_SATISFIABLE, Code::OutOfRange, "RANGE_NOT_SATISFIABLE"),
        }
    }

    /// The response header that goes with it.
    fn header(&self) -> Option<(HeaderName, String)> {
        match self {
            Rejection::Method(allowed) => Some((header::ALLOW, allow(allowed))),
            Rejection::Post { accepted, .. } => Some((ACCEPT_POST, (*accepted).to_owned())),
            Rejection::Encoding => Some((header::ACCEPT_ENCODING, "gzip, br, zstd".into())),
            Rejection::Range(length) => Some((header::CONTENT_RANGE, format!("bytes */{length}"))),
            _ => None,
        }
    }
}

/// The value of the `Allow` header.
pub(crate) fn allow(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

impl From<Rejection> for Box<Failure> {
    fn from(rejection: Rejection) -> Self {
        let violation = match &rejection {
            Rejection::Format(e) => Some((e.path(), e.problem().to_string())),
            Rejection::Header { name, expected } => Some((name.to_string(), format!("expected {expected}"))),
            Rejection::Part { name, problem } => Some((name.clone(), (*problem).to_owned())),
            _ => None,
        };
        let detail = violation.map(|(field, description)| {
            ErrorDetail::BadRequest(BadRequest::new(vec![FieldViolation::new(field, description)]))
        });
        let (http, code, reason) = rejection.kind();
        let mut failure = Failure::own(http, code, reason, rejection.to_string(), detail);
        if let Some((name, value)) = rejection.header()
            && let Ok(value) = HeaderValue::try_from(value)
        {
            failure.headers.insert(name, value);
        }
        if matches!(rejection, Rejection::Upgrade) {
            // RFC 9110 section 15.5.22, RFC 6455 section 4.4.
            let headers = &mut failure.headers;
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        failure
    }
}

/// The HTTP mapping of google/rpc/code.proto.
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // 499, which has no name of its own.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

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
use tonic_types::{BadRequest, ErrorDetail, FieldViolation, StatusExt};

use crate::codec::CodecError;
use crate::details;
use crate::headers::REQUEST_ID;

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

/// Renders errors as JSON:
///
/// ```json
/// {"error": {"code": 400, "status": "INVALID_ARGUMENT", "reason": "INVALID_FORMAT", "message": "…",
///            "details": [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []}],
///            "requestId": "…"}}
/// ```
///
/// The HTTP status follows the comments of `google/rpc/code.proto`, unless the reason has an [`ErrorCode`]. `DebugInfo`
/// is never shown.
#[derive(Clone, Default)]
pub struct ErrorRenderer {
    codes: Option<ErrorCodes>,
}

impl ErrorRenderer {
    /// A renderer that knows no reasons.
    pub fn new() -> Self {
        Self::default()
    }

    /// A renderer that asks this function about each reason. Where an error has no `ErrorInfo`, its reason is the name
    /// of its gRPC code.
    pub fn with_codes(codes: ErrorCodes) -> Self {
        Self { codes: Some(codes) }
    }

    /// The response for a status that the embedding program made itself. `request` gives the request id; metadata of
    /// the status is not copied.
    pub fn render(&self, status: &Status, request: &HeaderMap) -> Response<Body> {
        self.respond(&Failure::from_status(status), request.get(&REQUEST_ID))
    }

    pub(crate) fn respond(&self, failure: &Failure, request_id: Option<&HeaderValue>) -> Response<Body> {
        let (status, body) = self.body(failure, request_id);
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
        *response.status_mut() = status;
        *response.headers_mut() = failure.headers.clone();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, length);
        if let Some(delay) = failure.retry_delay() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        response
    }

    /// HTTP status and JSON text.
    pub(crate) fn body(&self, failure: &Failure, request_id: Option<&HeaderValue>) -> (StatusCode, String) {
        let known = self.codes.as_ref().and_then(|codes| codes(failure.reason()));
        let status = known.map_or(failure.http, |k| k.http_status);
        let mut error = Map::new();
        error.insert("code".into(), status.as_u16().into());
        error.insert("status".into(), code_name(failure.code).into());
        error.insert("reason".into(), failure.reason().into());
        if let Some(number) = known.and_then(|k| k.legacy_code) {
            error.insert("legacyCode".into(), number.into());
        }
        error.insert("message".into(), failure.message.as_str().into());
        let details: Vec<Value> = failure.details.iter().filter_map(details::json).collect();
        error.insert("details".into(), details.into());
        if let Some(id) = request_id.and_then(|id| id.to_str().ok()) {
            error.insert("requestId".into(), id.into());
        }
        (status, json!({ "error": error }).to_string())
    }
}

impl fmt::Debug for ErrorRenderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorRenderer").field("codes", &self.codes.is_some()).finish()
    }
}

/// Whole seconds, rounded up, at least one: less would invite an immediate retry.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1)
}

/// An error on its way to a client; always boxed, so that good answers stay small.
pub(crate) struct Failure {
    pub http: StatusCode,
    pub code: Code,
    /// `None`: the reason of the `ErrorInfo` detail, or the name of the code.
    own_reason: Option<&'static str>,
    pub message: String,
    pub details: Vec<ErrorDetail>,
    pub headers: HeaderMap,
}

impl Failure {
    pub fn from_status(status: &Status) -> Box<Self> {
        Box::new(Self {
            http: http_status(status.code()),
            code: status.code(),
            own_reason: None,
            message: status.message().to_owned(),
            details: status.get_error_details_vec(),
            headers: HeaderMap::new(),
        })
    }

    /// The upstream cannot be reached, or what it says makes no sense. The cause is not for clients.
    pub fn upstream(code: Code, message: &'static str) -> Box<Self> {
        Box::new(Self {
            http: http_status(code),
            code,
            own_reason: Some("UPSTREAM_ERROR"),
            message: message.to_owned(),
            details: Vec::new(),
            headers: HeaderMap::new(),
        })
    }

    fn reason(&self) -> &str {
        let told = self.details.iter().find_map(|d| match d {
            ErrorDetail::ErrorInfo(info) if !info.reason.is_empty() => Some(info.reason.as_str()),
            _ => None,
        });
        self.own_reason.or(told).unwrap_or(code_name(self.code))
    }

    fn retry_delay(&self) -> Option<Duration> {
        self.details.iter().find_map(|d| match d {
            ErrorDetail::RetryInfo(info) => info.retry_delay,
            _ => None,
        })
    }
}

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
    #[error("the request body must be application/json, not compressed")]
    MediaType,
    #[error("the answer has no representation that the Accept header allows")]
    NotAcceptable,
}

impl From<Rejection> for Box<Failure> {
    fn from(rejection: Rejection) -> Self {
        let (http, code, reason) = match &rejection {
            Rejection::Route => (StatusCode::NOT_FOUND, Code::NotFound, "ROUTE_NOT_FOUND"),
            Rejection::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "METHOD_NOT_ALLOWED"),
            Rejection::Format(_) | Rejection::Header { .. } | Rejection::Body => {
                (StatusCode::BAD_REQUEST, Code::InvalidArgument, "INVALID_FORMAT")
            }
            Rejection::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument, "PAYLOAD_TOO_LARGE"),
            Rejection::MediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE")
            }
            Rejection::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, Code::InvalidArgument, "NOT_ACCEPTABLE"),
        };
        let violation = match &rejection {
            Rejection::Format(e) => Some((e.path(), e.problem().to_string())),
            Rejection::Header { name, expected } => Some((name.to_string(), format!("expected {expected}"))),
            _ => None,
        };
        let details = violation.map(|(field, description)| {
            ErrorDetail::BadRequest(BadRequest::new(vec![FieldViolation::new(field, description)]))
        });
        let mut headers = HeaderMap::new();
        if let Rejection::Method(allowed) = &rejection {
            let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            if let Ok(value) = HeaderValue::try_from(allowed.join(", ")) {
                headers.insert(header::ALLOW, value);
            }
        }
        Box::new(Failure {
            http,
            code,
            own_reason: Some(reason),
            message: rejection.to_string(),
            details: details.into_iter().collect(),
            headers,
        })
    }
}

/// The HTTP mapping of google/rpc/code.proto.
fn http_status(code: Code) -> StatusCode {
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

fn code_name(code: Code) -> &'static str {
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

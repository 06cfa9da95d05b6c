//! From a gRPC response to an HTTP one.

use std::future::poll_fn;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};
use http_body_util::{BodyExt, Full};
use percent_encoding::percent_decode;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::error::{Failure, Rejection};
use crate::frame::{Deframer, FrameError};
use crate::headers::Accept;
use crate::route::plan::{Route, Rpc};
use crate::service::Shared;
use crate::stream::StreamBody;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// How the messages of a stream are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Events,
    Lines,
}

impl Format {
    /// `None`: a single JSON document. A stream that is declared to be one of events is that for clients without a wish.
    pub fn choose(rpc: &Rpc, accept: Accept) -> Result<Option<Self>, Rejection> {
        let streaming = rpc.streaming;
        match accept {
            Accept { events: true, .. } if streaming => Ok(Some(Format::Events)),
            Accept { any: true, .. } if rpc.declared_events => Ok(Some(Format::Events)),
            Accept { lines: true, .. } if streaming => Ok(Some(Format::Lines)),
            Accept { json: true, .. } if !streaming => Ok(None),
            _ => Err(Rejection::NotAcceptable),
        }
    }
}

/// The failure that these headers or trailers carry; `None` if they carry no status at all.
pub(crate) fn status(shared: &Shared, from: &HeaderMap) -> Option<Result<(), Box<Failure>>> {
    let code = Code::from_bytes(from.get(&GRPC_STATUS)?.as_bytes());
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = from.get(&GRPC_MESSAGE).map(|v| percent_decode(v.as_bytes()).decode_utf8_lossy().into_owned());
    // Senders may pad or not. Details that cannot be read are left out: the status itself counts.
    let details = from.get(&GRPC_DETAILS).and_then(|v| {
        let text = v.as_bytes().trim_ascii_end();
        let end = text.iter().rposition(|b| *b != b'=').map_or(0, |i| i + 1);
        base64::engine::general_purpose::STANDARD_NO_PAD.decode(text.get(..end)?).ok()
    });
    let status = Status::with_details(code, message.unwrap_or_default(), details.unwrap_or_default().into());
    let mut failure = Failure::from_status(&status);
    shared.headers.response(from, &mut failure.headers);
    Some(Err(failure))
}

/// Fails if the head already says that there is no message: an HTTP error, or a status without a body.
fn check_head(shared: &Shared, head: &response::Parts) -> Result<(), Box<Failure>> {
    if let Some(Err(failure)) = status(shared, &head.headers) {
        return Err(failure);
    }
    // https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
    let code = match head.status {
        StatusCode::OK => return Ok(()),
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Err(Failure::upstream(code, "the service did not answer in gRPC"))
}

/// The failure for a body that makes no sense.
pub(crate) fn broken_frame(error: FrameError) -> Box<Failure> {
    Failure::upstream(
        Code::Internal,
        match error {
            FrameError::Compressed => "the service compressed its answer without being asked",
            FrameError::TooLarge => "the answer of the service is too large",
        },
    )
}

/// A body breaks off for reasons of the connection; what the service has to say comes in trailers.
pub(crate) fn broken_body(status: &Status) -> Box<Failure> {
    Failure::upstream(status.code(), "the service broke off its answer")
}

pub(crate) fn no_status() -> Box<Failure> {
    Failure::upstream(Code::Unknown, "the answer of the service ended without a status")
}

pub(crate) fn unprintable() -> Box<Failure> {
    Failure::upstream(Code::Internal, "the answer of the service has no JSON form")
}

/// One message, one JSON document.
pub(crate) async fn unary(
    shared: &Shared,
    route: &Route,
    response: Response<Body>,
) -> Result<Response<Body>, Box<Failure>> {
    let (head, mut body) = response.into_parts();
    check_head(shared, &head)?;
    let mut frames = Deframer::new(shared.limits.response_message_bytes);
    let mut message: Option<Bytes> = None;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| broken_body(&status))?;
        match frame.into_data() {
            Ok(data) => frames.push(data),
            Err(other) => {
                // Nothing counts after the status.
                trailers = other.into_trailers().ok();
                break;
            }
        }
        while let Some(next) = frames.next().map_err(broken_frame)? {
            if message.replace(next).is_some() {
                return Err(Failure::upstream(Code::Internal, "the service answered with more than one message"));
            }
        }
    }
    let trailers = trailers.as_ref().unwrap_or(&head.headers);
    status(shared, trailers).unwrap_or_else(|| Err(no_status()))?;
    let message = message.filter(|_| frames.is_empty());
    let message = message.ok_or_else(|| Failure::upstream(Code::Internal, "the service answered without a message"))?;
    let mut json = Vec::with_capacity(message.len() * 3 + 64);
    shared.print(route, &message, &mut json).map_err(|_| unprintable())?;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
    shared.headers.response(&head.headers, headers);
    shared.headers.response(trailers, headers);
    *response.body_mut() = Body::new(Full::new(Bytes::from(json)));
    Ok(response)
}

/// A stream of messages. The head waits for the first of them for a short while: a failure before that is the answer.
pub(crate) async fn stream(
    shared: &Arc<Shared>,
    route: usize,
    format: Format,
    request_id: Option<HeaderValue>,
    response: Response<Body>,
) -> Result<Response<Body>, Box<Failure>> {
    let (head, body) = response.into_parts();
    check_head(shared, &head)?;
    let ended = head.headers.contains_key(&GRPC_STATUS);
    let mut body = StreamBody::new(shared.clone(), route, format, request_id, body, ended);
    let first = poll_fn(|cx| body.poll_ready(cx));
    // Late is no failure: the stream is open and silent.
    let _ = tokio::time::timeout(shared.limits.header_hold, first).await;
    if let Some(failure) = body.failed_early() {
        return Err(failure);
    }
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    let content_type = match format {
        Format::Events => "text/event-stream",
        Format::Lines => "application/x-ndjson",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks nginx and its kin not to collect the stream before they pass it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    shared.headers.response(&head.headers, headers);
    Ok(response)
}

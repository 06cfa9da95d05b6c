//! The Connect protocol (<https://connectrpc.com/docs/protocol>), for every method, whether it has an HTTP rule or not.

mod error;
mod requests;
mod stream;
mod unary;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, Uri};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::BoxError;
use crate::answer::unprintable;
use crate::codec::wire::Writer;
use crate::codec::{Bound, CodecError, Problem};
use crate::error::{Failure, Rejection};
use crate::frame;
use crate::params;
use crate::route::plan::Rpc;
use crate::service::Shared;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Proto,
}

/// Content types, their form, and whether they are for streams.
const MEDIA_TYPES: [(&str, Form, bool); 4] = [
    ("application/json", Form::Json, false),
    ("application/proto", Form::Proto, false),
    ("application/connect+json", Form::Json, true),
    ("application/connect+proto", Form::Proto, true),
];

/// A request that speaks Connect.
pub(crate) struct Call {
    rpc: Arc<Rpc>,
    form: Form,
}

/// Whether a request is Connect's, or, on the path of a method, nobody's: then this is what is wrong with it. A request
/// that is gRPC, or that a route takes, is left to them, unless it names one of Connect's own content types.
pub(crate) fn claim(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Result<Call, Rejection>> {
    let rpc = shared.plan.rpcs.get(uri.path())?;
    let call = |form| Some(Ok(Call { rpc: rpc.clone(), form }));
    let content_type = headers.get(header::CONTENT_TYPE);
    let gettable = rpc.no_side_effects && !rpc.is_streaming();
    if *method == Method::POST
        && let Some((form, streaming)) = media_type(content_type)
        && streaming == rpc.is_streaming()
    {
        return call(form);
    }
    if matches!(*method, Method::GET | Method::HEAD)
        && gettable
        && let Some(encoding) = get_encoding(uri.query().unwrap_or_default())
    {
        return match encoding.as_deref() {
            Ok("proto") => call(Form::Proto),
            // What is wrong with the parameter is told in Connect's own way.
            Ok("json") | Err(_) => call(Form::Json),
            Ok(_) => Some(Err(Rejection::MediaType("json or proto"))),
        };
    }
    let grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return None;
    }
    let mut allowed = match shared.route(method, uri.path()) {
        Ok(_) => return None,
        Err(Rejection::Method(allowed)) => allowed,
        Err(_) => Vec::new(),
    };
    if *method == Method::POST {
        return Some(Err(unsupported_media_type(rpc.is_streaming())));
    }
    allowed.extend([Method::OPTIONS, Method::POST]);
    if gettable {
        allowed.extend([Method::GET, Method::HEAD]);
    }
    allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    allowed.dedup();
    Some(Err(Rejection::Method(allowed)))
}

/// The value of `encoding`, in a query that has Connect's parameters.
fn get_encoding(query: &str) -> Option<Result<Cow<'_, str>, CodecError>> {
    let ours = |pair: &str| pair.starts_with("connect=") || pair.starts_with("encoding=");
    query.split('&').any(ours).then(|| required(query, "encoding"))
}

fn required<'q>(query: &'q str, name: &'static str) -> Result<Cow<'q, str>, CodecError> {
    let missing = || CodecError::from(Problem::expected("a query parameter", "nothing")).at_field(name);
    parameter(query, name)?.ok_or_else(missing)
}

/// A query parameter. Parameters that nobody asks for are left alone.
fn parameter<'q>(query: &'q str, name: &'static str) -> Result<Option<Cow<'q, str>>, CodecError> {
    let mut values = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == name);
    let Some((_, value)) = values.next() else { return Ok(None) };
    let value = if values.next().is_some() { Err(Problem::Duplicate) } else { params::decode_form(value) };
    value.map(Some).map_err(|problem| CodecError::from(problem).at_field(name))
}

/// The form that a content type names, and whether it is for streams. Parameters, such as a charset, change nothing.
fn media_type(content_type: Option<&HeaderValue>) -> Option<(Form, bool)> {
    let media = content_type?.to_str().ok()?.split(';').next()?.trim();
    let known = MEDIA_TYPES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(media))?;
    Some((known.1, known.2))
}

/// Answered in the form of REST, not in Connect's: only the HTTP status tells a Connect client the code, because Connect
/// has none for it.
fn unsupported_media_type(streaming: bool) -> Rejection {
    let (expected, accepted) = if streaming {
        ("application/connect+json or application/connect+proto", "application/connect+json, application/connect+proto")
    } else {
        ("application/json or application/proto", "application/json, application/proto")
    };
    Rejection::Post { expected, accepted }
}

pub(crate) async fn handle<U, B>(shared: &Arc<Shared>, upstream: U, call: Call, parts: Parts, body: B) -> Response<Body>
where
    U: Service<http::Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if call.rpc.is_streaming() {
        return stream::handle(shared, upstream, call, parts, body).await;
    }
    let answered = unary::handle(shared, upstream, call, parts, body).await;
    answered.unwrap_or_else(|failure| error::respond(&failure))
}

/// The response of a Connect server for a status that the embedding program made itself; `content_type` is the
/// request's, by which Connect tells streams. Metadata of the status is not copied.
pub fn connect_error(status: &Status, content_type: Option<&HeaderValue>) -> Response<Body> {
    let failure = Failure::from_status(status);
    match media_type(content_type) {
        Some((form, true)) => stream::failed(form, &failure),
        _ => error::respond(&failure),
    }
}

impl Form {
    fn content_type(self, streaming: bool) -> HeaderValue {
        HeaderValue::from_static(match (self, streaming) {
            (Form::Json, false) => "application/json",
            (Form::Proto, false) => "application/proto",
            (Form::Json, true) => "application/connect+json",
            (Form::Proto, true) => "application/connect+proto",
        })
    }
}

impl Call {
    /// A request message as a gRPC frame. What is protobuf already is the service's to judge.
    fn request(&self, shared: &Shared, message: &[u8]) -> Result<Bytes, Rejection> {
        let mut framed = frame::buffer(message.len());
        match self.form {
            Form::Proto => framed.extend_from_slice(message),
            Form::Json => {
                let mut out = Writer::new(framed);
                shared.codec.decode(message, &mut out, |d| d.message(self.rpc.input, Bound::NONE))?;
                framed = out.finish();
            }
        }
        frame::seal(framed).ok_or(Rejection::TooLarge(shared.limits.request_bytes))
    }

    /// Appends a response message.
    fn response(&self, shared: &Shared, message: &[u8], out: &mut Vec<u8>) -> Result<(), Box<Failure>> {
        match self.form {
            Form::Proto => out.extend_from_slice(message),
            Form::Json => {
                shared.codec.encoder(out).message(self.rpc.output, message).map_err(|_| unprintable())?;
            }
        }
        Ok(())
    }
}

/// Clients may leave the version out.
fn check_version(headers: &HeaderMap) -> Result<(), Rejection> {
    match headers.get(&PROTOCOL_VERSION) {
        Some(version) if version != "1" => Err(Rejection::Header { name: PROTOCOL_VERSION, expected: "1" }),
        _ => Ok(()),
    }
}

/// How long the client wants to wait.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Rejection> {
    let Some(value) = headers.get(&TIMEOUT) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|t| (1..=10).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit()));
    let millis = digits.and_then(|digits| digits.parse().ok());
    let bad = Rejection::Header { name: TIMEOUT, expected: "milliseconds, at most ten digits" };
    millis.map(|millis| Some(Duration::from_millis(millis))).ok_or(bad)
}

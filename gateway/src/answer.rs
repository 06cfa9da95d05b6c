//! From the upstream's answer to an HTTP one.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderName, HeaderValue};
use http_body_util::Full;
use tonic::Code;
use tonic::body::Body;

use crate::codec::indent;
use crate::error::{Asker, Failure, Rejection};
use crate::headers::{Accept, Range, Wish};
use crate::route::plan::Route;
use crate::service::Shared;
use crate::stream::{Format, StreamBody};
use crate::upstream::Answer;

/// What the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One message as one JSON document.
    Document,
    /// The bytes of `google.api.HttpBody`.
    Raw,
    /// Messages, one after the other.
    Stream(Format),
}

impl Form {
    /// What the client wants most. Without a wish, a stream that is declared to be one of events is that, and others are
    /// lines. Raw bytes are what they are: RFC 9110 section 12.4.1 allows to disregard the wish.
    pub fn choose(route: &Route, accept: Accept) -> Result<Self, Rejection> {
        if route.raw_response {
            return Ok(Form::Raw);
        }
        let Accept { json, events, lines } = accept;
        let wished = |wish: Wish, least| if wish.range >= least { wish.quality } else { 0 };
        if !route.rpc.server_streaming {
            return if json.quality > 0 { Ok(Form::Document) } else { Err(Rejection::NotAcceptable) };
        }
        let events_least = if route.rpc.declared_events { Range::Any } else { Range::Types };
        // Of those that are wanted alike, the last.
        let forms = [
            (wished(lines, Range::Any), Format::Lines),
            (wished(json, Range::Type), Format::Array),
            (wished(events, events_least), Format::Events),
        ];
        match forms.into_iter().max_by_key(|(quality, _)| *quality) {
            Some((1.., format)) => Ok(Form::Stream(format)),
            _ => Err(Rejection::NotAcceptable),
        }
    }
}

pub(crate) fn unprintable() -> Box<Failure> {
    Failure::upstream(Code::Internal, "the answer of the service has no JSON form")
}

/// One message, one JSON document.
pub(crate) async fn unary(shared: &Shared, route: &Route, mut answer: Answer) -> Result<Response<Body>, Box<Failure>> {
    let message = answer.only_message().await?;
    let mut json = Vec::with_capacity(message.len() * 3 + 64);
    shared.print(route, &message, &mut json).map_err(|_| unprintable())?;
    if shared.pretty {
        let compact = std::mem::take(&mut json);
        indent(&compact, &mut json);
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
    shared.headers.response(&answer.head, headers);
    shared.headers.response(&answer.trailers, headers);
    *response.body_mut() = Body::new(Full::new(Bytes::from(json)));
    Ok(response)
}

/// A stream of messages. The head waits for the first of them for a short while: a failure before that is the answer.
pub(crate) async fn stream(
    shared: &Arc<Shared>,
    route: usize,
    format: Format,
    asker: Asker,
    answer: Answer,
) -> Result<Response<Body>, Box<Failure>> {
    let head = answer.head.clone();
    let mut body = StreamBody::new(shared.clone(), route, format, asker.without_problem(), answer);
    let first = poll_fn(|cx| body.poll_ready(cx));
    // Late is no failure: the stream is open and silent.
    let _ = tokio::time::timeout(shared.limits.header_hold, first).await;
    if let Some(mut failure) = body.failed_early() {
        shared.headers.failure(&head, &mut failure.headers);
        return Err(failure);
    }
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    let content_type = match format {
        Format::Events => "text/event-stream",
        Format::Lines => "application/x-ndjson",
        Format::Array => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks nginx and its kin not to collect the stream before they pass it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    shared.headers.response(&head, headers);
    Ok(response)
}

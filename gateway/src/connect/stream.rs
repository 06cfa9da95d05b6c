//! Calls that stream in one direction or both.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Extensions, Response, Version};
use http_body::Frame;
use http_body_util::Full;
use tokio::time::{Sleep, sleep};
use tonic::Code;
use tonic::body::Body;
use tower::Service;

use super::error::{end_stream, refusal};
use super::requests::{ACCEPT_ENCODING, COMPRESSED, CONTENT_ENCODING, Complaint, Requests, gzip};
use super::{Call, Form, check_version, timeout};
use crate::BoxError;
use crate::error::{Failure, Rejection};
use crate::frame::PREFIX;
use crate::headers::{self, GRPC_TIMEOUT};
use crate::service::Shared;
use crate::stream::BATCH;
use crate::upstream::{self, Answer};

/// Smaller messages are not worth compressing.
const COMPRESS_FROM: usize = 1024;
/// The flag of the message that ends a stream.
const END_STREAM: u8 = 2;

pub(super) async fn handle<U, B>(shared: &Arc<Shared>, upstream: U, call: Call, parts: Parts, body: B) -> Response<Body>
where
    U: Service<http::Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let call = Arc::new(call);
    // The stream may end before the client's half of it, and then HTTP/1.1 has no way to go on.
    let close = call.rpc.client_streaming && parts.version < Version::HTTP_2;
    let mut response = match Opening::new(shared, &call, parts, body) {
        Ok(opening) => opening.respond(upstream).await,
        Err(rejection) => failed(call.form, &refusal(rejection)),
    };
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The response to a stream that failed before anything else could be said. The HTTP status of a stream is always 200.
pub(super) fn failed(form: Form, failure: &Failure) -> Response<Body> {
    let mut out = Vec::new();
    write_end(Some(failure), &failure.headers, &mut out);
    let mut response = Response::new(Body::new(Full::new(Bytes::from(out))));
    write_head(form, response.headers_mut());
    response
}

fn write_head(form: Form, headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, form.content_type(true));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    // Asks nginx and its kin not to collect the stream before they pass it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

/// A call that waits for the head of its answer.
struct Opening {
    shared: Arc<Shared>,
    call: Arc<Call>,
    started: Instant,
    timeout: Option<Duration>,
    metadata: HeaderMap,
    extensions: Extensions,
    requests: Requests,
    gzip: bool,
}

impl Opening {
    fn new<B>(shared: &Arc<Shared>, call: &Arc<Call>, parts: Parts, body: B) -> Result<Self, Rejection>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Parts { headers, extensions, .. } = parts;
        check_version(&headers)?;
        let requests = Requests::new(shared, call, &headers, body)?;
        Ok(Self {
            started: Instant::now(),
            timeout: timeout(&headers)?,
            metadata: shared.headers.request(&headers)?,
            gzip: requests.accepts_gzip(&headers),
            requests,
            extensions,
            shared: shared.clone(),
            call: call.clone(),
        })
    }

    async fn respond<U>(self, upstream: U) -> Response<Body>
    where
        U: Service<http::Request<Body>, Response = Response<Body>>,
        U::Error: Into<BoxError>,
    {
        let (shared, call, gzip) = (self.shared.clone(), self.call.clone(), self.gzip);
        let (answer, interrupts) = match self.call(upstream).await {
            Ok(open) => open,
            Err(failure) => return failed(call.form, &failure),
        };
        let mut response = Response::new(Body::empty());
        shared.headers.response(&answer.head, response.headers_mut());
        write_head(call.form, response.headers_mut());
        if gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let answer = Some(answer);
        let body = ResponseStream { shared, call, gzip, answer, interrupts, out: Vec::new(), messages: 0 };
        *response.body_mut() = Body::new(body);
        response
    }

    async fn call<U>(mut self, upstream: U) -> Result<(Answer, Interrupts), Box<Failure>>
    where
        U: Service<http::Request<Body>, Response = Response<Body>>,
        U::Error: Into<BoxError>,
    {
        let deadline = self.timeout.map(|timeout| Box::pin(sleep(timeout)));
        let mut interrupts = Interrupts { complaint: None, deadline };
        let body = if self.call.rpc.client_streaming {
            let (body, complaint) = self.requests.into_body();
            interrupts.complaint = Some(complaint);
            Body::new(body)
        } else {
            let requests = self.requests;
            let only = async { requests.only().await.map_err(refusal) };
            Body::new(Full::new(interrupts.or(only).await?))
        };
        if let Some(timeout) = self.timeout {
            let left = timeout.saturating_sub(self.started.elapsed());
            self.metadata.insert(GRPC_TIMEOUT, headers::write_timeout(left));
        }
        let request = upstream::request(&self.call.rpc.uri, self.metadata, self.extensions, body);
        let answer = interrupts.or(upstream::call(&self.shared, upstream, request)).await?;
        Ok((answer, interrupts))
    }
}

/// What ends a call before the service does.
struct Interrupts {
    complaint: Option<Complaint>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Interrupts {
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Box<Failure>> {
        if let Some(complaint) = &mut self.complaint
            && let Poll::Ready(told) = Pin::new(complaint).poll(cx)
        {
            self.complaint = None;
            if let Ok(failure) = told {
                return Some(failure);
            }
        }
        let late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        late.then(|| Rejection::Deadline.into())
    }

    /// The outcome of the work, unless something comes between. What the service says of a broken request is not asked.
    async fn or<T>(&mut self, work: impl Future<Output = Result<T, Box<Failure>>>) -> Result<T, Box<Failure>> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Some(failure) = self.poll(cx) {
                return Poll::Ready(Err(failure));
            }
            work.as_mut().poll(cx).map_err(|failure| self.poll(cx).unwrap_or(failure))
        })
        .await
    }
}

/// The body of the response. Dropping it drops the answer, and thereby cancels the call.
struct ResponseStream {
    shared: Arc<Shared>,
    call: Arc<Call>,
    /// The client takes compressed messages.
    gzip: bool,
    /// `None` once the stream has ended: the service learns of it by the drop.
    answer: Option<Answer>,
    interrupts: Interrupts,
    out: Vec<u8>,
    messages: u64,
}

impl ResponseStream {
    /// Writes what is ready, up to about [`BATCH`]. Ready when something is written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(answer) = self.answer.as_mut().filter(|_| self.out.len() < BATCH) {
            if let Some(failure) = self.interrupts.poll(cx) {
                self.end(Err(failure));
                break;
            }
            match answer.poll_message(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Err(failure) = self.write(&message) {
                        self.end(Err(failure));
                    }
                }
                Poll::Ready(Some(Err(failure))) => {
                    let failure = self.interrupts.poll(cx).unwrap_or(failure);
                    self.end(Err(failure));
                }
                Poll::Ready(None) if self.messages == 0 && !self.call.rpc.server_streaming => {
                    self.end(Err(Failure::upstream(Code::Internal, "the service answered without a message")));
                }
                Poll::Ready(None) => self.end(Ok(())),
                Poll::Pending if self.out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }

    fn write(&mut self, message: &[u8]) -> Result<(), Box<Failure>> {
        if self.messages > 0 && !self.call.rpc.server_streaming {
            return Err(Failure::upstream(Code::Internal, "the service answered with more than one message"));
        }
        let start = self.out.len();
        self.out.extend_from_slice(&[0; PREFIX]);
        let written = self.call.response(&self.shared, message, &mut self.out);
        let flags = if written.is_ok() && self.gzip { compress(&mut self.out, start + PREFIX) } else { 0 };
        let written = written.and_then(|()| seal(&mut self.out, start, flags));
        if written.is_err() {
            self.out.truncate(start);
        }
        self.messages += 1;
        written
    }

    fn end(&mut self, end: Result<(), Box<Failure>>) {
        let answer = self.answer.take();
        match end {
            Ok(()) => {
                let mut metadata = HeaderMap::new();
                if let Some(answer) = answer {
                    self.shared.headers.response(&answer.trailers, &mut metadata);
                }
                write_end(None, &metadata, &mut self.out);
            }
            Err(failure) => write_end(Some(&failure), &failure.headers, &mut self.out),
        }
    }
}

fn write_end(failure: Option<&Failure>, metadata: &HeaderMap, out: &mut Vec<u8>) {
    let text = end_stream(failure, metadata);
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    out.extend_from_slice(text.as_bytes());
    // Metadata never comes near four gigabytes.
    let _ = seal(out, start, END_STREAM);
}

/// Compresses what begins at `start`, if that is worth it. Gives the flags of the message.
fn compress(out: &mut Vec<u8>, start: usize) -> u8 {
    let message = out.get(start..).filter(|message| message.len() >= COMPRESS_FROM);
    let Some(compressed) = message.and_then(gzip) else { return 0 };
    out.truncate(start);
    out.extend_from_slice(&compressed);
    COMPRESSED
}

/// Writes flags and length of the envelope that begins at `start` and ends with the buffer.
fn seal(out: &mut [u8], start: usize, flags: u8) -> Result<(), Box<Failure>> {
    let length = out.len().checked_sub(start + PREFIX).and_then(|length| u32::try_from(length).ok());
    let (Some(length), Some([flag, rest @ ..])) = (length, out.get_mut(start..start + PREFIX)) else {
        return Err(Failure::upstream(Code::Internal, "the answer of the service is too large"));
    };
    *flag = flags;
    rest.copy_from_slice(&length.to_be_bytes());
    Ok(())
}

impl http_body::Body for ResponseStream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.poll_write(cx).is_pending() {
            return Poll::Pending;
        }
        let out = std::mem::take(&mut self.out);
        Poll::Ready((!out.is_empty()).then(|| Ok(Frame::data(Bytes::from(out)))))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_none() && self.out.is_empty()
    }
}

//! The client's side of a stream: enveloped messages, one after the other, on their way to the service.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{HeaderMap, HeaderName};
use http_body::Frame;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::Call;
use super::error::refusal;
use crate::body::RequestBody;
use crate::error::{Failure, Rejection};
use crate::frame::{Deframer, FrameError};
use crate::service::Shared;

pub(super) const CONTENT_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
pub(super) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");
/// The flag of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

pub(super) fn unsupported_encoding() -> Rejection {
    Rejection::Stream(Code::Unimplemented, "messages must be compressed by gzip, or not at all (identity)")
}

/// Reads the messages of a request body, only as fast as they are asked for.
pub(super) struct Requests {
    shared: Arc<Shared>,
    call: Arc<Call>,
    body: RequestBody,
    envelopes: Deframer,
    /// The flags that messages may have.
    flags: u8,
}

impl Requests {
    /// Messages, and not the body, are bounded in size, and once begun in time: a stream may be long and silent.
    pub fn new<B>(shared: &Arc<Shared>, call: &Arc<Call>, headers: &HeaderMap, body: B) -> Result<Self, Rejection>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<crate::BoxError>,
    {
        let flags = match headers.get(&CONTENT_ENCODING).map(|encoding| encoding.as_bytes()) {
            None | Some(b"identity") => 0,
            Some(b"gzip") => COMPRESSED,
            Some(_) => return Err(unsupported_encoding()),
        };
        let body = RequestBody::new(body, headers, usize::MAX, shared.limits.body_patience)?;
        let envelopes = Deframer::new(shared.limits.request_bytes);
        Ok(Self { shared: shared.clone(), call: call.clone(), body, envelopes, flags })
    }

    /// May messages of the answer be compressed? Who does not say takes what it sends.
    pub fn accepts_gzip(&self, headers: &HeaderMap) -> bool {
        let mut lists = headers.get_all(&ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok()).peekable();
        if lists.peek().is_none() {
            return self.flags == COMPRESSED;
        }
        lists.flat_map(|list| list.split(',')).any(|encoding| encoding.trim() == "gzip")
    }

    /// The next message, framed for gRPC; `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Rejection>>> {
        loop {
            match self.envelopes.next_flagged(self.flags) {
                Ok(Some((flags, message))) => return Poll::Ready(Some(self.read(flags, message))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(self.broken(error)))),
            }
            let idle = self.call.rpc.client_streaming && self.envelopes.is_empty();
            self.body.patience = if idle { Duration::MAX } else { self.shared.limits.body_patience };
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => self.envelopes.push(data),
                Some(Err(rejection)) => return Poll::Ready(Some(Err(rejection))),
                None if self.envelopes.is_empty() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(self.broken(FrameError::Incomplete)))),
            }
        }
    }

    fn read(&self, flags: u8, message: Bytes) -> Result<Bytes, Rejection> {
        let compressed = flags & COMPRESSED != 0;
        let message = if compressed { gunzip(message, self.shared.limits.request_bytes)? } else { message };
        self.call.request(&self.shared, &message)
    }

    fn broken(&self, error: FrameError) -> Rejection {
        let (code, message) = match error {
            FrameError::TooLarge => return Rejection::TooLarge(self.shared.limits.request_bytes),
            FrameError::Flags(flags) if flags & COMPRESSED > self.flags => {
                (Code::Internal, "a message is compressed, but connect-content-encoding names no encoding")
            }
            FrameError::Flags(_) => (Code::InvalidArgument, "a message has flags that no request may have"),
            FrameError::Incomplete => (Code::InvalidArgument, "the request ends within a message"),
        };
        Rejection::Stream(code, message)
    }

    /// The message of a method that takes one.
    pub async fn only(mut self) -> Result<Bytes, Rejection> {
        let only_one = || Rejection::Stream(Code::Unimplemented, "the method takes exactly one message");
        let first = poll_fn(|cx| self.poll_next(cx)).await.transpose()?.ok_or_else(only_one)?;
        match poll_fn(|cx| self.poll_next(cx)).await.transpose()? {
            None => Ok(first),
            Some(_) => Err(only_one()),
        }
    }

    /// The body of the gRPC request, and what tells when it cannot go on.
    pub fn into_body(self) -> (RequestStream, Complaint) {
        let (complain, complaint) = oneshot::channel();
        (RequestStream { requests: Some(self), complain: Some(complain) }, complaint)
    }
}

/// Told when the client's stream is broken. The answer to that is the gateway's, not the service's.
pub(super) type Complaint = oneshot::Receiver<Box<Failure>>;

/// The body of a gRPC request.
pub(super) struct RequestStream {
    requests: Option<Requests>,
    complain: Option<oneshot::Sender<Box<Failure>>>,
}

impl http_body::Body for RequestStream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(requests) = &mut self.requests else { return Poll::Ready(None) };
        let next = ready!(requests.poll_next(cx));
        if !matches!(next, Some(Ok(_))) {
            self.requests = None;
        }
        Poll::Ready(next.map(|message| {
            message.map(Frame::data).map_err(|rejection| {
                // Nobody listens when the answer has ended already.
                let _ = self.complain.take().map(|complain| complain.send(refusal(rejection)));
                Status::cancelled("the client's stream is broken")
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.requests.is_none()
    }
}

/// The compressed message, if that makes it smaller.
pub(super) fn gzip(message: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 2), Compression::fast());
    encoder.write_all(message).ok()?;
    encoder.finish().ok().filter(|compressed| compressed.len() < message.len())
}

/// The decompressed message. Nothing at all is never compressed.
pub(super) fn gunzip(message: Bytes, limit: usize) -> Result<Bytes, Rejection> {
    if message.is_empty() {
        return Ok(message);
    }
    let mut plain = Vec::new();
    let within = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = GzDecoder::new(&*message).take(within).read_to_end(&mut plain);
    read.map_err(|_| Rejection::Stream(Code::InvalidArgument, "a message is not valid gzip"))?;
    if plain.len() > limit { Err(Rejection::TooLarge(limit)) } else { Ok(plain.into()) }
}

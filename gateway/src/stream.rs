//! The body of a streamed answer: server-sent events (WHATWG HTML, section 9.2) or newline-delimited JSON.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};
use tonic::body::Body;

use crate::answer::{self, Format};
use crate::error::Failure;
use crate::event;
use crate::frame::Deframer;
use crate::service::Shared;

/// Whatever is ready goes out in one write, up to about this much.
const BATCH: usize = 32 << 10;

/// Dropping it drops the upstream body, and thereby cancels the call.
pub(crate) struct StreamBody {
    shared: Arc<Shared>,
    route: usize,
    format: Format,
    request_id: Option<HeaderValue>,
    upstream: Body,
    frames: Deframer,
    heartbeat: Pin<Box<Sleep>>,
    out: Vec<u8>,
    messages: u64,
    state: State,
}

enum State {
    Open,
    /// The upstream has ended; its status is still to be written.
    Ended(Result<(), Box<Failure>>),
    Done,
}

impl StreamBody {
    /// `ended`: the upstream's head already held its (good) status, so there is nothing to come.
    pub fn new(
        shared: Arc<Shared>,
        route: usize,
        format: Format,
        request_id: Option<HeaderValue>,
        upstream: Body,
        ended: bool,
    ) -> Self {
        let out = match format {
            Format::Events => b"retry: 1000\n\n".to_vec(),
            Format::Lines => Vec::new(),
        };
        Self {
            frames: Deframer::new(shared.limits.response_message_bytes),
            heartbeat: Box::pin(sleep(shared.limits.heartbeat)),
            state: if ended { State::Ended(Ok(())) } else { State::Open },
            messages: 0,
            shared,
            route,
            format,
            request_id,
            upstream,
            out,
        }
    }

    /// The failure of a stream that ended before its first message; nothing was sent then.
    pub fn failed_early(&mut self) -> Option<Box<Failure>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Ended(Err(failure)) if self.messages == 0 => Some(failure),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Ready when there is at least one more message in the buffer, or the end.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = self.messages;
        while matches!(self.state, State::Open) {
            match self.frames.next() {
                Ok(Some(message)) => {
                    if let Err(failure) = self.write(&message) {
                        self.state = State::Ended(Err(failure));
                    }
                    if self.out.len() >= BATCH {
                        break;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => self.state = State::Ended(Err(answer::broken_frame(error))),
            }
            if matches!(self.state, State::Open) && self.read(cx).is_pending() {
                return if self.messages > before { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        Poll::Ready(())
    }

    /// One frame from upstream.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let frame = std::task::ready!(http_body::Body::poll_frame(Pin::new(&mut self.upstream), cx));
        match frame {
            None => self.state = State::Ended(Err(answer::no_status())),
            Some(Err(status)) => self.state = State::Ended(Err(answer::broken_body(&status))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.frames.push(data),
                Err(other) => {
                    let status = other.into_trailers().ok().and_then(|t| answer::status(&self.shared, &t));
                    self.state = State::Ended(status.unwrap_or_else(|| Err(answer::no_status())));
                }
            },
        }
        Poll::Ready(())
    }

    fn write(&mut self, message: &[u8]) -> Result<(), Box<Failure>> {
        let start = self.out.len();
        let written = self.try_write(message);
        if written.is_err() {
            self.out.truncate(start);
            return Err(answer::unprintable());
        }
        self.messages += 1;
        Ok(())
    }

    fn try_write(&mut self, message: &[u8]) -> Result<(), crate::codec::CodecError> {
        let Some(route) = self.shared.plan.routes.get(self.route) else { return Ok(()) };
        let out = &mut self.out;
        match self.format {
            Format::Events => {
                event::head(&self.shared.codec.schema, &route.rpc, message, out)?;
                out.extend_from_slice(b"data: ");
                // The printer escapes line breaks, so the data is one line.
                self.shared.print(route, message, out)?;
                out.extend_from_slice(b"\n\n");
            }
            Format::Lines => {
                out.extend_from_slice(b"{\"result\":");
                self.shared.print(route, message, out)?;
                out.extend_from_slice(b"}\n");
            }
        }
        Ok(())
    }

    fn write_end(&mut self, end: Result<(), Box<Failure>>) {
        match (self.format, end) {
            (Format::Events, Ok(())) => self.out.extend_from_slice(b"event: end\ndata: {}\n\n"),
            (Format::Lines, Ok(())) => {}
            (format, Err(failure)) => {
                let line = self.shared.error_line(&failure, self.request_id.as_ref());
                let (before, after): (&[u8], &[u8]) = match format {
                    Format::Events => (b"event: error\ndata: ", b"\n\n"),
                    Format::Lines => (b"", b"\n"),
                };
                self.out.extend_from_slice(before);
                self.out.extend_from_slice(line.as_bytes());
                self.out.extend_from_slice(after);
            }
        }
    }

    fn flush(&mut self) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        self.heartbeat.as_mut().reset(Instant::now() + self.shared.limits.heartbeat);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(&mut self.out))))))
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.out.is_empty() && matches!(this.state, State::Open) && this.poll_ready(cx).is_pending() {
            if this.format == Format::Events && this.heartbeat.as_mut().poll(cx).is_ready() {
                this.out.extend_from_slice(b": keep-alive\n\n");
                return this.flush();
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut this.state, State::Done) {
            State::Ended(end) => this.write_end(end),
            state => this.state = state,
        }
        if this.out.is_empty() { Poll::Ready(None) } else { this.flush() }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done) && self.out.is_empty()
    }
}

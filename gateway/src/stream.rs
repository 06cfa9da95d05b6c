//! The body of a streamed answer: server-sent events (WHATWG HTML, section 9.2), newline-delimited JSON or one JSON
//! array.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};

use crate::answer::unprintable;
use crate::error::{Asker, Failure};
use crate::event;
use crate::service::Shared;
use crate::upstream::Answer;

/// Whatever is ready goes out in one write, up to about this much.
pub(crate) const BATCH: usize = 32 << 10;

/// How the messages of a stream are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Server-sent events.
    Events,
    /// One JSON object a line.
    Lines,
    /// One JSON array of the messages.
    Array,
}

/// Dropping it drops the answer, and thereby cancels the call.
pub(crate) struct StreamBody {
    shared: Arc<Shared>,
    route: usize,
    format: Format,
    asker: Asker,
    answer: Answer,
    heartbeat: Pin<Box<Sleep>>,
    out: Vec<u8>,
    messages: u64,
    state: State,
}

enum State {
    Open,
    /// The upstream has ended; its status is still to be written.
    Ended(Result<(), Box<Failure>>),
    /// What an array has no word for: the body has to break off.
    Broken,
    Done,
}

/// An array of messages cannot say that the call failed. A body that breaks off can't be taken for a whole one.
#[derive(Debug, thiserror::Error)]
#[error("the call failed after the answer had begun")]
pub(crate) struct Broken;

impl StreamBody {
    pub fn new(shared: Arc<Shared>, route: usize, format: Format, asker: Asker, answer: Answer) -> Self {
        let out = match format {
            Format::Events => b"retry: 1000\n\n".to_vec(),
            Format::Lines => Vec::new(),
            Format::Array => b"[".to_vec(),
        };
        let heartbeat = Box::pin(sleep(shared.limits.heartbeat));
        Self { shared, route, format, asker, answer, heartbeat, out, messages: 0, state: State::Open }
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
        while matches!(self.state, State::Open) && self.out.len() < BATCH {
            let written = match self.answer.poll_message(cx) {
                Poll::Ready(Some(Ok(message))) => self.write(&message),
                Poll::Ready(Some(Err(failure))) => Err(failure),
                Poll::Ready(None) => {
                    self.state = State::Ended(Ok(()));
                    continue;
                }
                Poll::Pending if self.messages > before => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            };
            if let Err(failure) = written {
                self.state = State::Ended(Err(failure));
            }
        }
        Poll::Ready(())
    }

    fn write(&mut self, message: &[u8]) -> Result<(), Box<Failure>> {
        let start = self.out.len();
        if self.try_write(message).is_err() {
            self.out.truncate(start);
            return Err(unprintable());
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
            Format::Array => {
                if self.messages > 0 {
                    out.extend_from_slice(b",\n");
                }
                self.shared.print(route, message, out)?;
            }
        }
        Ok(())
    }

    fn write_end(&mut self, end: Result<(), Box<Failure>>) {
        match (self.format, end) {
            (Format::Events, Ok(())) => self.out.extend_from_slice(b"event: end\ndata: {}\n\n"),
            (Format::Lines, Ok(())) => {}
            (Format::Array, Ok(())) => self.out.push(b']'),
            (Format::Array, Err(_)) => self.state = State::Broken,
            (format, Err(failure)) => {
                let line = self.shared.error_line(&failure, &self.asker);
                let (before, after): (&[u8], &[u8]) = match format {
                    Format::Events => (b"event: error\ndata: ", b"\n\n"),
                    _ => (b"", b"\n"),
                };
                self.out.extend_from_slice(before);
                self.out.extend_from_slice(&line);
                self.out.extend_from_slice(after);
            }
        }
    }

    fn flush(&mut self) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.heartbeat.as_mut().reset(Instant::now() + self.shared.limits.heartbeat);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(&mut self.out))))))
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
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
        match this.state {
            _ if !this.out.is_empty() => this.flush(),
            State::Broken => Poll::Ready(Some(Err(Broken))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done) && self.out.is_empty()
    }
}

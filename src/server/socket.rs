//! A client's socket, and what it holds for as long as it is open: also as a WebSocket, when HTTP is done with it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::kernel::metrics::Metrics;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4), as far as it tells HTTP/2 from everything else.
const HTTP2: &[u8] = b"PRI";
/// Bytes of HTTP/2 that wait for a flush. More are sent at once.
const WAITING: usize = 16 << 10;

/// For how long what a client still sends is thrown away when we have closed our half.
const LINGER: Duration = Duration::from_secs(1);

/// A place among the connections, a count in the metrics, and what an orderly stop waits for.
pub struct Held {
    _place: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
    _tracked: TaskTrackerToken,
}

impl Held {
    /// Counts a connection until this is dropped.
    pub fn new(place: OwnedSemaphorePermit, metrics: &Arc<Metrics>, tracked: TaskTrackerToken) -> Self {
        metrics.connections.inc();
        Self { _place: place, metrics: Arc::clone(metrics), _tracked: tracked }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// See the module.
pub struct Socket {
    stream: TcpStream,
    _held: Held,
    /// Whether it speaks HTTP/2, from when it has said something.
    http2: Option<bool>,
    /// What HTTP/2 has written and not flushed. The frames of a hundred streams that have something to say at once are one
    /// write: that costs more than all else about a small frame.
    waiting: Vec<u8>,
    /// Set when our half is closed.
    closing: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Of a connection that was just accepted.
    pub fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream, _held: held, http2: None, waiting: Vec::new(), closing: None }
    }

    fn is_http2(&self) -> bool {
        self.http2 == Some(true)
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let ended = loop {
            if sent == self.waiting.len() {
                // An idle connection keeps no room for what it may have to say.
                self.waiting = Vec::new();
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.waiting[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => sent += written,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.waiting.drain(..sent);
        ended
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.http2.is_none() && buf.filled().len() > before {
            self.http2 = Some(buf.filled()[before..].starts_with(HTTP2));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_http2() {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        if self.waiting.len() + buf.len() > WAITING {
            ready!(self.poll_send(cx))?;
        }
        if buf.len() > WAITING {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        self.waiting.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_http2() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    /// Not for HTTP/2, where it makes each frame of more than 256 bytes a write of its own.
    fn is_write_vectored(&self) -> bool {
        !self.is_http2() && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// In stages (RFC 9112, section 9.6). A client that is refused while it still sends its request would otherwise be told
    /// by the operating system that the connection is gone, often before it has read why.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        let Self { stream, closing, .. } = &mut *self;
        if closing.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let patience = closing.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        loop {
            if patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut scratch = [0; 4096];
            let mut scratch = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut scratch));
            if read.is_err() || scratch.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

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
    /// Set when our half is closed.
    closing: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Of a connection that was just accepted.
    pub fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream, _held: held, closing: None }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// In stages (RFC 9112, section 9.6). A client that is refused while it still sends its request would otherwise be told
    /// by the operating system that the connection is gone, often before it has read why.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

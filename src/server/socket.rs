//! A client's socket, and what it holds for as long as it is open: also as a WebSocket, when HTTP is done with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::kernel::metrics::Metrics;

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
}

impl Socket {
    /// Of a connection that was just accepted.
    pub fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream, _held: held }
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

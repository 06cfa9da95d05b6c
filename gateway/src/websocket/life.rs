//! Tells whether there is anybody at the other end.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Pings of a client that doesn't read the answers. Each answer waits in memory.
const UNREAD_PINGS: u32 = 100;

/// Signs of life of a connection.
pub(crate) struct Life {
    last: Mutex<Instant>,
    blocked: AtomicBool,
    unread_pings: AtomicU32,
}

impl Life {
    pub fn new() -> Self {
        Self { last: Mutex::new(Instant::now()), blocked: AtomicBool::new(false), unread_pings: AtomicU32::new(0) }
    }

    /// For time in which nothing could be heard because nobody listened.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves when there was no sign of life for so long.
    pub async fn silence(&self, patience: Duration) {
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            // Later than there is time is never.
            let Some(deadline) = last.checked_add(patience) else { return std::future::pending().await };
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    /// Counts a ping; false if the client sends them and doesn't read.
    pub fn may_ping(&self) -> bool {
        if !self.blocked.load(Ordering::Relaxed) {
            self.unread_pings.store(0, Ordering::Relaxed);
            return true;
        }
        self.unread_pings.fetch_add(1, Ordering::Relaxed) < UNREAD_PINGS
    }

    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        let blocked = result.is_pending();
        // What goes on after it was blocked goes on because the client has read.
        if self.blocked.swap(blocked, Ordering::Relaxed) && !blocked {
            self.touch();
        }
        result
    }
}

/// A connection whose signs of life are noted.
pub(crate) struct Watched<T> {
    io: T,
    life: Arc<Life>,
}

impl<T> Watched<T> {
    pub fn new(io: T, life: Arc<Life>) -> Self {
        Self { io, life }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.life.touch();
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.life.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

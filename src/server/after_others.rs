//! Connections that are polled last, so that what many calls have to say goes out in one write.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::Executor;

/// Polls a connection only after everything else that is ready has run. tokio would poll it after each of its streams,
/// and each message would be a write of its own; this way those of many streams go out in one.
pub struct AfterOthers<F> {
    connection: Pin<Box<F>>,
    yielded: bool,
}

impl<F> AfterOthers<F> {
    /// What drives the connection.
    pub fn new(connection: F) -> Self {
        Self { connection: Box::pin(connection), yielded: false }
    }
}

impl<F: Future<Output = ()>> Future for AfterOthers<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.yielded = !self.yielded;
        if self.yielded {
            return std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        self.connection.as_mut().poll(cx)
    }
}

/// Runs a client's connections that way, on tokio.
#[derive(Clone, Copy)]
pub struct AfterOthersExecutor;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for AfterOthersExecutor {
    fn execute(&self, connection: F) {
        drop(tokio::spawn(AfterOthers::new(connection)));
    }
}

//! Connections that are polled last, so that what many calls have to say goes out in one write.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::Executor;

/// Polls a connection that calls share only after everything else that is ready has run. tokio would poll it after each of
/// its streams, and each message would be a write of its own; this way those of many streams go out in one.
pub struct AfterOthers<F, S> {
    connection: F,
    /// Are there others to share a write with?
    shares: S,
    yielded: bool,
}

impl<F, S> AfterOthers<F, S> {
    /// What drives the connection, and whether it has to say what comes from more than one call.
    pub fn new(connection: F, shares: S) -> Self {
        Self { connection, shares, yielded: false }
    }
}

impl<F: Future<Output = ()> + Unpin, S: FnMut() -> bool + Unpin> Future for AfterOthers<F, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.yielded = !self.yielded && (self.shares)();
        if self.yielded {
            return std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        Pin::new(&mut self.connection).poll(cx)
    }
}

/// Runs a client's connections that way, on tokio.
#[derive(Clone, Copy)]
pub struct AfterOthersExecutor;

/// hyper also spawns tasks for each call, which are polled when the call begins and when it goes on, and write nothing
/// themselves. What is polled more often is a connection, or part of a call so long that it can wait as well.
const POLLS_OF_A_CALL: usize = 2;

impl<F: Future<Output = ()> + Send + Unpin + 'static> Executor<F> for AfterOthersExecutor {
    fn execute(&self, future: F) {
        let mut polls = 0_usize;
        let shares = move || {
            polls = polls.saturating_add(1);
            polls > POLLS_OF_A_CALL
        };
        drop(tokio::spawn(AfterOthers::new(future, shares)));
    }
}

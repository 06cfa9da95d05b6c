//! The body of a streamed answer, which ends when the session, the server or the time does, and when what
//! the caller may do changes: the handler has begun with what it was.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use crate::domains::auth::StreamGuard;
use crate::kernel::error::{Error, Reason};

pin_project! {
    /// See the module.
    pub struct Guarded {
        // `None` once the stream has ended: the handler learns of it by the drop.
        #[pin]
        inner: Option<Body>,
        // Each resolves, with the reason, when the stream has to end. They are in what polls them only after something has woken
        // them: a stream is polled for every message, and there is much to look at.
        ending: FuturesUnordered<BoxFuture<'static, Error>>,
        guard: Option<StreamGuard>,
    }
}

impl Guarded {
    /// Guards a body. `outdated` resolves when what the caller may do has changed.
    pub fn new(
        inner: Body,
        session: Option<(CancellationToken, StreamGuard)>,
        outdated: Option<impl Future<Output = ()> + Send + 'static>,
        stopping: CancellationToken,
        deadline: Option<Instant>,
    ) -> Self {
        // Each by itself: one that waited for all of them would have room for each twice, in every open stream.
        let ending = FuturesUnordered::new();
        if let Some((revoked, guard)) = &session {
            let revoked = revoked.clone().cancelled_owned();
            ending.push(revoked.map(|()| Error::new(Reason::SessionRevoked, "the session has ended")).boxed());
            ending.push(guard.limited.clone().cancelled_owned().map(|()| changed()).boxed());
        }
        if let Some(outdated) = outdated {
            ending.push(outdated.map(|()| changed()).boxed());
        }
        ending.push(stopping.cancelled_owned().map(|()| come_back("the server stops; connect again")).boxed());
        if let Some(deadline) = deadline {
            let late = || Error::new(Reason::Timeout, "the stream took longer than it may");
            ending.push(tokio::time::sleep_until(deadline).map(move |()| late()).boxed());
        }
        Self { inner: Some(inner), ending, guard: session.map(|(_, guard)| guard) }
    }
}

/// Connecting again finds out whether the stream is still allowed, and what of it.
fn changed() -> Error {
    come_back("what the account may do has changed; connect again")
}

fn come_back(why: &'static str) -> Error {
    Error::new(Reason::ServiceUnavailable, why).retry_after(Duration::from_secs(1))
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(Some(error)) = Pin::new(this.ending).poll_next(cx) {
            this.inner.set(None);
            *this.guard = None;
            let mut trailers = HeaderMap::new();
            Status::from(error).add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

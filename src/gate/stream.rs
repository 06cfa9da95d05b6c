//! The body of a streamed answer, which ends when the session, the server or the time does, and when what
//! the caller may do changes: the handler has begun with what it was.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
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
        #[pin]
        session: Option<WaitForCancellationFutureOwned>,
        // Resolves when what the caller may do has changed.
        outdated: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        #[pin]
        stopping: WaitForCancellationFutureOwned,
        #[pin]
        deadline: Option<Sleep>,
        guard: Option<StreamGuard>,
    }
}

impl Guarded {
    /// Guards a body.
    pub fn new(
        inner: Body,
        session: Option<(CancellationToken, StreamGuard)>,
        outdated: Option<impl Future<Output = ()> + Send + 'static>,
        stopping: CancellationToken,
        deadline: Option<Instant>,
    ) -> Self {
        let (session, guard) = session.unzip();
        Self {
            inner: Some(inner),
            session: session.map(CancellationToken::cancelled_owned),
            outdated: outdated.map(|outdated| Box::pin(outdated) as Pin<Box<dyn Future<Output = ()> + Send>>),
            stopping: stopping.cancelled_owned(),
            deadline: deadline.map(tokio::time::sleep_until),
            guard,
        }
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let ended = if this.session.as_pin_mut().is_some_and(|session| session.poll(cx).is_ready()) {
            Some(Error::new(Reason::SessionRevoked, "the session has ended"))
        } else if this.outdated.as_mut().is_some_and(|outdated| outdated.as_mut().poll(cx).is_ready()) {
            // Connecting again finds out whether the stream is still allowed, and what of it.
            let changed = Error::new(Reason::ServiceUnavailable, "what the account may do has changed; connect again");
            Some(changed.retry_after(Duration::from_secs(1)))
        } else if this.stopping.poll(cx).is_ready() {
            let restarts = Error::new(Reason::ServiceUnavailable, "the server stops; connect again");
            Some(restarts.retry_after(Duration::from_secs(1)))
        } else if this.deadline.as_pin_mut().is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            Some(Error::new(Reason::Timeout, "the stream took longer than it may"))
        } else {
            None
        };
        if let Some(error) = ended {
            this.inner.set(None);
            *this.guard = None;
            let mut trailers = HeaderMap::new();
            Status::from(error).add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(inner.poll_frame(cx));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

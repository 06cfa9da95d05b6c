//! The body of a streamed answer, which ends when the session, the server or the time does, and when what
//! the caller may do changes: the handler has begun with what it was.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
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
        // Resolves, with the reason, when the stream has to end. It is one, in what polls it only after something has woken it:
        // a stream is polled for every message, and this has much to look at.
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
        let (session, guard) = session.unzip();
        let ending = async move {
            let session = OptionFuture::from(session.map(CancellationToken::cancelled_owned));
            let deadline = OptionFuture::from(deadline.map(tokio::time::sleep_until));
            tokio::select! {
                biased;
                Some(()) = session => Error::new(Reason::SessionRevoked, "the session has ended"),
                Some(()) = OptionFuture::from(outdated) => {
                    // Connecting again finds out whether the stream is still allowed, and what of it.
                    let changed = "what the account may do has changed; connect again";
                    Error::new(Reason::ServiceUnavailable, changed).retry_after(Duration::from_secs(1))
                }
                () = stopping.cancelled_owned() => {
                    let stops = "the server stops; connect again";
                    Error::new(Reason::ServiceUnavailable, stops).retry_after(Duration::from_secs(1))
                }
                Some(()) = deadline => Error::new(Reason::Timeout, "the stream took longer than it may"),
            }
        };
        let ending: BoxFuture<'static, Error> = Box::pin(ending);
        Self { inner: Some(inner), ending: FuturesUnordered::from_iter([ending]), guard }
    }
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

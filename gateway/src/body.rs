//! Request bodies: in time, decompressed, and no larger than allowed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use tokio::time::{Sleep, sleep};
use tonic::body::Body;

use crate::BoxError;
use crate::error::Rejection;

/// A request body that is read piece by piece.
pub(crate) struct RequestBody {
    inner: Body,
    limit: usize,
    left: usize,
    /// How many bytes are still to come, if that is known.
    missing: Option<u64>,
    /// How long the next bytes may take; `Duration::MAX` is for ever.
    pub patience: Duration,
    /// Made only when there is something to wait for.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// At most `limit` bytes, and no longer than `patience` without one.
    pub fn new<B>(body: B, headers: &HeaderMap, limit: usize, patience: Duration) -> Result<Self, Rejection>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Those that can be decompressed have been.
        if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(Rejection::Encoding);
        }
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(Rejection::TooLarge(limit));
        }
        let inner = Body::new(body);
        let missing = http_body::Body::size_hint(&inner).exact();
        Ok(Self { inner, limit, left: limit, missing, patience, waiting: None })
    }

    /// The next bytes; `None` at the end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Rejection>>> {
        loop {
            match http_body::Body::poll_frame(Pin::new(&mut self.inner), cx) {
                Poll::Pending if self.patience == Duration::MAX => return Poll::Pending,
                Poll::Pending => {
                    let patience = self.patience;
                    let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
                    return waiting.as_mut().poll(cx).map(|()| Some(Err(Rejection::SlowBody)));
                }
                // hyper ends a body like this when it drops the connection.
                Poll::Ready(None) if self.missing.is_some_and(|missing| missing > 0) => {
                    return Poll::Ready(Some(Err(Rejection::Body)));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(Rejection::Body))),
                Poll::Ready(Some(Ok(frame))) => {
                    self.waiting = None;
                    // Trailers of a request have no meaning here.
                    let Ok(data) = frame.into_data() else { continue };
                    self.missing = self.missing.map(|missing| missing.saturating_sub(data.len() as u64));
                    match self.left.checked_sub(data.len()) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(Some(Err(Rejection::TooLarge(self.limit)))),
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }

    /// The next bytes, to be waited for.
    pub async fn data(&mut self) -> Option<Result<Bytes, Rejection>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// All of it. A body that comes in one piece is not copied.
    pub async fn whole(mut self) -> Result<Bytes, Rejection> {
        if http_body::Body::is_end_stream(&self.inner) {
            return Ok(Bytes::new());
        }
        let Some(first) = self.data().await.transpose()? else { return Ok(Bytes::new()) };
        let Some(second) = self.data().await.transpose()? else { return Ok(first) };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(more) = self.data().await.transpose()? {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }
}

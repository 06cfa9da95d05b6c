//! The request of a client stream: messages that go upstream while they come in.
//!
//! A request that breaks off must never look complete to a service. tonic's servers take a stream that is reset with
//! `CANCEL`, and one that fails with the code `CANCELLED`, for one that has ended. So the request always breaks off with
//! an error of its own, and before the call is dropped.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};
use http_body::Frame;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use crate::BoxError;
use crate::error::{Failure, Rejection};
use crate::service::Shared;
use crate::upstream::{self, Answer};

/// How long a call may go on after its client has left, so that the service learns that the request broke off.
const GRACE: Duration = Duration::from_millis(500);

/// Framed messages.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Rejection>> + Send>>;

/// The body of the upstream request. It is read only as fast as the upstream asks.
struct RequestStream {
    messages: Messages,
    /// Takes the reason why the request can't be read to its end.
    rejected: Option<oneshot::Sender<Rejection>>,
    /// Closed when nobody waits for the answer any more.
    caller: oneshot::Receiver<Infallible>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Open,
    Ended,
    Broken,
}

/// Belongs to whoever waits for the answer. Dropping it breaks off a request that is still being sent.
pub(crate) struct Sending {
    /// `None` once there is nothing more to be told.
    rejected: Option<oneshot::Receiver<Rejection>>,
    _caller: oneshot::Sender<Infallible>,
}

/// The body of the upstream request, and what its call holds on to.
pub(crate) fn body(messages: Messages) -> (Body, Sending) {
    let ((rejected, why), (_caller, caller)) = (oneshot::channel(), oneshot::channel());
    let stream = RequestStream { messages, rejected: Some(rejected), caller, state: State::Open };
    (Body::new(stream), Sending { rejected: Some(why), _caller })
}

impl RequestStream {
    fn break_off(&mut self) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.state = State::Broken;
        Poll::Ready(Some(Err(Status::aborted("the request broke off"))))
    }
}

impl http_body::Body for RequestStream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match this.state {
            State::Open => {}
            State::Ended => return Poll::Ready(None),
            State::Broken => return this.break_off(),
        }
        if Pin::new(&mut this.caller).poll(cx).is_ready() {
            return this.break_off();
        }
        match ready!(this.messages.as_mut().poll_next(cx)) {
            Some(Ok(message)) => Poll::Ready(Some(Ok(Frame::data(message)))),
            Some(Err(rejection)) => {
                // Told before the upstream can react to the broken request.
                if let Some(rejected) = this.rejected.take() {
                    let _ = rejected.send(rejection);
                }
                this.break_off()
            }
            // A body that is dropped with its connection ends like a whole one, but then the caller is gone before it.
            None if this.caller.try_recv() == Err(oneshot::error::TryRecvError::Closed) => this.break_off(),
            None => {
                this.state = State::Ended;
                this.rejected = None;
                Poll::Ready(None)
            }
        }
    }
}

impl Sending {
    /// Ready when the request could not be read to its end.
    pub fn poll_rejection(&mut self, cx: &mut Context<'_>) -> Poll<Rejection> {
        let Some(rejected) = &mut self.rejected else { return Poll::Pending };
        let rejection = ready!(Pin::new(rejected).poll(cx));
        self.rejected = None;
        rejection.map_or(Poll::Pending, Poll::Ready)
    }
}

/// Calls the method. What is wrong with the request counts more than what the upstream makes of it.
pub(crate) async fn call<U>(
    shared: &Arc<Shared>,
    upstream: U,
    request: Request<Body>,
    sending: Sending,
) -> Result<Answer, Box<Failure>>
where
    U: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
{
    let response = Box::pin(async move { upstream.oneshot(request).await.map_err(Into::into) });
    let mut call = Call { response: Some(response), sending: Some(sending) };
    poll_fn(|cx| call.poll(shared, cx)).await
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

/// A call whose answer has not begun.
struct Call {
    response: Option<ResponseFuture>,
    sending: Option<Sending>,
}

impl Call {
    fn poll(&mut self, shared: &Arc<Shared>, cx: &mut Context<'_>) -> Poll<Result<Answer, Box<Failure>>> {
        let (Some(response), Some(sending)) = (&mut self.response, &mut self.sending) else { return Poll::Pending };
        let answer = response.as_mut().poll(cx).map(|response| upstream::answer(shared, response));
        if !matches!(answer, Poll::Ready(Ok(_)))
            && let Poll::Ready(rejection) = sending.poll_rejection(cx)
        {
            self.response = None;
            return Poll::Ready(Err(rejection.into()));
        }
        let mut answer = ready!(answer);
        self.response = None;
        if let Ok(answer) = &mut answer {
            answer.sending = self.sending.take();
        }
        Poll::Ready(answer)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (Some(response), Some(sending)) = (self.response.take(), self.sending.take()) else { return };
        drop(sending);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async { drop(tokio::time::timeout(GRACE, response).await) });
        }
    }
}

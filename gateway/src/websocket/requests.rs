//! The request body of a call whose messages come from a WebSocket.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;
use tonic::Status;

/// Framed messages, one at a time: the next waits until the upstream has taken this one.
pub(crate) struct Requests(mpsc::Sender<Option<Bytes>>);

impl Requests {
    /// An upstream that no longer reads is none that fails: it may still answer.
    pub async fn send(&self, message: Bytes) {
        let _ = self.0.send(Some(message)).await;
    }

    /// The end of the client's messages. Dropped without it, the body breaks off: half of what a client wanted to say
    /// must not be taken for the whole.
    pub async fn end(self) {
        let _ = self.0.send(None).await;
    }
}

pub(crate) struct RequestBody {
    messages: mpsc::Receiver<Option<Bytes>>,
    ended: bool,
}

pub(crate) fn channel() -> (Requests, RequestBody) {
    let (sender, messages) = mpsc::channel(1);
    (Requests(sender), RequestBody { messages, ended: false })
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.messages.poll_recv(cx));
        self.ended = !matches!(next, Some(Some(_)));
        Poll::Ready(match next {
            Some(message) => message.map(|message| Ok(Frame::data(message))),
            None => Some(Err(Status::cancelled("the client has gone"))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

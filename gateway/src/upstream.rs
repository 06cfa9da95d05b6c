//! The upstream's side of a call: one gRPC request, and the messages and the status that come back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName};
use http::{Extensions, Method, Request, Response, StatusCode, Uri, Version};
use percent_encoding::percent_decode;
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::BoxError;
use crate::client_stream::Sending;
use crate::error::{Failure, Rejection};
use crate::frame::{Deframer, FrameError};
use crate::service::Shared;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// The gRPC request for a method. The body holds framed messages.
pub(crate) fn request(uri: &Uri, headers: HeaderMap, extensions: Extensions, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    *request.extensions_mut() = extensions;
    request
}

/// Calls the method. Dropping the future, and later the answer, cancels the call.
pub(crate) async fn call<U>(shared: &Arc<Shared>, upstream: U, request: Request<Body>) -> Result<Answer, Box<Failure>>
where
    U: Service<Request<Body>, Response = Response<Body>>,
    U::Error: Into<BoxError>,
{
    answer(shared, upstream.oneshot(request).await.map_err(Into::into))
}

/// Fails if the head already says that there is no message.
pub(crate) fn answer(shared: &Arc<Shared>, response: Result<Response<Body>, BoxError>) -> Result<Answer, Box<Failure>> {
    Answer::new(shared.clone(), response.map_err(unreachable_upstream)?)
}

/// A service may fail with a status of its own. Of anything else only the code is told: the cause is not for clients.
fn unreachable_upstream(error: BoxError) -> Box<Failure> {
    let error = match error.downcast::<Status>() {
        Ok(status) => return Failure::from_status(&status),
        Err(error) => error,
    };
    // tonic calls it cancelled, too, when the connection goes before the request is sent.
    let mut causes = std::iter::successors(Some(&*error as &(dyn std::error::Error + 'static)), |cause| cause.source());
    let unsent = causes.any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled));
    let code = match Status::try_from_error(error) {
        Ok(status) if status.code() != Code::Unknown && !unsent => status.code(),
        _ => Code::Unavailable,
    };
    Failure::upstream(code, "the service cannot be reached")
}

/// What the upstream answers. Dropping it cancels the call.
pub(crate) struct Answer {
    shared: Arc<Shared>,
    /// The initial metadata.
    pub head: HeaderMap,
    /// The trailing metadata, once the messages have come to their end.
    pub trailers: HeaderMap,
    body: Body,
    frames: Deframer,
    ended: bool,
    /// The request of a client stream, which may go on while the answer comes.
    pub sending: Option<Sending>,
    /// When the client has waited long enough. A service is told of it, but not every one keeps to it.
    pub deadline: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    /// Fails if the head already says that there is no message: an HTTP error, or a status without a body.
    fn new(shared: Arc<Shared>, response: Response<Body>) -> Result<Self, Box<Failure>> {
        let (head, body) = response.into_parts();
        let told = status(&shared, &head.headers);
        let ended = told.is_some();
        told.unwrap_or(Ok(()))?;
        check_http_status(head.status)?;
        let frames = Deframer::new(shared.limits.response_message_bytes);
        let trailers = HeaderMap::new();
        Ok(Self { shared, head: head.headers, trailers, body, frames, ended, sending: None, deadline: None })
    }

    /// The next message; `None` after the last one of a call that went well.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<Failure>>>> {
        let message = self.poll_upstream(cx);
        if matches!(message, Poll::Pending | Poll::Ready(Some(Err(_))))
            && let Some(sending) = &mut self.sending
            && let Poll::Ready(rejection) = sending.poll_rejection(cx)
        {
            return self.fail(rejection.into());
        }
        // A service that is always ready is not spared. A status that is there counts more.
        if matches!(message, Poll::Pending | Poll::Ready(Some(Ok(_))))
            && let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return self.fail(Rejection::Deadline.into());
        }
        message
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<Failure>>>> {
        loop {
            match self.frames.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) if self.ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return self.fail(broken_frame(error)),
            }
            match ready!(http_body::Body::poll_frame(Pin::new(&mut self.body), cx)) {
                None => return self.fail(no_status()),
                Some(Err(status)) => {
                    let code = status.code();
                    // A body breaks off for reasons of the connection; what the service has to say comes in trailers.
                    return self.fail(Failure::upstream(code, "the service broke off its answer"));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.frames.push(data),
                    // Nothing counts after the status.
                    Err(other) => {
                        self.ended = true;
                        self.trailers = other.into_trailers().unwrap_or_default();
                        match status(&self.shared, &self.trailers).unwrap_or_else(|| Err(no_status())) {
                            Ok(()) if self.frames.is_empty() => {}
                            Ok(()) => return self.fail(broken_frame(FrameError::Incomplete)),
                            Err(failure) => return self.fail(failure),
                        }
                    }
                },
            }
        }
    }

    /// The same, to be waited for.
    pub async fn message(&mut self) -> Option<Result<Bytes, Box<Failure>>> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The same while nothing was answered yet, so that a failure has the initial metadata too.
    pub async fn early_message(&mut self) -> Result<Option<Bytes>, Box<Failure>> {
        self.message().await.transpose().map_err(|mut failure| {
            self.shared.headers.failure(&self.head, &mut failure.headers);
            failure
        })
    }

    /// The message of a unary call that went well.
    pub async fn only_message(&mut self) -> Result<Bytes, Box<Failure>> {
        let Some(message) = self.early_message().await? else {
            return Err(Failure::upstream(Code::Internal, "the service answered without a message"));
        };
        match self.early_message().await? {
            None => Ok(message),
            Some(_) => Err(Failure::upstream(Code::Internal, "the service answered with more than one message")),
        }
    }

    fn fail(&mut self, failure: Box<Failure>) -> Poll<Option<Result<Bytes, Box<Failure>>>> {
        self.ended = true;
        self.frames = Deframer::new(0);
        Poll::Ready(Some(Err(failure)))
    }
}

/// The failure that these headers or trailers carry; `None` if they carry no status at all.
fn status(shared: &Shared, from: &HeaderMap) -> Option<Result<(), Box<Failure>>> {
    let code = Code::from_bytes(from.get(&GRPC_STATUS)?.as_bytes());
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = from.get(&GRPC_MESSAGE).map(|v| percent_decode(v.as_bytes()).decode_utf8_lossy().into_owned());
    // Senders may pad or not. Details that cannot be read are left out: the status itself counts.
    let details = from.get(&GRPC_DETAILS).and_then(|v| {
        let text = v.as_bytes().trim_ascii_end();
        let end = text.iter().rposition(|b| *b != b'=').map_or(0, |i| i + 1);
        base64::engine::general_purpose::STANDARD_NO_PAD.decode(text.get(..end)?).ok()
    });
    let status = Status::with_details(code, message.unwrap_or_default(), details.unwrap_or_default().into());
    let mut failure = Failure::from_status(&status);
    shared.headers.response(from, &mut failure.headers);
    Some(Err(failure))
}

/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn check_http_status(status: StatusCode) -> Result<(), Box<Failure>> {
    let code = match status {
        StatusCode::OK => return Ok(()),
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Err(Failure::upstream(code, "the service did not answer in gRPC"))
}

/// The failure for a body that makes no sense.
fn broken_frame(error: FrameError) -> Box<Failure> {
    Failure::upstream(
        Code::Internal,
        match error {
            FrameError::Flags(_) => "the service compressed its answer without being asked",
            FrameError::TooLarge => "the answer of the service is too large",
            FrameError::Incomplete => "the answer of the service ends within a message",
        },
    )
}

fn no_status() -> Box<Failure> {
    Failure::upstream(Code::Unknown, "the answer of the service ended without a status")
}

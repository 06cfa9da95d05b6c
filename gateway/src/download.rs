//! Answers that are bytes: `google.api.HttpBody`, of one message or of a stream of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use tonic::Code;
use tonic::body::Body;

use crate::conditional;
use crate::error::Failure;
use crate::http_body as raw;
use crate::route::plan::Route;
use crate::service::Shared;
use crate::stream::Broken;
use crate::upstream::Answer;

/// Metadata of a service that streams: how many bytes there are in all. Only then can the gateway serve ranges.
const TOTAL: HeaderName = HeaderName::from_static("x-content-length");

fn malformed() -> Box<Failure> {
    Failure::upstream(Code::Internal, "the answer of the service is malformed")
}

/// The head waits for the first message, which tells the content type.
pub(crate) async fn respond(
    shared: &Arc<Shared>,
    route: &Route,
    method: &Method,
    request: &HeaderMap,
    mut answer: Answer,
) -> Result<Response<Body>, Box<Failure>> {
    let streaming = route.rpc.server_streaming;
    let first = match streaming {
        true => answer.early_message().await?.unwrap_or_default(),
        false => answer.only_message().await?,
    };
    let output = shared.codec.schema.message(route.rpc.output);
    let (content_type, data) = raw::read(output, route.response_body, &first).map_err(|_| malformed())?;

    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    shared.headers.response(&answer.head, headers);
    shared.headers.response(&answer.trailers, headers);
    let content_type = if content_type.is_empty() { "application/octet-stream" } else { &content_type };
    let content_type = HeaderValue::try_from(content_type);
    headers.insert(header::CONTENT_TYPE, content_type.map_err(|_| malformed())?);
    // What a service calls a picture, no browser shall take for a page.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

    let total = match streaming {
        true => answer.head.get(&TOTAL).and_then(|v| v.to_str().ok()?.parse().ok()),
        false => Some(data.len() as u64),
    };
    let mut window = (0, None);
    if let Some(part) = answer.head.get(header::CONTENT_RANGE) {
        // The service has cut the range itself.
        headers.insert(header::CONTENT_RANGE, part.clone());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    } else if let Some(total) = total {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let range = conditional::range(method, request, headers, total)?;
        let length = range.map_or(total, |(first, last)| last - first + 1);
        headers.insert(header::CONTENT_LENGTH, length.into());
        if let Some((first, last)) = range {
            let part = HeaderValue::try_from(format!("bytes {first}-{last}/{total}"));
            headers.insert(header::CONTENT_RANGE, part.map_err(|_| crate::error::Rejection::Range(total))?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        window = (range.map_or(0, |(first, _)| first), Some(length));
    }
    *response.body_mut() = if streaming {
        let field = route.response_body;
        let shared = shared.clone();
        let (skip, left) = window;
        Body::new(DownloadBody {
            shared,
            output: route.rpc.output,
            field,
            answer: Some(answer),
            first: Some(data),
            skip,
            left,
        })
    } else {
        let (skip, left) = window;
        let end = left.map_or(u64::MAX, |left| skip.saturating_add(left)).min(data.len() as u64);
        Body::new(Full::new(data.slice(skip as usize..end as usize)))
    };
    Ok(response)
}

/// The bytes of a stream, or a part of them. Dropping it cancels the call.
struct DownloadBody {
    shared: Arc<Shared>,
    output: crate::codec::MessageId,
    field: Option<u16>,
    /// `None` once there is nothing more to be read.
    answer: Option<Answer>,
    first: Option<Bytes>,
    skip: u64,
    /// How many bytes are still to be sent, if that is known.
    left: Option<u64>,
}

impl DownloadBody {
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        let message = ready!(answer.poll_message(cx));
        let output = self.shared.codec.schema.message(self.output);
        Poll::Ready(message.map(|message| {
            let message = message.map_err(|_| Broken)?;
            raw::read(output, self.field, &message).map(|(_, data)| data).map_err(|_| Broken)
        }))
    }

    /// The part of these bytes that is within the range.
    fn cut(&mut self, mut data: Bytes) -> Bytes {
        let skipped = self.skip.min(data.len() as u64);
        self.skip -= skipped;
        data = data.split_off(skipped as usize);
        if let Some(left) = &mut self.left {
            data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= data.len() as u64;
        }
        data
    }
}

impl http_body::Body for DownloadBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        while self.left != Some(0) {
            match ready!(self.next(cx)) {
                // Fewer bytes than the service said that there are.
                None if self.left.is_some() => {
                    self.left = Some(0);
                    return Poll::Ready(Some(Err(Broken)));
                }
                None => return Poll::Ready(None),
                Some(Err(broken)) => {
                    self.left = Some(0);
                    return Poll::Ready(Some(Err(broken)));
                }
                Some(Ok(data)) => {
                    let data = self.cut(data);
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
            }
        }
        // The rest of the stream is not wanted.
        self.answer = None;
        Poll::Ready(None)
    }
}

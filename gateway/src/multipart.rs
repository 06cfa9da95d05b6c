//! `multipart/form-data` (RFC 7578) as the messages of an upload: fields first, then files.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::HeaderMap;
use http::header::{self, HeaderValue};
use multer::{Field, Multipart};

use crate::body::RequestBody;
use crate::client_stream::Messages;
use crate::codec::wire::Writer;
use crate::codec::{CodecError, Problem};
use crate::disposition::Disposition;
use crate::error::Rejection;
use crate::frame;
use crate::params::Given;
use crate::route::plan::{BodyRule, Route};
use crate::service::Shared;
use crate::upload::{self, Fields, UNKNOWN_TYPE};

/// The most parts of a form, files and fields together.
const MAX_PARTS: usize = 1000;

/// How much multer is given at a time. Left alone, it reads all that is ready before it looks at any of it.
const PIECE: usize = 16 << 10;

/// Bound of the headers of a part, and of what stands before the first one, give or take a piece. multer itself has none,
/// and searches all of it again with each piece that comes.
const MAX_HELD: usize = 2 * PIECE;

/// Gives multer one piece at a time.
struct Pieces {
    body: RequestBody,
    rest: Bytes,
    given: bool,
    /// How much multer was given since it last had something to show for it.
    held: Arc<AtomicUsize>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, Rejection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if std::mem::take(&mut this.given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.rest.is_empty() {
            match ready!(this.body.poll_data(cx)) {
                Some(Ok(data)) => this.rest = data,
                other => return Poll::Ready(other),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        if this.held.fetch_add(piece.len(), Ordering::Relaxed) > MAX_HELD {
            return Poll::Ready(Some(Err(Rejection::Multipart("the headers of a part are too long".into()))));
        }
        this.given = true;
        Poll::Ready(Some(Ok(piece)))
    }
}

struct Form {
    shared: Arc<Shared>,
    route: usize,
    parts: Multipart<'static>,
    held: Arc<AtomicUsize>,
    count: usize,
    /// For the first message; `None` once it has gone.
    fields: Option<Fields>,
    given: Given,
    /// How many bytes of text there may still be.
    text_left: usize,
    /// The file that is being read.
    file: Option<Field<'static>>,
    /// What was read of it but is not sent yet.
    rest: Bytes,
}

pub(crate) fn messages(
    shared: Arc<Shared>,
    route: usize,
    body: RequestBody,
    content_type: &str,
    fields: Fields,
    given: Given,
) -> Result<Messages, Rejection> {
    let boundary = multer::parse_boundary(content_type).map_err(malformed)?;
    let held = Arc::new(AtomicUsize::new(0));
    let pieces = Pieces { body, rest: Bytes::new(), given: false, held: held.clone() };
    let (parts, text_left) = (Multipart::new(pieces, boundary), shared.limits.request_bytes);
    let (fields, rest) = (Some(fields), Bytes::new());
    let form = Form { shared, route, parts, held, count: 0, fields, given, text_left, file: None, rest };
    Ok(Box::pin(stream::try_unfold(form, |mut form| async move {
        let message = form.next().await?;
        Ok(message.map(|message| (message, form)))
    })))
}

/// What the body itself refused comes back as it was.
fn malformed(error: multer::Error) -> Rejection {
    match error {
        multer::Error::StreamReadFailed(cause) => cause.downcast().map_or(Rejection::Body, |rejection| *rejection),
        other => Rejection::Multipart(other.to_string()),
    }
}

impl Form {
    async fn next(&mut self) -> Result<Option<Bytes>, Rejection> {
        loop {
            if !self.rest.is_empty() {
                return upload::chunk(&self.shared, self.route, &mut self.rest).map(Some);
            }
            if let Some(file) = &mut self.file {
                match file.chunk().await.map_err(malformed)? {
                    Some(data) => self.rest = data,
                    None => self.file = None,
                }
                self.held.store(0, Ordering::Relaxed);
                continue;
            }
            let part = self.parts.next_field().await.map_err(malformed)?;
            self.held.store(0, Ordering::Relaxed);
            let Some(part) = part else { return self.end() };
            if let Some(message) = self.part(part).await? {
                return Ok(Some(message));
            }
        }
    }

    /// A form without a file is a message without a content type.
    fn end(&mut self) -> Result<Option<Bytes>, Rejection> {
        let Some(fields) = self.fields.take() else { return Ok(None) };
        let message = frame::seal([frame::buffer(0), fields.before, fields.after].concat());
        message.map(Some).ok_or(Rejection::TooLarge(self.shared.limits.upload_bytes))
    }

    /// The message with which a file begins; `None` if the part is a field.
    async fn part(&mut self, part: Field<'static>) -> Result<Option<Bytes>, Rejection> {
        self.count += 1;
        if self.count > MAX_PARTS {
            return Err(Rejection::Multipart(format!("more than {MAX_PARTS} parts")));
        }
        let shared = self.shared.clone();
        let Some(route) = shared.plan.routes.get(self.route) else { return Err(Rejection::Route) };
        let Disposition { name, filename } = Disposition::read(part.headers())?;
        if !is_file(&shared, route, &name) {
            if name.is_empty() {
                return Err(Rejection::Multipart("a part has no name".into()));
            }
            self.text(&shared, route, name, part).await?;
            return Ok(None);
        }
        let first = self.fields.is_some();
        let fields = self.fields.take().unwrap_or_default();
        let nothing = Given::default();
        let given = if first { &self.given } else { &nothing };
        let message = upload::begin_file(&shared, route, fields, part_type(part.headers())?, &filename, given)?;
        self.file = Some(part);
        Ok(Some(message))
    }

    async fn text(
        &mut self,
        shared: &Shared,
        route: &Route,
        name: String,
        mut part: Field<'static>,
    ) -> Result<(), Rejection> {
        let Some(fields) = &mut self.fields else {
            return Err(Rejection::Part { name, problem: "fields must stand before the files" });
        };
        let mut text = Vec::new();
        while let Some(data) = part.chunk().await.map_err(malformed)? {
            self.held.store(0, Ordering::Relaxed);
            let left = self.text_left.checked_sub(data.len());
            self.text_left = left.ok_or(Rejection::TooLarge(shared.limits.request_bytes))?;
            text.extend_from_slice(&data);
        }
        let mut out = Writer::new(Vec::new());
        let text = String::from_utf8(text).map_err(|_| CodecError::from(Problem::Utf8));
        let written = text.and_then(|text| shared.form_field(route, &name, &text, &mut self.given, &mut out));
        written.map_err(|e| e.at_field(&name))?;
        fields.before.extend(out.finish());
        Ok(())
    }
}

/// Where the body is the whole message, there are no fields.
fn is_file(shared: &Shared, route: &Route, name: &str) -> bool {
    let BodyRule::Field(index) = route.body else { return true };
    shared.codec.schema.message(route.rpc.input).by_name(name).is_some_and(|f| f.index == index)
}

fn part_type(headers: &HeaderMap) -> Result<&str, Rejection> {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str).transpose();
    let content_type = content_type.map_err(|_| Rejection::Multipart("the type of a part is not ASCII".into()))?;
    Ok(content_type.unwrap_or(UNKNOWN_TYPE))
}

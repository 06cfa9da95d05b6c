//! Request bodies as client streams: bytes in chunks, forms with files, JSON messages.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;

use crate::BoxError;
use crate::body::RequestBody;
use crate::client_stream::Messages;
use crate::codec::wire::Writer;
use crate::codec::{CodecError, Problem};
use crate::disposition::Disposition;
use crate::error::Rejection;
use crate::frame;
use crate::headers::{is_form_data, is_json, is_json_lines};
use crate::http_body as raw;
use crate::json_stream;
use crate::multipart;
use crate::params::{self, Given};
use crate::route::plan::{FilenameField, Route};
use crate::service::Shared;

/// The most data that one message of an upload holds.
const CHUNK: usize = 64 << 10;

/// The content type of a file that has none (RFC 9110 section 8.3).
pub(crate) const UNKNOWN_TYPE: &str = "application/octet-stream";

/// The wire bytes of what the first message holds beside its body.
#[derive(Default)]
pub(crate) struct Fields {
    /// In front of the body: the query.
    pub before: Vec<u8>,
    /// After the body, which they take precedence over: path and `Last-Event-ID`.
    pub after: Vec<u8>,
}

/// The messages of a client stream. What is wrong with path, query or headers is found before the first of them.
pub(crate) fn messages<B>(
    shared: &Arc<Shared>,
    index: usize,
    segments: &[&str],
    query: Option<&str>,
    headers: &HeaderMap,
    body: B,
) -> Result<Messages, Rejection>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Some(route) = shared.plan.routes.get(index) else { return Err(Rejection::Route) };
    let body = RequestBody::new(body, headers, shared.limits.upload_bytes, shared.limits.body_patience)?;
    let mut before = Writer::new(Vec::new());
    let given = shared.query(route, query, headers, &mut before)?;
    let mut after = Writer::new(Vec::new());
    shared.path(route, segments, &mut after)?;
    shared.last_event_id(route, headers, &mut after)?;
    let fields = Fields { before: before.finish(), after: after.finish() };

    if !route.raw_request {
        let lines = is_json_lines(headers);
        if !lines && !is_json(headers) {
            return Err(Rejection::MediaType("application/json or application/x-ndjson"));
        }
        return Ok(json_stream::messages(shared.clone(), index, body, !lines, fields));
    }
    let content_type = raw::content_type(headers)?;
    if is_form_data(headers) {
        return multipart::messages(shared.clone(), index, body, content_type.unwrap_or_default(), fields, given);
    }
    let disposition = Disposition::read(headers)?;
    let content_type = content_type.unwrap_or(UNKNOWN_TYPE);
    let first = begin_file(shared, route, fields, content_type, &disposition.filename, &given)?;
    Ok(raw_messages(shared.clone(), index, first, body))
}

/// The message that begins a file: it alone has a content type, and it has no data yet, so that the service can refuse
/// the file before it comes.
pub(crate) fn begin_file(
    shared: &Shared,
    route: &Route,
    fields: Fields,
    content_type: &str,
    filename: &str,
    given: &Given,
) -> Result<Bytes, Rejection> {
    let mut out = Writer::new(frame::buffer(fields.before.len() + fields.after.len() + 128));
    out.buf.extend_from_slice(&fields.before);
    raw::write_request(route, Some(content_type), &[], &mut out);
    if let Some(FilenameField { field, name }) = &route.rpc.filename_field
        && !filename.is_empty()
    {
        let written = match given.contains(field) {
            true => Err(Problem::Bound),
            false => params::write(&shared.codec.schema, route.rpc.input, field, filename, &mut out),
        };
        written.map_err(|p| CodecError::from(p).at_field(name))?;
    }
    out.buf.extend_from_slice(&fields.after);
    frame::seal(out.finish()).ok_or(Rejection::TooLarge(shared.limits.upload_bytes))
}

/// A message of data, at most [`CHUNK`] bytes of them, which are taken from the buffer.
pub(crate) fn chunk(shared: &Shared, route: usize, data: &mut Bytes) -> Result<Bytes, Rejection> {
    let Some(route) = shared.plan.routes.get(route) else { return Err(Rejection::Route) };
    let data = data.split_to(data.len().min(CHUNK));
    let mut out = Writer::new(frame::buffer(data.len() + 16));
    raw::write_request(route, None, &data, &mut out);
    frame::seal(out.finish()).ok_or(Rejection::TooLarge(shared.limits.upload_bytes))
}

struct Upload {
    shared: Arc<Shared>,
    route: usize,
    first: Option<Bytes>,
    body: RequestBody,
    /// What was read but is not sent yet.
    rest: Bytes,
}

fn raw_messages(shared: Arc<Shared>, route: usize, first: Bytes, body: RequestBody) -> Messages {
    let upload = Upload { shared, route, first: Some(first), body, rest: Bytes::new() };
    Box::pin(stream::try_unfold(upload, |mut upload| async move {
        let message = upload.next().await?;
        Ok(message.map(|message| (message, upload)))
    }))
}

impl Upload {
    async fn next(&mut self) -> Result<Option<Bytes>, Rejection> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.rest.is_empty() {
            match self.body.data().await.transpose()? {
                Some(data) => self.rest = data,
                None => return Ok(None),
            }
        }
        chunk(&self.shared, self.route, &mut self.rest).map(Some)
    }
}

//! Errors as Connect writes them ("Error and EndStreamResponse").

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::codec::wire::{Raw, Reader, WireError, Writer};
use crate::details;
use crate::error::{Failure, Rejection, code_name, http_status};

/// A refusal with the code that Connect has for it, where that is another than REST's.
pub(super) fn refusal(rejection: Rejection) -> Box<Failure> {
    let code = match rejection {
        Rejection::Encoding => Some(Code::Unimplemented),
        Rejection::TooLarge(_) => Some(Code::ResourceExhausted),
        _ => None,
    };
    let mut failure: Box<Failure> = rejection.into();
    if let Some(code) = code {
        let details = Bytes::copy_from_slice(failure.status.details());
        failure.status = Status::with_details(code, failure.status.message(), details);
    }
    failure
}

/// The response to a unary call. Its HTTP status is the one of the code, whatever REST would say.
pub(super) fn respond(failure: &Failure) -> Response<Body> {
    let body = json(failure).to_string();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http_status(failure.status.code());
    *response.headers_mut() = failure.headers.clone();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Some(delay) = failure.retry_after() {
        headers.insert(header::RETRY_AFTER, delay);
    }
    *response.body_mut() = Body::new(Full::new(Bytes::from(body)));
    response
}

/// The text of the message that ends a stream.
pub(super) fn end_stream(failure: Option<&Failure>, metadata: &HeaderMap) -> String {
    let mut end = Map::new();
    if let Some(failure) = failure {
        end.insert("error".into(), json(failure));
    }
    let mut named = Map::new();
    for name in metadata.keys() {
        let values = metadata.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into());
        named.insert(name.as_str().into(), Value::Array(values.collect()));
    }
    if !named.is_empty() {
        end.insert("metadata".into(), named.into());
    }
    Value::Object(end).to_string()
}

fn json(failure: &Failure) -> Value {
    let mut error = Map::new();
    error.insert("code".into(), code(failure.status.code()).into());
    if !failure.status.message().is_empty() {
        error.insert("message".into(), failure.status.message().into());
    }
    // Details that cannot be read are left out: the status itself counts.
    let details = details(failure.status.details()).unwrap_or_default();
    if !details.is_empty() {
        error.insert("details".into(), details.into());
    }
    Value::Object(error)
}

fn code(code: Code) -> String {
    match code {
        Code::Cancelled => "canceled".into(),
        // No error has it.
        Code::Ok => "unknown".into(),
        other => code_name(other).to_ascii_lowercase(),
    }
}

/// The details of an encoded `google.rpc.Status`.
fn details(status: &[u8]) -> Result<Vec<Value>, WireError> {
    const DETAILS: u32 = 3;
    let mut shown = Vec::new();
    let mut reader = Reader::new(status);
    while let Some((number, wire_type)) = reader.tag()? {
        if let (DETAILS, Raw::Bytes(any)) = (number, reader.value(number, wire_type)?) {
            shown.extend(detail(any)?);
        }
    }
    Ok(shown)
}

/// One detail, or nothing if it is the operator's.
fn detail(any: &[u8]) -> Result<Option<Value>, WireError> {
    let (mut url, mut value): (&[u8], &[u8]) = (b"", b"");
    let mut reader = Reader::new(any);
    while let Some((number, wire_type)) = reader.tag()? {
        match (number, reader.value(number, wire_type)?) {
            (1, Raw::Bytes(bytes)) => url = bytes,
            (2, Raw::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    let url = String::from_utf8_lossy(url);
    let name = url.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || matches!(name, "google.rpc.DebugInfo" | "google.rpc.RequestInfo") {
        return Ok(None);
    }
    let mut detail = json!({ "type": name, "value": STANDARD_NO_PAD.encode(value) });
    if let (Some(debug), Some(detail)) = (debug(any), detail.as_object_mut()) {
        detail.insert("debug".into(), debug);
    }
    Ok(Some(detail))
}

/// The JSON of a detail of `google/rpc/error_details.proto`, for people who read the answer as it is.
fn debug(any: &[u8]) -> Option<Value> {
    let mut status = Writer::new(Vec::with_capacity(any.len() + 8));
    status.tag(3, 2);
    status.bytes(any);
    let status = Status::with_details(Code::Unknown, "", status.finish().into());
    let mut json = details::json(status.get_error_details_vec().first()?)?;
    json.as_object_mut()?.shift_remove("@type");
    Some(json)
}

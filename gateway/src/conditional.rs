//! Conditional and range requests (RFC 9110 sections 13 and 14), by the `etag` and `last-modified` that the service gives
//! as metadata.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use tonic::body::Body;

use crate::error::Rejection;

/// Leaves out what the client has already.
pub(crate) fn not_modified(method: &Method, request: &HeaderMap, response: &mut Response<Body>) {
    if response.status().is_success() && is_known(method, request, response.headers()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_RANGE] {
            response.headers_mut().remove(name);
        }
    }
}

/// Does the client have this representation (section 13.1.2)?
fn is_known(method: &Method, request: &HeaderMap, response: &HeaderMap) -> bool {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    let Some(etag) = response.get(header::ETAG).and_then(|v| v.to_str().ok()) else { return false };
    let mut known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    known.any(|list| list.trim() == "*" || list.split(',').any(|tag| opaque(tag) == opaque(etag)))
}

/// The weak comparison of section 8.8.3.2.
fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Which of `total` bytes the client wants: first and last. `None`: all of them, also where the header makes no sense or
/// asks for several ranges (section 14.2 allows to ignore it), or where [`not_modified`] has the last word (section
/// 13.2.2).
pub(crate) fn range(
    method: &Method,
    request: &HeaderMap,
    response: &HeaderMap,
    total: u64,
) -> Result<Option<(u64, u64)>, Rejection> {
    let range = request.get(header::RANGE).and_then(|v| v.to_str().ok());
    let wanted = *method == Method::GET && !is_known(method, request, response) && if_range(request, response);
    let Some(range) = range.filter(|_| wanted) else { return Ok(None) };
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Ok(None);
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Ok(None);
    }
    // Too many digits for a number are more bytes than there are.
    let number = |t: &str| t.parse::<u64>().unwrap_or(u64::MAX);
    let end = total.checked_sub(1).ok_or(Rejection::Range(total))?;
    match (first, last) {
        ("", "") => Ok(None),
        ("", suffix) if number(suffix) == 0 => Err(Rejection::Range(total)),
        ("", suffix) => Ok(Some((total.saturating_sub(number(suffix)), end))),
        (first, _) if number(first) > end => Err(Rejection::Range(total)),
        (first, "") => Ok(Some((number(first), end))),
        (first, last) if number(last) < number(first) => Ok(None),
        (first, last) => Ok(Some((number(first), number(last).min(end)))),
    }
}

/// A range is only for a client that has a part of the same representation (section 13.1.5).
fn if_range(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(wanted) = request.get(header::IF_RANGE) else { return true };
    let same = |name| response.get(name).is_some_and(|value: &HeaderValue| value == wanted);
    let weak = wanted.as_bytes().starts_with(b"W/");
    !weak && (same(header::ETAG) || same(header::LAST_MODIFIED))
}

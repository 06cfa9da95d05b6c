//! Which headers pass, and deadlines. Everything that is not on a list stays behind.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::error::Rejection;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(crate) struct HeaderRules {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
}

/// What a service may say about the representation (RFC 9110 section 8, RFC 9111, RFC 6266).
const REPRESENTATION: [&str; 5] = ["cache-control", "content-disposition", "content-language", "etag", "last-modified"];

/// Hop-by-hop headers (RFC 9110 section 7.6.1) and those that the gateway sets itself.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [&str; 20] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "grpc-encoding",
        "grpc-message",
        "grpc-status",
        "grpc-status-details-bin",
        "host",
        "keep-alive",
        "proxy-connection",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    RESERVED.contains(&name.as_str())
}

impl HeaderRules {
    pub fn new(request: Vec<HeaderName>, response: Vec<HeaderName>) -> Self {
        let named = |names: &[&'static str], more: Vec<_>| {
            names.iter().map(|n| HeaderName::from_static(n)).chain(more).collect()
        };
        let idempotency = HeaderName::from_static("idempotency-key");
        Self {
            request: named(
                &["authorization", "x-request-id", "accept-language", "user-agent", "traceparent", "tracestate"],
                request.into_iter().chain([idempotency]).collect::<Vec<_>>(),
            ),
            response: named(
                &["x-request-id", "retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"],
                named(&REPRESENTATION, response),
            ),
        }
    }

    /// The metadata of the upstream request, but for the timeout.
    pub fn request(&self, from: &HeaderMap) -> Result<HeaderMap, Rejection> {
        let mut to = HeaderMap::with_capacity(12);
        let nominated = Nominated::new(from);
        for (name, value) in from {
            if !self.request.contains(name) || nominated.names(name) {
                continue;
            }
            if name.as_str().ends_with("-bin") {
                check_binary(name, value)?;
            }
            if to.append(name, value.clone()) && is_single(name) {
                return Err(malformed(name, "to be given once"));
            }
        }
        to.insert(header::TE, HeaderValue::from_static("trailers"));
        to.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(to)
    }

    /// The same for an answer that is a failure after all. What is said with the status counts more, and what holds for the
    /// representation holds for none that has come.
    pub fn failure(&self, head: &HeaderMap, to: &mut HeaderMap) {
        let with_status = std::mem::take(to);
        self.response(head, to);
        REPRESENTATION.iter().for_each(|name| drop(to.remove(*name)));
        to.extend(with_status);
    }

    /// Adds the metadata that clients may see; trailers replace headers of the same name.
    pub fn response(&self, from: &HeaderMap, to: &mut HeaderMap) {
        // An answer has few headers, the list may have many.
        for name in from.keys().filter(|name| self.response.contains(name)) {
            let mut values = from.get_all(name).iter();
            if let Some(first) = values.next() {
                to.insert(name, first.clone());
                for value in values {
                    to.append(name, value.clone());
                }
            }
        }
    }
}

/// What a service needs to know that serves ranges and answers conditional requests itself.
pub(crate) fn copy_conditions(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}

/// Of two values a proxy may have believed one and the service the other (CVE-2021-41130).
fn is_single(name: &HeaderName) -> bool {
    matches!(name.as_str(), "authorization" | "idempotency-key" | "traceparent" | "x-request-id")
}

/// Binary metadata is base64, with or without padding, perhaps several values with commas between them (gRPC over
/// HTTP/2, "Custom-Metadata").
fn check_binary(name: &HeaderName, value: &HeaderValue) -> Result<(), Rejection> {
    let valid = value.as_bytes().split(|b| *b == b',').all(|part| {
        let part = part.trim_ascii();
        let end = part.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1);
        STANDARD_NO_PAD.decode(part.get(..end).unwrap_or_default()).is_ok()
    });
    if valid { Ok(()) } else { Err(malformed(name, "base64")) }
}

/// Headers that `Connection` makes hop-by-hop for this request.
struct Nominated<'h>(Vec<&'h str>);

impl<'h> Nominated<'h> {
    fn new(from: &'h HeaderMap) -> Self {
        let values = from.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
        Self(values.flat_map(|v| v.split(',')).map(str::trim).collect())
    }

    fn names(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|n| n.eq_ignore_ascii_case(name.as_str()))
    }
}

fn malformed(header: &HeaderName, expected: &'static str) -> Rejection {
    Rejection::Header { name: header.clone(), expected }
}

/// How much later than the client's deadline the gateway gives up: the service should be the one to say that it is over.
pub(crate) const GRACE: Duration = Duration::from_millis(250);

/// How long the client wants to wait: `grpc-timeout`, or else `x-request-timeout` in seconds, such as `2.5`.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Rejection> {
    if let Some(value) = headers.get(&GRPC_TIMEOUT) {
        let bad = || malformed(&GRPC_TIMEOUT, "at most eight digits and a unit");
        return grpc_timeout(value.as_bytes()).map(Some).ok_or_else(bad);
    }
    let Some(value) = headers.get(&REQUEST_TIMEOUT) else { return Ok(None) };
    let nanos = value.to_str().ok().and_then(decimal_nanos);
    nanos.map(Some).ok_or_else(|| malformed(&REQUEST_TIMEOUT, "seconds, such as 2.5"))
}

/// Reads the header `grpc-timeout` (gRPC over HTTP/2, "Timeout"): at most eight digits and one of the units `HMSmun`.
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The header for a timeout, in the finest unit that holds it.
pub(crate) fn write_timeout(timeout: Duration) -> HeaderValue {
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let nanos = timeout.as_nanos();
    let fits = UNITS.iter().map(|(size, unit)| (nanos / size, unit)).find(|(value, _)| *value < 100_000_000);
    // More hours than eight digits can say are the same as for ever.
    let (value, unit) = fits.unwrap_or((99_999_999, &'H'));
    HeaderValue::try_from(format!("{value}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

/// Nanoseconds are the finest that there is; more than twelve digits of seconds are refused.
fn decimal_nanos(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 12 || fraction.len() > 9 {
        return None;
    }
    let nanos = fraction.parse::<u32>().ok()?.checked_mul(10u32.pow(9 - fraction.len() as u32))?;
    Some(Duration::new(whole.parse().ok()?, nanos))
}

/// What a client takes (RFC 9110, section 12.5.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Accept {
    pub json: Wish,
    pub events: Wish,
    pub lines: Wish,
}

/// How much a client wants a media type, by the closest of its ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wish {
    pub range: Range,
    /// In thousandths; 0: not at all.
    pub quality: u16,
}

/// How close a media range is to a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Range {
    #[default]
    None,
    /// `*/*`
    Any,
    /// `application/*`
    Types,
    /// What ends in `+json`, for JSON.
    Suffix,
    Type,
}

impl Accept {
    /// Without the header, anything will do.
    pub fn new(headers: &HeaderMap) -> Self {
        let mut accept = Self::default();
        if !headers.contains_key(header::ACCEPT) {
            accept.add("*/*", 1000);
        }
        accepted(headers).for_each(|(range, quality)| accept.add(range, quality));
        accept
    }

    fn add(&mut self, range: &str, quality: u16) {
        let is = |name: &str| range.eq_ignore_ascii_case(name);
        let Self { json, events, lines } = self;
        let is_suffixed = |range: &str| range.starts_with("application/") && range.ends_with("+json");
        let hear = |wish: &mut Wish, range| *wish = (*wish).max(Wish { range, quality });
        if is("*/*") {
            for wish in [json, events, lines] {
                hear(wish, Range::Any);
            }
        } else if is("application/*") {
            for wish in [json, lines] {
                hear(wish, Range::Types);
            }
        } else if is("text/*") {
            hear(events, Range::Types);
        } else if is("text/event-stream") {
            hear(events, Range::Type);
        } else if is("application/x-ndjson") || is("application/ndjson") {
            hear(lines, Range::Type);
        } else if is("application/json") {
            hear(json, Range::Type);
        } else if is_suffixed(&range.to_ascii_lowercase()) {
            hear(json, Range::Suffix);
        }
    }
}

/// The media ranges of `Accept` and their quality, in thousandths.
pub(crate) fn accepted(headers: &HeaderMap) -> impl Iterator<Item = (&str, u16)> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
        let quality = quality.and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        (media, (quality.clamp(0.0, 1.0) * 1000.0).round() as u16)
    })
}

/// The type of the request body in lower case, without parameters; empty if there is none.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// May this body be read as JSON? No content type is taken for it, and neither is the one of HTML forms, which `curl -d`
/// and `wget` put there unasked; no route reads forms of that type.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let media = media_type(headers);
    matches!(media.as_str(), "application/json" | "application/x-www-form-urlencoded")
        || (media.contains('/') && media.ends_with("+json"))
        || !headers.contains_key(header::CONTENT_TYPE)
}

/// Newline-delimited JSON, for which there is no registered type.
pub(crate) fn is_json_lines(headers: &HeaderMap) -> bool {
    matches!(media_type(headers).as_str(), "application/x-ndjson" | "application/ndjson")
}

pub(crate) fn is_form_data(headers: &HeaderMap) -> bool {
    media_type(headers) == "multipart/form-data"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_passed_on_in_the_finest_unit_that_fits() {
        let convert = |text| decimal_nanos(text).map(|t| write_timeout(t).to_str().unwrap_or("").to_owned());
        assert_eq!(convert("2.5").as_deref(), Some("2500000u"));
        assert_eq!(convert("0.000000001").as_deref(), Some("1n"));
        assert_eq!(convert("100").as_deref(), Some("100000m"));
        assert_eq!(convert("999999999999").as_deref(), Some("99999999H"));
        for bad in ["", "-1", "1e3", "99999999999999999999", "1.", ".5", "NaN", "1.0000000001"] {
            assert_eq!(convert(bad), None, "{bad}");
        }
    }

    #[test]
    fn grpc_timeouts_are_eight_digits_and_a_unit() {
        assert_eq!(grpc_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(grpc_timeout(b"5m"), Some(Duration::from_millis(5)));
        for bad in [&b""[..], b"5", b"m", b"123456789m", b"-1S", b"1s", b"1 S"] {
            assert_eq!(grpc_timeout(bad), None, "{bad:?}");
        }
    }
}

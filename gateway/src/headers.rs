//! Which headers pass, and deadlines. Everything that is not on a list stays behind.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::error::Rejection;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(crate) struct HeaderRules {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
}

/// Hop-by-hop headers (RFC 9110 section 7.6.1) and those that the gateway sets itself.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [&str; 15] = [
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
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    RESERVED.contains(&name.as_str())
}

impl HeaderRules {
    pub fn new(request: Vec<HeaderName>, response: Vec<HeaderName>) -> Self {
        let named =
            |names: &[&'static str], more| names.iter().map(|n| HeaderName::from_static(n)).chain(more).collect();
        let idempotency = HeaderName::from_static("idempotency-key");
        Self {
            request: named(
                &[
                    "authorization",
                    "x-request-id",
                    "accept-language",
                    "user-agent",
                    "grpc-timeout",
                    "traceparent",
                    "tracestate",
                ],
                request.into_iter().chain([idempotency]).collect::<Vec<_>>(),
            ),
            response: named(
                &["x-request-id", "retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"],
                response,
            ),
        }
    }

    /// The metadata of the upstream request.
    pub fn request(&self, from: &HeaderMap) -> Result<HeaderMap, Rejection> {
        let mut to = HeaderMap::with_capacity(12);
        let nominated = Nominated::new(from);
        for (name, value) in from {
            if self.request.contains(name) && !nominated.names(name) {
                to.append(name, value.clone());
            }
        }
        if let Some(timeout) = to.get(&GRPC_TIMEOUT) {
            check_grpc_timeout(timeout)?;
        }
        if let Some(timeout) = from.get(&REQUEST_TIMEOUT) {
            let timeout = grpc_timeout(timeout)?;
            // The client's own grpc-timeout says the same thing in the upstream's words.
            if !to.contains_key(&GRPC_TIMEOUT) {
                to.insert(GRPC_TIMEOUT, timeout);
            }
        }
        to.insert(header::TE, HeaderValue::from_static("trailers"));
        to.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(to)
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

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn check_grpc_timeout(value: &HeaderValue) -> Result<(), Rejection> {
    match value.as_bytes().split_last() {
        Some((b'H' | b'M' | b'S' | b'm' | b'u' | b'n', digits))
            if (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
        {
            Ok(())
        }
        _ => Err(malformed(&GRPC_TIMEOUT, "at most eight digits and a unit")),
    }
}

/// Decimal seconds to a gRPC timeout, in the finest unit that holds it.
fn grpc_timeout(seconds: &HeaderValue) -> Result<HeaderValue, Rejection> {
    let bad = || malformed(&REQUEST_TIMEOUT, "seconds, such as 2.5");
    let nanos = seconds.to_str().ok().and_then(decimal_nanos).ok_or_else(bad)?;
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let (value, unit) =
        UNITS.iter().map(|(size, unit)| (nanos / size, unit)).find(|(v, _)| *v < 100_000_000).ok_or_else(bad)?;
    HeaderValue::try_from(format!("{value}{unit}")).map_err(|_| bad())
}

fn decimal_nanos(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 12 || fraction.len() > 9 {
        return None;
    }
    let fraction = fraction.parse::<u128>().ok()?.checked_mul(10u128.pow(9 - fraction.len() as u32))?;
    whole.parse::<u128>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// Anything at all will do.
    pub any: bool,
    pub json: bool,
    pub events: bool,
    pub lines: bool,
}

impl Accept {
    pub fn new(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::ACCEPT).iter().peekable();
        let mut accept = Self { any: false, json: false, events: false, lines: false };
        if values.peek().is_none() {
            return Self { any: true, json: true, lines: true, ..accept };
        }
        for range in values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
            accept.add(range.trim());
        }
        accept
    }

    fn add(&mut self, range: &str) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|p| p.strip_prefix("q=").is_some_and(|q| q.parse::<f32>() == Ok(0.0)));
        if refused {
            return;
        }
        match media.as_str() {
            "text/event-stream" => self.events = true,
            "application/x-ndjson" | "application/ndjson" => self.lines = true,
            "*/*" => (self.any, self.json, self.lines) = (true, true, true),
            "application/*" | "application/json" => (self.json, self.lines) = (true, true),
            other if other.starts_with("application/") && other.ends_with("+json") => self.json = true,
            _ => {}
        }
    }
}

/// May this body be read as JSON? No content type is taken for it, and neither is the one of HTML forms, which `curl -d`
/// and `wget` put there unasked; no route reads forms.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(media.as_str(), "application/json" | "application/x-www-form-urlencoded")
        || (media.contains('/') && media.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_the_finest_timeout_that_fits() {
        let convert =
            |text| grpc_timeout(&HeaderValue::from_static(text)).ok().map(|v| v.to_str().unwrap_or("").to_owned());
        assert_eq!(convert("2.5").as_deref(), Some("2500000u"));
        assert_eq!(convert("0.000000001").as_deref(), Some("1n"));
        assert_eq!(convert("100").as_deref(), Some("100000m"));
        for bad in ["", "-1", "1e3", "99999999999999999999", "1.", ".5", "NaN", "1.0000000001", "999999999999"] {
            assert_eq!(convert(bad), None, "{bad}");
        }
    }
}

//! The opening handshake (RFC 6455, section 4.2) and the client's credential.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Options;
use crate::error::Rejection;

const BEARER: &str = "bearer.";

/// What the frames hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Text frames of ProtoJSON.
    Json,
    /// Binary frames of protobuf.
    Proto,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "rialto.json.v1",
            Self::Proto => "rialto.proto.v1",
        }
    }
}

pub(crate) struct Handshake {
    /// `Sec-WebSocket-Accept`.
    pub accept: HeaderValue,
    pub protocol: Protocol,
    /// For the upstream, if it did not come as the header of that name.
    pub authorization: Option<HeaderValue>,
}

impl Handshake {
    pub fn read(headers: &HeaderMap, options: &Options) -> Result<Self, Rejection> {
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Rejection::Upgrade);
        }
        let key = only(headers, header::SEC_WEBSOCKET_KEY);
        let key = key.filter(|key| STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16));
        let key = key.ok_or_else(|| refused(header::SEC_WEBSOCKET_KEY, "16 bytes of base64, once"))?;
        let accept = derive_accept_key(key.as_bytes());

        let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let offers: Vec<&str> = offers.flat_map(|value| value.split(',')).map(str::trim).collect();
        let known = [Protocol::Json, Protocol::Proto];
        let protocol = offers.iter().find_map(|offer| known.into_iter().find(|known| known.name() == *offer));
        let bearers = offers.iter().filter_map(|offer| offer.strip_prefix(BEARER));
        let none = || refused(header::SEC_WEBSOCKET_PROTOCOL, "rialto.json.v1 or rialto.proto.v1");
        Ok(Self {
            accept: HeaderValue::try_from(accept).map_err(|_| Rejection::Upgrade)?,
            protocol: protocol.ok_or_else(none)?,
            authorization: authorization(headers, bearers, options)?,
        })
    }
}

/// From the subprotocol entry or the cookie. Of two credentials a proxy could believe one and the service the other.
fn authorization<'h>(
    headers: &'h HeaderMap,
    bearers: impl Iterator<Item = &'h str>,
    options: &Options,
) -> Result<Option<HeaderValue>, Rejection> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter().count();
    let mut token = None;
    for bearer in bearers {
        given += 1;
        token = Some((header::SEC_WEBSOCKET_PROTOCOL, bearer));
    }
    for cookie in cookies(headers, options.cookie.as_deref()) {
        given += 1;
        token = Some((header::COOKIE, cookie));
    }
    if given > 1 {
        return Err(refused(header::AUTHORIZATION, "one credential: this header, a cookie or a subprotocol"));
    }
    let Some((from, token)) = token else { return Ok(None) };
    if from == header::COOKIE && !is_allowed(only(headers, header::ORIGIN), &options.origins) {
        return Err(Rejection::Origin);
    }
    let value = Some(token).filter(|token| is_token(token)).map(|token| format!("Bearer {token}"));
    let mut value =
        value.and_then(|value| HeaderValue::try_from(value).ok()).ok_or_else(|| refused(from, "a token"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The values of the cookie (RFC 6265, section 4.2); an empty one is none.
fn cookies<'h>(headers: &'h HeaderMap, name: Option<&'h str>) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, value)| Some(*key) == name && !value.is_empty()).map(|(_, value)| value)
}

fn is_allowed(origin: Option<&HeaderValue>, origins: &[String]) -> bool {
    origin.is_some_and(|origin| origins.iter().any(|allowed| origin == allowed.as_str()))
}

/// `token68` of RFC 9110, section 11.2.
fn is_token(text: &str) -> bool {
    let text = text.trim_end_matches('=');
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn refused(name: HeaderName, expected: &'static str) -> Rejection {
    Rejection::Header { name, expected }
}

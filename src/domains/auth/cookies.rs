//! Sessions of browsers: the tokens are in cookies that no script reads (RFC 6265bis).
//!
//! A browser sends cookies whatever page asks, so a call by cookie has to prove that the page may: by its origin, by a body
//! that no form can send, and, where it changes something, by a CSRF token of the session. The gate asks for that
//! ([`Sessions::authenticate_cookie`]), and so do the public methods here that take or give cookies. docs/browsers.md says
//! how a page does it, and why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chrono::Duration;
use diesel_async::AsyncConnection;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tonic::Extensions;
use uuid::Uuid;

use super::login::Tokens;
use super::model::{RefreshToken, Session};
use super::service::{AuthService, BEARER};
use super::sessions::Sessions;
use super::tokens::Keys;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::account::v1::SessionEndReason;

/// The cookie of the access token. The prefix makes browsers take it only from this very host, over TLS or on loopback, and
/// for every path.
pub const ACCESS: &str = "__Host-rialto-access";
/// The cookie of the refresh token. The prefix wants `Path=/`, so browsers send it with every request; Refresh, GetCsrfToken
/// and the logins are all that looks at it.
pub const REFRESH: &str = "__Host-rialto-refresh";
/// The cookie of the device token, which logging out leaves.
const DEVICE: &str = "__Host-rialto-device";
/// The header that a page puts its CSRF token into.
pub const CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");
/// What an entry of `Sec-WebSocket-Protocol` begins with that holds a CSRF token: scripts can't set headers of a WebSocket.
const CSRF_PROTOCOL: &str = "csrf.";

/// Longer values are not ours.
const MAX_ACCESS_BYTES: usize = 4096;
const MAX_TOKEN_BYTES: usize = 256;
/// Browsers keep no cookie for much longer.
const DEVICE_SECONDS: i64 = 365 * 24 * 3600;
/// For how long a used refresh cookie is taken for that of another tab, which was sent at the same time.
const SUPERSEDED: Duration = Duration::seconds(10);

/// What a browser says with a request, besides the call, and the cookies that go with the answer. The ways in that browsers
/// have put it into the extensions of each request; native gRPC does not, so that there are no cookies.
pub struct Browser {
    access: Given,
    refresh: Given,
    device: Given,
    csrf_token: Option<Box<str>>,
    manner: Manner,
    /// Set when the access cookie is what the caller was let in by.
    credential: OnceLock<()>,
    set: Mutex<BTreeMap<&'static str, HeaderValue>>,
}

/// How a request came, as far as it matters to cookies.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Its page is of an origin that may speak for the user.
    pub trusted_origin: bool,
    /// It has a body that a form of any page could send, without the browser asking first (Fetch standard,
    /// "CORS-safelisted request-header").
    pub form: bool,
    /// It came by GET or HEAD, which links and images can send too.
    pub safe_method: bool,
}

/// A cookie of a request.
enum Given {
    None,
    Once(Box<str>),
    /// It is there more than once, or is nothing that we have set. No browser that keeps to `__Host-` sends that.
    Bad,
}

impl Given {
    /// Reads a cookie (RFC 6265bis, section 5.8.3). HTTP/2 may split the header (RFC 9113, section 8.2.3).
    fn read(headers: &HeaderMap, name: &str, max_bytes: usize) -> Self {
        let pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
        let mut found = pairs.filter_map(|pair| {
            let mut parts = pair.splitn(2, |b| *b == b'=');
            let (key, value) = (parts.next()?, parts.next()?);
            (key.trim_ascii() == name.as_bytes()).then(|| value.trim_ascii())
        });
        let Some(value) = found.next() else { return Self::None };
        let ours = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        match std::str::from_utf8(value) {
            Ok(text) if found.next().is_none() && (1..=max_bytes).contains(&text.len()) && value.iter().all(ours) => {
                Self::Once(text.into())
            }
            _ => Self::Bad,
        }
    }

    fn token(&self) -> Result<Option<&str>, Error> {
        match self {
            Self::None => Ok(None),
            Self::Once(token) => Ok(Some(token)),
            Self::Bad => Err(Error::new(Reason::TokenInvalid, "the cookie is there twice, or is not one of ours")),
        }
    }
}

impl Browser {
    /// Of a request. An `authorization` header decides alone: with one, no cookie is looked at.
    pub fn new(headers: &HeaderMap, manner: Manner) -> Self {
        let read = |name, max_bytes| match headers.contains_key(header::AUTHORIZATION) {
            true => Given::None,
            false => Given::read(headers, name, max_bytes),
        };
        Self {
            access: read(ACCESS, MAX_ACCESS_BYTES),
            refresh: read(REFRESH, MAX_TOKEN_BYTES),
            device: read(DEVICE, MAX_TOKEN_BYTES),
            csrf_token: csrf_token(headers),
            manner,
            credential: OnceLock::new(),
            set: Mutex::default(),
        }
    }

    /// The browser behind a request, if it came by a way that has cookies.
    pub fn of(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }

    /// The browser behind a request whose caller was let in by its cookie.
    pub fn let_in(extensions: &Extensions) -> Option<Arc<Self>> {
        Self::of(extensions).filter(|browser| browser.credential.get().is_some())
    }

    /// The browser behind a login that wants cookies.
    pub fn wanted(extensions: &Extensions, cookie: bool) -> Result<Option<Arc<Self>>, Error> {
        if !cookie {
            return Ok(None);
        }
        let none = || Error::invalid_field("cookie", "native gRPC takes and gives no cookies");
        let browser = Self::of(extensions).ok_or_else(none)?;
        browser.require_trust()?;
        Ok(Some(browser))
    }

    /// Whether the request has cookies of a session.
    pub fn has_session(&self) -> bool {
        !matches!((&self.access, &self.refresh), (Given::None, Given::None))
    }

    /// Forgets the session's cookies.
    pub fn clear(&self) {
        self.set(ACCESS, "", 0);
        self.set(REFRESH, "", 0);
    }

    /// Adds `Set-Cookie` to the head of the answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        for cookie in self.set.lock().unwrap_or_else(PoisonError::into_inner).values() {
            headers.append(header::SET_COOKIE, cookie.clone());
        }
    }

    fn set(&self, name: &'static str, value: &str, seconds: i64) {
        let cookie = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={seconds}");
        // Tokens are base64url and dots.
        if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
            cookie.set_sensitive(true);
            self.set.lock().unwrap_or_else(PoisonError::into_inner).insert(name, cookie);
        }
    }

    /// Refuses pages that may not speak for the user, and what a form could have sent.
    fn require_trust(&self) -> Result<(), Error> {
        if !self.manner.trusted_origin {
            tracing::warn!("a page of an origin that is not trusted has called by cookie");
            let message = "pages of this origin may not call by cookie (Origin, or else Sec-Fetch-Site)";
            return Err(Error::new(Reason::OriginNotAllowed, message));
        }
        if self.manner.form {
            let message =
                "by cookie, the content type can't be one that a form sends, or missing: application/json is good";
            return Err(Error::new(Reason::UnsupportedMediaType, message));
        }
        Ok(())
    }

    /// Refuses what no method that only reads, or changes something, may be called like.
    fn require_manner(&self, read_only: bool) -> Result<(), Error> {
        self.require_trust()?;
        if self.manner.safe_method && !read_only {
            return Err(Error::new(
                Reason::MethodNotAllowed,
                "by cookie, what changes something can't be called by GET",
            ));
        }
        Ok(())
    }

    fn require_csrf(&self, keys: &Keys, session_id: Uuid) -> Result<(), Error> {
        let checked = keys.csrf.require(session_id, self.csrf_token.as_deref());
        checked.inspect_err(|_| tracing::warn!(session = %session_id, "a call by cookie had no good CSRF token"))
    }

    /// Makes the browser forget what is refused for good.
    fn forget(&self, refused: Error) -> Error {
        match refused.reason {
            // The refresh cookie may still be good.
            Reason::TokenExpired | Reason::TokenInvalid => self.set(ACCESS, "", 0),
            Reason::SessionRevoked | Reason::AccountNotActive => self.clear(),
            _ => {}
        }
        refused
    }

    /// The same when it is the refresh cookie that is refused, without which there is no session for long.
    fn forget_all(&self, refused: Error) -> Error {
        if matches!(refused.reason, Reason::TokenExpired | Reason::TokenInvalid | Reason::SessionRevoked) {
            self.clear();
        }
        refused
    }
}

/// The device token of a login: the one that the request names, or that the browser keeps.
pub fn device_token(named: String, browser: Option<&Browser>) -> String {
    match browser.map(|browser| &browser.device) {
        Some(Given::Once(kept)) if named.is_empty() => kept.to_string(),
        _ => named,
    }
}

/// The CSRF token of a request, if there is one and only one.
fn csrf_token(headers: &HeaderMap) -> Option<Box<str>> {
    let header = headers.get_all(CSRF_TOKEN).iter().filter_map(|value| value.to_str().ok());
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offers = offers.flat_map(|value| value.split(',')).filter_map(|offer| offer.trim().strip_prefix(CSRF_PROTOCOL));
    let mut tokens = header.chain(offers);
    tokens.next().filter(|token| tokens.next().is_none() && token.len() <= MAX_TOKEN_BYTES).map(Into::into)
}

impl Sessions {
    /// The caller behind a browser's access cookie, for a method that only reads or changes something.
    pub async fn authenticate_cookie(&self, browser: &Browser, read_only: bool) -> Result<Caller, Error> {
        browser.require_manner(read_only)?;
        let token = browser.access.token().map_err(|refused| browser.forget(refused))?;
        let missing = || match browser.refresh {
            Given::None => Error::new(Reason::Unauthorized, "credentials are needed: log in"),
            _ => Error::new(Reason::TokenExpired, "the access cookie has expired; call Refresh"),
        };
        let token = token.ok_or_else(missing)?;
        let caller = self.authenticate(token).await.map_err(|refused| browser.forget(refused))?;
        if !read_only {
            browser.require_csrf(&self.keys, caller.session_id)?;
        }
        let _ = browser.credential.set(());
        Ok(caller)
    }
}

/// What the body of an answer says of new tokens: all of it, or, when they are in cookies, how long they are good.
#[derive(Default)]
pub struct HandedOut {
    pub access_token: String,
    pub refresh_token: String,
    pub token_type: String,
    pub expires_in: i32,
    pub csrf_token: String,
}

impl AuthService {
    /// Hands out new tokens of a session: in the body, or to a browser in its cookies.
    pub(super) fn hand_out(&self, tokens: Tokens, browser: Option<&Browser>) -> Result<HandedOut, Error> {
        let expires_in = tokens.expires_in;
        let Some(browser) = browser else {
            let Tokens { access: access_token, refresh: refresh_token, .. } = tokens;
            let token_type = BEARER.into();
            return Ok(HandedOut { access_token, refresh_token, token_type, expires_in, ..Default::default() });
        };
        browser.set(ACCESS, &tokens.access, expires_in.into());
        browser.set(REFRESH, &tokens.refresh, tokens.refresh_expires_in);
        let csrf_token = self.keys.csrf.issue(tokens.session_id, self.app.rng.bytes()?);
        Ok(HandedOut { expires_in, csrf_token, ..Default::default() })
    }

    /// Hands out what a login has made, and a browser's earlier session ends; returns what the body says, and what of the
    /// device's token.
    pub async fn hand_out_login(
        &self,
        tokens: Tokens,
        device_token: String,
        browser: Option<&Browser>,
    ) -> Result<(HandedOut, String), Error> {
        let handed = self.hand_out(tokens, browser)?;
        let Some(browser) = browser else { return Ok((handed, device_token)) };
        browser.set(DEVICE, &device_token, DEVICE_SECONDS);
        self.end_replaced(browser).await?;
        Ok((handed, String::new()))
    }

    /// Ends the session whose cookies a login replaces (OWASP ASVS 5.0, 7.2.4).
    async fn end_replaced(&self, browser: &Browser) -> Result<(), Error> {
        let Given::Once(token) = &browser.refresh else { return Ok(()) };
        let mut conn = self.app.db.get().await?;
        let Some(session) = RefreshToken::session(&mut conn, token).await? else { return Ok(()) };
        let (why, now) = (SessionEndReason::Replaced, self.app.clock.now());
        let told = conn.transaction(async |conn| Session::revoke(conn, session.id, why, now).await).await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(session.account_id).await;
        Ok(())
    }

    /// The tokens that a browser's refresh cookie is exchanged for, and whose they are.
    pub(super) async fn renew_cookie(&self, browser: &Browser) -> Result<(Uuid, Tokens), Error> {
        browser.require_trust()?;
        let (session, token) = self.refreshable(browser).await?;
        browser.require_csrf(&self.keys, session.id)?;
        self.renew(token, Some(SUPERSEDED)).await.map_err(|refused| browser.forget_all(refused))
    }

    /// A CSRF token for the session of a browser's cookies; empty where there are none.
    pub(super) async fn csrf_token(&self, browser: Option<&Browser>) -> Result<String, Error> {
        let Some(browser) = browser.filter(|browser| browser.has_session()) else { return Ok(String::new()) };
        let session_id = match self.sessions.authenticate_cookie(browser, true).await {
            Ok(caller) => caller.session_id,
            Err(refused) if matches!(refused.reason, Reason::TokenExpired | Reason::TokenInvalid) => {
                self.refreshable(browser).await?.0.id
            }
            Err(refused) => return Err(refused),
        };
        Ok(self.keys.csrf.issue(session_id, self.app.rng.bytes()?))
    }

    /// The session of a browser's refresh cookie. Whether that is still good is not looked at, except that the session is.
    async fn refreshable<'b>(&self, browser: &'b Browser) -> Result<(Session, &'b str), Error> {
        let found = async {
            let none = || Error::new(Reason::Unauthorized, "there is no refresh cookie: log in");
            let token = browser.refresh.token()?.ok_or_else(none)?;
            let session = RefreshToken::session(&mut *self.app.db.get().await?, token).await?;
            let unknown = || Error::new(Reason::TokenInvalid, "the refresh cookie is not valid");
            let session = session.ok_or_else(unknown)?;
            let ended = || Error::new(Reason::SessionRevoked, "the session has ended");
            if session.is_live(self.app.clock.now()) { Ok((session, token)) } else { Err(ended()) }
        };
        found.await.map_err(|refused| browser.forget_all(refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn cookie(values: &[&'static str]) -> Option<Option<String>> {
        let headers = headers(&values.iter().map(|value| (header::COOKIE, *value)).collect::<Vec<_>>());
        Given::read(&headers, "a", 8).token().ok().map(|token| token.map(ToOwned::to_owned))
    }

    #[test]
    fn a_cookie_is_read_once_by_its_exact_name() {
        let once = |value: &str| Some(Some(value.to_owned()));
        assert_eq!(cookie(&["a=x"]), once("x"));
        assert_eq!(cookie(&["b=y;a= x.-_ ;c"]), once("x.-_"));
        assert_eq!(cookie(&["b=a=z", "a=x"]), once("x"));
        for none in [&[][..], &["A=x"], &["aa=x; ba=x"], &["a"], &["b=\"; c=y"]] {
            assert_eq!(cookie(none), Some(None), "{none:?}");
        }
        for bad in
            [&["a=x; a=x"][..], &["a=x", "a=x"], &["a=; a=x"], &["a="], &["a=\"x\""], &["a=123456789"], &["a=a=b"]]
        {
            assert_eq!(cookie(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn by_cookie_a_get_changes_nothing_whatever_the_contract_maps_to_it() {
        let manner = |safe_method| Manner { trusted_origin: true, form: false, safe_method };
        let refused = |safe_method, read_only| {
            let browser = Browser::new(&HeaderMap::new(), manner(safe_method));
            browser.require_manner(read_only).err().map(|refused| refused.reason)
        };
        assert_eq!(refused(true, false), Some(Reason::MethodNotAllowed));
        assert_eq!((refused(true, true), refused(false, false)), (None, None));
    }

    #[test]
    fn a_csrf_token_comes_once_by_header_or_subprotocol() {
        let token = |pairs: &[(HeaderName, &'static str)]| csrf_token(&headers(pairs)).map(String::from);
        let protocols = || (header::SEC_WEBSOCKET_PROTOCOL, "rialto.json.v1, csrf.abc");
        assert_eq!(token(&[(CSRF_TOKEN, "abc")]).as_deref(), Some("abc"));
        assert_eq!(token(&[protocols()]).as_deref(), Some("abc"));
        assert_eq!(token(&[(CSRF_TOKEN, "abc"), (CSRF_TOKEN, "abc")]), None);
        assert_eq!(token(&[(CSRF_TOKEN, "abc"), protocols()]), None);
    }
}

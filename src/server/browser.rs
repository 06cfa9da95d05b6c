//! What a request says of the page behind it, in front of the ways in that browsers have: its cookies, whether its origin may
//! use them, and whether a form could have sent it. Native gRPC does not come through here, and so has no cookies.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::ensure;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Request, Response, header};
use tonic::body::Body;
use tower::{Service, ServiceExt};

use crate::domains::auth::{Browser, CSRF_TOKEN, Manner};
use crate::kernel::caller::{RequestRecord, Transport};
use crate::kernel::config;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origins whose pages may speak for a user by cookie, besides the one that the request itself was sent to.
#[derive(Clone)]
pub struct Origins(Arc<[String]>);

impl Origins {
    /// Those that the configuration names. `*` names none.
    pub fn new(config: &config::Server) -> anyhow::Result<Self> {
        let mut named = Vec::new();
        for origin in config.cors_origins.iter().filter(|origin| *origin != "*") {
            let problem = "is not an origin as browsers write it, such as https://app.example.com, or `*`";
            ensure!(is_origin(origin), "server.cors_origins: {origin:?} {problem}");
            named.push(origin.clone());
        }
        // Where people reach the product is one of its pages.
        let mut parts = config.public_url.splitn(4, '/');
        if let (Some(scheme), Some(""), Some(host)) = (parts.next(), parts.next(), parts.next()) {
            named.push(format!("{scheme}//{host}").to_ascii_lowercase());
        }
        Ok(Self(named.into()))
    }

    /// Whether the page may use cookies: by `Origin`, which browsers send with everything but what the same origin only
    /// gets, and without it by `Sec-Fetch-Site`. What names neither is from no browser of this decade, and is not trusted.
    fn trusts<B>(&self, request: &Request<B>) -> bool {
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            let mut sites = request.headers().get_all(SEC_FETCH_SITE).iter();
            // `none` is what the user has typed.
            return sites.next().is_some_and(|site| site == "same-origin" || site == "none") && sites.next().is_none();
        };
        let Some(origin) = origin.to_str().ok().filter(|_| origins.next().is_none()) else { return false };
        self.0.iter().any(|named| named == origin) || is_own(request, origin)
    }

    fn browser<B: http_body::Body>(&self, request: &Request<B>) -> Browser {
        let socket =
            RequestRecord::of(request.extensions()).is_some_and(|record| record.transport == Transport::WebSocket);
        let manner = Manner {
            trusted_origin: self.trusts(request),
            form: is_form(request.headers(), !request.body().is_end_stream()),
            safe_method: !socket && matches!(*request.method(), Method::GET | Method::HEAD),
        };
        Browser::new(request.headers(), manner)
    }
}

/// `scheme://host` or `scheme://host:port` (HTML standard, "ASCII serialisation of an origin"), and never `null`.
fn is_origin(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"/?#@*,".contains(&b);
    text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty() && !host.is_empty() && scheme.bytes().chain(host.bytes()).all(plain)
    })
}

/// Whether the origin is the one that the request was sent to. TLS ends in front of this server, so the scheme is not known;
/// plain HTTP counts on loopback only, and elsewhere browsers keep no such cookies. A page can't choose the host that its
/// requests name; if it rebinds a name of its own, the cookies are those of that name.
fn is_own<B>(request: &Request<B>, origin: &str) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = request.uri().authority().map(Authority::as_str).or(host) else { return false };
    match origin.split_once("://") {
        Some(("https", own)) => own == host,
        Some(("http", own)) => own == host && is_loopback(host),
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Whether a page of any origin could have made a browser send such a body without being asked: the content types that forms
/// have, or none, or nothing that browsers take for one.
fn is_form(headers: &HeaderMap, has_body: bool) -> bool {
    const SAFELISTED: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(content_type) = types.next() else { return has_body };
    let essence = content_type.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    let is_token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let well_formed = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    types.next().is_some() || !well_formed || SAFELISTED.iter().any(|form| essence.eq_ignore_ascii_case(form))
}

/// Notes the browser behind each request, and writes the cookies that the call has set. What follows sees no `cookie` header.
pub fn with_cookies<S>(
    inner: S,
    origins: Origins,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    tower::service_fn(move |mut request: Request<Body>| {
        let browser = Arc::new(origins.browser(&request));
        request.headers_mut().remove(header::COOKIE);
        request.headers_mut().remove(CSRF_TOKEN);
        request.extensions_mut().insert(Arc::clone(&browser));
        let answer = inner.clone().oneshot(request);
        async move {
            let mut response = answer.await?;
            browser.write(response.headers_mut());
            Ok(response)
        }
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn trusts(headers: &[(&str, &str)]) -> bool {
        let config = config::Server {
            cors_origins: vec!["*".into(), "https://app.example.com".into()],
            public_url: "https://Www.example.com/start".into(),
            ..Default::default()
        };
        let request = headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        Origins::new(&config).unwrap().trusts(&request.body(()).unwrap())
    }

    #[test]
    fn pages_of_named_origins_and_of_the_servers_own_are_trusted() {
        for origin in ["https://app.example.com", "https://www.example.com", "https://api.example.com:8443"] {
            assert!(trusts(&[("host", "api.example.com:8443"), ("origin", origin)]), "{origin}");
        }
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"] {
            assert!(trusts(&[("host", host), ("origin", &format!("http://{host}"))]), "{host}");
        }
        let request =
            Request::get("https://api.example.com/").header("origin", "https://api.example.com").body(()).unwrap();
        assert!(is_own(&request, "https://api.example.com"));
        assert!(trusts(&[("sec-fetch-site", "same-origin")]) && trusts(&[("sec-fetch-site", "none")]));
    }

    #[test]
    fn no_other_page_is_trusted() {
        for origin in [
            "",
            "null",
            "*",
            "https://evil.example",
            "https://app.example.com.evil.example",
            "https://app.example.com:444",
            "http://app.example.com",
            "https://APP.example.com",
            "http://api.example.com",
            "https://api.example.com ",
            "https://api.example.com, https://evil.example",
            "https://x@api.example.com",
            "api.example.com",
        ] {
            // Whatever Sec-Fetch-Site says: Origin decides.
            assert!(
                !trusts(&[("host", "api.example.com"), ("origin", origin), ("sec-fetch-site", "same-origin")]),
                "{origin}"
            );
        }
        let own = "https://app.example.com";
        assert!(!trusts(&[("origin", own), ("origin", own)]));
        assert!(!trusts(&[("host", "localhost"), ("origin", "http://localhost:3000")]));
        assert!(!trusts(&[("host", "localhost.evil.example"), ("origin", "http://localhost.evil.example")]));
        for site in ["same-site", "cross-site", "Same-Origin", ""] {
            assert!(!trusts(&[("sec-fetch-site", site)]), "{site}");
        }
        assert!(!trusts(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]));
        assert!(!trusts(&[]));
    }

    #[test]
    fn only_origins_as_browsers_write_them_can_be_named() {
        let named = |origin: &str| {
            Origins::new(&config::Server { cors_origins: vec![origin.into()], ..Default::default() }).is_ok()
        };
        for good in ["*", "https://a.example", "http://localhost:3000", "capacitor://localhost", "http://[::1]:3000"] {
            assert!(named(good), "{good}");
        }
        for bad in [
            "null",
            "",
            "a.example",
            "https://a.example/",
            "https://A.example",
            "https://*.example",
            "https://",
            "://a",
        ] {
            assert!(!named(bad), "{bad}");
        }
    }

    #[test]
    fn what_a_form_can_send_is_told_from_what_it_can_not() {
        let form = |types: &[&'static str], has_body| {
            let mut headers = HeaderMap::new();
            for value in types {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            is_form(&headers, has_body)
        };
        for sent in [
            "text/plain",
            "Text/Plain; charset=utf-8",
            " application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain;application/json",
            "",
            "json",
            "application/json, text/plain",
            "/json",
        ] {
            assert!(form(&[sent], true), "{sent}");
        }
        for asked in ["application/json", "application/json; charset=utf-8", "application/grpc-web+proto", "image/png"]
        {
            assert!(!form(&[asked], true), "{asked}");
        }
        assert!(form(&["application/json", "application/json"], true));
        assert!(form(&[], true) && !form(&[], false));
    }
}

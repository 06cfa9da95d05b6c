//! Which domain passkeys belong to, and whose pages may ask for them.

use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::Url;

use super::Config;

/// Passkeys.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Passkeys {
    /// The domain that passkeys belong to (WebAuthn's RP ID), such as `example.com`. When it changes, all passkeys are lost.
    /// Empty takes the host of the first of `origins`.
    pub rp_id: String,
    /// Whose pages may ask for passkeys: `https://` and the domain or a subdomain of it, `http://localhost` (with any port),
    /// or an Android app (`android:apk-key-hash:…`). Empty takes `server.public_url`.
    pub origins: Vec<String>,
}

/// A WebAuthn relying party (WebAuthn Level 3, section 4).
#[derive(Debug, PartialEq)]
pub struct RelyingParty {
    /// The RP ID: a domain.
    pub id: String,
    /// Origins of its pages and apps. One at least is a page's.
    pub origins: Vec<Url>,
}

impl Config {
    /// Whose passkeys are. `None` when nothing is configured and `server.public_url` is no address for which browsers make
    /// passkeys: it would have to be HTTPS and a domain, or on this machine. An error says what is wrong with what is
    /// configured.
    pub fn relying_party(&self) -> Result<Option<RelyingParty>, String> {
        let Passkeys { rp_id, origins } = &self.auth.passkeys;
        let found = if origins.is_empty() {
            relying_party(rp_id, &[public_origin(&self.server.public_url())])
        } else {
            relying_party(rp_id, origins)
        };
        if rp_id.is_empty() && origins.is_empty() { Ok(found.ok()) } else { found.map(Some) }
    }
}

fn relying_party(id: &str, origins: &[String]) -> Result<RelyingParty, String> {
    let origins = origins.iter().map(|origin| parse(origin)).collect::<Result<Vec<_>, _>>()?;
    let first =
        origins.iter().find_map(Url::domain).ok_or("auth.passkeys.origins has no https:// origin with a domain")?;
    let id = if id.is_empty() { first } else { id };
    let is_domain = Url::parse(&format!("https://{id}/")).is_ok_and(|url| url.domain() == Some(id));
    if !is_domain || (!id.contains('.') && id != "localhost") {
        return Err(format!("auth.passkeys.rp_id {id:?} is not a domain, in lower case and without a port"));
    }
    let within = |host: &str| host.strip_suffix(id).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if let Some(other) = origins.iter().find(|origin| origin.domain().is_some_and(|host| !within(host))) {
        return Err(format!("auth.passkeys.origins: {other} is not within auth.passkeys.rp_id {id:?}"));
    }
    Ok(RelyingParty { id: id.to_owned(), origins })
}

/// An origin for which authenticators work: pages that browsers take for secure (W3C Secure Contexts, section 3.1), and
/// Android's apps.
fn parse(origin: &str) -> Result<Url, String> {
    let url = Url::parse(origin).map_err(|error| format!("auth.passkeys.origins: {origin:?}: {error}"))?;
    if url.scheme() == "android" {
        return Ok(url);
    }
    let local = url.domain().is_some_and(|host| host == "localhost" || host.ends_with(".localhost"));
    if url.domain().is_none() || !(url.scheme() == "https" || url.scheme() == "http" && local) {
        return Err(format!("auth.passkeys.origins: {origin:?} is not https:// and a domain, nor http://localhost"));
    }
    if url.origin().ascii_serialization() != origin.trim_end_matches('/') {
        return Err(format!("auth.passkeys.origins: {origin:?} is more than an origin: scheme, domain, port"));
    }
    Ok(url)
}

/// The origin of the product's pages. Browsers make no passkeys for addresses, so this machine is called by its name.
fn public_origin(public_url: &str) -> String {
    let Ok(mut url) = Url::parse(public_url) else { return public_url.to_owned() };
    let loopback = url.host_str().is_some_and(|host| host == "127.0.0.1" || host == "[::1]");
    if loopback && url.set_host(Some("localhost")).is_err() {
        return public_url.to_owned();
    }
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(public_url: &str, rp_id: &str, origins: &[&str]) -> Result<Option<RelyingParty>, String> {
        let mut config = Config::default();
        config.server.public_url = public_url.into();
        config.auth.passkeys = Passkeys { rp_id: rp_id.into(), origins: origins.iter().map(|o| (*o).into()).collect() };
        config.relying_party()
    }

    #[test]
    fn without_configuration_the_public_url_says_whose_passkeys_are() {
        let default = |public_url| {
            of(public_url, "", &[]).unwrap().map(|party| (party.id, party.origins[0].origin().ascii_serialization()))
        };
        let party = |id: &str, origin: &str| Some((id.to_owned(), origin.to_owned()));
        assert_eq!(default("https://app.example.com/x/"), party("app.example.com", "https://app.example.com"));
        assert_eq!(default("http://127.0.0.1:3000"), party("localhost", "http://localhost:3000"));
        assert_eq!(default(""), party("localhost", "http://localhost:8080"));
        for none in ["http://app.example.com", "https://192.0.2.1", "http://0.0.0.0:8080", "nonsense"] {
            assert_eq!(default(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_configured_has_to_fit_together() {
        let good = |rp_id, origins| of("", rp_id, origins).unwrap().unwrap();
        assert_eq!(good("example.com", &["https://example.com", "https://a.example.com:8443"]).id, "example.com");
        assert_eq!(good("", &["https://a.example.com", "android:apk-key-hash:abc"]).origins.len(), 2);
        assert_eq!(good("localhost", &["http://localhost:5173"]).id, "localhost");
        for (rp_id, origins) in [
            ("example.com", &["https://badexample.com"][..]),
            ("a.example.com", &["https://example.com"]),
            ("example.com", &["http://example.com"]),
            ("example.com", &["https://example.com/path"]),
            ("example.com", &["https://user@example.com"]),
            ("example.com", &["https://192.0.2.1"]),
            ("example.com", &["android:apk-key-hash:abc"]),
            ("example.com", &["example.com"]),
            ("Example.com", &["https://example.com"]),
            ("https://example.com", &["https://example.com"]),
            ("com", &["https://example.com"]),
            ("192.0.2.1", &[]),
        ] {
            assert!(of("https://example.com", rp_id, origins).is_err(), "{rp_id} {origins:?}");
        }
    }
}

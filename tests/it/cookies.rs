//! Sessions of browsers: cookies, the origins that may use them, and CSRF tokens.

mod refusals;
mod transports;

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, Node, PASSWORD, User, World};

const ACCESS: &str = "__Host-rialto-access";
const REFRESH: &str = "__Host-rialto-refresh";
const DEVICE: &str = "__Host-rialto-device";
/// The origin that the harness allows.
const ORIGIN: &str = "https://app.example.com";
/// What changes something.
const CHANGE: &str = "/v1/users/me";

/// A page, with its browser's cookies and its CSRF token.
#[derive(Clone, Default)]
struct Page {
    cookies: BTreeMap<String, String>,
    csrf: String,
}

/// An answer, and the cookies that came with it as they stand in the header.
struct Got {
    answer: Answer,
    set: Vec<String>,
}

impl Got {
    /// The names of the cookies that it clears.
    fn cleared(&self) -> Vec<&str> {
        let cleared = self.set.iter().filter(|cookie| cookie.contains("Max-Age=0"));
        cleared.filter_map(|cookie| Some(cookie.split_once('=')?.0)).collect()
    }
}

impl Page {
    /// A page of somebody who has just registered and logged in.
    async fn of(node: &Node, name: &str) -> Self {
        let user = node.user(name).await;
        Self::log_in(node, &user.email).await
    }

    async fn log_in(node: &Node, email: &str) -> Self {
        let mut page = Self::default();
        page.log_in_again(node, email).await;
        page
    }

    async fn log_in_again(&mut self, node: &Node, email: &str) -> Value {
        let login = json!({ "email": email, "password": PASSWORD, "cookie": true });
        let request = self.bare(node, Method::POST, "/v1/auth/login").header("origin", ORIGIN).json(&login);
        let body = self.take(request).await.answer.ok();
        self.csrf = body["csrfToken"].as_str().unwrap().to_owned();
        body
    }

    /// A request with the cookies only.
    fn bare(&self, node: &Node, method: Method, path: &str) -> RequestBuilder {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = node.http().request(method, node.url(path));
        if cookies.is_empty() { request } else { request.header("cookie", cookies.join("; ")) }
    }

    /// A request as the page sends it.
    fn request(&self, node: &Node, method: Method, path: &str) -> RequestBuilder {
        self.bare(node, method, path).header("origin", ORIGIN).header("x-csrf-token", &self.csrf)
    }

    /// Sends it, and keeps the cookies of the answer, as a browser does.
    async fn take(&mut self, request: RequestBuilder) -> Got {
        let got = send(request).await;
        for cookie in &got.set {
            let (name, rest) = cookie.split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.into(), rest.split(';').next().unwrap().into());
            }
        }
        got
    }

    async fn post(&mut self, node: &Node, path: &str, body: Value) -> Got {
        let request = self.request(node, Method::POST, path).json(&body);
        self.take(request).await
    }

    async fn get(&mut self, node: &Node, path: &str) -> Got {
        let request = self.bare(node, Method::GET, path).header("origin", ORIGIN);
        self.take(request).await
    }

    async fn change(&self, node: &Node, name: &str) -> Got {
        send(self.request(node, Method::PATCH, CHANGE).json(&json!({ "displayName": name }))).await
    }

    async fn name(&self, node: &Node) -> String {
        let me = send(self.bare(node, Method::GET, "/v1/users/me").header("origin", ORIGIN)).await.answer.ok();
        me["displayName"].as_str().unwrap().to_owned()
    }
}

async fn send(request: RequestBuilder) -> Got {
    let response = request.send().await.unwrap();
    let set = response.headers().get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap().to_owned());
    let set = set.collect();
    Got { set, answer: Answer::of(response).await }
}

/// The attributes of cookies by name: what follows the value.
fn attributes(set: &[String]) -> Vec<(&str, &str)> {
    set.iter().map(|cookie| (cookie.split_once('=').unwrap().0, cookie.split_once("; ").unwrap().1)).collect()
}

fn lasting(seconds: u32) -> String {
    format!("Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={seconds}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_cookie_leaves_no_token_in_the_body_and_lets_the_page_in() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut page = Page::default();
    let login = json!({ "email": ann.email, "password": PASSWORD, "cookie": true });
    let request = page.bare(&node, Method::POST, "/v1/auth/login").header("origin", ORIGIN).json(&login);
    let got = page.take(request).await;
    let (access, device, refresh) = (lasting(900), lasting(365 * 24 * 3600), lasting(7 * 24 * 3600));
    let expected = [(ACCESS, access.as_str()), (DEVICE, &device), (REFRESH, &refresh)];
    assert_eq!(attributes(&got.set), expected);
    assert_eq!(got.answer.headers["cache-control"], "no-store");
    assert_eq!(got.answer.headers["access-control-allow-credentials"], "true");

    let body = got.answer.ok();
    for field in ["accessToken", "refreshToken", "deviceToken", "tokenType", "challengeToken"] {
        assert_eq!(body[field], "", "{field}");
    }
    for secret in page.cookies.values() {
        assert!(!body.to_string().contains(secret.as_str()));
    }
    assert_eq!(body["expiresIn"], 900);
    page.csrf = body["csrfToken"].as_str().unwrap().to_owned();
    assert_eq!(page.name(&node).await, "ann");
    page.change(&node, "Ann").await.answer.ok();
    assert_eq!(page.name(&node).await, "Ann");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_cookie_sets_none() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let login = json!({ "email": ann.email, "password": PASSWORD });
    let got = send(node.http().post(node.url("/v1/auth/login")).header("origin", ORIGIN).json(&login)).await;
    assert!(got.set.is_empty(), "{:?}", got.set);
    let body = got.answer.ok();
    assert!(!body["accessToken"].as_str().unwrap().is_empty());
    assert_eq!(body["csrfToken"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_loaded_again_gets_a_csrf_token_also_when_the_access_cookie_is_gone() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    let first = std::mem::take(&mut page.csrf);
    page.csrf = page.get(&node, "/v1/auth/csrf").await.answer.ok()["csrfToken"].as_str().unwrap().to_owned();
    assert_ne!(page.csrf, first);
    page.change(&node, "one").await.answer.ok();
    // The other tab's is still good.
    page.csrf = first;
    page.change(&node, "two").await.answer.ok();

    let access = page.cookies.remove(ACCESS).unwrap();
    page.csrf = page.get(&node, "/v1/auth/csrf").await.answer.ok()["csrfToken"].as_str().unwrap().to_owned();
    page.cookies.insert(ACCESS.into(), access);
    page.change(&node, "three").await.answer.ok();
    // It has not used the refresh cookie up.
    page.post(&node, "/v1/auth/refresh", json!({})).await.answer.ok();

    // Nobody is logged in, which is no mistake of the page.
    assert_eq!(Page::default().get(&node, "/v1/auth/csrf").await.answer.ok()["csrfToken"], "");
    page.cookies.remove(ACCESS);
    page.cookies.insert(REFRESH.into(), "unknown".into());
    let got = page.get(&node, "/v1/auth/csrf").await;
    got.answer.refused(401, "TOKEN_INVALID", 1004);
    assert_eq!(got.cleared(), [ACCESS, REFRESH]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_access_cookie_is_cleared_and_a_refresh_goes_on_with_new_cookies_and_a_new_csrf_token() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    let (mut other_tab, before) = (page.clone(), page.clone());
    world.clock.advance(Duration::from_secs(900 + u64::from(world.config.auth.leeway_seconds)));
    let got = page.get(&node, "/v1/auth/me").await;
    got.answer.refused(401, "TOKEN_EXPIRED", 1003);
    assert_eq!(got.cleared(), [ACCESS]);
    // Without it, as a browser that has let it expire: the same.
    page.get(&node, "/v1/auth/me").await.answer.refused(401, "TOKEN_EXPIRED", 1003);

    let got = page.post(&node, "/v1/auth/refresh", json!({})).await;
    let (access, refresh) = (lasting(900), lasting(7 * 24 * 3600));
    assert_eq!(attributes(&got.set), [(ACCESS, access.as_str()), (REFRESH, &refresh)]);
    let body = got.answer.ok();
    assert_eq!((&body["accessToken"], &body["refreshToken"]), (&json!(""), &json!("")));
    assert_ne!(body["csrfToken"], before.csrf);
    assert!(page.cookies[ACCESS] != before.cookies[ACCESS] && page.cookies[REFRESH] != before.cookies[REFRESH]);
    // Tabs share the cookies; this one has its token from before.
    other_tab.cookies = page.cookies.clone();
    other_tab.change(&node, "other").await.answer.ok();
    page.csrf = body["csrfToken"].as_str().unwrap().to_owned();
    page.change(&node, "new").await.answer.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refresh_cookie_lasts_as_long_as_the_session() {
    let mut world = World::new().await;
    world.config.auth.session_max_seconds = 8 * 24 * 3600;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    world.clock.advance(Duration::from_secs(6 * 24 * 3600));
    let got = page.post(&node, "/v1/auth/refresh", json!({})).await;
    // Less what the test has taken.
    let (_, seconds) = got.set.last().unwrap().rsplit_once("Max-Age=").unwrap();
    assert!((2 * 24 * 3600 - 60..=2 * 24 * 3600).contains(&seconds.parse().unwrap()), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tabs_that_refresh_at_once_one_does_and_the_session_goes_on() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    let stale = page.clone();
    let tabs = (0..2).map(|_| {
        let tab = stale.clone();
        let node = &node;
        async move { send(tab.request(node, Method::POST, "/v1/auth/refresh").json(&json!({}))).await }
    });
    let mut got = futures_util::future::join_all(tabs).await;
    got.sort_by_key(|got| got.answer.status);
    let [renewed, superseded] = got.try_into().unwrap_or_else(|_| unreachable!());
    superseded.answer.refused(409, "REFRESH_SUPERSEDED", 3003);
    assert!(superseded.set.is_empty());
    assert_eq!((renewed.answer.status, renewed.set.len()), (200, 2));
    for cookie in &renewed.set {
        let (name, rest) = cookie.split_once('=').unwrap();
        page.cookies.insert(name.into(), rest.split(';').next().unwrap().into());
    }
    // With the other tab's token, which is as good.
    page.change(&node, "both").await.answer.ok();

    // What is used again later is a stolen cookie.
    world.clock.advance(Duration::from_secs(11));
    let got = send(stale.request(&node, Method::POST, "/v1/auth/refresh").json(&json!({}))).await;
    got.answer.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(got.cleared(), [ACCESS, REFRESH]);
    let got = page.get(&node, "/v1/auth/me").await;
    got.answer.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(got.cleared(), [ACCESS, REFRESH]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_in_the_body_knows_no_tolerance() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let refresh = async || {
        let body = json!({ "refresh_token": page.cookies[REFRESH] });
        node.rest(Method::POST, "/v1/auth/refresh", None, Some(body)).await
    };
    // Whoever has the token itself needs no cookie, and gets none.
    assert!(!refresh().await.ok()["refreshToken"].as_str().unwrap().is_empty());
    refresh().await.refused(401, "SESSION_REVOKED", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_clears_the_cookies_but_not_the_devices() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    let before = page.clone();
    let got = page.post(&node, "/v1/auth/logout", json!({})).await;
    assert_eq!(got.cleared(), [ACCESS, REFRESH]);
    assert_eq!(attributes(&got.set)[0].1, lasting(0));
    got.answer.ok();
    assert_eq!(page.cookies.keys().collect::<Vec<_>>(), [DEVICE]);
    before.clone().get(&node, "/v1/auth/me").await.answer.refused(401, "SESSION_REVOKED", 1004);
    let got = before.clone().post(&node, "/v1/auth/refresh", json!({})).await;
    got.answer.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(got.cleared(), [ACCESS, REFRESH]);

    // So the next login is not from a new device: the first one of all and this browser's are all that there are.
    page.log_in_again(&node, "ann@example.com").await;
    assert_eq!(page.cookies[DEVICE], before.cookies[DEVICE]);
    assert_eq!(world.count("known_devices").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_clears_its_cookies() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut page = Page::log_in(&node, &ann.email).await;
    let sessions = page.get(&node, "/v1/auth/sessions").await.answer.ok();
    let own = sessions["sessions"].as_array().unwrap().iter().find(|session| session["current"] == true).unwrap();
    let path = format!("/v1/auth/sessions/{}", own["id"].as_str().unwrap());
    // Nothing is in the body, so it needs no content type.
    let request = page.request(&node, Method::DELETE, &path);
    let got = page.take(request).await;
    assert_eq!((got.answer.status, got.cleared()), (200, vec![ACCESS, REFRESH]));

    let mut page = Page::log_in(&node, &ann.email).await;
    ann.post(&node, "/v1/auth/logout", json!({ "everywhere": true })).await.ok();
    let got = page.get(&node, "/v1/auth/me").await;
    got.answer.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!((got.cleared(), page.cookies.len()), (vec![ACCESS, REFRESH], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_ends_the_session_whose_cookies_it_replaces() {
    let world = World::new().await;
    let node = world.node().await;
    let bob = node.user("bob").await;
    let mut page = Page::of(&node, "ann").await;
    let mut before = page.clone();
    page.log_in_again(&node, &bob.email).await;
    assert_eq!(page.name(&node).await, "bob");
    before.get(&node, "/v1/auth/me").await.answer.refused(401, "SESSION_REVOKED", 1004);
    // Its CSRF token was of that session.
    page.csrf = before.csrf;
    page.change(&node, "x").await.answer.refused(403, "CSRF_TOKEN_INVALID", 1005);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_change_by_cookie_hands_out_new_cookies() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    let before = page.clone();
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "staple h7-Kq.92z" });
    let body = page.post(&node, "/v1/auth/change-password", change).await.answer.ok();
    assert_eq!((&body["accessToken"], &body["refreshToken"]), (&json!(""), &json!("")));
    before.change(&node, "x").await.answer.refused(401, "SESSION_REVOKED", 1004);
    page.change(&node, "changed").await.answer.ok();
    page.csrf = body["csrfToken"].as_str().unwrap().to_owned();
    page.post(&node, "/v1/auth/refresh", json!({})).await.answer.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_two_factors_sets_cookies_when_it_is_finished() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let setup = ann.post(&node, "/v1/twofa/setup", json!({ "password": PASSWORD })).await.ok();
    let secret = totp_rs::Secret::try_from_base32(setup["secret"].as_str().unwrap()).unwrap();
    let authenticator = totp_rs::Builder::new().with_secret(secret).build().unwrap();
    let code = || authenticator.generate(u64::try_from(world.clock.now().timestamp()).unwrap()).to_string();
    ann.post(&node, "/v1/twofa/enable", json!({ "code": code() })).await.ok();
    world.clock.advance(Duration::from_secs(30));

    let mut page = Page::default();
    let login = json!({ "email": ann.email, "password": PASSWORD, "cookie": true });
    let got = page.post(&node, "/v1/auth/login", login).await;
    assert!(got.set.is_empty(), "{:?}", got.set);
    let challenge = got.answer.ok();
    assert_eq!((&challenge["twoFactorRequired"], &challenge["csrfToken"]), (&json!(true), &json!("")));
    let finish = json!({ "challengeToken": challenge["challengeToken"], "code": code(), "cookie": true });
    let got = page.post(&node, "/v1/auth/login/verify-2fa", finish).await;
    assert_eq!(attributes(&got.set).iter().map(|(name, _)| *name).collect::<Vec<_>>(), [ACCESS, DEVICE, REFRESH]);
    let body = got.answer.ok();
    assert_eq!(
        (&body["accessToken"], &body["refreshToken"], &body["deviceToken"]),
        (&json!(""), &json!(""), &json!(""))
    );
    page.csrf = body["csrfToken"].as_str().unwrap().to_owned();
    page.change(&node, "Ann").await.answer.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_header_decides_alone() {
    let world = World::new().await;
    let node = world.node().await;
    let bob: User = node.user("bob").await;
    let page = Page::of(&node, "ann").await;
    // Bob's token needs neither a CSRF token nor an origin, and changes Bob, whoever's cookies come along.
    let request = page.bare(&node, Method::PATCH, CHANGE).header("origin", "https://evil.example.com");
    send(request.bearer_auth(&bob.token).json(&json!({ "displayName": "Robert" }))).await.answer.ok();
    assert_eq!(bob.get(&node, "/v1/users/me").await.ok()["displayName"], "Robert");
    assert_eq!(page.name(&node).await, "ann");
    // A bad token is not made good by good cookies, and does not cost them either.
    for header in ["Bearer nonsense", "Basic YTpi", "Bearer", ""] {
        let got = send(page.request(&node, Method::GET, "/v1/auth/me").header("authorization", header)).await;
        assert_eq!((got.answer.status, got.set.len()), (401, 0), "{header}");
    }
    // Nor does it refresh by them.
    let request = page.request(&node, Method::POST, "/v1/auth/refresh").bearer_auth(&bob.token).json(&json!({}));
    assert_eq!(send(request).await.answer.fields(), ["refresh_token"]);
}

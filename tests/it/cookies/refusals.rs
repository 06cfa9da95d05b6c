//! What is refused by cookie.

use reqwest::Method;
use serde_json::json;

use super::{ACCESS, CHANGE, ORIGIN, Page, REFRESH, send};
use crate::harness::{PASSWORD, World};

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_needs_the_csrf_token_of_its_own_session() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let of_another_session = Page::log_in(&node, "ann@example.com").await.csrf;
    let of_another_account = Page::of(&node, "bob").await.csrf;
    let cut = page.csrf[..page.csrf.len() - 1].to_owned();
    let change =
        || page.bare(&node, Method::PATCH, CHANGE).header("origin", ORIGIN).json(&json!({ "displayName": "x" }));
    let mut refused = vec![change()];
    for token in ["", "nonsense", &"a".repeat(10_000), &of_another_session, &of_another_account, &cut] {
        refused.push(change().header("x-csrf-token", token));
    }
    // Twice, even if both are good.
    refused.push(change().header("x-csrf-token", &page.csrf).header("x-csrf-token", &page.csrf));
    // Where a form could put it.
    let query = format!("{CHANGE}?x-csrf-token={}", page.csrf);
    for request in refused {
        let got = send(request).await;
        got.answer.refused(403, "CSRF_TOKEN_INVALID", 1005);
        assert!(got.set.is_empty());
    }
    let request = page.bare(&node, Method::PATCH, &query).header("origin", ORIGIN);
    assert!(send(request.json(&json!({ "displayName": "x" }))).await.answer.status >= 400);
    // A refresh changes something too, and logging out.
    for path in ["/v1/auth/refresh", "/v1/auth/logout"] {
        let request = page.bare(&node, Method::POST, path).header("origin", ORIGIN).json(&json!({}));
        send(request).await.answer.refused(403, "CSRF_TOKEN_INVALID", 1005);
    }
    assert_eq!(page.name(&node).await, "ann");
    page.change(&node, "Ann").await.answer.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_trusted_origins_use_cookies() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let login = json!({ "email": "ann@example.com", "password": PASSWORD, "cookie": true });
    // For writing, reading, what needs no session, and the streams.
    let requests = || {
        let token = |request: reqwest::RequestBuilder| request.header("x-csrf-token", &page.csrf);
        [
            token(page.bare(&node, Method::PATCH, CHANGE)).json(&json!({ "displayName": "x" })),
            page.bare(&node, Method::GET, "/v1/auth/me"),
            page.bare(&node, Method::GET, "/v1/conversations/x/events").header("accept", "text/event-stream"),
            token(page.bare(&node, Method::POST, "/v1/auth/refresh")).json(&json!({})),
            page.bare(&node, Method::GET, "/v1/auth/csrf"),
            page.bare(&node, Method::POST, "/v1/auth/login").json(&login),
        ]
    };
    let own = node.url("");
    let another_port = "http://127.0.0.1:1".to_owned();
    for headers in [
        &[("origin", "https://evil.example.com")][..],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", &another_port)],
        &[("origin", "https://app.example.com.evil.example")],
        &[("origin", ORIGIN), ("origin", ORIGIN)],
        &[("origin", "null"), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[],
    ] {
        for request in requests() {
            let got = send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await;
            got.answer.refused(403, "ORIGIN_NOT_ALLOWED", 1005);
            assert!(got.set.is_empty(), "{headers:?}");
        }
    }
    assert_eq!(page.name(&node).await, "ann");
    for (name, value) in [("origin", own.as_str()), ("origin", ORIGIN), ("sec-fetch-site", "same-origin")] {
        for request in requests().into_iter().take(2) {
            send(request.header(name, value)).await.answer.ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_a_form_can_send_is_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let body = json!({ "displayName": "x" }).to_string();
    for content_type in [
        Some("application/x-www-form-urlencoded"),
        Some("text/plain"),
        Some("Text/Plain;charset=UTF-8"),
        Some("multipart/form-data; boundary=x"),
        Some("text/plain; application/json"),
        None,
    ] {
        let mut request = page.request(&node, Method::PATCH, CHANGE).body(body.clone());
        let login = json!({ "email": "ann@example.com", "password": PASSWORD, "cookie": true }).to_string();
        let mut login = page.request(&node, Method::POST, "/v1/auth/login").body(login);
        if let Some(content_type) = content_type {
            (request, login) =
                (request.header("content-type", content_type), login.header("content-type", content_type));
        }
        for request in [request, login] {
            let got = send(request).await;
            got.answer.refused(415, "UNSUPPORTED_MEDIA_TYPE", 2004);
            assert!(got.set.is_empty(), "{content_type:?}");
        }
    }
    assert_eq!(page.name(&node).await, "ann");
    // Bearer clients may go on: older ones do.
    let bob = node.user("bob").await;
    let request = node.http().patch(node.url(CHANGE)).bearer_auth(&bob.token).body(body);
    send(request.header("content-type", "application/x-www-form-urlencoded")).await.answer.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_is_there_twice_or_is_no_token_is_refused_and_cleared() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let (access, refresh) = (&page.cookies[ACCESS], &page.cookies[REFRESH]);
    let forged = format!("{}x", &access[..access.len() - 1]);
    for cookies in [
        format!("{ACCESS}={access}; {ACCESS}={access}"),
        format!("{ACCESS}=; {ACCESS}={access}"),
        format!("{ACCESS}=\"{access}\""),
        format!("{ACCESS}={}", "a".repeat(5000)),
        format!("{ACCESS}=a b"),
        format!("{ACCESS}={refresh}"),
        format!("{ACCESS}={forged}"),
    ] {
        for method in [Method::GET, Method::PATCH] {
            let path = if method == Method::GET { "/v1/auth/me" } else { CHANGE };
            let request = Page { csrf: page.csrf.clone(), ..Page::default() }.request(&node, method, path);
            let got = send(request.header("cookie", &cookies).json(&json!({ "displayName": "x" }))).await;
            got.answer.refused(401, "TOKEN_INVALID", 1004);
            assert_eq!(got.cleared(), [ACCESS], "{cookies}");
        }
    }
    for cookies in
        [format!("{REFRESH}={refresh}; {REFRESH}={refresh}"), format!("{REFRESH}={access}"), format!("{REFRESH}=x")]
    {
        let request =
            Page { csrf: page.csrf.clone(), ..Page::default() }.request(&node, Method::POST, "/v1/auth/refresh");
        let got = send(request.header("cookie", &cookies).json(&json!({}))).await;
        got.answer.refused(401, "TOKEN_INVALID", 1004);
        assert_eq!(got.cleared(), [ACCESS, REFRESH], "{cookies}");
    }
    // Cookies of others on the same host are none of our business.
    let others = format!("theme=dark; {}=1; x; {ACCESS}={access}; =y", ACCESS.to_lowercase());
    let request = Page::default().bare(&node, Method::GET, "/v1/auth/me").header("origin", ORIGIN);
    send(request.header("cookie", others)).await.answer.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refresh_cookie_alone_lets_nobody_in() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    page.cookies.remove(ACCESS);
    page.get(&node, "/v1/auth/me").await.answer.refused(401, "TOKEN_EXPIRED", 1003);
    page.change(&node, "x").await.answer.refused(401, "TOKEN_EXPIRED", 1003);
    // And the access cookie alone refreshes nothing, but is kept.
    let mut other = Page::log_in(&node, "ann@example.com").await;
    other.cookies.remove(REFRESH);
    let got = other.post(&node, "/v1/auth/refresh", json!({})).await;
    got.answer.refused(401, "UNAUTHORIZED", 1001);
    assert!(got.set.is_empty());
    // As the access cookie it is nothing.
    page.cookies.insert(ACCESS.into(), page.cookies[REFRESH].clone());
    page.get(&node, "/v1/auth/me").await.answer.refused(401, "TOKEN_INVALID", 1004);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_without_any_token_says_what_is_missing() {
    let world = World::new().await;
    let node = world.node().await;
    let answer = node.rest(Method::POST, "/v1/auth/refresh", None, Some(json!({}))).await;
    answer.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(answer.fields(), ["refresh_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sites_pages_may_read_no_answer_to_cookies() {
    let mut world = World::new().await;
    world.config.server.cors_origins = vec!["*".into(), ORIGIN.into()];
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let cors = async |origin: &str, method: Method| {
        let request = page.bare(&node, method, "/v1/auth/me").header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        let answer = send(request.header("access-control-request-headers", "x-csrf-token")).await.answer;
        let header = |name: &str| answer.headers.get(name).cloned();
        (answer.status, header("access-control-allow-origin"), header("access-control-allow-credentials"))
    };
    let allowed = |status: u16, origin: &str| (status, Some(origin.to_owned()), Some("true".to_owned()));
    assert_eq!(cors(ORIGIN, Method::OPTIONS).await, allowed(200, ORIGIN));
    assert_eq!(cors(ORIGIN, Method::GET).await, allowed(200, ORIGIN));
    // `*` lets every page in, but no cookies of theirs.
    let evil = "https://evil.example.com";
    for (method, status) in [(Method::OPTIONS, 200), (Method::GET, 403)] {
        let (answered, origin, credentials) = cors(evil, method).await;
        assert_eq!((answered, origin.as_deref(), credentials), (status, Some(evil), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_no_browser_would_send_is_refused_in_the_configuration() {
    let mut world = World::new().await;
    world.config.server.cors_origins = vec!["null".into()];
    let started = rialto::server::Server::start(world.config.clone(), world.clock.clone()).await;
    assert!(started.is_err_and(|error| error.to_string().contains("server.cors_origins: \"null\"")));
}

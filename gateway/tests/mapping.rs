//! `google.api.http`: which request reaches which method, with which message.

mod support;

use http::{HeaderName, Request};
use http_body_util::Full;
use serde_json::json;
use support::{Fixture, library, library_with, ok, request};
use tower::ServiceExt;

const LIBRARY: &str = "/test.library.Library/";

fn plain() -> Fixture {
    library(|b| b)
}

/// Sends a request and expects this method, with this message.
async fn reaches(f: &Fixture, verb: &str, path: &str, method: &str, message: &str, expected: serde_json::Value) {
    let body = if matches!(verb, "POST" | "PUT" | "PATCH") { "{}" } else { "" };
    let answer = f.call(verb, path, body).await;
    assert_eq!(answer.status, 200, "{verb} {path}: {}", answer.text());
    assert_eq!(f.last().path, format!("{LIBRARY}{method}"), "{verb} {path}");
    assert_eq!(f.received(&format!("test.library.{message}")), expected, "{verb} {path}");
}

#[tokio::test]
async fn routes_prefer_literals_then_single_then_multiple_segments() {
    let f = plain();
    let book = |id: &str| json!({ "bookId": id });
    reaches(&f, "GET", "/v1/books/7", "GetBook", "GetBookRequest", book("7")).await;
    reaches(&f, "GET", "/v1/books/popular", "GetPopularBook", "GetBookRequest", json!({})).await;
    // Another method of the same path is not lost behind the literal.
    reaches(&f, "DELETE", "/v1/books/popular", "DeleteBook", "GetBookRequest", book("popular")).await;
    reaches(&f, "POST", "/v1/books/7:lend", "LendBook", "GetBookRequest", book("7")).await;
    reaches(&f, "GET", "/v1/books/7:lend", "GetBook", "GetBookRequest", book("7:lend")).await;
    let shelved = json!({ "bookId": "7", "shelf": { "name": "a" } });
    reaches(&f, "GET", "/v1/shelves/a/books/7", "GetBook", "GetBookRequest", shelved).await;
    let file = |name: &str| json!({ "name": name });
    reaches(&f, "GET", "/v1/files/shelves/a/b/c", "GetFile", "FileRequest", file("shelves/a/b/c")).await;
    reaches(&f, "GET", "/v1/files/shelves/a", "GetFile", "FileRequest", file("shelves/a")).await;
    reaches(&f, "GET", "/v1/files/shelves", "GetAny", "FileRequest", file("shelves")).await;
    reaches(&f, "GET", "/v1/files", "GetAny", "FileRequest", json!({})).await;
    reaches(&f, "REPORT", "/v1/reports/x", "ReportBook", "FileRequest", file("x")).await;
}

#[tokio::test]
async fn segments_are_decoded_after_splitting() {
    let f = plain();
    let book = |id: &str| json!({ "bookId": id });
    reaches(&f, "GET", "/v1/books/a%2Fb%20c", "GetBook", "GetBookRequest", book("a/b c")).await;
    reaches(&f, "GET", "/v1/books/a+b", "GetBook", "GetBookRequest", book("a+b")).await;
    reaches(&f, "GET", "/v1/b%6Foks/%C3%A9", "GetBook", "GetBookRequest", book("é")).await;
    reaches(&f, "GET", "/v1/books/%7", "GetBook", "GetBookRequest", book("%7")).await;
    // In a variable of several segments an encoded slash must stay one.
    let file = json!({ "name": "x/a%2Fb c%2f%2" });
    reaches(&f, "GET", "/v1/files/x/a%2Fb%20c%2f%2", "GetAny", "FileRequest", file).await;
    assert_eq!(f.get("/v1/books/%FF").await.status, 400);
    for path in ["/v1/books/", "/v1/books", "/v1//7", "/", "/v1/books/7/", "/v1/books/7/x"] {
        assert_eq!(f.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn aliases_are_tried_after_the_path_itself_longest_first() {
    let f = library(|b| b.alias("/api", "/v1").alias("/api/v1", "/v1"));
    let book = json!({ "bookId": "7" });
    for path in ["/v1/books/7", "/api/v1/books/7", "/api/books/7"] {
        reaches(&f, "GET", path, "GetBook", "GetBookRequest", book.clone()).await;
    }
    assert_eq!(f.get("/apis/books/7").await.status, 404);
    assert_eq!(f.get("/api").await.status, 404);
    let options = f.call("OPTIONS", "/api/books/7", "").await;
    assert_eq!((options.status, options.header("allow")), (204, "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"));
    assert_eq!(f.call("PURGE", "/api/books/7", "").await.status, 405);
}

#[tokio::test]
async fn bodies_are_the_whole_message_or_one_field() {
    let f = plain();
    let answer = f.call("PUT", "/v1/books/7", r#"{"title":"T","edition":"2"}"#).await;
    assert_eq!(answer.json(), json!({ "id": "7", "title": "T", "edition": "2" }));

    f.call("POST", "/v1/shelves/s/books?dry_run=true", r#"{"title":"T"}"#).await;
    let received = f.received("test.library.CreateBookRequest");
    assert_eq!(received, json!({ "shelf": "s", "book": { "title": "T" }, "dryRun": true }));

    f.call("PATCH", "/v1/books/7?updateMask=title,authors", r#"{"title":"T"}"#).await;
    let received = f.received("test.library.PatchBookRequest");
    assert_eq!(received, json!({ "book": { "id": "7", "title": "T" }, "updateMask": "title,authors" }));

    // A mask in the URL may have proto names as well.
    f.call("PATCH", "/v1/books/7?update_mask=author_names,title", "{}").await;
    assert_eq!(f.received("test.library.PatchBookRequest")["updateMask"], "authorNames,title");

    // No body is a body that sets nothing.
    f.call("PUT", "/v1/books/7", "").await;
    assert_eq!(f.received("test.library.Book"), json!({ "id": "7" }));
}

#[tokio::test]
async fn response_body_is_one_field_of_the_response() {
    let pool = support::pool(&["library.proto"]);
    let full = support::encode(&pool, "test.library.CreateBookResponse", json!({ "book": { "title": "T" } }));
    let f = library_with(|b| b, move |_| Ok(ok([full.clone()])));
    assert_eq!(f.call("POST", "/v1/shelves/s/books", "{}").await.text(), r#"{"title":"T"}"#);
    let f = library_with(|b| b, |_| Ok(ok([Vec::new()])));
    assert_eq!(f.call("POST", "/v1/shelves/s/books", "{}").await.text(), "null");
}

#[tokio::test]
async fn query_parameters_hold_every_kind_that_has_a_text_form() {
    let f = plain();
    let query = "text=a%20b+c%26&page_size=5&ids=1&ids=-2&order=ORDER_TITLE&token=-_8&open=true&score=1.5e3&years.from=1&years.to=2\
        &since=2024-01-01T00:00:00Z&within=1.5s&fields=pageSize,years.from&limit=0&weights[a]=1&weights[b%5D]=2&author=X&orders=1&orders=ORDER_UNSPECIFIED&";
    let answer = f.get(&format!("/v1/search/here?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.json(),
        json!({
            "place": "here", "text": "a b c&", "pageSize": 5, "ids": ["1", "-2"], "order": "ORDER_TITLE", "token": "+/8=",
            "open": true, "score": 1500, "years": { "from": 1, "to": 2 }, "since": "2024-01-01T00:00:00Z", "within": "1.500s",
            "fields": "pageSize,years.from", "limit": 0, "weights": { "a": 1, "b]": 2 }, "author": "X",
            "orders": ["ORDER_TITLE", "ORDER_UNSPECIFIED"],
        })
    );
    let same = f.get("/v1/search/here?pageSize=5").await.json();
    assert_eq!(same, f.get("/v1/search/here?page_size=5").await.json());
}

#[tokio::test]
async fn bad_query_parameters_are_named() {
    let f = plain();
    for (query, field, description) in [
        ("nope=1", "nope", "unknown query parameter"),
        ("years=1", "years", "unknown query parameter"),
        ("years.nope=1", "years.nope", "unknown query parameter"),
        ("text.x=1", "text.x", "unknown query parameter"),
        ("pageSize=x", "pageSize", "expected int32, got \"x\""),
        ("page_size=1&pageSize=2", "pageSize", "given more than once"),
        ("place=there", "place", "already given in another part of the request"),
        ("author=a&publisher=b", "publisher", "another member of oneof \"publisher\" is already set"),
        ("order=NOPE", "order", "unknown value \"NOPE\" of enum test.library.Order"),
        ("text=%FF", "text", "not valid UTF-8"),
        ("weights=1", "weights", "expected name[key]=value, got weights"),
        ("weights[a]=1&weights[a]=2", "weights[a]", "given more than once"),
    ] {
        let answer = f.get(&format!("/v1/search/here?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        let error = &answer.json()["error"];
        assert_eq!(error["reason"], "INVALID_FORMAT", "{query}");
        let violation = &error["details"][0]["fieldViolations"][0];
        assert_eq!((&violation["field"], &violation["description"]), (&json!(field), &json!(description)), "{query}");
    }
    // The body holds all fields: there is nothing left for the query.
    assert_eq!(f.call("PUT", "/v1/books/7?title=x", "{}").await.status, 400);
}

#[tokio::test]
async fn a_field_given_twice_is_refused_wherever_it_stands() {
    let f = plain();
    for (verb, path, body) in [
        ("PUT", "/v1/books/7", r#"{"id":"8"}"#),
        ("PATCH", "/v1/books/7", r#"{"id":"8"}"#),
        ("PATCH", "/v1/books/7?book.title=x", r#"{"title":"y"}"#),
        ("POST", "/v1/shelves/s/books?shelf=t", "{}"),
        ("POST", "/v1/shelves/s/books?book.title=t", "{}"),
    ] {
        let answer = f.call(verb, path, body).await;
        assert_eq!((answer.status, answer.json()["error"]["reason"].as_str()), (400, Some("INVALID_FORMAT")), "{path}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let f = plain();
    let get = f.get("/v1/books/7").await;
    let head = f.call("HEAD", "/v1/books/7", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

#[tokio::test]
async fn only_listed_headers_and_all_extensions_reach_the_upstream() {
    let f = library(|b| b.request_header(HeaderName::from_static("x-tenant")));
    let request = Request::get("/v1/books/7")
        .header("authorization", "Bearer t")
        .header("x-tenant", "a")
        .header("x-tenant", "b")
        .header("x-secret", "no")
        .header("cookie", "no")
        .header("connection", "close, Traceparent")
        .header("traceparent", "hop by hop now")
        .header("x-http-method-override", "DELETE")
        .header("x-request-timeout", "2.5")
        .extension(42u32)
        .body(Full::default())
        .expect("request");
    // Without a socket: extensions are the embedding program's.
    assert_eq!(f.gateway.clone().oneshot(request).await.expect("infallible").status(), 200);
    let call = f.last();
    let mut names: Vec<&str> = call.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "content-type", "grpc-timeout", "te", "x-tenant"]);
    // What is left of it.
    let timeout = call.headers["grpc-timeout"].to_str().expect("text").strip_suffix('u').expect("microseconds");
    assert!((1..=2_500_000).contains(&timeout.parse::<u64>().expect("number")), "{timeout}");
    assert_eq!(call.headers.get_all("x-tenant").iter().count(), 2);
    assert_eq!((call.path.as_str(), call.extension), ("/test.library.Library/GetBook", Some(42)));
}

#[tokio::test]
async fn only_listed_metadata_reaches_the_client() {
    let f = library_with(
        |b| b.response_header(HeaderName::from_static("x-cost")),
        |call| {
            let mut response = ok([call.message.to_vec()]);
            for (name, value) in
                [("x-request-id", "r"), ("x-cost", "3"), ("x-internal", "no"), ("ratelimit-limit", "9")]
            {
                response.headers_mut().insert(name, value.parse().expect("value"));
            }
            Ok(response)
        },
    );
    let answer = f.get("/v1/books/7").await;
    assert_eq!(
        (answer.header("x-request-id"), answer.header("x-cost"), answer.header("ratelimit-limit")),
        ("r", "3", "9")
    );
    assert!(!answer.headers.contains_key("x-internal"));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn malformed_timeouts_are_refused() {
    let f = plain();
    for (name, value) in [
        ("x-request-timeout", "soon"),
        ("x-request-timeout", "-1"),
        ("x-request-timeout", "99999999999999999999"),
        ("grpc-timeout", "1"),
        ("grpc-timeout", "123456789S"),
    ] {
        let mut request = request("GET", "/v1/books/7", "");
        request.headers_mut().insert(HeaderName::from_static(name), value.parse().expect("value"));
        assert_eq!(f.send(request).await.status, 400, "{name}: {value}");
    }
}

#[tokio::test]
async fn zero_values_are_left_out_unless_asked_for() {
    let f = plain();
    assert_eq!(f.call("PUT", "/v1/books/7", "{}").await.text(), r#"{"id":"7"}"#);
    let f = library(|b| b.always_print_fields(true));
    let answer = f.call("PUT", "/v1/books/7", "{}").await;
    assert_eq!(answer.text(), r#"{"id":"7","title":"","edition":"0","authors":[]}"#);
}

#[tokio::test]
async fn services_can_be_chosen() {
    let f = library(|b| b.services(Vec::<String>::new()));
    assert_eq!(f.get("/v1/books/7").await.status, 404);
}

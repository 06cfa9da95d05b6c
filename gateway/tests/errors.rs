//! One shape for every error.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rialto_gateway::{ErrorCode, ErrorRenderer, Gateway};
use serde_json::json;
use support::{Fixture, library, library_with, ok, request};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::ServiceExt;

/// A gateway in front of a service that always answers this status, in trailers-only form.
fn failing(status: Status) -> Fixture {
    library_with(
        |b| {
            b.error_codes(Arc::new(|reason| {
                (reason == "BOOK_LOST")
                    .then_some(ErrorCode { http_status: StatusCode::UNPROCESSABLE_ENTITY, legacy_code: Some(3001) })
            }))
        },
        move |_| Ok(status.clone().into_http()),
    )
}

#[tokio::test]
async fn codes_have_their_canonical_http_status() {
    for (code, http, name) in [
        (Code::Cancelled, 499, "CANCELLED"),
        (Code::Unknown, 500, "UNKNOWN"),
        (Code::InvalidArgument, 400, "INVALID_ARGUMENT"),
        (Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
        (Code::NotFound, 404, "NOT_FOUND"),
        (Code::AlreadyExists, 409, "ALREADY_EXISTS"),
        (Code::PermissionDenied, 403, "PERMISSION_DENIED"),
        (Code::Unauthenticated, 401, "UNAUTHENTICATED"),
        (Code::ResourceExhausted, 429, "RESOURCE_EXHAUSTED"),
        (Code::FailedPrecondition, 400, "FAILED_PRECONDITION"),
        (Code::Aborted, 409, "ABORTED"),
        (Code::OutOfRange, 400, "OUT_OF_RANGE"),
        (Code::Unimplemented, 501, "UNIMPLEMENTED"),
        (Code::Internal, 500, "INTERNAL"),
        (Code::Unavailable, 503, "UNAVAILABLE"),
        (Code::DataLoss, 500, "DATA_LOSS"),
    ] {
        let answer = failing(Status::new(code, "naïve % text")).get("/v1/books/7").await;
        assert_eq!(answer.status, http, "{name}");
        let expected = json!({ "error": {
            "code": http, "status": name, "reason": name, "message": "naïve % text", "details": [],
        } });
        assert_eq!(answer.json(), expected);
        assert_eq!(answer.header("content-type"), "application/json");
    }
}

#[tokio::test]
async fn details_are_shown_but_debug_info_never() {
    let mut details = ErrorDetails::new();
    details
        .set_error_info("BOOK_LOST", "library", [("shelf".to_owned(), "a".to_owned())])
        .set_retry_info(Some(Duration::from_millis(1500)))
        .set_debug_info(vec!["secret".to_owned()], "secret")
        .add_bad_request_violation("title", "too long")
        .add_quota_failure_violation("you", "too much")
        .add_precondition_failure_violation("TOS", "you", "not accepted")
        .set_resource_info("book", "7", "me", "lost")
        .add_help_link("manual", "https://example.org")
        .set_localized_message("de", "Verloren");
    let f = failing(Status::with_error_details(Code::NotFound, "lost", details));
    let mut sent = request("GET", "/v1/books/7", "");
    sent.headers_mut().insert("x-request-id", "r-1".parse().expect("value"));
    let answer = f.send(sent).await;
    assert_eq!((answer.status, answer.header("retry-after")), (422, "2"));
    assert!(!answer.text().contains("secret"));
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["reason"], &error["legacyCode"], &error["requestId"], &error["code"]),
        (&json!("BOOK_LOST"), &json!(3001), &json!("r-1"), &json!(422))
    );
    let details = error["details"].as_array().expect("details");
    let find = |name: &str| details.iter().find(|d| d["@type"] == format!("type.googleapis.com/google.rpc.{name}"));
    let check = |name: &str, expected: serde_json::Value| {
        let mut found = find(name).cloned().unwrap_or_else(|| panic!("{name} in {details:?}"));
        found.as_object_mut().expect("object").remove("@type");
        assert_eq!(found, expected, "{name}");
    };
    check("ErrorInfo", json!({ "reason": "BOOK_LOST", "domain": "library", "metadata": { "shelf": "a" } }));
    check("RetryInfo", json!({ "retryDelay": "1.500s" }));
    check("BadRequest", json!({ "fieldViolations": [{ "field": "title", "description": "too long" }] }));
    check("QuotaFailure", json!({ "violations": [{ "subject": "you", "description": "too much" }] }));
    let violation = json!({ "type": "TOS", "subject": "you", "description": "not accepted" });
    check("PreconditionFailure", json!({ "violations": [violation] }));
    let resource = json!({ "resourceType": "book", "resourceName": "7", "owner": "me", "description": "lost" });
    check("ResourceInfo", resource);
    check("Help", json!({ "links": [{ "description": "manual", "url": "https://example.org" }] }));
    check("LocalizedMessage", json!({ "locale": "de", "message": "Verloren" }));
    assert!(find("DebugInfo").is_none());
}

#[tokio::test]
async fn the_gateways_own_errors_have_the_same_shape() {
    let f = library(|b| b.max_request_bytes(100));
    let post = |content_type: &'static str, body: String| {
        let request = Request::put("/v1/books/7").header("content-type", content_type);
        request.body(Full::from(body)).expect("request")
    };
    let accept = |accept: &'static str| {
        Request::get("/v1/books/7").header("accept", accept).body(Full::default()).expect("request")
    };
    for (request, status, reason) in [
        (request("GET", "/nowhere", ""), 404, "ROUTE_NOT_FOUND"),
        (request("POST", "/v1/books/7", ""), 405, "METHOD_NOT_ALLOWED"),
        (post("application/json", "{".to_owned()), 400, "INVALID_FORMAT"),
        (post("application/json", format!("{{\"title\":\"{}\"}}", "x".repeat(200))), 413, "PAYLOAD_TOO_LARGE"),
        (post("text/plain", "{}".to_owned()), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (accept("text/html"), 406, "NOT_ACCEPTABLE"),
        (accept("application/json;q=0"), 406, "NOT_ACCEPTABLE"),
        (accept("application/json;q=0, */*"), 406, "NOT_ACCEPTABLE"),
        (accept("application/*;q=0, */*"), 406, "NOT_ACCEPTABLE"),
    ] {
        let answer = f.send(request).await;
        assert_eq!((answer.status, answer.json()["error"]["reason"].as_str()), (status, Some(reason)));
        assert_eq!(answer.json()["error"]["code"], status);
    }
    assert_eq!(f.call("POST", "/v1/books/7", "").await.header("allow"), "DELETE, GET, HEAD, OPTIONS, PATCH, PUT");
    for content_type in [
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "application/merge-patch+json",
        "Application/JSON",
    ] {
        assert_eq!(f.send(post(content_type, "{}".to_owned())).await.status, 200, "{content_type}");
    }
    for good in ["*/*", "text/html, application/json;q=0.5", "application/*", "application/problem+json"] {
        assert_eq!(f.send(accept(good)).await.status, 200, "{good}");
    }
}

#[tokio::test]
async fn a_malformed_body_names_the_json_path() {
    let f = library(|b| b);
    let answer = f.call("PUT", "/v1/books/7", r#"{"authors":["a",1]}"#).await;
    assert_eq!(answer.status, 400);
    let error = &answer.json()["error"];
    assert_eq!(error["message"], "authors[1]: expected string, got 1");
    let violation = json!([{ "field": "authors[1]", "description": "expected string, got 1" }]);
    assert_eq!(error["details"][0]["fieldViolations"], violation);
}

#[tokio::test]
async fn nonsense_from_upstream_is_an_upstream_error() {
    type Answer = fn() -> Result<Response<Body>, Status>;
    let truncated: Answer = || {
        let body = Full::from(vec![0u8, 0, 0, 0, 9, 1]).with_trailers(async { Some(Ok(support::trailers(0))) });
        Ok(Response::new(Body::new(body)))
    };
    let compressed: Answer = || Ok(Response::new(Body::new(Full::from(vec![1u8, 0, 0, 0, 0]))));
    let lying: Answer = || Ok(Response::new(Body::new(Full::from(vec![0u8, 255, 255, 255, 255]))));
    let html: Answer = || {
        let mut response = Response::new(Body::new(Full::from("<html>")));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        Ok(response)
    };
    let cases: [(&str, Answer, u16); 8] = [
        ("no status", || Ok(Response::new(Body::empty())), 500),
        ("no message", || Ok(ok([])), 500),
        ("two messages", || Ok(ok([vec![], vec![]])), 500),
        ("not protobuf", || Ok(ok([vec![0x0a, 0x7f]])), 500),
        ("truncated", truncated, 500),
        ("compressed", compressed, 500),
        ("lying length", lying, 500),
        ("not gRPC", html, 503),
    ];
    for (name, answer, status) in cases {
        let f = library_with(|b| b, move |_| answer());
        let answer = f.get("/v1/books/7").await;
        let reason = answer.json()["error"]["reason"].clone();
        assert_eq!((answer.status, reason), (status, json!("UPSTREAM_ERROR")), "{name}");
    }
}

#[tokio::test]
async fn what_the_service_said_before_it_failed_holds() {
    let f = library_with(
        |b| b,
        |_| {
            let mut trailers = support::trailers(10);
            trailers.insert("ratelimit-remaining", "0".parse().expect("value"));
            let body = Full::<Bytes>::default().with_trailers(async { Some(Ok(trailers)) });
            let mut response = Response::new(Body::new(body));
            for (name, value) in [
                ("ratelimit-limit", "10"),
                ("ratelimit-remaining", "1"),
                ("x-secret", "1"),
                // What holds for an answer that has not come.
                ("cache-control", "max-age=60"),
                ("content-disposition", "attachment"),
                ("content-language", "de"),
                ("etag", "\"1\""),
                ("last-modified", "Sat, 21 Nov 2026 05:39:27 GMT"),
            ] {
                response.headers_mut().insert(name, value.parse().expect("value"));
            }
            Ok(response)
        },
    );
    let ask = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        request.header("accept", "text/event-stream, */*").body(Full::from("{}")).expect("request")
    };
    for request in [ask("PUT", "/v1/books/7"), ask("GET", "/v1/watch/t"), ask("POST", "/test.library.Library/GetBook")]
    {
        let (path, answer) = (request.uri().clone(), f.send(request).await);
        assert_eq!(answer.status, 409, "{path}");
        assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("10", "0"), "{path}");
        for name in ["x-secret", "cache-control", "content-disposition", "content-language", "etag", "last-modified"] {
            assert_eq!(answer.header(name), "", "{path} {name}");
        }
    }
}

#[tokio::test]
async fn undecodable_details_do_not_hide_the_status() {
    let f = library_with(
        |b| b,
        |_| {
            let mut response = Response::new(Body::empty());
            for (name, value) in [("grpc-status", "5"), ("grpc-message", "gone%FF"), ("grpc-status-details-bin", "!!!")]
            {
                response.headers_mut().insert(name, value.parse().expect("value"));
            }
            Ok(response)
        },
    );
    let answer = f.get("/v1/books/7").await;
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (404, &json!("gone\u{fffd}")));
}

#[tokio::test]
async fn a_status_that_the_upstream_service_fails_with_is_kept() {
    let f = library_with(|b| b, |_| Err(Status::unavailable("draining")));
    let answer = f.get("/v1/books/7").await;
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (503, &json!("draining")));
}

#[tokio::test]
async fn the_renderer_serves_the_embedding_program_too() {
    let renderer = ErrorRenderer::new().with_codes(Arc::new(|reason| {
        let legacy_code = (reason == "RESOURCE_EXHAUSTED").then_some(5004);
        legacy_code.map(|code| ErrorCode { http_status: StatusCode::TOO_MANY_REQUESTS, legacy_code: Some(code) })
    }));
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(Duration::ZERO));
    let status = Status::with_error_details(Code::ResourceExhausted, "slow down", details);
    let response = renderer.render(&status, &HeaderMap::new());
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].as_bytes()), (429, &b"1"[..]));
    let body = response.into_body().collect().await.expect("body").to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["error"]["legacyCode"], 5004);
}

#[tokio::test]
async fn a_connection_that_goes_before_the_request_is_sent_is_no_cancellation() {
    let upstream = tower::service_fn(|request: Request<Body>| async {
        let (near, _far) = tokio::io::duplex(1024);
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.expect("handshake");
        drop(connection);
        let error = send.send_request(request).await.expect_err("nobody sends it");
        assert!(error.is_canceled());
        Err::<Response<Body>, _>(error)
    });
    let gateway = Gateway::builder(&support::compile(&["library.proto"])).build(upstream).expect("gateway");
    let request = Request::get("/v1/books/7").body(Full::<Bytes>::default()).expect("request");
    assert_eq!(gateway.oneshot(request).await.expect("infallible").status(), 503);
}

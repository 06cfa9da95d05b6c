//! Client streams over HTTP: bytes, forms and JSON messages, each through a socket.

mod support;

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Request;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use support::Answer;
use support::files::{Seen, WAYS, Way, collecting, message, start};
use support::net::{self, Client, fed_body};
use tonic::{Code, Status};
use tower::ServiceExt;

const PUT: &str = "test.files.PutRequest";

fn post(path: &str, content_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("content-type", content_type);
    request.body(Full::new(body.into())).expect("request")
}

fn error(answer: &Answer) -> (u16, String, String) {
    let error = &answer.json()["error"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (answer.status, text(&error["reason"]), text(&error["message"]))
}

/// The data of the messages, each of which must be small enough.
fn data(messages: &[Value], field: &str) -> Vec<u8> {
    let chunk = |m: &Value| {
        let chunk = STANDARD.decode(m[field]["data"].as_str().unwrap_or_default()).expect("base64");
        assert!(chunk.len() <= 64 << 10);
        chunk
    };
    messages.iter().flat_map(chunk).collect()
}

#[tokio::test]
async fn bytes_come_in_chunks_after_a_message_that_describes_them() {
    for way in WAYS {
        let mut f = collecting(way, PUT, |b| b);
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let mut request = post("/v1/folders/a%2Fb/files?tags=x&tags=y&info.comment=hi", "image/png", sent.clone());
        let disposition = "attachment; filename=\"old.png\"; filename*=UTF-8''n%C3%A9w.png";
        request.headers_mut().insert("content-disposition", disposition.parse().expect("value"));
        let answer = net::send(f.addr, request).await;
        let (messages, end) = f.request().await;
        assert_eq!((answer.status, end), (200, Seen::Ended), "{}", answer.text());
        assert_eq!(answer.json(), json!({ "size": messages.len().to_string() }));
        let first = json!({
            "folder": "a/b", "tags": ["x", "y"], "info": { "comment": "hi", "filename": "néw.png" },
            "file": { "contentType": "image/png" },
        });
        assert_eq!(messages[0], first);
        assert!(messages[1..].iter().all(|m| m.as_object().is_some_and(|m| m.len() == 1)
            && m["file"].as_object().is_some_and(|file| file.len() == 1)));
        assert_eq!(data(&messages, "file"), sent);
    }
}

#[tokio::test]
async fn an_empty_body_is_a_file_without_data() {
    let mut f = collecting(Way::Tcp, PUT, |b| b);
    let request = Request::post("/v1/folders/f/files").body(Full::<Bytes>::default()).expect("request");
    assert_eq!(net::send(f.addr, request).await.json(), json!({ "size": "1" }));
    let first = json!({ "folder": "f", "file": { "contentType": "application/octet-stream" } });
    assert_eq!(f.request().await, (vec![first], Seen::Ended));
}

#[tokio::test]
async fn the_whole_message_can_be_the_bytes() {
    let mut f = collecting(Way::Tcp, "google.api.HttpBody", |b| b);
    net::send(f.addr, post("/v1/bytes", "text/plain", "hello")).await;
    let messages = vec![json!({ "contentType": "text/plain" }), json!({ "data": STANDARD.encode("hello") })];
    assert_eq!(f.request().await, (messages, Seen::Ended));
}

#[tokio::test]
async fn compressed_uploads_are_decompressed() {
    let mut f = collecting(Way::Tcp, "google.api.HttpBody", |b| b.max_upload_bytes(1 << 20));
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let request = |body: Vec<u8>| {
        let mut request = post("/v1/bytes", "text/plain", body);
        request.headers_mut().insert("content-encoding", "gzip".parse().expect("value"));
        request
    };
    let sent = vec![7; 500_000];
    assert_eq!(net::send(f.addr, request(gzip(&sent))).await.status, 200);
    let (messages, end) = f.request().await;
    assert_eq!(
        (STANDARD.decode(messages[1]["data"].as_str().expect("data")).expect("base64")[0], end),
        (7, Seen::Ended)
    );

    let bomb = gzip(&vec![0; 20 << 20]);
    assert_eq!(error(&net::send(f.addr, request(bomb)).await).1, "PAYLOAD_TOO_LARGE");
    assert_eq!(f.request().await.1, Seen::Broken(Code::Internal));
    let cut = gzip(&sent);
    let answer = net::send(f.addr, request(cut[..cut.len() / 2].to_vec())).await;
    assert_eq!(error(&answer), (400, "INVALID_FORMAT".into(), "the request body could not be read".into()));
    assert_eq!(f.request().await.1, Seen::Broken(Code::Internal));
}

const FORM: &str = "multipart/form-data; boundary=XX";

/// Parts are headers and content; a part's first header is its `Content-Disposition` without the beginning.
fn form(parts: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (headers, content) in parts {
        body.push_str(&format!("--XX\r\nContent-Disposition: form-data; {headers}\r\n\r\n{content}\r\n"));
    }
    body + "--XX--\r\n"
}

#[tokio::test]
async fn forms_hold_fields_and_then_files() {
    for way in WAYS {
        let mut f = collecting(way, PUT, |b| b);
        let body = form(&[
            ("name=\"tags\"", "x"),
            ("name=\"tags\"", "y z"),
            ("name=\"mode\"", "7"),
            ("name=\"info.comment\"", "é"),
            ("name=\"file\"; filename=\"C:\\dir\\a \\\"1\\\".txt\"\r\nContent-Type: text/plain", "one\r\n--X\r\n"),
            ("name=\"file\"; filename=\"empty\"", ""),
            ("name=\"file\"", "three"),
        ]);
        let answer = net::send(f.addr, post("/v1/folders/f/files", FORM, body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (messages, end) = f.request().await;
        assert_eq!(end, Seen::Ended);
        // Every file begins with a message that has a content type.
        let files: Vec<&[Value]> = {
            let starts = messages.iter().enumerate().filter(|(_, m)| !m["file"]["contentType"].is_null());
            let starts: Vec<usize> = starts.map(|(i, _)| i).chain([messages.len()]).collect();
            starts.windows(2).map(|w| &messages[w[0]..w[1]]).collect()
        };
        let contents: Vec<String> = files.iter().map(|m| String::from_utf8(data(m, "file")).expect("text")).collect();
        assert_eq!(contents, ["one\r\n--X\r\n", "", "three"]);
        let first = json!({
            "folder": "f", "tags": ["x", "y z"], "mode": 7, "info": { "comment": "é", "filename": "a \"1\".txt" },
            "file": { "contentType": "text/plain" },
        });
        assert_eq!(files[0][0], first);
        let second = json!({ "info": { "filename": "empty" }, "file": { "contentType": "application/octet-stream" } });
        assert_eq!(files[1][0], second);
        assert_eq!(files[2][0], json!({ "file": { "contentType": "application/octet-stream" } }));
    }
}

#[tokio::test]
async fn large_files_in_forms_come_in_chunks_however_the_body_was_cut() {
    let mut f = collecting(Way::Tcp, "google.api.HttpBody", |b| b);
    for (lines, size) in [(40_000, 1 << 20), (40_000, 1000), (1000, 7)] {
        let sent: String = (0..lines).map(|i| format!("{i}\r\n--")).collect();
        let body = form(&[("name=\"any\"; filename=\"x\"", &sent), ("name=\"other\"", "two")]);
        let pieces: Vec<_> =
            body.as_bytes().chunks(size).map(|c| Ok::<_, io::Error>(Frame::data(c.to_vec().into()))).collect();
        let request = Request::post("/v1/bytes").header("content-type", FORM);
        let request = request.body(StreamBody::new(stream::iter(pieces))).expect("request");
        assert_eq!(net::send(f.addr, request).await.status, 200);
        let (messages, end) = f.request().await;
        let wrapped: Vec<Value> = messages.into_iter().map(|m| json!({ "m": m })).collect();
        assert_eq!((data(&wrapped, "m"), end), ((sent + "two").into_bytes(), Seen::Ended));
    }
}

#[tokio::test]
async fn a_form_without_a_file_has_no_content_type() {
    let mut f = collecting(Way::Tcp, PUT, |b| b);
    net::send(f.addr, post("/v1/folders/f/files?mode=1", FORM, form(&[("name=\"tags\"", "x")]))).await;
    assert_eq!(f.request().await, (vec![json!({ "folder": "f", "tags": ["x"], "mode": 1 })], Seen::Ended));
    net::send(f.addr, post("/v1/folders/f/files", FORM, "--XX--")).await;
    assert_eq!(f.request().await, (vec![json!({ "folder": "f" })], Seen::Ended));
}

#[tokio::test]
async fn malformed_forms_are_refused_and_never_look_complete() {
    let file = ("name=\"file\"; filename=\"x\"", "data");
    let whole = form(&[file]);
    let many: Vec<_> = (0..1001).map(|_| ("name=\"tags\"", "x")).collect();
    let long = format!("name=\"tags\"\r\nX-Long: {}", "x".repeat(300_000));
    let named = "name=\"file\"; filename=\"x\"";
    for (query, body, status, message) in [
        ("", form(&[("name=\"nope\"", "x"), file]), 400, "nope: unknown field"),
        ("", form(&[("filename=\"x\"", "x"), file]), 400, "malformed multipart/form-data: a part has no name"),
        ("", form(&[("name=\"mode\"", "x"), file]), 400, "mode: expected int32, got \"x\""),
        ("", form(&[("name=\"mode\"", "1"), ("name=\"mode\"", "1")]), 400, "mode: given more than once"),
        ("?mode=1", form(&[("name=\"mode\"", "1"), file]), 400, "mode: given more than once"),
        ("", form(&[("name=\"folder\"", "g"), file]), 400, "folder: already given in another part of the request"),
        ("", form(&[file, ("name=\"mode\"", "1")]), 400, "mode: fields must stand before the files"),
        ("?info.filename=y", form(&[file]), 400, "info.filename: already given in another part of the request"),
        ("", form(&[("name=\"tags\"", &"x".repeat(2000)), file]), 413, "the request body is larger than 1000 bytes"),
        ("", form(&many), 400, "malformed multipart/form-data: more than 1000 parts"),
        ("", form(&[(&long, "x")]), 400, "malformed multipart/form-data: the headers of a part are too long"),
        ("", "x".repeat(300_000), 400, "malformed multipart/form-data: the headers of a part are too long"),
        ("", form(&[(named, &"x".repeat(3_000_000))]), 413, "the request body is larger than 2000000 bytes"),
        ("", whole[..whole.len() - 10].to_owned(), 400, "malformed multipart/form-data: "),
        ("", whole[..40].to_owned(), 400, "malformed multipart/form-data: "),
        ("", String::new(), 400, "malformed multipart/form-data: "),
    ] {
        let mut f = collecting(Way::Tcp, PUT, |b| b.max_request_bytes(1000).max_upload_bytes(2_000_000));
        // Without a length, so that the body is looked at.
        let body = StreamBody::new(stream::iter([Ok::<_, io::Error>(Frame::data(Bytes::from(body)))]));
        let request = Request::post(format!("/v1/folders/f/files{query}")).header("content-type", FORM);
        let answer = net::send(f.addr, request.body(body).expect("request")).await;
        let (got, _, text) = error(&answer);
        assert!(got == status && text.starts_with(message), "{status} {message}: {}", answer.text());
        assert_eq!(f.request().await.1, Seen::Broken(Code::Internal), "{message}");
    }
    let f = collecting(Way::Tcp, PUT, |b| b);
    let answer = net::send(f.addr, post("/v1/folders/f/files", "multipart/form-data", whole)).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[tokio::test]
async fn what_is_wrong_with_the_url_is_found_before_the_call() {
    let mut f = collecting(Way::Tcp, PUT, |b| b.max_upload_bytes(10));
    for (path, status) in [("?nope=1", 400), ("?folder=x", 400), ("?file.data=x", 400), ("?mode=x", 400)] {
        let answer = net::send(f.addr, post(&format!("/v1/folders/f/files{path}"), "a/b", "x")).await;
        assert_eq!(answer.status, status, "{path}");
    }
    // A length that is declared is enough to know.
    let answer = net::send(f.addr, post("/v1/folders/f/files", "a/b", vec![0; 11])).await;
    assert_eq!(error(&answer), (413, "PAYLOAD_TOO_LARGE".into(), "the request body is larger than 10 bytes".into()));
    let mut encoded = post("/v1/folders/f/files", "a/b", "x");
    encoded.headers_mut().insert("content-encoding", "lzma".parse().expect("value"));
    assert_eq!(net::send(f.addr, encoded).await.status, 415);
    f.gateway.clone().oneshot(post("/v1/folders/f/files", "a/b", "x")).await.expect("infallible");
    assert!(matches!(f.next().await, Seen::Message(_)), "the first call that got through");
}

#[tokio::test]
async fn json_messages_come_as_an_array_or_one_after_the_other() {
    for (content_type, body) in [
        ("application/json", r#" [ {"price":1}, {"text":"[{\"}\\"} , {} ] "#),
        ("application/json", r#"{"price":1}{"text":"[{\"}\\"} {}"#),
        ("application/x-ndjson", "{\"price\":1}\n{\"text\":\"[{\\\"}\\\\\"}\r\n\n{}\n"),
        ("application/ndjson; charset=utf-8", r#"{"price":1}{"text":"[{\"}\\"}{}"#),
    ] {
        for size in [1 << 20, 1] {
            let mut f = collecting(Way::Tcp, "test.files.Row", |b| b);
            let pieces: Vec<_> =
                body.as_bytes().chunks(size).map(|c| Ok::<_, io::Error>(Frame::data(c.to_vec().into()))).collect();
            let request = Request::post("/v1/tables/t:import").header("content-type", content_type);
            let answer = net::send(f.addr, request.body(StreamBody::new(stream::iter(pieces))).expect("request")).await;
            assert_eq!(answer.json(), json!({ "size": "3" }), "{content_type}");
            // What the path sets is in the first message only.
            let messages = vec![json!({ "table": "t", "price": 1 }), json!({ "text": "[{\"}\\" }), json!({})];
            assert_eq!(f.request().await, (messages, Seen::Ended));
        }
    }
    let mut f = collecting(Way::Tcp, "test.files.InsertRequest", |b| b);
    net::send(f.addr, post("/v1/tables/t/rows?dryRun=true", "application/json", r#"[{"price":1},{"price":2}]"#)).await;
    let messages =
        vec![json!({ "table": "t", "row": { "price": 1 }, "dryRun": true }), json!({ "row": { "price": 2 } })];
    assert_eq!(f.request().await, (messages, Seen::Ended));
    for nothing in ["", "[]", " \n"] {
        net::send(f.addr, post("/v1/tables/t/rows", "application/json", nothing)).await;
        assert_eq!(f.request().await, (vec![], Seen::Ended));
    }
}

#[tokio::test]
async fn malformed_messages_are_named_by_their_index() {
    let large = format!("[{{}},{{\"text\":\"{}\"}}]", "x".repeat(200));
    for (content_type, body, status, message) in [
        ("application/json", r#"[{},{},{},{"price":"x"}]"#, 400, "[3].price: expected int32, got \"x\""),
        ("application/x-ndjson", "{}\n{\"nope\":1}", 400, "[1].nope: unknown field"),
        ("application/json", r#"[{"table":"u"}]"#, 400, "[0].table: already given in another part of the request"),
        ("application/json", r#"[{},{"table":"u"}]"#, 400, "[1].table: already given in another part of the request"),
        ("application/json", "[{},{]}]", 400, "[1]: malformed JSON at byte 1: expected a key"),
        ("application/json", "[{} {}]", 400, "malformed JSON at byte 4: expected ',' or ']'"),
        ("application/json", "[{},{}", 400, "malformed JSON at byte 6: expected ']'"),
        ("application/json", "[{},{", 400, "[1]: malformed JSON at byte 1: expected the rest of the value"),
        ("application/json", "[{},]", 400, "malformed JSON at byte 4: expected a value"),
        ("application/json", "[{}]{}", 400, "malformed JSON at byte 4: expected the end"),
        ("application/x-ndjson", "[{}]", 400, "[0]: expected object, got an array"),
        ("application/json", &large, 413, "[1]: the message is larger than 100 bytes"),
        ("text/plain", "{}", 415, "the request body must be application/json or application/x-ndjson"),
    ] {
        let mut f = collecting(Way::Tcp, "test.files.Row", |b| b.max_request_bytes(100));
        let answer = net::send(f.addr, post("/v1/tables/t:import", content_type, body.to_owned())).await;
        let (got, _, text) = error(&answer);
        assert_eq!((got, text.as_str()), (status, message), "{body}");
        if status != 415 {
            assert_eq!(f.request().await.1, Seen::Broken(Code::Internal), "{body}");
        }
    }
    let f = collecting(Way::Tcp, "test.files.InsertRequest", |b| b);
    let answer = net::send(f.addr, post("/v1/tables/t/rows", "application/json", r#"[{},{"price":"x"}]"#)).await;
    let violation = &answer.json()["error"]["details"][0]["fieldViolations"][0];
    assert_eq!(violation, &json!({ "field": "[1].row.price", "description": "expected int32, got \"x\"" }));
}

/// Echoes every message at once.
fn echo(way: Way) -> support::files::Files {
    start(
        way,
        |b| b,
        |call, _| {
            let messages = stream::unfold(call.messages, |mut messages| async move {
                messages.message().await.transpose().map(|message| (message, messages))
            });
            Box::pin(async move { Ok(tonic::Response::new(messages.boxed())) })
        },
    )
}

#[tokio::test]
async fn a_bidirectional_call_answers_while_it_is_asked() {
    for way in WAYS {
        for http2 in [false, true] {
            let f = echo(way);
            let (feed, body) = fed_body();
            let mut client = if http2 { Client::http2(f.addr).await } else { Client::http1(f.addr).await };
            let request = Request::post("/v1/chat").header("content-type", "application/x-ndjson");
            let request = request.header("accept", "application/x-ndjson").body(body).expect("request");
            feed.send(Ok("{\"price\":1}".into())).expect("open");
            let response = client.send(request).await.expect("an answer");
            let mut answer = response.into_body();
            let mut line = async || {
                let frame = answer.frame().await.map(|frame| frame.expect("no error").into_data().expect("data"));
                frame.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
            };
            assert_eq!(line().await.as_deref(), Some("{\"result\":{\"price\":1}}\n"));
            feed.send(Ok("{\"price\":2}".into())).expect("open");
            assert_eq!(line().await.as_deref(), Some("{\"result\":{\"price\":2}}\n"));
            feed.send(Ok("{\"price\":\"x\"}".into())).expect("open");
            let last = line().await.expect("an error");
            let error: Value = serde_json::from_str(&last).expect("JSON");
            assert_eq!(error["error"]["message"], "[2].price: expected int32, got \"x\"", "{way:?}");
        }
    }
}

#[tokio::test]
async fn a_bidirectional_call_that_ends_well_ends_well() {
    for (accept, expected) in [
        ("application/json", "[{\"price\":1},\n{\"price\":2}]"),
        ("application/x-ndjson", "{\"result\":{\"price\":1}}\n{\"result\":{\"price\":2}}\n"),
        ("text/event-stream", "retry: 1000\n\ndata: {\"price\":1}\n\ndata: {\"price\":2}\n\nevent: end\ndata: {}\n\n"),
    ] {
        let f = echo(Way::Tcp);
        let mut request = post("/v1/chat", "application/json", r#"[{"price":1},{"price":2}]"#);
        request.headers_mut().insert("accept", accept.parse().expect("value"));
        assert_eq!(net::send(f.addr, request).await.text(), expected);
    }
    // A mistake in the first message has a status of its own.
    let f = echo(Way::Tcp);
    assert_eq!(error(&net::send(f.addr, post("/v1/chat", "application/json", "[1]")).await).0, 400);
}

#[tokio::test]
async fn a_service_that_does_not_want_the_rest_answers_at_once() {
    let refuse = |mut call: net::ServerCall, _| -> net::HandlerFuture {
        Box::pin(async move {
            call.messages.message().await?;
            Err(Status::permission_denied("not into this folder"))
        })
    };
    let satisfied = |mut call: net::ServerCall, _| -> net::HandlerFuture {
        Box::pin(async move {
            call.messages.message().await?;
            Ok(net::messages([message("test.files.PutResponse", json!({ "size": 7 }))]))
        })
    };
    for way in WAYS {
        for (f, status) in [(start(way, |b| b, refuse), 403), (start(way, |b| b, satisfied), 200)] {
            for http2 in [false, true] {
                let (feed, body) = fed_body();
                feed.send(Ok("begun".into())).expect("open");
                let mut client = if http2 { Client::http2(f.addr).await } else { Client::http1(f.addr).await };
                let request = Request::post("/v1/folders/f/files").body(body).expect("request");
                let answer = net::whole(client.send(request).await.expect("an answer")).await;
                assert_eq!(answer.status, status, "{way:?} http2={http2}");
                drop(feed);
            }
        }
    }
}

#[tokio::test]
async fn a_body_is_read_only_as_fast_as_the_service_asks() {
    let f = start(
        Way::InProcess,
        |b| b,
        |mut call, seen| {
            Box::pin(async move {
                for _ in 0..2 {
                    call.messages.message().await?;
                }
                let _ = seen.send(Seen::Ended);
                std::future::pending().await
            })
        },
    );
    let read = Arc::new(AtomicUsize::new(0));
    let counter = read.clone();
    let pieces = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, io::Error>(Frame::data(Bytes::from_static(&[0; 1000])))
    });
    let request = Request::post("/v1/folders/f/files").body(StreamBody::new(pieces)).expect("request");
    let mut seen = f.seen;
    tokio::select! {
        _ = f.gateway.oneshot(request) => panic!("the service does not answer"),
        seen = seen.recv() => assert_eq!(seen, Some(Seen::Ended)),
    }
    // The message that describes the file, and one of data.
    assert_eq!(read.load(Ordering::SeqCst), 1);
}

/// Ends like a whole body, but says itself that it was to be longer, as hyper's do when their connection is dropped.
struct Cut;

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(10)
    }
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_broken() {
    let mut f = collecting(Way::InProcess, PUT, |b| b);
    let request = Request::post("/v1/folders/f/files").body(Cut).expect("request");
    assert_eq!(f.gateway.clone().oneshot(request).await.expect("infallible").status(), 400);
    assert!(matches!(f.next().await, Seen::Message(_)));
    assert_eq!(f.next().await, Seen::Broken(Code::Aborted));
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_given_up() {
    let mut f = collecting(Way::InProcess, PUT, |b| b.body_timeout(Duration::from_secs(5)));
    let (feed, body) = fed_body();
    feed.send(Ok("begun".into())).expect("open");
    let request = Request::post("/v1/folders/f/files").body(body).expect("request");
    let response = f.gateway.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 408);
    assert_eq!(f.request().await.1, Seen::Broken(Code::Aborted));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_upload() {
    let mut f = collecting(Way::InProcess, PUT, |b| b);
    let (feed, body) = fed_body();
    feed.send(Ok("begun".into())).expect("open");
    let request = Request::post("/v1/folders/f/files").header("x-request-timeout", "2").body(body).expect("request");
    let response = f.gateway.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 504);
    assert_eq!(f.request().await.1, Seen::Broken(Code::Aborted));
}

#[tokio::test]
async fn an_upload_may_be_answered_by_a_download() {
    let f = start(
        Way::Tcp,
        |b| b,
        |mut call, _| {
            Box::pin(async move {
                let mut bodies = vec![message("google.api.HttpBody", json!({ "contentType": "a/b" }))];
                while let Some(next) = call.messages.message().await? {
                    let next = support::files::decode(PUT, next);
                    bodies.push(message("google.api.HttpBody", json!({ "data": next["file"]["data"] })));
                }
                Ok(net::messages(bodies))
            })
        },
    );
    let answer = net::send(f.addr, post("/v1/convert", "text/plain", "hello")).await;
    assert_eq!((answer.text(), answer.header("content-type")), ("hello", "a/b"));
}

//! Server streaming as server-sent events and as lines.

mod support;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use rialto_gateway::Builder;
use serde_json::json;
use support::net::Client;
use support::{Fixture, Iter, framed, library_with, ok, pool, trailers};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;

fn event(json: serde_json::Value) -> Vec<u8> {
    support::encode(&pool(&["library.proto"]), "test.library.WatchResponse", json)
}

fn watch(path: &str, accept: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("accept", accept).body(Full::default()).expect("request")
}

fn fixture(messages: Vec<Vec<u8>>) -> Fixture {
    library_with(|b| b, move |_| Ok(ok(messages.clone())))
}

/// A body that the test feeds, and that tells when it was dropped.
struct Fed {
    frames: mpsc::UnboundedReceiver<Frame<Bytes>>,
    dropped: Arc<AtomicBool>,
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

fn fed(configure: impl FnOnce(Builder) -> Builder) -> (Fixture, mpsc::UnboundedSender<Frame<Bytes>>, Arc<AtomicBool>) {
    let (sender, frames) = mpsc::unbounded_channel();
    let dropped = Arc::new(AtomicBool::new(false));
    let body = std::sync::Mutex::new(Some(Fed { frames, dropped: dropped.clone() }));
    let fixture = library_with(configure, move |_| {
        let body = body.lock().expect("body").take().expect("one call");
        Ok(Response::new(Body::new(body)))
    });
    (fixture, sender, dropped)
}

#[tokio::test]
async fn events_have_id_name_and_one_line_of_data() {
    let f = fixture(vec![
        event(json!({ "book": { "title": "a\nb", "edition": "7" } })),
        event(json!({ "noteText": "hi" })),
        Vec::new(),
    ]);
    let answer = f.send(watch("/v1/watch/t", "text/event-stream")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        "retry: 1000\n\n\
         id: 7\nevent: book\ndata: {\"book\":{\"title\":\"a\\nb\",\"edition\":\"7\"}}\n\n\
         event: noteText\ndata: {\"noteText\":\"hi\"}\n\n\
         data: {}\n\n\
         event: end\ndata: {}\n\n"
    );
    assert_eq!(
        (answer.header("content-type"), answer.header("cache-control"), answer.header("x-accel-buffering")),
        ("text/event-stream", "no-store", "no")
    );
}

#[tokio::test]
async fn who_asks_for_json_gets_it_and_who_asks_for_nothing_gets_what_the_method_declares() {
    let f = fixture(vec![event(json!({}))]);
    let answer = f.send(watch("/v1/watch/t", "*/*")).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    for accept in ["application/x-ndjson", "application/*"] {
        let f = fixture(vec![event(json!({ "noteText": "hi" })), event(json!({}))]);
        let answer = f.send(watch("/v1/watch/t", accept)).await;
        assert_eq!(answer.text(), "{\"result\":{\"noteText\":\"hi\"}}\n{\"result\":{}}\n", "{accept}");
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
    }
    for (messages, array) in [
        (vec![event(json!({ "noteText": "hi" })), event(json!({}))], json!([{ "noteText": "hi" }, {}])),
        (vec![], json!([])),
    ] {
        let answer = fixture(messages).send(watch("/v1/watch/t", "application/json")).await;
        assert_eq!((answer.json(), answer.header("content-type")), (array, "application/json"));
    }
    assert_eq!(fixture(vec![]).send(watch("/v1/watch/t", "text/html")).await.status, 406);
}

#[tokio::test]
async fn the_form_that_is_wanted_most_is_taken() {
    const EVENTS: &str = "text/event-stream";
    const LINES: &str = "application/x-ndjson";
    for (accept, content_type) in [
        ("text/event-stream;q=0.1, application/json", "application/json"),
        ("application/json;q=0.5, application/x-ndjson;q=0.7, text/event-stream;q=0.6", LINES),
        ("application/x-ndjson;q=0.2, application/json; charset=utf-8; Q=0.1", LINES),
        ("application/json, text/*;q=0.9", "application/json"),
        ("text/*", EVENTS),
        ("application/json;q=0, */*", EVENTS),
        ("text/event-stream;q=0, */*", LINES),
        ("text/event-stream;q=0.1, */*;q=0.2", LINES),
        ("text/event-stream, application/json, application/x-ndjson", EVENTS),
        ("*/*;q=0, text/event-stream;q=0.001", EVENTS),
    ] {
        let answer = fixture(vec![]).send(watch("/v1/watch/t", accept)).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, content_type), "{accept}");
    }
    for accept in ["*/*;q=0", "text/event-stream;q=0.000", "application/*;q=0, text/html"] {
        assert_eq!(fixture(vec![]).send(watch("/v1/watch/t", accept)).await.status, 406, "{accept}");
    }
}

#[tokio::test]
async fn an_array_whose_call_fails_breaks_off() {
    let f = library_with(
        |b| b,
        |_| {
            let frames = [Frame::data(framed(&event(json!({ "noteText": "hi" })))), Frame::trailers(trailers(13))];
            Ok(Response::new(Body::new(StreamBody::new(Iter(frames.into_iter().map(Ok::<_, Infallible>))))))
        },
    );
    let response = f.gateway.clone().oneshot(watch("/v1/watch/t", "application/json")).await.expect("infallible");
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn last_event_id_resumes_and_wins_over_the_query() {
    let f = fixture(vec![]);
    let mut request = watch("/v1/watch/t?after=3", "text/event-stream");
    f.send(request.clone()).await;
    assert_eq!(f.received("test.library.WatchRequest"), json!({ "topic": "t", "after": "3" }));
    request.headers_mut().insert("last-event-id", "7".parse().expect("value"));
    f.send(request.clone()).await;
    assert_eq!(f.received("test.library.WatchRequest"), json!({ "topic": "t", "after": "7" }));
    request.headers_mut().insert("last-event-id", "x".parse().expect("value"));
    let answer = f.send(request).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["details"][0]["fieldViolations"][0]["field"], "last-event-id");
}

#[tokio::test]
async fn a_failure_before_the_first_message_has_its_own_status() {
    let denied = || Status::new(Code::PermissionDenied, "not yours");
    let trailers_only = library_with(|b| b, move |_| Ok(denied().into_http()));
    let in_trailers = library_with(
        |b| b,
        |_| {
            let frames = [Ok::<_, Infallible>(Frame::trailers(trailers(7)))];
            Ok(Response::new(Body::new(StreamBody::new(Iter(frames.into_iter())))))
        },
    );
    for f in [trailers_only, in_trailers] {
        let answer = f.send(watch("/v1/watch/t", "text/event-stream")).await;
        assert_eq!((answer.status, &answer.json()["error"]["status"]), (403, &json!("PERMISSION_DENIED")));
    }
}

#[tokio::test]
async fn a_failure_later_is_the_last_event() {
    let broken = || {
        let frames = [framed(&event(json!({ "noteText": "hi" })))].map(|f| Ok::<_, Infallible>(Frame::data(f)));
        let frames = frames.into_iter().chain([Ok(Frame::trailers(trailers(14)))]);
        Response::new(Body::new(StreamBody::new(Iter(frames))))
    };
    let f = library_with(|b| b, move |_| Ok(broken()));
    let error = r#"{"error":{"code":503,"status":"UNAVAILABLE","reason":"UNAVAILABLE","message":"","details":[]}}"#;
    let answer = f.send(watch("/v1/watch/t", "text/event-stream")).await;
    assert!(
        answer.text().ends_with(&format!("data: {{\"noteText\":\"hi\"}}\n\nevent: error\ndata: {error}\n\n")),
        "{}",
        answer.text()
    );
    // A message is told from an error by its key, so that within a stream there are no problems in RFC 9457's form.
    for accept in ["application/x-ndjson", "application/x-ndjson, application/problem+json"] {
        let answer = f.send(watch("/v1/watch/t", accept)).await;
        assert_eq!(answer.text(), format!("{{\"result\":{{\"noteText\":\"hi\"}}}}\n{error}\n"), "{accept}");
    }
}

#[tokio::test]
async fn the_deadline_ends_a_stream_whose_service_goes_on() {
    for (accept, end) in
        [("text/event-stream", "event: error\ndata: {\"error\":"), ("application/x-ndjson", "{\"error\":")]
    {
        let (f, feed, dropped) = fed(|b| b);
        feed.send(Frame::data(framed(&event(json!({ "noteText": "hi" }))))).expect("open");
        let mut request = watch("/v1/watch/t", accept);
        request.headers_mut().insert("x-request-timeout", "0.05".parse().expect("value"));
        let answer = f.send(request).await;
        let (before, error) =
            answer.text().split_once(end).map(|(a, b)| (a.to_owned(), b.to_owned())).expect("an error");
        assert!(before.contains("\"hi\"") && error.contains("\"TIMEOUT\""), "{before} {error}");
        assert!(dropped.load(Ordering::SeqCst));
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_stream_whose_service_is_always_ready() {
    let message = framed(&event(json!({ "noteText": "hi" })));
    let f = library_with(
        |b| b,
        move |_| {
            let frames = std::iter::repeat_with({
                let message = message.clone();
                move || Ok::<_, Infallible>(Frame::data(message.clone()))
            });
            Ok(Response::new(Body::new(StreamBody::new(Iter(frames)))))
        },
    );
    let mut request = watch("/v1/watch/t", "application/x-ndjson");
    request.headers_mut().insert("x-request-timeout", "2".parse().expect("value"));
    let mut body = f.gateway.clone().oneshot(request).await.expect("infallible").into_body();
    for _ in 0..100 {
        assert!(body.frame().await.expect("a frame").expect("no error").is_data());
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    // What was ready before may still come.
    let mut last = None;
    for _ in 0..1000 {
        let Some(frame) = body.frame().await else { break };
        last = frame.expect("no error").into_data().ok();
    }
    assert!(body.frame().await.is_none(), "it goes on");
    let last = last.expect("an end");
    assert!(std::str::from_utf8(&last).is_ok_and(|text| text.contains("\"TIMEOUT\"")), "{last:?}");
}

#[tokio::test]
async fn a_stream_without_a_status_ends_in_an_error() {
    let f = library_with(
        |b| b,
        |_| {
            let frames = [Ok::<_, Infallible>(Frame::data(framed(&event(json!({ "noteText": "hi" })))))];
            Ok(Response::new(Body::new(StreamBody::new(Iter(frames.into_iter())))))
        },
    );
    let answer = f.send(watch("/v1/watch/t", "text/event-stream")).await;
    assert!(answer.text().contains("event: error\ndata: {\"error\":{\"code\":500"), "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn the_head_does_not_wait_for_a_silent_stream_and_comments_keep_it_alive() {
    let (f, sender, _) = fed(|b| b.heartbeat(Duration::from_secs(15)));
    let started = tokio::time::Instant::now();
    let response = f.gateway.clone().oneshot(watch("/v1/watch/t", "text/event-stream")).await.expect("infallible");
    assert_eq!(started.elapsed().as_millis(), 100);
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await.expect("a frame").expect("no error");
        String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
    };
    assert_eq!(next().await, "retry: 1000\n\n");
    assert_eq!(next().await, ": keep-alive\n\n");
    assert!(started.elapsed() >= Duration::from_secs(15));
    // Two messages that are ready together leave in one write, whatever way the frames were cut.
    let mut bytes = framed(&event(json!({ "noteText": "a" }))).to_vec();
    bytes.extend(framed(&event(json!({ "noteText": "b" }))));
    for part in bytes.chunks(3) {
        sender.send(Frame::data(Bytes::copy_from_slice(part))).expect("open");
    }
    assert_eq!(next().await.matches("data: ").count(), 2);
    assert_eq!(next().await, ": keep-alive\n\n");
    sender
        .send(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().expect("name"), 0.into())])))
        .expect("open");
    assert_eq!(next().await, "event: end\ndata: {}\n\n");
}

#[tokio::test]
async fn a_silent_stream_has_a_head_and_heartbeats_on_the_wire() {
    let (f, _sender, _) = fed(|b| b.stream_header_hold(Duration::from_millis(1)).heartbeat(Duration::from_millis(1)));
    let mut client = Client::http1(f.addr()).await;
    let response = client.send(watch("/v1/watch/t", "text/event-stream")).await.expect("a head");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut body, mut text) = (response.into_body(), Vec::new());
    while !text.ends_with(b": keep-alive\n\n: keep-alive\n\n") {
        text.extend(body.frame().await.expect("a frame").expect("no error").into_data().expect("data"));
    }
    assert!(text.starts_with(b"retry: 1000\n\n: keep-alive\n\n"), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn the_head_waits_for_the_first_message_as_long_as_it_is_told_to() {
    let (f, sender, _) = fed(|b| b.stream_header_hold(Duration::MAX));
    let mut client = Client::http1(f.addr()).await;
    let mut answer = std::pin::pin!(client.send(watch("/v1/watch/t", "text/event-stream")));
    // The call is open, so that the head could be there.
    while f.calls.lock().expect("log").is_empty() {
        tokio::select! {
            _ = answer.as_mut() => panic!("nothing was said"),
            () = tokio::task::yield_now() => {}
        }
    }
    sender.send(Frame::trailers(trailers(7))).expect("open");
    let response = answer.await.expect("a head");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (403, &"application/json".parse().expect("value"))
    );
}

#[tokio::test]
async fn a_heartbeat_may_be_as_rare_as_never() {
    for heartbeat in [Duration::from_secs(i64::MAX as u64), Duration::MAX] {
        let f = library_with(|b| b.heartbeat(heartbeat), |_| Ok(ok([event(json!({ "noteText": "hi" }))])));
        let answer = f.send(watch("/v1/watch/t", "text/event-stream")).await;
        assert!(answer.text().ends_with("event: end\ndata: {}\n\n"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_call() {
    let (f, sender, dropped) = fed(|b| b);
    sender.send(Frame::data(framed(&event(json!({ "noteText": "hi" }))))).expect("open");
    let response = f.gateway.clone().oneshot(watch("/v1/watch/t", "text/event-stream")).await.expect("infallible");
    let mut body = response.into_body();
    body.frame().await.expect("a frame").expect("no error");
    assert!(!dropped.load(Ordering::SeqCst));
    drop(body);
    assert!(dropped.load(Ordering::SeqCst));
}

//! Streams of the Connect protocol, through a socket.

mod support;

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use prost_reflect::DescriptorPool;
use rialto_gateway::Builder;
use serde_json::{Value, json};
use support::socket::{Client, Envelopes, Feeder, envelope, feed, full, serve};
use support::{Iter, compile, framed, ok, trailers};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A call that has reached the upstream, which the test answers by hand.
struct Incall {
    request: Request<Body>,
    answer: tokio::sync::oneshot::Sender<Result<Response<Body>, Status>>,
}

impl Incall {
    /// Begins the answer. Gives the messages of the client, and what feeds the answer.
    fn begin(self) -> (Envelopes<Body>, Feeder) {
        let (feeder, body) = feed();
        let (parts, requests) = self.request.into_parts();
        assert_eq!(parts.headers["content-type"], "application/grpc");
        self.answer.send(Ok(Response::new(body))).expect("the gateway waits");
        (Envelopes::new(requests), feeder)
    }
}

struct Fixture {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Incall>,
    pool: DescriptorPool,
}

impl Fixture {
    async fn with(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let set = compile(&["echo.proto"]);
        let (sender, calls) = mpsc::unbounded_channel();
        let upstream = move |request| {
            let (answer, answered) = tokio::sync::oneshot::channel();
            let _ = sender.send(Incall { request, answer });
            async move { answered.await.unwrap_or_else(|_| Err(Status::unavailable("the test gave up"))) }
        };
        let address = serve(&set, configure, upstream).await;
        Self { address, calls, pool: DescriptorPool::decode(set.as_slice()).expect("descriptors") }
    }

    async fn new() -> Self {
        Self::with(|b| b).await
    }

    /// The next call that reaches the upstream.
    async fn incall(&mut self) -> Incall {
        self.calls.recv().await.expect("a call")
    }

    fn note(&self, text: &str) -> Vec<u8> {
        support::encode(&self.pool, "test.echo.Note", json!({ "text": text }))
    }
}

fn request(method: &str, content_type: &str, body: Body) -> Request<Body> {
    let path = format!("/test.echo.Echo/{method}");
    Request::post(path).header("content-type", content_type).body(body).expect("request")
}

fn json_request(method: &str, body: Body) -> Request<Body> {
    request(method, "application/connect+json", body)
}

fn note(text: &str) -> Vec<u8> {
    envelope(0, json!({ "text": text }).to_string())
}

/// The text of a message, or the whole of the one that ends the stream.
async fn next(stream: &mut Envelopes<Incoming>) -> Result<String, Value> {
    let (flags, message) = stream.next().await.expect("a message");
    let message: Value = serde_json::from_slice(&message).expect("JSON");
    match flags {
        0 => Ok(message["text"].as_str().expect("a note").to_owned()),
        2 => Err(message),
        other => panic!("flags {other}"),
    }
}

async fn open(client: &mut Client, request: Request<Body>) -> Envelopes<Incoming> {
    let response = client.open(request).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["cache-control"]),
        (200, &"no-store".parse().expect(""))
    );
    Envelopes::new(response.into_body())
}

#[track_caller]
fn failed(end: Result<String, Value>, code: &str, part: &str) {
    let end = end.expect_err("the end of the stream");
    assert_eq!(end["error"]["code"], code, "{end}");
    assert!(end.to_string().contains(part), "{part}: {end}");
}

#[tokio::test]
async fn a_server_streams_in_json_and_in_protobuf() {
    let mut f = Fixture::new().await;
    for (content_type, form) in [("application/connect+json", "json"), ("application/connect+proto", "proto")] {
        let mut client = Client::h1(f.address).await;
        let body = if form == "json" { note("a") } else { envelope(0, f.note("a")) };
        let sent = tokio::spawn(async move {
            client.send(request("Watch", &format!("{content_type}; charset=utf-8"), full(body))).await
        });
        let (mut requests, answer) = f.incall().await.begin();
        assert_eq!(requests.next().await, Some((0, f.note("a").into())));
        assert_eq!(requests.next().await, None);
        for text in ["b", "c"] {
            answer.data(framed(&f.note(text))).await;
        }
        let mut last = trailers(0);
        last.insert("ratelimit-reset", 7.into());
        last.insert("x-secret", 7.into());
        answer.trailers(last).await;
        let sent = sent.await.expect("an answer");
        assert_eq!((sent.status, sent.header("content-type")), (200, content_type));
        assert_eq!(sent.header("x-accel-buffering"), "no");
        let mut expected = Vec::new();
        for text in ["b", "c"] {
            let message = f.note(text);
            let json = format!("{{\"text\":\"{text}\"}}").into_bytes();
            expected.extend(envelope(0, if form == "json" { json } else { message }));
        }
        expected.extend(envelope(2, r#"{"metadata":{"ratelimit-reset":["7"]}}"#));
        assert_eq!(sent.body, expected);
    }
}

#[tokio::test]
async fn a_client_streams_and_gets_one_message() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    // However the bytes are cut.
    let bytes: Vec<u8> = [note("a"), note("b"), envelope(0, "{}")].concat();
    let pieces = bytes.chunks(3).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))));
    let body = Body::new(StreamBody::new(Iter(pieces.collect::<Vec<_>>().into_iter())));
    let sent = tokio::spawn(async move { client.send(json_request("Collect", body)).await });
    let (mut requests, answer) = f.incall().await.begin();
    for text in ["a", "b", ""] {
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
    }
    assert_eq!(requests.next().await, None);
    answer.data(framed(&f.note("done"))).await;
    answer.trailers(trailers(0)).await;
    let sent = sent.await.expect("an answer");
    assert_eq!(sent.body, [note("done"), envelope(2, "{}")].concat());
    // An answer may end before the client's half does.
    assert_eq!(sent.header("connection"), "close");
}

#[tokio::test]
async fn both_sides_talk_at_once_over_http_2() {
    let mut f = Fixture::new().await;
    let mut client = Client::h2(f.address).await;
    let (say, body) = feed();
    let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
    let (mut requests, answer) = f.incall().await.begin();
    let mut stream = opened.await.expect("an answer before the first message");
    for text in ["a", "b", "c"] {
        say.data(note(text)).await;
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
        answer.data(framed(&f.note(text))).await;
        assert_eq!(next(&mut stream).await, Ok(text.into()));
    }
    drop(say);
    assert_eq!(requests.next().await, None);
    // The client's half is closed, the service's is not.
    answer.data(framed(&f.note("last"))).await;
    assert_eq!(next(&mut stream).await, Ok("last".into()));
    answer.trailers(trailers(0)).await;
    assert_eq!(next(&mut stream).await, Err(json!({})));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn one_side_talks_after_the_other_over_http_1() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    let body = full([note("a"), note("b")].concat());
    let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
    let (mut requests, answer) = f.incall().await.begin();
    for text in ["a", "b"] {
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
    }
    assert_eq!(requests.next().await, None);
    let mut stream = opened.await.expect("an answer");
    answer.data(framed(&f.note("c"))).await;
    answer.trailers(trailers(0)).await;
    assert_eq!(next(&mut stream).await, Ok("c".into()));
    assert_eq!(next(&mut stream).await, Err(json!({})));
}

#[tokio::test]
async fn a_call_that_fails_at_once_or_later_says_so_at_the_end_of_its_stream() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    let sent = tokio::spawn(async move { client.send(json_request("Watch", full(note("a")))).await });
    let denied = Status::with_error_details(Code::PermissionDenied, "not yours", details());
    f.incall().await.answer.send(Ok(denied.into_http())).expect("the gateway waits");
    let sent = sent.await.expect("an answer");
    assert_eq!((sent.status, sent.header("content-type")), (200, "application/connect+json"));
    let end: Value = serde_json::from_slice(&sent.body[5..]).expect("JSON");
    assert_eq!((&end["error"]["code"], &end["error"]["message"]), (&json!("permission_denied"), &json!("not yours")));
    assert_eq!(end["error"]["details"][0]["debug"]["reason"], "NOT_YOURS");

    let mut client = Client::h1(f.address).await;
    let opened = tokio::spawn(async move { open(&mut client, json_request("Watch", full(note("a")))).await });
    let (_, answer) = f.incall().await.begin();
    let mut stream = opened.await.expect("an answer");
    answer.data(framed(&f.note("b"))).await;
    answer.trailers(trailers(14)).await;
    assert_eq!(next(&mut stream).await, Ok("b".into()));
    failed(next(&mut stream).await, "unavailable", "");
    assert_eq!(stream.next().await, None);
}

fn details() -> tonic_types::ErrorDetails {
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info("NOT_YOURS", "test", []);
    details
}

#[tokio::test]
async fn what_is_wrong_with_the_head_is_told_at_the_end_of_the_stream() {
    let f = Fixture::new().await;
    for (name, value, code, part) in [
        ("connect-protocol-version", "2", "invalid_argument", "connect-protocol-version"),
        ("connect-timeout-ms", "x", "invalid_argument", "connect-timeout-ms"),
        ("connect-content-encoding", "br", "unimplemented", "gzip"),
        ("content-encoding", "snappy", "unimplemented", "gzip"),
    ] {
        let mut client = Client::h1(f.address).await;
        let mut request = json_request("Watch", full(note("a")));
        request.headers_mut().insert(name, value.parse().expect("value"));
        failed(next(&mut open(&mut client, request).await).await, code, part);
    }
}

#[tokio::test]
async fn a_method_that_takes_one_message_takes_one_message() {
    let mut f = Fixture::new().await;
    for body in [Vec::new(), [note("a"), note("b")].concat()] {
        let mut client = Client::h1(f.address).await;
        let end = next(&mut open(&mut client, json_request("Watch", full(body))).await).await;
        failed(end, "unimplemented", "exactly one message");
    }
    assert!(f.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_method_that_gives_one_message_gives_one_message() {
    let mut f = Fixture::new().await;
    for (messages, part) in [(vec![], "without a message"), (vec![Vec::new(); 2], "more than one message")] {
        let mut client = Client::h1(f.address).await;
        let opened = tokio::spawn(async move { open(&mut client, json_request("Collect", full(note("a")))).await });
        f.incall().await.answer.send(Ok(ok(messages))).expect("the gateway waits");
        let mut stream = opened.await.expect("an answer");
        let mut end = stream.next().await.expect("a message");
        while end.0 == 0 {
            end = stream.next().await.expect("a message");
        }
        failed(Err(serde_json::from_slice(&end.1).expect("JSON")), "internal", part);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn messages_may_be_compressed_one_by_one() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    let body = full([envelope(1, gzip(br#"{"text":"a"}"#)), note("b"), envelope(1, gzip(b"{}"))].concat());
    let mut request = json_request("Collect", body);
    request.headers_mut().insert("connect-content-encoding", "gzip".parse().expect("value"));
    let sent = tokio::spawn(async move { client.send(request).await });
    let (mut requests, answer) = f.incall().await.begin();
    for text in ["a", "b", ""] {
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
    }
    answer.data(framed(&f.note("c"))).await;
    answer.trailers(trailers(0)).await;
    let sent = sent.await.expect("an answer");
    assert_eq!((sent.header("connect-accept-encoding"), sent.header("connect-content-encoding")), ("gzip", ""));
}

#[tokio::test]
async fn a_broken_stream_is_refused_and_cancels_the_call() {
    let mut f = Fixture::with(|b| b.max_request_bytes(1000)).await;
    let cut = || note("a")[..7].to_vec();
    let huge = || vec![0, 0xff, 0xff, 0xff, 0xff, b'{'];
    let cases: [(&str, Vec<u8>, &str, &str); 10] = [
        ("", envelope(2, "{}"), "invalid_argument", "flags"),
        ("", envelope(0x80, "{}"), "invalid_argument", "flags"),
        ("", vec![4, 0, 0, 0, 9], "invalid_argument", "flags"),
        ("", envelope(1, gzip(b"{}")), "internal", "connect-content-encoding"),
        ("gzip", envelope(1, "{}"), "invalid_argument", "gzip"),
        ("gzip", envelope(1, gzip(&[b' '; 100_000])), "resource_exhausted", "1000 bytes"),
        ("", cut(), "invalid_argument", "ends within a message"),
        ("", huge(), "resource_exhausted", "1000 bytes"),
        ("", envelope(0, r#"{"notes":[{},{"number":"x"}]}"#), "invalid_argument", "notes[1].number"),
        ("", envelope(0, ""), "invalid_argument", "malformed JSON"),
    ];
    for (encoding, broken, code, part) in cases {
        for begun in [false, true] {
            let mut client = Client::h2(f.address).await;
            let (say, body) = feed();
            let mut request = json_request("Chat", body);
            if !encoding.is_empty() {
                request.headers_mut().insert("connect-content-encoding", encoding.parse().expect("value"));
            }
            let opened = tokio::spawn(async move { open(&mut client, request).await });
            let incall = f.incall().await;
            say.data(note("a")).await;
            say.data(broken.clone()).await;
            drop(say);
            // Whether the service has answered already or not, and whatever it makes of the error.
            if begun {
                let (mut requests, answer) = incall.begin();
                assert_eq!(requests.next().await, Some((0, f.note("a").into())));
                assert_eq!(requests.next().await, None, "{part}");
                failed(next(&mut opened.await.expect("an answer")).await, code, part);
                answer.abandoned().await;
            } else {
                let mut answer = incall.answer;
                let mut requests = Envelopes::new(incall.request.into_body());
                assert_eq!(requests.next().await, Some((0, f.note("a").into())));
                assert_eq!(requests.next().await, None, "{part}");
                failed(next(&mut opened.await.expect("an answer")).await, code, part);
                answer.closed().await;
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_call() {
    let mut f = Fixture::new().await;
    for h2 in [true, false] {
        let mut client = if h2 { Client::h2(f.address).await } else { Client::h1(f.address).await };
        let (say, body) = feed();
        let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
        let (mut requests, answer) = f.incall().await.begin();
        say.data(note("a")).await;
        assert_eq!(requests.next().await, Some((0, f.note("a").into())));
        let mut stream = opened.await.expect("an answer");
        answer.data(framed(&f.note("b"))).await;
        assert_eq!(next(&mut stream).await, Ok("b".into()));
        drop((stream, say));
        answer.abandoned().await;
    }
    // And before there is an answer.
    let mut client = Client::h2(f.address).await;
    let (say, body) = feed();
    let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
    let mut incall = f.incall().await;
    opened.abort();
    drop(say);
    incall.answer.closed().await;
}

#[tokio::test]
async fn a_service_that_ends_early_ends_the_clients_half_too() {
    let mut f = Fixture::new().await;
    let mut client = Client::h2(f.address).await;
    let (say, body) = feed();
    let opened = tokio::spawn(async move { (open(&mut client, json_request("Chat", body)).await, client) });
    let (requests, answer) = f.incall().await.begin();
    answer.trailers(trailers(9)).await;
    let (mut stream, _client) = opened.await.expect("an answer");
    failed(next(&mut stream).await, "failed_precondition", "");
    assert_eq!(stream.next().await, None);
    drop((requests, stream));
    say.abandoned().await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let mut f = Fixture::new().await;
    for begun in [false, true] {
        let mut client = Client::h2(f.address).await;
        let (say, body) = feed();
        let mut request = json_request("Chat", body);
        request.headers_mut().insert("connect-timeout-ms", "50".parse().expect("value"));
        let opened = tokio::spawn(async move { open(&mut client, request).await });
        let incall = f.incall().await;
        assert!(incall.request.headers().contains_key("grpc-timeout"));
        let pending = if begun { Ok(incall.begin()) } else { Err(incall) };
        failed(next(&mut opened.await.expect("an answer")).await, "deadline_exceeded", "");
        match pending {
            Ok((_, answer)) => answer.abandoned().await,
            Err(mut incall) => incall.answer.closed().await,
        }
        drop(say);
    }
}

#[tokio::test]
async fn a_stream_may_be_silent_but_a_message_may_not_dawdle() {
    let mut f = Fixture::with(|b| b.body_timeout(Duration::from_millis(50))).await;
    let mut client = Client::h2(f.address).await;
    let (say, body) = feed();
    let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
    let (mut silent, silent_answer) = f.incall().await.begin();
    let mut silent_stream = opened.await.expect("an answer");
    let reader = tokio::spawn(async move { (silent.next().await, silent) });

    for method in ["Chat", "Watch"] {
        let mut client = Client::h2(f.address).await;
        let (dawdle, body) = feed();
        dawdle.data(note("a")[..7].to_vec()).await;
        let opened = tokio::spawn(async move { open(&mut client, json_request(method, body)).await });
        if method == "Chat" {
            let (mut requests, _answer) = f.incall().await.begin();
            assert_eq!(requests.next().await, None);
            failed(next(&mut opened.await.expect("an answer")).await, "deadline_exceeded", "in time");
        } else {
            failed(next(&mut opened.await.expect("an answer")).await, "deadline_exceeded", "in time");
        }
    }
    // The other was silent for longer than that.
    say.data(note("b")).await;
    assert_eq!(reader.await.expect("a reader").0, Some((0, f.note("b").into())));
    silent_answer.trailers(trailers(0)).await;
    assert_eq!(next(&mut silent_stream).await, Err(json!({})));
}

/// As many of these messages as anybody wants, counted.
struct Endless {
    message: Bytes,
    count: Arc<AtomicUsize>,
    left: usize,
    end: Option<http::HeaderMap>,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(self.end.take().map(|end| Ok(Frame::trailers(end))));
        }
        self.left -= 1;
        self.count.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(self.message.clone()))))
    }
}

/// 64 KiB a message, 64 MiB in all.
const MANY: usize = 1024;
/// What sockets and HTTP/2 windows hold is far less than 16 MiB.
const FEW: usize = 256;

/// Round trips on another connection, until the count stands still: whatever could move has moved.
async fn settle(f: &mut Fixture, count: &AtomicUsize) -> usize {
    let mut client = Client::h2(f.address).await;
    let mut still = 0;
    let mut last = count.load(Ordering::SeqCst);
    while still < 20 {
        let request = Request::post("/test.echo.Echo/Say").header("content-type", "application/proto");
        let sent = client.send(request.body(Body::empty()).expect("request"));
        let answered = async { f.incall().await.answer.send(Ok(ok([Vec::new()]))).expect("the gateway waits") };
        assert_eq!(tokio::join!(sent, answered).0.status, 200);
        let now = count.load(Ordering::SeqCst);
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    last
}

#[tokio::test]
async fn a_service_that_does_not_read_holds_the_client_back() {
    let mut f = Fixture::new().await;
    for h2 in [true, false] {
        let mut client = if h2 { Client::h2(f.address).await } else { Client::h1(f.address).await };
        let count = Arc::new(AtomicUsize::new(0));
        let message = Bytes::from(envelope(0, vec![0; (64 << 10) - 5]));
        let body = Body::new(Endless { message, count: count.clone(), left: MANY, end: None });
        let request = request("Collect", "application/connect+proto", body);
        let sent = tokio::spawn(async move { client.send(request).await });
        let incall = f.incall().await;
        let stuck = settle(&mut f, &count).await;
        assert!(stuck < FEW, "{stuck} messages went into buffers");
        let (mut requests, answer) = incall.begin();
        for _ in 0..MANY {
            assert_eq!(requests.next().await.expect("a message").1.len(), (64 << 10) - 5);
        }
        assert_eq!(requests.next().await, None);
        answer.data(framed(b"")).await;
        answer.trailers(trailers(0)).await;
        assert_eq!(sent.await.expect("an answer").body, [envelope(0, ""), envelope(2, "{}")].concat());
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_service_back() {
    let mut f = Fixture::new().await;
    for h2 in [true, false] {
        let mut client = if h2 { Client::h2(f.address).await } else { Client::h1(f.address).await };
        let request = request("Watch", "application/connect+proto", full(envelope(0, "")));
        let opened = tokio::spawn(async move { (open(&mut client, request).await, client) });
        let count = Arc::new(AtomicUsize::new(0));
        let message = framed(&vec![0; (64 << 10) - 5]);
        let body = Endless { message, count: count.clone(), left: MANY, end: Some(trailers(0)) };
        f.incall().await.answer.send(Ok(Response::new(Body::new(body)))).expect("the gateway waits");
        let (mut stream, _client) = opened.await.expect("an answer");
        let stuck = settle(&mut f, &count).await;
        assert!(stuck < FEW, "{stuck} messages went into buffers");
        for _ in 0..MANY {
            assert_eq!(stream.next().await.expect("a message").1.len(), (64 << 10) - 5);
        }
        assert_eq!(stream.next().await, Some((2, "{}".into())));
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_or_broken_upstream_ends_the_stream() {
    let mut f = Fixture::with(|b| b.max_response_message_bytes(100)).await;
    for (bytes, part) in [(framed(&[0; 101]), "too large"), (framed(b"\xff"), "no JSON form")] {
        let mut client = Client::h1(f.address).await;
        let opened = tokio::spawn(async move { open(&mut client, json_request("Watch", full(note("a")))).await });
        let (_, answer) = f.incall().await.begin();
        let mut stream = opened.await.expect("an answer");
        answer.data(framed(&f.note("b"))).await;
        assert_eq!(next(&mut stream).await, Ok("b".into()));
        answer.data(bytes).await;
        failed(next(&mut stream).await, "internal", part);
        answer.abandoned().await;
    }
}

//! How streams of the Connect protocol end, and what holds them back, through a socket.

mod support;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use serde_json::json;
use support::echo::{Fixture, failed, gzip, json_request, next, note, open, request};
use support::socket::{Client, Envelopes, envelope, feed, full};
use support::{framed, ok, trailers};
use tonic::body::Body;

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

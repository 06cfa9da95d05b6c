//! WebSockets: who waits for whom, and what ends when the other side does.

mod support;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body::Frame;
use serde_json::json;
use support::framed;
use support::websocket::{
    Answering, Feed, Served, Server, client, closed, echo, gateway, hear, played, request, request_message, say, serve,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;

const MINUTE: Duration = Duration::from_secs(60);

/// A WebSocket in memory, so that time may be paused: what is sent waits in `buffer` bytes for the other side.
async fn in_memory(gateway: Served, buffer: usize) -> WebSocketStream<DuplexStream> {
    let (near, far) = tokio::io::duplex(buffer);
    tokio::spawn(serve(far, gateway));
    client(near, &request("/v1/say", &[("sec-websocket-protocol", "rialto.json.v1")])).await
}

/// With the call that it has opened.
async fn with_call(buffer: usize) -> (WebSocketStream<DuplexStream>, Body, Feed) {
    let (upstream, mut calls) = played();
    let (socket, (requests, feed)) =
        tokio::join!(in_memory(gateway(|b| b, upstream), buffer), async { calls.recv().await.expect("a call").feed() });
    (socket, requests, feed)
}

async fn broken_off(requests: &mut Body) -> bool {
    matches!(request_message(requests).await, Some(Err(status)) if status.code() == Code::Cancelled)
}

#[tokio::test]
async fn the_deadline_closes_a_socket_whose_service_goes_on() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(|b| b, upstream)).await;
    let headers = [("sec-websocket-protocol", "rialto.json.v1"), ("x-request-timeout", "0.05")];
    for answered in [true, false] {
        let request = request("/v1/say", &headers);
        let open = async { client(TcpStream::connect(server.address).await.expect("accepted"), &request).await };
        let call = async {
            let call = calls.recv().await.expect("a call");
            if answered { (Some(call.feed()), None) } else { (None, Some(call)) }
        };
        let (mut socket, _held) = tokio::join!(open, call);
        assert!(hear(&mut socket).await["error"]["reason"] == "TIMEOUT");
        assert_eq!(closed(&mut socket).await.0, 4004);
    }
}

#[tokio::test]
async fn a_client_that_closes_or_vanishes_cancels_the_call() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(|b| b, upstream)).await;
    for polite in [true, false] {
        let (mut socket, (mut requests, feed)) = tokio::join!(server.open("/v1/say", "rialto.json.v1"), async {
            calls.recv().await.expect("a call").feed()
        });
        say(&mut socket, "{}").await;
        assert_eq!(request_message(&mut requests).await.expect("a message").expect("no error"), "");
        if polite {
            socket.close(None).await.expect("the server listens");
            assert_eq!(socket.next().await.expect("a frame").expect("no error"), Message::Close(None));
            assert!(socket.next().await.is_none());
        } else {
            drop(socket);
        }
        // Not the end of the client's messages, but less than all of them.
        assert!(broken_off(&mut requests).await);
        assert!(feed.dropped.await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_vanishes_before_the_service_answers_cancels_the_call_too() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(|b| b.stream_header_hold(Duration::ZERO), upstream)).await;
    let (socket, call) = tokio::join!(server.open("/v1/say", "rialto.json.v1"), calls.recv());
    let mut call = call.expect("a call");
    drop(socket);
    call.answer.closed().await;
    assert!(broken_off(&mut call.requests).await);
}

#[tokio::test]
async fn the_end_of_the_upstream_closes_the_socket_and_its_messages_come_first() {
    let (mut socket, mut requests, feed) = with_call(1 << 16).await;
    feed.message(b"\x18\x01");
    feed.message(b"\x18\x02");
    feed.end(14);
    assert_eq!(hear(&mut socket).await, json!({ "result": { "n": "1" } }));
    assert_eq!(hear(&mut socket).await, json!({ "result": { "n": "2" } }));
    assert_eq!(hear(&mut socket).await["error"]["status"], "UNAVAILABLE");
    // The call is over before the client has said goodbye.
    assert!(broken_off(&mut requests).await);
    assert!(feed.dropped.await.is_err());
    assert_eq!(closed(&mut socket).await.0, 4014);
    assert!(socket.next().await.is_none());
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_an_error() {
    let (mut socket, _requests, feed) = with_call(1 << 16).await;
    drop(feed.frames);
    assert_eq!(hear(&mut socket).await["error"]["reason"], "UPSTREAM_ERROR");
    assert_eq!(closed(&mut socket).await, (4002, "the answer of the service ended without a status".into()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_a_silent_one_goes() {
    let (mut socket, mut requests, feed) = with_call(1 << 16).await;
    let started = Instant::now();
    // Reading answers the pings.
    for _ in 0..10 {
        assert_eq!(socket.next().await.expect("a frame").expect("no error"), Message::Ping(Bytes::new()));
    }
    assert_eq!(started.elapsed().as_secs(), 150);
    // Not reading answers none. The answer to the tenth waits for the next read, so the ninth was the last.
    assert!(broken_off(&mut requests).await);
    assert_eq!(started.elapsed().as_secs(), 165);
    assert!(feed.dropped.await.is_err());
    let last: Vec<_> = socket.filter_map(async |frame| frame.ok()).collect().await;
    assert!(matches!(last.last(), Some(Message::Close(Some(close))) if u16::from(close.code) == 1001), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_message_that_comes_slowly_are_a_sign_of_life() {
    let (mut socket, mut requests, _feed) = with_call(1 << 16).await;
    // A masked text frame of six bytes, one of them every twenty seconds.
    let frame = b"\x81\x86\0\0\0\0{    }";
    for byte in frame {
        socket.get_mut().write_all(&[*byte]).await.expect("the server listens");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(request_message(&mut requests).await.expect("a message").expect("no error"), "");
}

/// An answer without end, always ready, of which it counts what was taken.
struct Endless(Arc<AtomicUsize>);

const LARGE: usize = 10_000;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let text = [&b"\x12\x90\x4e"[..], &[b'x'; LARGE]].concat();
        Poll::Ready(Some(Ok(Frame::data(framed(&text)))))
    }
}

fn endless() -> (Answering, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let upstream = tower::service_fn(move |_: Request<Body>| {
        let body = Body::new(Endless(counter.clone()));
        async move { Ok(Response::new(body)) }
    });
    (BoxCloneSyncService::new(upstream), taken)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_stops_the_upstream() {
    let (upstream, taken) = endless();
    let mut socket = in_memory(gateway(|b| b, upstream), 100_000).await;
    // Time passes only when nothing else can happen.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = taken.load(Ordering::SeqCst);
    // What the connection holds, and a batch of 32 KiB.
    assert!(before * LARGE <= 100_000 + (32 << 10) + 2 * LARGE, "{before}");
    for _ in 0..50 {
        hear(&mut socket).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = taken.load(Ordering::SeqCst);
    assert!(after >= 50 && after <= before + 50 + 4, "{after}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_alive_and_one_that_stops_is_not() {
    let (upstream, taken) = endless();
    let mut socket = in_memory(gateway(|b| b, upstream), 100_000).await;
    let (mut read, mut buffer) = (0, vec![0; 4000]);
    // No ping is answered: they stand behind what was not read.
    for _ in 0..30 {
        read += tokio::io::AsyncReadExt::read(socket.get_mut(), &mut buffer).await.expect("the server is there");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!(read > 0);
    let before = taken.load(Ordering::SeqCst);
    tokio::time::sleep(MINUTE).await;
    let last: Vec<_> = timeout(MINUTE, socket.collect::<Vec<_>>()).await.expect("the server has gone");
    assert!(last.len() <= taken.load(Ordering::SeqCst) && taken.load(Ordering::SeqCst) == before);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_not_read_stops_the_client() {
    let (socket, mut requests, feed) = with_call(1000).await;
    let (mut sink, mut stream) = socket.split();
    let message = json!({ "text": "x".repeat(500) }).to_string();
    let mut sent = 0;
    while timeout(Duration::from_secs(1), sink.send(Message::text(message.as_str()))).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 10, "{sent}");
    // Who is not listened to is not taken for silent; and is still spoken to.
    tokio::time::sleep(MINUTE).await;
    feed.message(b"");
    loop {
        match stream.next().await.expect("a frame").expect("no error") {
            Message::Ping(_) => {}
            frame => break assert_eq!(frame, Message::text("{\"result\":{}}")),
        }
    }
    for _ in 0..sent {
        assert!(request_message(&mut requests).await.expect("a message").is_ok());
    }
    timeout(Duration::from_secs(1), sink.send(Message::text("{}"))).await.expect("there is room").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_is_missed_though_the_upstream_does_not_read() {
    let (mut socket, _requests, feed) = with_call(1 << 16).await;
    let started = Instant::now();
    // One waits for the upstream, the other for the first.
    say(&mut socket, "{}").await;
    say(&mut socket, "{}").await;
    drop(socket);
    assert!(feed.dropped.await.is_err());
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn pings_whose_answers_are_not_read_do_not_pile_up() {
    let (mut socket, _requests, mut feed) = with_call(1000).await;
    let mut sent = 0;
    // A masked ping of 125 bytes.
    let ping = [&b"\x89\xfd\0\0\0\0"[..], &[b'p'; 125]].concat();
    while timeout(Duration::from_secs(1), socket.get_mut().write_all(&ping)).await.is_ok_and(|sent| sent.is_ok()) {
        sent += 1;
        assert!(sent < 200);
    }
    assert!(sent > 90);
    assert!((&mut feed.dropped).await.is_err());
}

/// Counts the writes of the server.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, b)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, b)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn messages_that_are_ready_together_go_out_in_one_write() {
    let (upstream, mut calls) = played();
    let (near, far) = tokio::io::duplex(1 << 16);
    let writes = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(Counted(far, writes.clone()), gateway(|b| b, upstream)));
    let request = request("/v1/say", &[("sec-websocket-protocol", "rialto.json.v1")]);
    let (mut socket, (_requests, feed)) =
        tokio::join!(client(near, &request), async { calls.recv().await.expect("a call").feed() });
    let before = writes.load(Ordering::SeqCst);
    for _ in 0..100 {
        feed.message(b"\x18\x01");
    }
    for _ in 0..100 {
        hear(&mut socket).await;
    }
    assert_eq!(writes.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn the_embedding_program_runs_the_sockets_and_its_extensions_live_as_long() {
    let (spawned, mut sockets) = tokio::sync::mpsc::unbounded_channel();
    let configure = |b: rialto_gateway::Builder| {
        b.web_socket_executor(move |socket| spawned.send(socket).expect("the test listens"))
    };
    let gateway = gateway(configure, echo());
    let (near, far) = tokio::io::duplex(1 << 16);
    let (held, mut released) = oneshot::channel::<()>();
    let held = Arc::new(held);
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(held.clone());
        tower::ServiceExt::oneshot(gateway.clone(), request)
    });
    let io = hyper_util::rt::TokioIo::new(far);
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades();
    tokio::spawn(async move { drop(connection.await) });
    let request = request("/v1/say", &[("sec-websocket-protocol", "rialto.json.v1")]);
    let mut socket = client(near, &request).await;
    let task = tokio::spawn(sockets.recv().await.expect("a socket"));
    say(&mut socket, r#"{"n":1}"#).await;
    assert_eq!(hear(&mut socket).await, json!({ "result": { "n": "1" } }));
    assert_eq!(released.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    task.abort();
    assert!(released.await.is_err());
    assert!(socket.next().await.is_none_or(|frame| frame.is_err()));
}

#[tokio::test]
async fn a_server_that_cannot_upgrade_says_so() {
    let gateway = gateway(|b| b, BoxCloneSyncService::new(tower::service_fn(|_| pending())));
    let request = request("/v1/say", &[("sec-websocket-protocol", "rialto.json.v1")]).map(|()| Body::empty());
    let response = tower::ServiceExt::oneshot(gateway, request).await.expect("infallible");
    assert_eq!(response.status(), 426);
}

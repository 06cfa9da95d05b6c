//! WebSocket clients, and servers with an upstream that the test plays.
#![allow(dead_code)]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rialto_gateway::{Builder, Gateway};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::{compile_text, framed, net, trailers};

pub const PROTO: &str = r#"syntax = "proto3"; package t;
    import "google/api/annotations.proto"; import "rialto/gateway/v1/web_socket.proto";
    message Note {
      string room = 1; string text = 2; int64 n = 3; Note inner = 4; repeated string tags = 5;
      oneof by { string person = 6; string machine = 7; Note other = 9; }
      bytes data = 8;
    }
    service Chat {
      rpc Talk(stream Note) returns (stream Note) { option (rialto.gateway.v1.web_socket) = { path: "/v1/talk/{room}" }; }
      rpc Say(stream Note) returns (stream Note) { option (rialto.gateway.v1.web_socket) = { path: "/v1/say" }; }
      rpc Collect(stream Note) returns (Note) { option (rialto.gateway.v1.web_socket) = { path: "/v1/collect" }; }
      rpc Watch(Note) returns (stream Note) {
        option (google.api.http) = { get: "/v1/watch/{room}" };
        option (rialto.gateway.v1.web_socket) = { path: "/v1/watch/{room}" };
      }
    }"#;

pub type Answering = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;
pub type Ws = WebSocketStream<TcpStream>;

/// A call that reached the upstream.
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    pub requests: Body,
    pub answer: oneshot::Sender<Result<Response<Body>, Status>>,
}

impl Call {
    pub fn answer(self, response: Response<Body>) -> Body {
        self.answer.send(Ok(response)).expect("the gateway waits");
        self.requests
    }

    /// The answer is what the test feeds.
    pub fn feed(self) -> (Body, Feed) {
        let (feed, body) = feed();
        (self.answer(Response::new(Body::new(body))), feed)
    }
}

/// The next request message; `None` after the client's last.
pub async fn request_message(requests: &mut Body) -> Option<Result<Bytes, Status>> {
    let frame = requests.frame().await?;
    Some(frame.map(|frame| frame.into_data().expect("data").slice(5..)))
}

/// Gives an answer, and learns when it is dropped.
pub struct Feed {
    pub frames: mpsc::UnboundedSender<Frame<Bytes>>,
    pub dropped: oneshot::Receiver<()>,
}

impl Feed {
    pub fn message(&self, message: &[u8]) {
        self.frames.send(Frame::data(framed(message))).expect("the gateway listens");
    }

    pub fn end(&self, code: i32) {
        self.frames.send(Frame::trailers(trailers(code))).expect("the gateway listens");
    }
}

struct Fed {
    frames: mpsc::UnboundedReceiver<Frame<Bytes>>,
    _dropped: oneshot::Sender<()>,
}

fn feed() -> (Feed, impl http_body::Body<Data = Bytes, Error = Infallible> + Send) {
    let (frames, receiver) = mpsc::unbounded_channel();
    let (sender, dropped) = oneshot::channel();
    (Feed { frames, dropped }, Fed { frames: receiver, _dropped: sender })
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Answers with what comes in.
pub struct Echo {
    pub requests: Body,
    pub ended: bool,
}

impl http_body::Body for Echo {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(Pin::new(&mut self.requests).poll_frame(cx));
        self.ended = next.is_none();
        Poll::Ready(Some(next.unwrap_or_else(|| Ok(Frame::trailers(trailers(0))))))
    }
}

pub fn echo() -> Answering {
    BoxCloneSyncService::new(tower::service_fn(|request: Request<Body>| async move {
        Ok(Response::new(Body::new(Echo { requests: request.into_body(), ended: false })))
    }))
}

pub fn refuse(status: Status) -> Answering {
    BoxCloneSyncService::new(tower::service_fn(move |_| {
        let status = status.clone();
        async move { Ok(status.into_http()) }
    }))
}

/// An upstream whose calls the test takes.
pub fn played() -> (Answering, mpsc::UnboundedReceiver<Call>) {
    let (sender, calls) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let sender = sender.clone();
        async move {
            let (parts, requests) = request.into_parts();
            let (answer, answered) = oneshot::channel();
            let call = Call { path: parts.uri.path().to_owned(), headers: parts.headers, requests, answer };
            sender.send(call).unwrap_or_else(|_| panic!("the test has ended"));
            answered.await.unwrap_or_else(|_| Err(Status::internal("the test did not answer")))
        }
    });
    (BoxCloneSyncService::new(service), calls)
}

pub type Served = Gateway<Answering>;

pub fn gateway(configure: impl FnOnce(Builder) -> Builder, upstream: Answering) -> Served {
    configure(Gateway::builder(&compile_text(PROTO))).build(upstream).expect("gateway")
}

/// Serves one connection.
pub async fn serve<T>(io: T, gateway: Served)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| gateway.clone().oneshot(request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    let _ = connection.with_upgrades().await;
}

/// On loopback.
pub struct Server {
    pub address: std::net::SocketAddr,
}

impl Server {
    pub async fn start(gateway: Served) -> Self {
        Self { address: net::serve(gateway) }
    }

    /// An open WebSocket.
    pub async fn open(&self, path: &str, protocol: &str) -> Ws {
        let stream = TcpStream::connect(self.address).await.expect("the server accepts");
        client(stream, &request(path, &[("sec-websocket-protocol", protocol)])).await
    }

    /// The answer to a request that opens no WebSocket.
    pub async fn refused(&self, request: &Request<()>) -> super::Answer {
        let stream = TcpStream::connect(self.address).await.expect("the server accepts");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request.clone().map(|()| Empty::<Bytes>::new())).await.expect("an answer");
        net::whole(response).await
    }
}

/// A request for a WebSocket, with more headers, or without those whose value is empty.
pub fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = format!("ws://localhost{path}").into_client_request().expect("a request");
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().expect("a name");
        if value.is_empty() {
            request.headers_mut().remove(&name);
        } else if name == "cookie" || name == "authorization" {
            request.headers_mut().append(name, value.parse().expect("a value"));
        } else {
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
    }
    request
}

pub async fn client<T: AsyncRead + AsyncWrite + Unpin>(io: T, request: &Request<()>) -> WebSocketStream<T> {
    let (socket, response) = tokio_tungstenite::client_async(request.clone(), io).await.expect("101");
    assert_eq!(response.status(), 101);
    socket
}

pub async fn say<T: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<T>, message: impl Into<Message>) {
    socket.send(message.into()).await.expect("the server listens");
}

/// The JSON of the next text frame.
pub async fn hear<T: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<T>) -> Value {
    match socket.next().await.expect("a frame").expect("no error") {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

/// The close code and reason, which come next.
pub async fn closed<T: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<T>) -> (u16, String) {
    match socket.next().await.expect("a frame").expect("no error") {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

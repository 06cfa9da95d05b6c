//! Real sockets: a server for the gateway, a client for it, and a tonic server behind it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, StreamingService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tower::{Service, ServiceExt};

use super::Answer;

/// Answers requests on a port of loopback until the runtime ends.
pub fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (addr, accept) = server(service);
    tokio::spawn(accept);
    addr
}

/// The same, for as long as the future runs. When it is dropped, so are its connections.
fn server<S, B>(service: S) -> (SocketAddr, impl Future<Output = ()> + Send)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    let addr = listener.local_addr().expect("address");
    let listener = TcpListener::from_std(listener).expect("listener");
    let accept = async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            connections.spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(socket), service)
                    .await;
            });
        }
    };
    (addr, accept)
}

/// A connection to a server; dropping it closes the socket.
pub struct Client<B> {
    sender: Sender<B>,
    connection: Option<JoinHandle<()>>,
}

enum Sender<B> {
    Http1(hyper::client::conn::http1::SendRequest<B>),
    Http2(hyper::client::conn::http2::SendRequest<B>),
}

impl<B> Client<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub async fn http1(addr: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(addr).await.expect("connect"));
        let (send, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshake");
        let connection = tokio::spawn(async { drop(connection.await) });
        Self { sender: Sender::Http1(send), connection: Some(connection) }
    }

    pub async fn http2(addr: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(addr).await.expect("connect"));
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (send, connection) = handshake.await.expect("handshake");
        let connection = tokio::spawn(async { drop(connection.await) });
        Self { sender: Sender::Http2(send), connection: Some(connection) }
    }

    /// The same, but answers that are still read keep the socket open.
    pub fn lingering(mut self) -> Self {
        self.connection = None;
        self
    }

    /// The head of the answer.
    pub async fn send(&mut self, mut request: Request<B>) -> hyper::Result<Response<Incoming>> {
        request.headers_mut().entry(http::header::HOST).or_insert_with(|| "test".parse().expect("value"));
        match &mut self.sender {
            Sender::Http1(send) => send.send_request(request).await,
            Sender::Http2(send) => {
                *request.version_mut() = http::Version::HTTP_2;
                let path = request.uri().path_and_query().expect("path").clone();
                *request.uri_mut() = format!("http://test{path}").parse().expect("URI");
                send.send_request(request).await
            }
        }
    }
}

impl<B> Drop for Client<B> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}

/// One request over its own connection.
pub async fn send<B>(addr: SocketAddr, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut client = Client::http1(addr).await;
    whole(client.send(request).await.expect("an answer")).await
}

/// The whole answer.
pub async fn whole(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// A body that the test feeds; it ends with its sender, or breaks off at an error.
pub type FedBody = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;
pub type Feed = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

pub fn fed_body() -> (Feed, FedBody) {
    let (feed, mut fed) = mpsc::unbounded_channel::<Result<Bytes, std::io::Error>>();
    let frames = stream::poll_fn(move |cx| fed.poll_recv(cx)).map(|data| data.map(Frame::data));
    (feed, StreamBody::new(frames.boxed()))
}

/// A call as a handler of a tonic server sees it; messages are bytes.
pub struct ServerCall {
    pub path: String,
    pub metadata: HeaderMap,
    pub messages: Streaming<Bytes>,
}

pub type Messages = BoxStream<'static, Result<Bytes, Status>>;
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<tonic::Response<Messages>, Status>> + Send>>;

/// An answer of these messages.
pub fn messages(messages: impl IntoIterator<Item = Vec<u8>>) -> tonic::Response<Messages> {
    let messages: Vec<_> = messages.into_iter().map(|m| Ok(Bytes::from(m))).collect();
    tonic::Response::new(stream::iter(messages).boxed())
}

#[derive(Clone)]
struct Handler {
    handle: Arc<dyn Fn(ServerCall) -> HandlerFuture + Send + Sync>,
}

impl Service<Request<Body>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Method { path: request.uri().path().to_owned(), handler: self.clone() };
        Box::pin(async move { Ok(Grpc::new(RawCodec).streaming(method, request).await) })
    }
}

struct Method {
    path: String,
    handler: Handler,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = HandlerFuture;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> HandlerFuture {
        let (metadata, _, messages) = request.into_parts();
        (self.handler.handle)(ServerCall { path: self.path.clone(), metadata: metadata.into_headers(), messages })
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A tonic server on loopback; dropping it cuts its connections.
pub struct GrpcServer {
    pub channel: Channel,
    accept: JoinHandle<()>,
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// A tonic service without a server.
pub fn handler(
    handle: impl Fn(ServerCall) -> HandlerFuture + Send + Sync + 'static,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send,
> + Clone
+ Send
+ 'static {
    Handler { handle: Arc::new(handle) }
}

impl GrpcServer {
    /// Every method is answered by `handle`.
    pub fn start(handle: impl Fn(ServerCall) -> HandlerFuture + Send + Sync + 'static) -> Self {
        let handler = Handler { handle: Arc::new(handle) };
        let (addr, accept) = server(handler.map_request(|request: Request<Incoming>| request.map(Body::new)));
        let channel = Endpoint::from_shared(format!("http://{addr}")).expect("endpoint").connect_lazy();
        Self { channel, accept: tokio::spawn(accept) }
    }
}

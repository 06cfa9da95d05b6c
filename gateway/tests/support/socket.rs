//! A gateway on a loopback socket, clients of it, and upstreams that a test plays by hand.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use rialto_gateway::{Builder, Gateway};
use tokio::sync::mpsc;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use super::net;

/// A gateway for this contract, on a socket. The upstream may do what it wants with requests.
pub async fn serve<F>(
    set: &[u8],
    configure: impl FnOnce(Builder) -> Builder,
    upstream: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Result<Response<Body>, tonic::Status>> + Send + 'static,
{
    let upstream = BoxCloneSyncService::new(tower::service_fn(upstream));
    let gateway = configure(Gateway::builder(set)).build(upstream).expect("gateway");
    net::serve(gateway)
}

/// A connection of a client that expects answers.
pub struct Client(net::Client<Body>);

impl Client {
    pub async fn h1(address: SocketAddr) -> Self {
        Self(net::Client::http1(address).await.lingering())
    }

    pub async fn h2(address: SocketAddr) -> Self {
        Self(net::Client::http2(address).await.lingering())
    }

    pub async fn open(&mut self, request: Request<Body>) -> Response<hyper::body::Incoming> {
        self.0.send(request).await.expect("a response")
    }

    /// The whole answer.
    pub async fn send(&mut self, request: Request<Body>) -> super::Answer {
        net::whole(self.open(request).await).await
    }
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Body::new(Full::new(bytes.into()))
}

/// A body that a test feeds, one frame at a time.
pub struct Fed(mpsc::Receiver<Frame<Bytes>>);

pub fn feed() -> (Feeder, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (Feeder(sender), Body::new(Fed(receiver)))
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

pub struct Feeder(mpsc::Sender<Frame<Bytes>>);

impl Feeder {
    pub async fn data(&self, bytes: impl Into<Bytes>) {
        self.0.send(Frame::data(bytes.into())).await.expect("somebody reads");
    }

    pub async fn trailers(&self, trailers: HeaderMap) {
        self.0.send(Frame::trailers(trailers)).await.expect("somebody reads");
    }

    /// Returns when nobody reads any more.
    pub async fn abandoned(&self) {
        self.0.closed().await;
    }
}

/// Messages behind five bytes of prefix, as they come out of a body.
pub struct Envelopes<B> {
    body: B,
    buffer: BytesMut,
}

impl<B> Envelopes<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    pub fn new(body: B) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next; `None` at the end of the body, or when it breaks off.
    pub async fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<5>() {
                let (flags, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
                if rest.len() >= length {
                    self.buffer.advance(5);
                    return Some((flags, self.buffer.split_to(length).freeze()));
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

pub fn envelope(flags: u8, message: impl AsRef<[u8]>) -> Vec<u8> {
    let message = message.as_ref();
    let mut bytes = vec![flags];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

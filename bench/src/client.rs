//! Clients: tonic's on hyper connections of our own (tonic's channel costs the load generator more), and plain hyper for
//! REST.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf, BufMut, Bytes};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tower::Service;

/// An HTTP/2 connection. Clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: http2::SendRequest<Body>,
    /// Where it goes, as requests name it.
    pub origin: Uri,
}

impl Http2 {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), open(address).await?).await.context("the HTTP/2 handshake")?;
        tokio::spawn(connection);
        let origin = Uri::try_from(format!("http://{address}"))?;
        Ok(Self { sender, origin })
    }
}

impl Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// An HTTP/1.1 connection that is kept alive, perhaps with a token.
pub struct Http1 {
    sender: http1::SendRequest<Empty<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Http1 {
    /// Connects.
    pub async fn connect(address: SocketAddr, authorization: Option<&MetadataValue<Ascii>>) -> Result<Self> {
        let (sender, connection) = http1::handshake(open(address).await?).await.context("the HTTP/1.1 handshake")?;
        tokio::spawn(connection);
        let authorization = authorization.map(|token| HeaderValue::from_bytes(token.as_encoded_bytes())).transpose()?;
        Ok(Self { sender, host: HeaderValue::try_from(address.to_string())?, authorization })
    }

    /// Gets a path; anything but 200 is an error.
    pub async fn get(&mut self, path: &'static str) -> Result<Bytes> {
        let mut request = Request::get(Uri::from_static(path)).header(header::HOST, &self.host).body(Empty::new())?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{path} answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

async fn open(address: SocketAddr) -> Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// Messages that are encoded already, and stay so.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

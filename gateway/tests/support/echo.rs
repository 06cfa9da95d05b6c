//! A gateway for `echo.proto` whose upstream the test plays call by call, and what a client of its streams needs.

use std::io::Write;
use std::net::SocketAddr;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response};
use hyper::body::Incoming;
use prost_reflect::DescriptorPool;
use rialto_gateway::Builder;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use super::compile;
use super::socket::{Client, Envelopes, Feeder, envelope, feed, serve};

/// A call that has reached the upstream, which the test answers by hand.
pub struct Incall {
    pub request: Request<Body>,
    pub answer: tokio::sync::oneshot::Sender<Result<Response<Body>, Status>>,
}

impl Incall {
    /// Begins the answer. Gives the messages of the client, and what feeds the answer.
    pub fn begin(self) -> (Envelopes<Body>, Feeder) {
        let (feeder, body) = feed();
        let (parts, requests) = self.request.into_parts();
        assert_eq!(parts.headers["content-type"], "application/grpc");
        self.answer.send(Ok(Response::new(body))).expect("the gateway waits");
        (Envelopes::new(requests), feeder)
    }
}

pub struct Fixture {
    pub address: SocketAddr,
    pub calls: mpsc::UnboundedReceiver<Incall>,
    pub pool: DescriptorPool,
}

impl Fixture {
    pub async fn with(configure: impl FnOnce(Builder) -> Builder) -> Self {
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

    pub async fn new() -> Self {
        Self::with(|b| b).await
    }

    /// The next call that reaches the upstream.
    pub async fn incall(&mut self) -> Incall {
        self.calls.recv().await.expect("a call")
    }

    pub fn note(&self, text: &str) -> Vec<u8> {
        super::encode(&self.pool, "test.echo.Note", json!({ "text": text }))
    }
}

pub fn request(method: &str, content_type: &str, body: Body) -> Request<Body> {
    let path = format!("/test.echo.Echo/{method}");
    Request::post(path).header("content-type", content_type).body(body).expect("request")
}

pub fn json_request(method: &str, body: Body) -> Request<Body> {
    request(method, "application/connect+json", body)
}

pub fn note(text: &str) -> Vec<u8> {
    envelope(0, json!({ "text": text }).to_string())
}

/// The text of a message, or the whole of the one that ends the stream.
pub async fn next(stream: &mut Envelopes<Incoming>) -> Result<String, Value> {
    let (flags, message) = stream.next().await.expect("a message");
    let message: Value = serde_json::from_slice(&message).expect("JSON");
    match flags {
        0 => Ok(message["text"].as_str().expect("a note").to_owned()),
        2 => Err(message),
        other => panic!("flags {other}"),
    }
}

pub async fn open(client: &mut Client, request: Request<Body>) -> Envelopes<Incoming> {
    let response = client.open(request).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["cache-control"]),
        (200, &"no-store".parse().expect(""))
    );
    Envelopes::new(response.into_body())
}

#[track_caller]
pub fn failed(end: Result<String, Value>, code: &str, part: &str) {
    let end = end.expect_err("the end of the stream");
    assert_eq!(end["error"]["code"], code, "{end}");
    assert!(end.to_string().contains(part), "{part}: {end}");
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

//! `files.proto` behind a gateway: the service tells the test what it sees of each request.

use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage};
use rialto_gateway::{BoxError, Builder, Gateway};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Code;
use tower::ServiceExt;
use tower::util::BoxCloneService;

use super::net::{self, GrpcServer, HandlerFuture, ServerCall};
use super::{Upstream, compile, encode};

/// What a handler sees of the request.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Message(Value),
    /// A clean end: all of it was there.
    Ended,
    Broken(Code),
    /// The handler was dropped before it was done.
    Dropped,
}

pub struct Files {
    pub gateway: Gateway<Upstream>,
    pub addr: SocketAddr,
    pub seen: mpsc::UnboundedReceiver<Seen>,
    pub server: Option<GrpcServer>,
}

/// Tells when it is dropped, unless it was told that all is well.
pub struct Guard {
    seen: mpsc::UnboundedSender<Seen>,
    done: bool,
}

impl Guard {
    pub fn new(seen: mpsc::UnboundedSender<Seen>) -> Self {
        Self { seen, done: false }
    }

    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.seen.send(Seen::Dropped);
        }
    }
}

/// How the gateway reaches the service.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// By function calls.
    InProcess,
    /// Over TCP, as tonic server and tonic channel do it.
    Tcp,
}

pub const WAYS: [Way; 2] = [Way::InProcess, Way::Tcp];

static SET: LazyLock<Vec<u8>> = LazyLock::new(|| compile(&["files.proto"]));
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(SET.as_slice()).expect("descriptors"));

pub fn start(
    way: Way,
    configure: impl FnOnce(Builder) -> Builder,
    handle: impl Fn(ServerCall, mpsc::UnboundedSender<Seen>) -> HandlerFuture + Send + Sync + 'static,
) -> Files {
    let (sender, seen) = mpsc::unbounded_channel();
    let handle = move |call| handle(call, sender.clone());
    let (upstream, server): (Upstream, _) = match way {
        Way::InProcess => {
            let service = net::handler(handle).map_err(|never| match never {});
            (BoxCloneService::new(service), None)
        }
        Way::Tcp => {
            let server = GrpcServer::start(handle);
            let channel = server.channel.clone().map_err(BoxError::from);
            (BoxCloneService::new(channel), Some(server))
        }
    };
    let gateway = configure(Gateway::builder(&SET)).build(upstream).expect("gateway");
    let addr = net::serve(gateway.clone());
    Files { gateway, addr, seen, server }
}

/// A message from its JSON, by prost-reflect.
pub fn message(message: &str, json: Value) -> Vec<u8> {
    encode(&POOL, message, json)
}

/// The message as JSON, by prost-reflect.
pub fn decode(message: &str, wire: Bytes) -> Value {
    let descriptor = POOL.get_message_by_name(message).expect("message");
    serde_json::to_value(DynamicMessage::decode(descriptor, wire).expect("valid protobuf")).expect("JSON")
}

/// Reads all of a request of such messages, and answers how many there were.
pub fn collector(
    input: &'static str,
) -> impl Fn(ServerCall, mpsc::UnboundedSender<Seen>) -> HandlerFuture + Send + Sync + 'static {
    move |mut call, seen| {
        Box::pin(async move {
            let guard = Guard::new(seen.clone());
            let mut count = 0;
            loop {
                match call.messages.message().await {
                    Ok(Some(message)) => {
                        count += 1;
                        let _ = seen.send(Seen::Message(decode(input, message)));
                    }
                    Ok(None) => break,
                    Err(status) => {
                        let _ = seen.send(Seen::Broken(status.code()));
                        guard.done();
                        return Err(status);
                    }
                }
            }
            let _ = seen.send(Seen::Ended);
            guard.done();
            Ok(net::messages([self::message("test.files.PutResponse", json!({ "size": count }))]))
        })
    }
}

pub fn collecting(way: Way, input: &'static str, configure: impl FnOnce(Builder) -> Builder) -> Files {
    start(way, configure, collector(input))
}

impl Files {
    pub async fn next(&mut self) -> Seen {
        self.seen.recv().await.expect("the service is there")
    }

    /// What was seen of one request, to its end.
    pub async fn request(&mut self) -> (Vec<Value>, Seen) {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Seen::Message(message) => messages.push(message),
                end => return (messages, end),
            }
        }
    }
}

//! Descriptors and an upstream that plays a gRPC server.
#![allow(dead_code)]

pub mod echo;
pub mod files;
pub mod net;
pub mod socket;
pub mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use rialto_gateway::{BoxError, Builder, Gateway};
use serde_json::Value;
use tonic::body::Body;
use tower::util::BoxCloneService;

/// Compiles test protos; the annotations come from the contract's own directory.
pub fn compile(files: &[&str]) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([root.join("tests/proto"), root.join("proto")]).expect("include paths");
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files.iter().map(|f| root.join("tests/proto").join(f))).expect("protos compile");
    compiler.encode_file_descriptor_set()
}

/// A descriptor set of one file given as text, which may import the annotations.
pub fn compile_text(text: &str) -> Vec<u8> {
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
    struct One(String);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name != "one.proto" {
                return Err(protox::Error::file_not_found(name));
            }
            File::from_source(name, &self.0)
        }
    }
    let mut chain = ChainFileResolver::new();
    chain.add(One(text.to_owned()));
    chain.add(IncludeFileResolver::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto")));
    chain.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(chain);
    compiler.include_imports(true);
    compiler.open_file("one.proto").expect("proto compiles");
    compiler.encode_file_descriptor_set()
}

pub fn pool(files: &[&str]) -> DescriptorPool {
    DescriptorPool::decode(compile(files).as_slice()).expect("descriptors")
}

/// What reached the upstream.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    pub message: Bytes,
    pub extension: Option<u32>,
}

pub type Upstream = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// Answers every call by `answer`, and remembers the calls.
pub fn upstream(
    answer: impl Fn(&Call) -> Result<Response<Body>, tonic::Status> + Send + Sync + 'static,
) -> (Upstream, Arc<Mutex<Vec<Call>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (log, answer) = (calls.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let call = Call {
                path: parts.uri.path().to_owned(),
                headers: parts.headers,
                message: bytes.slice(5..),
                extension: parts.extensions.get::<u32>().copied(),
            };
            log.lock().expect("log").push(call.clone());
            answer(&call).map_err(BoxError::from)
        }
    });
    (BoxCloneService::new(service), calls)
}

pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

pub fn trailers(code: i32) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code.into())])
}

/// A good answer of these messages.
pub fn ok(messages: impl IntoIterator<Item = Vec<u8>>) -> Response<Body> {
    let mut frames: Vec<Result<_, Infallible>> =
        messages.into_iter().map(|m| Ok(http_body::Frame::data(framed(&m)))).collect();
    frames.push(Ok(http_body::Frame::trailers(trailers(0))));
    Response::new(Body::new(StreamBody::new(Iter(frames.into_iter()))))
}

/// A stream that is always ready.
pub struct Iter<I>(pub I);

impl<I: Iterator + Unpin> futures_core::Stream for Iter<I> {
    type Item = I::Item;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<I::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

/// A gateway for `library.proto` whose upstream echoes the request message where the types are the same, and answers
/// a book of the requested id elsewhere.
pub struct Fixture {
    pub gateway: Gateway<Upstream>,
    pub calls: Arc<Mutex<Vec<Call>>>,
    pub pool: DescriptorPool,
    served: OnceLock<SocketAddr>,
}

pub fn library(configure: impl FnOnce(Builder) -> Builder) -> Fixture {
    library_with(configure, |call| Ok(ok([call.message.to_vec()])))
}

pub fn library_with(
    configure: impl FnOnce(Builder) -> Builder,
    answer: impl Fn(&Call) -> Result<Response<Body>, tonic::Status> + Send + Sync + 'static,
) -> Fixture {
    fixture(&compile(&["library.proto"]), configure, answer)
}

pub fn fixture(
    set: &[u8],
    configure: impl FnOnce(Builder) -> Builder,
    answer: impl Fn(&Call) -> Result<Response<Body>, tonic::Status> + Send + Sync + 'static,
) -> Fixture {
    let (upstream, calls) = upstream(answer);
    let gateway = configure(Gateway::builder(set)).build(upstream).expect("gateway");
    let pool = DescriptorPool::decode(set).expect("descriptors");
    Fixture { gateway, calls, pool, served: OnceLock::new() }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("ASCII header"))
    }
}

impl Fixture {
    /// Where the gateway listens.
    pub fn addr(&self) -> SocketAddr {
        *self.served.get_or_init(|| net::serve(self.gateway.clone()))
    }

    /// Sends a request through a socket of its own.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        net::send(self.addr(), request).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(request(method, path, body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "").await
    }

    pub fn last(&self) -> Call {
        self.calls.lock().expect("log").last().cloned().expect("a call reached the upstream")
    }

    /// The last request message, by prost-reflect.
    pub fn received(&self, message: &str) -> Value {
        let descriptor = self.pool.get_message_by_name(message).expect("message");
        let message = DynamicMessage::decode(descriptor, self.last().message).expect("valid protobuf");
        serde_json::to_value(message).expect("JSON")
    }
}

pub fn request(method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    Request::builder().method(method).uri(path).body(body).expect("request")
}

/// A message from its JSON, by prost-reflect.
pub fn encode(pool: &DescriptorPool, message: &str, json: Value) -> Vec<u8> {
    let descriptor = pool.get_message_by_name(message).expect("message");
    DynamicMessage::deserialize(descriptor, json).expect("JSON of the message").encode_to_vec()
}

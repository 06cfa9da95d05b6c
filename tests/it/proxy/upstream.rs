//! A gRPC server with the contract in shop.proto, that says who it is and does what it is asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

#[derive(Clone, PartialEq, Message)]
pub struct Text {
    #[prost(string, tag = "1")]
    pub text: String,
}

pub fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

/// The contract, with all imports.
pub fn descriptors() -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/proxy");
    let google = concat!(env!("CARGO_MANIFEST_DIR"), "/gateway/proto");
    let mut compiler = protox::Compiler::new([folder, google]).unwrap();
    compiler.include_imports(true).open_file("shop.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

/// What tests see of it.
#[derive(Clone, Default)]
pub struct Seen {
    /// A call waits for `go_on`.
    pub waiting: Arc<Notify>,
    /// Lets a waiting call end.
    pub go_on: Arc<Notify>,
    /// A call was cancelled.
    pub cancelled: Arc<Notify>,
}

/// Tells of a call that ends before its time.
struct Guard(Option<Arc<Notify>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.0 {
            cancelled.notify_one();
        }
    }
}

/// Which reflection it serves.
#[derive(Clone, Copy)]
pub enum Reflection {
    None,
    V1,
    V1Alpha,
}

/// How it is served.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub reflection: Reflection,
    pub tls: Option<Identity>,
}

pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Seen,
    /// Its own, so that its connections end with it. None when it has stopped.
    runtime: Option<Runtime>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Upstream {
    /// On a free port.
    pub async fn start(name: &'static str) -> Self {
        Self::of(Kind { name, reflection: Reflection::None, tls: None }).await
    }

    pub async fn of(kind: Kind) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), kind)
    }

    /// On this port.
    pub fn on(listener: TcpListener, kind: Kind) -> Self {
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let mut server = Server::builder();
        if let Some(identity) = kind.tls.clone() {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let router = server.add_routes(routes(&kind, &seen));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = listener.into_std().unwrap();
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, seen, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Goes away, and takes its connections along. Its port can be bound again.
    pub async fn stop(mut self) -> SocketAddr {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(|| drop(runtime)).await.unwrap();
        self.address
    }
}

fn routes(kind: &Kind, seen: &Seen) -> Routes {
    let (name, seen) = (kind.name, seen.clone());
    let call = move |request: Request<Body>| {
        let seen = seen.clone();
        async move { Ok::<_, Infallible>(answer(name, seen, request).await) }
    };
    let mut routes = Routes::default();
    for service in ["shop.v1.Shop", "shop.v1.Billing"] {
        let router = std::mem::take(routes.axum_router_mut());
        let path = format!("/{service}/{{method}}");
        let call = call.clone();
        *routes.axum_router_mut() = router
            .route_service(&path, service_fn(move |request: Request<axum::body::Body>| call(request.map(Body::new))));
    }
    let descriptors = descriptors();
    let builder = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(&descriptors);
    match kind.reflection {
        Reflection::None => routes,
        Reflection::V1 => routes.add_service(builder().build_v1().unwrap()),
        Reflection::V1Alpha => routes.add_service(builder().build_v1alpha().unwrap()),
    }
}

async fn answer(name: &'static str, seen: Seen, request: Request<Body>) -> Response<Body> {
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Text, Text>::default());
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    match method.as_str() {
        "Get" => {
            let get = service_fn(move |request: tonic::Request<Text>| get(name, seen.clone(), request));
            grpc.unary(get, request).await
        }
        "Watch" => {
            let watch = service_fn(move |request: tonic::Request<Text>| watch(seen.clone(), request.into_inner().text));
            grpc.server_streaming(watch, request).await
        }
        "Talk" => {
            let talk = service_fn(move |request: tonic::Request<Streaming<Text>>| talk(seen.clone(), request));
            grpc.streaming(talk, request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    }
}

/// `fail` fails, `wait` waits, a name of metadata gives that back, anything else is greeted.
async fn get(name: &str, seen: Seen, request: tonic::Request<Text>) -> Result<tonic::Response<Text>, Status> {
    let asked = request.get_ref().text.clone();
    match asked.as_str() {
        "fail" => Err(failure()),
        "large" => Ok(tonic::Response::new(text("x".repeat(10_000)))),
        "wait" => {
            let mut guard = Guard(Some(seen.cancelled.clone()));
            seen.waiting.notify_one();
            seen.go_on.notified().await;
            guard.0 = None;
            Ok(tonic::Response::new(text("waited")))
        }
        key => Ok(tonic::Response::new(text(match request.metadata().get(key) {
            Some(value) => value.to_str().unwrap().to_owned(),
            None => format!("{asked} from {name}"),
        }))),
    }
}

fn failure() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", "because".parse().unwrap());
    metadata.insert_bin("x-why-bin", MetadataValue::from_bytes(b"\0\xff"));
    Status::with_details_and_metadata(Code::FailedPrecondition, "not nöw", "details".into(), metadata)
}

type Replies = tonic::Response<ReceiverStream<Result<Text, Status>>>;

/// Two messages, and then nothing until the client goes.
async fn watch(seen: Seen, asked: String) -> Result<Replies, Status> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        for i in 0..2 {
            let _ = sender.send(Ok(text(format!("{asked} {i}")))).await;
        }
        sender.closed().await;
        seen.cancelled.notify_one();
    });
    Ok(tonic::Response::new(ReceiverStream::new(receiver)))
}

/// Says what it hears, in capitals. Fails when the client has said all.
async fn talk(seen: Seen, request: tonic::Request<Streaming<Text>>) -> Result<Replies, Status> {
    let (sender, receiver) = mpsc::channel(2);
    let mut heard = request.into_inner();
    tokio::spawn(async move {
        let mut guard = Guard(Some(seen.cancelled));
        while let Ok(Some(message)) = heard.message().await {
            let _ = sender.send(Ok(text(message.text.to_uppercase()))).await;
        }
        if sender.send(Err(failure())).await.is_ok() {
            guard.0 = None;
        }
    });
    let mut replies = tonic::Response::new(ReceiverStream::new(receiver));
    replies.metadata_mut().insert("x-head", "h".parse().unwrap());
    Ok(replies)
}

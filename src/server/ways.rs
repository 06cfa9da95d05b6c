//! The three ways in of a port: gRPC, gRPC-Web, and everything else, which is the gateway's. Shared by the server and by the gateway
//! that runs alone.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use http_body_util::{BodyExt, Full, Limited};
use rialto_gateway::{ErrorRenderer, Gateway, Socket, connect_error};
use tonic::Status;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tracing::Instrument;

use crate::kernel::caller::{RequestRecord, Transport};
use crate::kernel::error::{Error, Reason};

/// Under which a request is logged, here and upstream.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers that browsers may read besides the safelisted headers.
const EXPOSED: [HeaderName; 10] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    REQUEST_ID,
    header::ALLOW,
    HeaderName::from_static("accept-post"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    header::RETRY_AFTER,
];

/// A service that always answers, and is always ready to: for signatures.
pub trait Answers:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// One of these, whatever its type.
#[derive(Clone)]
pub struct Answering(Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>);

/// The answer that comes of a request.
type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

impl Answering {
    /// Calls a clone of the service for each request, without asking whether it is ready.
    pub fn new(service: impl Answers) -> Self {
        Self(Arc::new(move |request| Box::pin(service.clone().call(request))))
    }
}

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        (self.0)(request)
    }
}

/// Is a request Connect's?
type IsConnect = Box<dyn Fn(&Method, &Uri, &HeaderMap) -> bool + Send + Sync>;

/// Everything behind the edge: the three ways in.
pub struct Http {
    grpc: Answering,
    grpc_web: Answering,
    rest: Answering,
    /// The same for pages of other origins.
    rest_cors: Answering,
    /// What browsers ask before pages of other origins may call, which CORS answers alone.
    preflight: Answering,
    is_connect: IsConnect,
}

impl Http {
    /// Puts the ways together; CORS goes in front of those that browsers take. The gateway, which is behind `rest`, tells
    /// which requests are Connect's.
    pub fn new<U>(grpc: Answering, grpc_web: Answering, rest: Answering, cors: CorsLayer, gateway: &Gateway<U>) -> Self
    where
        U: Clone + Send + Sync + 'static,
    {
        let rest_cors = Answering::new(cors.clone().layer(rest.clone()));
        Self {
            grpc,
            grpc_web: Answering::new(cors.layer(grpc_web)),
            preflight: rest_cors.clone(),
            rest_cors,
            rest,
            is_connect: Box::new({
                let gateway = gateway.clone();
                move |method, uri, headers| gateway.is_connect(method, uri, headers)
            }),
        }
    }

    /// Puts something in front of preflights, which reach nothing behind CORS.
    pub fn before_preflights(self, layer: impl FnOnce(Answering) -> Answering) -> Self {
        Self { preflight: layer(self.preflight), ..self }
    }

    /// How a request comes in.
    pub fn transport<B>(&self, request: &Request<B>) -> Transport {
        match by_headers(request.version(), request.headers()) {
            Transport::Rest if (self.is_connect)(request.method(), request.uri(), request.headers()) => {
                Transport::Connect
            }
            transport => transport,
        }
    }

    /// Answers a request.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<rialto_gateway::BoxError>,
    {
        let way = match transport(&request) {
            Transport::Grpc => &self.grpc,
            Transport::GrpcWeb => &self.grpc_web,
            // CORS does not cover WebSockets.
            Transport::WebSocket => &self.rest,
            _ if request.headers().contains_key(header::ORIGIN) => match *request.method() {
                Method::OPTIONS => &self.preflight,
                _ => &self.rest_cors,
            },
            _ => &self.rest,
        };
        let Ok(response) = (way.0)(request.map(Body::new)).await;
        response
    }
}

/// As far as the headers tell; what is left may still be Connect.
fn by_headers(version: Version, headers: &HeaderMap) -> Transport {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) if rest.starts_with(b"-web") => Transport::GrpcWeb,
        // gRPC needs trailers, which clients of HTTP/1.1 don't read.
        Some(b"" | [b'+' | b';', ..]) if version == Version::HTTP_2 => Transport::Grpc,
        _ if headers.get(header::UPGRADE).is_some_and(is_web_socket) => Transport::WebSocket,
        _ => Transport::Rest,
    }
}

fn is_web_socket(upgrade: &HeaderValue) -> bool {
    upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// As the edge has noted it.
fn transport<B>(request: &Request<B>) -> Transport {
    RequestRecord::of(request.extensions()).map_or(Transport::Rest, |record| record.transport)
}

/// What the form of an error depends on.
pub struct Asked {
    transport: Transport,
    request_id: Option<HeaderValue>,
    accept: Option<HeaderValue>,
    content_type: Option<HeaderValue>,
}

impl Asked {
    /// Noted before the request goes on.
    pub fn by<B>(request: &Request<B>) -> Self {
        let header = |name| request.headers().get(name).cloned();
        Self {
            transport: transport(request),
            request_id: header(REQUEST_ID),
            accept: header(header::ACCEPT),
            content_type: header(header::CONTENT_TYPE),
        }
    }

    /// An error in the client's own protocol.
    pub fn error(self, errors: &ErrorRenderer, status: &Status) -> Response<Body> {
        match self.transport {
            Transport::Grpc => status.clone().into_http(),
            Transport::GrpcWeb => grpc_web_error(status),
            Transport::Connect => connect_error(status, self.content_type.as_ref()),
            Transport::Rest | Transport::WebSocket => {
                let headers = [(REQUEST_ID, self.request_id), (header::ACCEPT, self.accept)];
                let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
                errors.render(status, &headers.collect())
            }
        }
    }
}

/// gRPC-Web in front of a gRPC service. Over HTTP/1.1 a call is passed on when the whole of it is there, at most a message
/// of `limit` bytes: an answer that comes sooner, such as a refusal by the token, would end a connection on which the client
/// may be sending its next request already.
pub fn grpc_web(grpc: impl Answers, limit: usize, patience: Duration) -> impl Answers {
    let inner = GrpcWebLayer::new().layer(grpc);
    // As base64, with room for the frames.
    let limit = (limit / 3 + 64).saturating_mul(4);
    tower::service_fn(move |mut request: Request<Body>| {
        let inner = inner.clone();
        async move {
            if request.version() != Version::HTTP_2 {
                let (head, body) = request.into_parts();
                let whole = tokio::time::timeout(patience, Limited::new(body, limit).collect()).await;
                let whole = whole.map_err(|_| Error::new(Reason::Timeout, "the request did not come in time"));
                let unreadable = |_| Error::new(Reason::PayloadTooLarge, "the request is larger than the server takes");
                match whole.and_then(|whole| whole.map_err(unreadable)) {
                    Ok(whole) => request = Request::from_parts(head, Body::new(Full::new(whole.to_bytes()))),
                    Err(error) => return Ok(grpc_web_error(&error.into())),
                }
            }
            inner.oneshot(request).await
        }
    })
}

fn grpc_web_error(status: &Status) -> Response<Body> {
    let mut response = status.clone().into_http();
    let content_type = HeaderValue::from_static("application/grpc-web+proto");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Compresses what is worth it, and no stream, whose messages must not wait for each other.
pub fn compress(mut inner: impl Answers) -> impl Answers {
    // The gateway marks streams for proxies; Connect compresses the messages of its streams, not their bodies. A strong
    // ETag belongs to the bytes as they are (RFC 9110 section 8.8.1).
    let whole = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        let strong = headers.get(header::ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
        !strong && !headers.contains_key("x-accel-buffering")
    };
    let worth = SizeAbove::new(1024)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::const_new("application/octet-stream"))
        .and(NotForContentType::const_new("application/connect+"))
        .and(whole);
    tower::service_fn(move |request: Request<Body>| {
        let accepted = request.headers().get_all(header::ACCEPT_ENCODING).iter();
        let accepted: HeaderMap = accepted.map(|value| (header::ACCEPT_ENCODING, value.clone())).collect();
        let (answer, worth) = (inner.call(request), worth.clone());
        async move {
            let mut response = answer.await?;
            // The layer makes room for an encoder in every body. Most answers are small and do without.
            if !worth.should_compress(&response) {
                return Ok(response);
            }
            let answered = tower::service_fn(move |_| ready(Ok(std::mem::take(&mut response))));
            let mut compressing = CompressionLayer::new().compress_when(worth).layer(answered);
            let mut request = Request::new(());
            *request.headers_mut() = accepted;
            compressing.call(request).await.map(|response| response.map(Body::new))
        }
    })
}

/// Runs an open WebSocket, whose log lines are those of its request. Its connection keeps its place at the listener.
pub fn run_socket(socket: Socket) {
    drop(tokio::spawn(socket.in_current_span()));
}

/// CORS for pages of these origins (`*`: of any), which may read `exposed` headers besides the usual ones. Pages of origins
/// that are named may send `cookies`, if the server takes any; those that only `*` lets in never may.
pub fn cors(
    origins: &[String],
    cookies: bool,
    exposed: impl IntoIterator<Item = HeaderName>,
) -> anyhow::Result<CorsLayer> {
    let parse = |origin: &String| origin.parse().with_context(|| format!("server.cors_origins: {origin:?}"));
    let named = origins.iter().filter(|origin| *origin != "*");
    let named = named.map(parse).collect::<anyhow::Result<Vec<HeaderValue>>>()?;
    let allowed = match origins.iter().any(|origin| origin == "*") {
        // A browser takes no `*` for an answer to credentials.
        true if cookies && !named.is_empty() => AllowOrigin::mirror_request(),
        true => AllowOrigin::any(),
        false => AllowOrigin::list(named.clone()),
    };
    let hour = Duration::from_secs(3600);
    // Headers are mirrored because `*` does not cover `authorization` (Fetch standard, CORS-preflight fetch).
    Ok(CorsLayer::new()
        .allow_origin(allowed)
        .allow_credentials(AllowCredentials::predicate(move |origin, _| cookies && named.contains(origin)))
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.into_iter().chain(exposed).collect::<Vec<_>>())
        .max_age(hour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_tells_the_transport() {
        let of = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
            by_headers(Version::HTTP_2, &headers)
        };
        assert_eq!(of("application/grpc"), Transport::Grpc);
        assert_eq!(of("application/grpc+proto"), Transport::Grpc);
        assert_eq!(of("application/grpc-web-text+proto"), Transport::GrpcWeb);
        assert_eq!(of("application/grpcx"), Transport::Rest);
        assert_eq!(of("application/json"), Transport::Rest);
        assert_eq!(by_headers(Version::HTTP_2, &HeaderMap::new()), Transport::Rest);
    }
}

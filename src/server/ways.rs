//! The three ways in of a port: gRPC, gRPC-Web, and everything else, which is REST. Shared by the server and by the gateway
//! that runs alone.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use http::{HeaderName, HeaderValue, Request, Response, header};
use rialto_gateway::ErrorRenderer;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::kernel::caller::{RequestRecord, Transport};

/// Under which a request is logged, here and upstream.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers that browsers may read besides the safelisted headers.
const EXPOSED: [HeaderName; 9] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    REQUEST_ID,
    header::ALLOW,
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    header::RETRY_AFTER,
];

/// A service that always answers.
pub type Answering = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Everything behind the edge: the three ways in.
pub struct Http {
    grpc: Answering,
    grpc_web: Answering,
    rest: Answering,
    /// The same for pages of other origins.
    rest_cors: Answering,
}

impl Http {
    /// Puts the ways together; CORS goes in front of those that browsers take.
    pub fn new<R>(grpc: Answering, grpc_web: Answering, rest: R, cors: CorsLayer) -> Self
    where
        R: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        R::Future: Send + 'static,
    {
        Self {
            grpc,
            grpc_web: BoxCloneSyncService::new(cors.clone().layer(grpc_web)),
            rest_cors: BoxCloneSyncService::new(cors.layer(rest.clone())),
            rest: BoxCloneSyncService::new(rest),
        }
    }

    /// Answers a request.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<rialto_gateway::BoxError>,
    {
        let transport = RequestRecord::of(request.extensions()).map_or(Transport::Rest, |record| record.transport);
        let way = match transport {
            Transport::Grpc => &self.grpc,
            Transport::GrpcWeb => &self.grpc_web,
            Transport::Rest if request.headers().contains_key(header::ORIGIN) => &self.rest_cors,
            Transport::Rest => &self.rest,
        };
        let Ok(response) = way.clone().oneshot(request.map(Body::new)).await;
        response
    }
}

/// An error in the client's own protocol.
pub fn error_response(
    errors: &ErrorRenderer,
    transport: Transport,
    status: Status,
    request_id: Option<HeaderValue>,
) -> Response<Body> {
    match transport {
        Transport::Grpc => status.into_http(),
        Transport::GrpcWeb => {
            let mut response = status.into_http();
            let content_type = HeaderValue::from_static("application/grpc-web+proto");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response
        }
        Transport::Rest => errors.render(&status, &request_id.into_iter().map(|id| (REQUEST_ID, id)).collect()),
    }
}

/// Compresses what is worth it, and no stream, whose messages must not wait for each other.
pub fn compression() -> CompressionLayer<And<And<SizeAbove, NotForContentType>, NotForContentType>> {
    CompressionLayer::new().compress_when(
        SizeAbove::new(1024)
            .and(NotForContentType::const_new("text/event-stream"))
            .and(NotForContentType::const_new("application/x-ndjson")),
    )
}

/// CORS for pages of these origins (`*`: of any), which may read `exposed` headers besides the usual ones.
pub fn cors(origins: &[String], exposed: impl IntoIterator<Item = HeaderName>) -> anyhow::Result<CorsLayer> {
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let parse = |origin: &String| origin.parse().with_context(|| format!("server.cors_origins: {origin:?}"));
        AllowOrigin::list(origins.iter().map(parse).collect::<anyhow::Result<Vec<HeaderValue>>>()?)
    };
    let hour = Duration::from_secs(3600);
    // Bearer tokens are sent by the page itself, so no credentials mode is needed, and none is allowed. Headers are
    // mirrored because `*` does not cover `authorization` (Fetch standard, CORS-preflight fetch).
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.into_iter().chain(exposed).collect::<Vec<_>>())
        .max_age(hour))
}

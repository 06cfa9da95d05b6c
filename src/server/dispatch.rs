//! Which way a request goes: gRPC and gRPC-Web to the gate, everything else to the server's own pages or to the gateway,
//! which makes a gRPC request of it and sends that to the gate.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use rialto_gateway::{ErrorCode, ErrorRenderer, Gateway};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::flood::{self, FloodGuard, Flooded};
use super::health::Health;
use super::{docs, openapi};
use crate::domains::auth::Keys;
use crate::gate::Gate;
use crate::kernel::app::App;
use crate::kernel::caller::{RequestRecord, Transport};
use crate::kernel::error::{Error, Reason, ReasonInfo};
use crate::proto;

/// Answers that browsers may read besides the safelisted headers.
const EXPOSED: [HeaderName; 9] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("idempotency-replayed"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    header::RETRY_AFTER,
];

type Answering = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Everything behind the edge.
#[derive(Clone)]
pub struct Http {
    guard: FloodGuard,
    ways: Ways,
    errors: ErrorRenderer,
}

/// The three ways in, behind the flood guard.
#[derive(Clone)]
struct Ways {
    grpc: Gate<Routes>,
    grpc_web: Answering,
    rest: Answering,
}

impl Http {
    /// Puts the ways together.
    pub fn new(app: &App, gate: Gate<Routes>, keys: &Arc<Keys>, health: Health) -> anyhow::Result<Self> {
        let gateway = gateway(app, gate.clone())?;
        let errors = gateway.errors().clone();
        let cors = cors(&app.config.server.cors_origins)?;
        let compression = CompressionLayer::new().compress_when(
            SizeAbove::new(1024)
                .and(NotForContentType::const_new("text/event-stream"))
                .and(NotForContentType::const_new("application/x-ndjson")),
        );
        let rest = compression.layer(Rest { pages: pages(app, keys, health)?, gateway });
        let patience = Duration::from_secs(app.config.server.body_timeout_seconds);
        let rest = RequestBodyTimeoutLayer::new(patience)
            .layer(rest.map_request(|request: Request<_>| request.map(Body::new)));
        let rest = rest.map_response(|response| with_security_headers(response.map(Body::new)));
        let ways = Ways {
            grpc_web: BoxCloneSyncService::new(cors.clone().layer(GrpcWebLayer::new().layer(gate.clone()))),
            rest: BoxCloneSyncService::new(cors.layer(rest)),
            grpc: gate,
        };
        Ok(Self { guard: flood::guard(app)?, ways, errors })
    }

    /// Answers a request.
    pub async fn call<B>(self, transport: Transport, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<rialto_gateway::BoxError>,
    {
        let id = RequestRecord::of(request.extensions());
        let Ok(response) = self.guard.layer(self.ways).oneshot(request.map(Body::new)).await;
        match response.extensions().get::<Flooded>() {
            None => response,
            Some(Flooded(wait)) => {
                let error = Error::new(Reason::RateLimitExceeded, "too many requests").retry_after(*wait);
                error_response(&self.errors, transport, error.into(), id.as_ref().map_or("", |record| &record.id))
            }
        }
    }

    /// An error as the transport has it.
    pub fn error(&self, transport: Transport, status: Status, request_id: &str) -> Response<Body> {
        error_response(&self.errors, transport, status, request_id)
    }
}

fn error_response(errors: &ErrorRenderer, transport: Transport, status: Status, request_id: &str) -> Response<Body> {
    match transport {
        Transport::Grpc => status.into_http(),
        Transport::GrpcWeb => {
            let mut response = status.into_http();
            let content_type = HeaderValue::from_static("application/grpc-web+proto");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response
        }
        Transport::Rest => {
            let id = HeaderValue::from_str(request_id).unwrap_or_else(|_| HeaderValue::from_static("-"));
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-request-id"), id)]);
            with_security_headers(errors.render(&status, &headers))
        }
    }
}

impl Service<Request<Body>> for Ways {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let transport = RequestRecord::of(request.extensions()).map_or(Transport::Rest, |record| record.transport);
        match transport {
            Transport::Grpc => self.grpc.call(request),
            Transport::GrpcWeb => Box::pin(self.grpc_web.clone().oneshot(request)),
            Transport::Rest => Box::pin(self.rest.clone().oneshot(request)),
        }
    }
}

/// The server's own pages, and the gateway for every other path.
#[derive(Clone)]
struct Rest {
    pages: Router,
    gateway: Gateway<Gate<Routes>>,
}

/// The paths of [`pages`].
const PAGES: [&str; 8] =
    ["/", "/health", "/ready", "/metrics", "/docs", "/api-docs", "/openapi.json", "/.well-known/jwks.json"];

impl Service<Request<Body>> for Rest {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if PAGES.contains(&request.uri().path()) {
            let pages = self.pages.clone();
            return Box::pin(async move { Ok(pages.oneshot(request).await?.map(Body::new)) });
        }
        Box::pin(self.gateway.clone().oneshot(request))
    }
}

fn gateway(app: &App, gate: Gate<Routes>) -> anyhow::Result<Gateway<Gate<Routes>>> {
    let codes = |reason: &str| {
        let info = ReasonInfo::by_name(reason)?;
        let http_status = StatusCode::from_u16(info.http_status).ok()?;
        Some(ErrorCode { http_status, legacy_code: Some(info.legacy_code) })
    };
    let gateway = Gateway::builder(proto::DESCRIPTORS)
        .alias("/api/v1", "/v1")
        .alias("/api", "/v1")
        .max_request_bytes(app.config.server.max_message_bytes)
        .max_response_message_bytes(app.config.server.max_message_bytes)
        // Older clients read empty lists and zeros; leaving them out would break them.
        .always_print_fields(true)
        .response_header(HeaderName::from_static("idempotency-replayed"))
        .error_codes(Arc::new(codes))
        .build(gate)?;
    Ok(gateway)
}

fn pages(app: &App, keys: &Arc<Keys>, health: Health) -> anyhow::Result<Router> {
    let document = openapi::document()?;
    let html = docs::page(&document);
    let openapi = serde_json::to_string(&document)?;
    let jwks = keys.jwks.to_string();
    let json = |text: String| move || async move { ([(header::CONTENT_TYPE, "application/json")], text.clone()) };
    let docs = move || async move { ([(header::CONTENT_SECURITY_POLICY, docs::POLICY)], axum::response::Html(html)) };
    let ready = health.clone();
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .route("/health", get(move || async move { health.report() }))
        .route("/ready", get(move || async move { ready.readiness() }))
        .route("/openapi.json", get(json(openapi)))
        .route("/.well-known/jwks.json", get(json(jwks)))
        .route("/docs", get(docs.clone()))
        .route("/api-docs", get(docs));
    if app.config.server.metrics {
        router = router.merge(metrics_router(app));
    }
    Ok(router)
}

/// `/metrics` alone.
pub fn metrics_router(app: &App) -> Router {
    let app = app.clone();
    let metrics = move || async move {
        let (open, idle) = app.db.connections();
        app.metrics.database_connections.set(open.into());
        app.metrics.database_idle_connections.set(idle.into());
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, content_type)], app.metrics.text()).into_response()
    };
    Router::new().route("/metrics", get(metrics))
}

fn cors(origins: &[String]) -> anyhow::Result<CorsLayer> {
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().map(|origin| origin.parse()).collect::<Result<Vec<HeaderValue>, _>>()?)
    };
    let hour = Duration::from_secs(3600);
    // Bearer tokens are sent by the page itself, so no credentials mode is needed, and none is allowed.
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(Any)
        .allow_headers(Any)
        .expose_headers(EXPOSED)
        .max_age(hour))
}

/// What browsers are told about answers that are not pages (OWASP REST Security Cheat Sheet).
fn with_security_headers(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

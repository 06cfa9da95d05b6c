//! Which way a request goes: gRPC and gRPC-Web to the gate, everything else, Connect among it, to the server's own pages or
//! to the gateway, which makes a gRPC request of it and sends that to the gate.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use rialto_gateway::{ErrorCode, ErrorRenderer, Gateway, connect_error};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use super::flood::{self, FloodGuard, Flooded};
use super::health::Health;
use super::{docs, openapi};
use crate::domains::auth::Keys;
use crate::gate::Gate;
use crate::kernel::app::App;
use crate::kernel::caller::{RequestRecord, Transport};
use crate::kernel::error::{Error, Reason, ReasonInfo};
use crate::proto;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers that browsers may read besides the safelisted headers.
const EXPOSED: [HeaderName; 11] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    REQUEST_ID,
    header::ALLOW,
    HeaderName::from_static("accept-post"),
    HeaderName::from_static("idempotency-replayed"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    header::RETRY_AFTER,
];

type Answering = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Everything behind the edge: the three ways in, each behind the flood guard.
pub struct Http {
    grpc: Answering,
    grpc_web: Answering,
    rest: Answering,
    /// The same for pages of other origins.
    rest_cors: Answering,
    gateway: Gateway<Gate<Routes>>,
}

impl Http {
    /// Puts the ways together.
    pub fn new(app: &App, gate: Gate<Routes>, keys: &Arc<Keys>, health: Health) -> anyhow::Result<Self> {
        let gateway = gateway(app, gate.clone())?;
        let guard = flood::guard(app)?;
        let protect = Protect { guard, errors: gateway.errors().clone() };
        let cors = cors(&app.config.server.cors_origins)?;
        // Streams would sit in the compressor, and pictures are compressed already.
        let compression = CompressionLayer::new().compress_when(
            SizeAbove::new(1024)
                .and(NotForContentType::IMAGES)
                .and(NotForContentType::const_new("application/octet-stream"))
                .and(NotForContentType::const_new("text/event-stream"))
                .and(NotForContentType::const_new("application/x-ndjson"))
                .and(NotForContentType::const_new("application/connect+")),
        );
        let rest = Rest { pages: pages(app, keys, health)?, gateway: gateway.clone() };
        let rest = compression.layer(protect.clone().around(rest));
        let rest = rest.map_response(|response| with_security_headers(response.map(Body::new)));
        let grpc_web = protect.clone().around(grpc_web(app, gate.clone()));
        Ok(Self {
            grpc: protect.around(gate),
            grpc_web: BoxCloneSyncService::new(cors.clone().layer(grpc_web)),
            rest_cors: BoxCloneSyncService::new(cors.layer(rest.clone())),
            rest: BoxCloneSyncService::new(rest),
            gateway,
        })
    }

    /// Is this a call in the Connect protocol?
    pub fn is_connect<B>(&self, request: &Request<B>) -> bool {
        self.gateway.is_connect(request)
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
            _ if request.headers().contains_key(header::ORIGIN) => &self.rest_cors,
            _ => &self.rest,
        };
        let Ok(response) = way.clone().oneshot(request.map(Body::new)).await;
        response
    }
}

fn transport<B>(request: &Request<B>) -> Transport {
    RequestRecord::of(request.extensions()).map_or(Transport::Rest, |record| record.transport)
}

/// Refuses floods and survives panics, with errors of the client's own protocol.
#[derive(Clone)]
struct Protect {
    guard: FloodGuard,
    errors: ErrorRenderer,
}

impl Protect {
    fn around<S>(self, inner: S) -> Answering
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let (mut guarded, errors) = (self.guard.layer(inner), self.errors);
        // Every service below is always ready, so none has to be cloned to be waited for.
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let transport = transport(&request);
            let id = request.headers().get(REQUEST_ID).cloned();
            let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
            let answer = guarded.call(request);
            let errors = errors.clone();
            async move {
                let error = match AssertUnwindSafe(answer).catch_unwind().await {
                    // The panic hook has logged where and why.
                    Err(_) => Error::new(Reason::Internal, "the server failed"),
                    Ok(Ok(response)) => match response.extensions().get::<Flooded>() {
                        None => return Ok(response),
                        Some(Flooded(wait)) => {
                            Error::new(Reason::RateLimitExceeded, "too many requests").retry_after(*wait)
                        }
                    },
                };
                let status = Status::from(error);
                Ok(match transport {
                    Transport::Grpc => status.into_http(),
                    Transport::GrpcWeb => grpc_web_error(&status),
                    Transport::Connect => connect_error(&status, content_type.as_ref()),
                    Transport::Rest => errors.render(&status, &id.into_iter().map(|id| (REQUEST_ID, id)).collect()),
                })
            }
        }))
    }
}

/// gRPC-Web. Over HTTP/1.1 a call is passed on when the whole of it is there: an answer that comes sooner, such as a
/// refusal by the token, would end a connection on which the client may be sending its next request already.
fn grpc_web(
    app: &App,
    gate: Gate<Routes>,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync + use<>
{
    let inner = GrpcWebLayer::new().layer(gate);
    // As base64, with room for the frames.
    let limit = (app.config.server.max_message_bytes / 3 + 64).saturating_mul(4);
    let patience = app.config.server.request_timeout();
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
        .body_timeout(Duration::from_secs(app.config.server.body_timeout_seconds))
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
    // Bearer tokens are sent by the page itself, so no credentials mode is needed, and none is allowed. Headers are
    // mirrored because `*` does not cover `authorization` (Fetch standard, CORS-preflight fetch).
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(hour))
}

/// What browsers are told about answers that are not pages (OWASP REST Security Cheat Sheet).
fn with_security_headers(mut response: Response<Body>) -> Response<Body> {
    // RFC 9110, section 15.5.2.
    let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    if unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
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

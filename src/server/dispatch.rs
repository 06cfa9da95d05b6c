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
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use rialto_gateway::{ErrorCode, ErrorRenderer, Gateway};
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer, Service, ServiceExt};

use super::browser::{Origins, with_cookies};
use super::dev_mail;
use super::docs;
use super::flood::{self, FloodGuard, Flooded};
use super::health::Health;
use super::ways::{self, Answering, Answers, Asked, Http};
use crate::domains::auth::Keys;
use crate::gate::Gate;
use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason, ReasonInfo};
use crate::proto;

/// Answers of ours that browsers may read besides those of every gateway.
const EXPOSED: [HeaderName; 1] = [HeaderName::from_static("idempotency-replayed")];

/// The ways in of this server, each behind the flood guard.
pub fn http(app: &App, gate: Gate<Routes>, keys: &Arc<Keys>, health: Health) -> anyhow::Result<Http> {
    let gateway = gateway(app, gate.clone())?;
    let guard = flood::guard(app)?;
    let protect = Protect { guard, errors: gateway.errors().clone() };
    let keeps_mail = app.mail.inbox().is_some();
    let rest = Rest { pages: pages(app, keys, health)?, keeps_mail, gateway: gateway.clone() };
    let origins = Origins::new(&app.config.server)?;
    let rest = protect.clone().around(with_cookies(rest, origins.clone()));
    let rest = ways::compress(rest).map_response(with_security_headers);
    let (limit, patience) = (app.config.server.max_message_bytes, app.config.server.request_timeout());
    let grpc_web = with_cookies(ways::grpc_web(gate.clone(), limit, patience), origins);
    let grpc_web = protect.clone().around(grpc_web);
    let cors = ways::cors(&app.config.server.cors_origins, true, EXPOSED)?;
    let grpc = Answering::new(protect.clone().around(gate));
    let http = Http::new(grpc, Answering::new(grpc_web), Answering::new(rest), cors, &gateway);
    Ok(http.before_preflights(|preflights| Answering::new(protect.around(preflights))))
}

/// Refuses floods and survives panics, with errors of the client's own protocol.
#[derive(Clone)]
struct Protect {
    guard: FloodGuard,
    errors: ErrorRenderer,
}

impl Protect {
    fn around(self, inner: impl Answers) -> impl Answers {
        let (mut guarded, errors) = (self.guard.layer(inner), self.errors);
        // Every service below is always ready, so none has to be cloned to be waited for.
        tower::service_fn(move |request: Request<Body>| {
            let asked = Asked::by(&request);
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
                Ok(asked.error(&errors, &error.into()))
            }
        })
    }
}

/// The server's own pages, and the gateway for every other path.
#[derive(Clone)]
struct Rest {
    pages: Router,
    keeps_mail: bool,
    gateway: Gateway<Gate<Routes>>,
}

/// The paths of [`pages`], besides those of [`docs`].
const PAGES: [&str; 5] = ["/", "/health", "/ready", "/metrics", "/.well-known/jwks.json"];

impl Service<Request<Body>> for Rest {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.gateway, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let is_mail = self.keeps_mail && dev_mail::is_path(path);
        if is_mail || PAGES.contains(&path) || docs::PATHS.contains(&path) {
            let pages = self.pages.clone();
            return Box::pin(async move { Ok(pages.oneshot(request).await?.map(Body::new)) });
        }
        self.gateway.call(request)
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
        .web_socket_origins(&app.config.server.cors_origins)
        .web_socket_executor(ways::run_socket)
        .error_codes(Arc::new(codes))
        .build(gate)?;
    Ok(gateway)
}

fn pages(app: &App, keys: &Arc<Keys>, health: Health) -> anyhow::Result<Router> {
    let jwks = keys.jwks.to_string();
    let json = |text: String| move || async move { ([(header::CONTENT_TYPE, "application/json")], text.clone()) };
    let ready = health.clone();
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .route("/health", get(move || async move { health.report() }))
        .route("/ready", get(move || async move { ready.readiness() }))
        .route("/.well-known/jwks.json", get(json(jwks)));
    router = router.merge(dev_mail::router(app));
    for (path, file) in docs::all()? {
        router = router.route(path, get(move |headers: HeaderMap| async move { file.answer(&headers) }));
    }
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

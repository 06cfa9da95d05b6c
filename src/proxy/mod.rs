//! `rialto gateway`: the gateway alone, in front of any gRPC servers. It needs no database, no Redis and no secrets.

pub mod config;
mod connector;
mod descriptors;
mod pages;
mod reflection;
mod upstream;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt;
use http::{HeaderName, Request, Response};
use rialto_gateway::prost_reflect::DescriptorPool;
use rialto_gateway::{ErrorRenderer, Gateway};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use self::config::Config;
use self::descriptors::Files;
use self::pages::{Page, Pages};
use self::upstream::{Upstream, Upstreams, strip_hop_by_hop};
use crate::kernel::metrics::Metrics;
use crate::server::edge::Edge;
use crate::server::listener::{self, Port};
use crate::server::ways::{self, Answering, Answers, Asked, Http};

/// A gateway that runs.
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where those who operate it look, if there is such a place.
    pub ops_address: Option<SocketAddr>,
    port: Port,
}

impl Proxy {
    /// Binds, reads the contract, and serves.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // First, because waiting for an upstream only to find the port taken helps nobody.
        let socket = listener::bind(config.server.listen).await?;
        let ops_socket = match config.server.ops_listen {
            Some(address) => Some(listener::bind(address).await?),
            None => None,
        };
        let upstreams = Upstream::all(&config.upstream)?;
        let contract = Contract::read(&config, &upstreams).await?;
        let upstreams = Upstreams::new(upstreams, &contract, &config.upstream)?;
        let (metrics, stopping) = (Arc::new(Metrics::default()), CancellationToken::new());

        let gateway = gateway(&config, &contract, upstreams.clone())?;
        let document = pages::document(&contract.pool, &config.pages, contract.services.iter().cloned().collect());
        let pages = Pages::new(
            &config.pages,
            &document,
            |method, path| gateway.has_route(method, path),
            upstreams.watch(&stopping),
            Arc::clone(&metrics),
            stopping.clone(),
        )?;
        let routes = document["paths"].as_object().map_or(0, serde_json::Map::len);
        let services = contract.services.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        tracing::info!(services, routes, "the contract is read");
        if routes == 0 {
            tracing::warn!("no method has a google.api.http option: only gRPC and gRPC-Web are served");
        }

        let http = http(&config, gateway, upstreams, pages.clone())?;
        let edge = Edge::new(http, Arc::clone(&metrics), config.server.trusted_proxies)?;
        let address = socket.local_addr()?;
        let ops_address = ops_socket.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
        if let Some(socket) = ops_socket {
            tokio::spawn(serve_ops(socket, pages, stopping.clone()));
        }
        let port = Port::serve(socket, (&config.server).into(), edge, metrics, stopping);
        Ok(Self { address, ops_address, port })
    }

    /// Stops: takes no more connections, lets calls that run finish, and ends what is left at the deadline.
    pub async fn stop(self) {
        self.port.stop().await;
    }
}

/// What is served.
struct Contract {
    encoded: Vec<u8>,
    pool: DescriptorPool,
    /// The services that have routes.
    services: BTreeSet<String>,
    /// Whether gRPC goes to these only. Otherwise what is unknown, such as reflection, goes to the default upstream.
    restricted: bool,
}

impl Contract {
    async fn read(config: &Config, upstreams: &[Upstream]) -> anyhow::Result<Self> {
        let mut files = Files::read(&config.descriptors.files)?;
        let found = if config.descriptors.reflect {
            let patience = Duration::from_secs(config.descriptors.reflect_timeout_seconds);
            reflection::read(upstreams, patience, &mut files).await.context("reflection")?
        } else {
            files.services()
        };
        for name in &config.gateway.services {
            anyhow::ensure!(found.contains(name), "gateway.services: the contract has no service {name}");
        }
        let restricted = !config.gateway.services.is_empty();
        let services: BTreeSet<String> = if restricted {
            config.gateway.services.iter().cloned().collect()
        } else if config.upstream.default.is_empty() {
            config.upstream.services.keys().cloned().collect()
        } else {
            found
        };
        let (encoded, pool) = files.encode()?;
        Ok(Self { encoded, pool, services, restricted })
    }
}

/// Every option of the configuration, put into the builder.
fn gateway(config: &Config, contract: &Contract, upstreams: Upstreams) -> anyhow::Result<Gateway<Upstreams>> {
    let Config { server, gateway: config, .. } = config;
    let patience = Duration::from_secs(server.body_timeout_seconds);
    let mut builder = Gateway::builder(&contract.encoded)
        .services(contract.services.iter().cloned())
        .max_request_bytes(config.max_request_bytes)
        .max_response_message_bytes(config.max_response_message_bytes)
        .always_print_fields(config.always_print_fields)
        .ignore_unknown_fields(config.ignore_unknown_fields)
        .use_proto_names(config.use_proto_names)
        .enum_numbers(config.enum_numbers)
        .pretty(config.pretty)
        .max_upload_bytes(config.max_upload_bytes)
        .body_timeout(patience)
        .web_socket_executor(ways::run_socket)
        .web_socket_origins(&server.cors_origins)
        .heartbeat(Duration::from_secs(config.heartbeat_seconds))
        .stream_header_hold(Duration::from_millis(config.stream_header_hold_millis));
    if !config.web_socket_cookie.is_empty() {
        builder = builder.web_socket_cookie(&config.web_socket_cookie);
    }
    for (prefix, target) in &config.aliases {
        builder = builder.alias(prefix, target);
    }
    for name in &config.request_headers {
        builder = builder.request_header(header_name("gateway.request_headers", name)?);
    }
    for name in &config.response_headers {
        builder = builder.response_header(header_name("gateway.response_headers", name)?);
    }
    Ok(builder.build(upstreams)?)
}

fn header_name(key: &str, name: &str) -> anyhow::Result<HeaderName> {
    name.parse().with_context(|| format!("{key}: {name:?} is not a header's name"))
}

fn http(config: &Config, gateway: Gateway<Upstreams>, upstreams: Upstreams, pages: Pages) -> anyhow::Result<Http> {
    let errors = gateway.errors().clone();
    let grpc = Passthrough { upstreams };
    let patience = Duration::from_secs(config.upstream.request_timeout_seconds);
    let grpc_web = ways::grpc_web(grpc.clone(), config.gateway.max_request_bytes, patience);
    let grpc_web = Answering::new(survive(errors.clone(), grpc_web));
    let grpc = Answering::new(survive(errors.clone(), grpc));
    let rest = Answering::new(ways::compress(survive(errors, Rest { pages, gateway: gateway.clone() })));
    let exposed = config.gateway.response_headers.iter().map(|name| header_name("gateway.response_headers", name));
    let cors = ways::cors(&config.server.cors_origins, false, exposed.collect::<Result<Vec<_>, _>>()?)?;
    Ok(Http::new(grpc, grpc_web, rest, cors, &gateway))
}

/// Answers with an error of the client's own protocol where the service panics.
fn survive(errors: ErrorRenderer, inner: impl Answers) -> impl Answers {
    tower::service_fn(move |request: Request<Body>| {
        let asked = Asked::by(&request);
        // Everything behind it is always ready.
        let (mut inner, errors) = (inner.clone(), errors.clone());
        async move {
            match AssertUnwindSafe(async { inner.call(request).await }).catch_unwind().await {
                Ok(answer) => answer,
                // The panic hook has logged where and why.
                Err(_) => Ok(asked.error(&errors, &Status::internal("the gateway failed"))),
            }
        }
    })
}

/// gRPC as it came: metadata, deadline, messages, trailers.
#[derive(Clone)]
struct Passthrough {
    upstreams: Upstreams,
}

impl Service<Request<Body>> for Passthrough {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        strip_hop_by_hop(request.headers_mut());
        let answer = self.upstreams.call(request);
        Box::pin(async move {
            Ok(answer.await.unwrap_or_else(|error| {
                // The cause is not for clients.
                match error.downcast::<Status>() {
                    Ok(status) => status.into_http(),
                    Err(_) => Status::unavailable("the service cannot be reached").into_http(),
                }
            }))
        })
    }
}

/// The gateway's own pages, and the routes of the contract for every other path.
#[derive(Clone)]
struct Rest {
    pages: Pages,
    gateway: Gateway<Upstreams>,
}

impl Service<Request<Body>> for Rest {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.gateway, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.pages.find(request.uri().path()) {
            Some(page) => {
                let response = self.pages.answer(page, request.method(), request.headers());
                Box::pin(async move { Ok(response) })
            }
            None => self.gateway.call(request),
        }
    }
}

/// `/metrics`, `/health` and `/ready` for those who operate the gateway.
async fn serve_ops(socket: tokio::net::TcpListener, pages: Pages, stopping: CancellationToken) {
    let answer = move |request: axum::extract::Request| async move {
        let page = match request.uri().path() {
            "/metrics" => Page::Metrics,
            "/health" => Page::Health,
            "/ready" => Page::Ready,
            _ => return axum::response::IntoResponse::into_response(http::StatusCode::NOT_FOUND),
        };
        pages.answer(page, request.method(), request.headers()).map(axum::body::Body::new)
    };
    let router = axum::Router::new().fallback(answer);
    if let Err(error) = axum::serve(socket, router).with_graceful_shutdown(stopping.cancelled_owned()).await {
        tracing::error!(%error, "the ops address is not served");
    }
}

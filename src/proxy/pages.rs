//! The gateway's own pages, beside the routes of the contract.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use rialto_gateway::openapi::{self, Info};
use rialto_gateway::prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::config;
use crate::kernel::metrics::Metrics;

/// What pages show. Cheap to clone.
#[derive(Clone)]
pub struct Pages(Arc<Shared>);

struct Shared {
    paths: Vec<(String, Page)>,
    upstreams: watch::Receiver<Vec<(String, bool)>>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
    openapi: Bytes,
    openapi_etag: HeaderValue,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Page {
    /// The process lives; how the upstreams are.
    Health,
    /// New requests should be sent here.
    Ready,
    /// Numbers for Prometheus.
    Metrics,
    /// The OpenAPI document.
    Openapi,
}

impl Pages {
    /// Those of the configuration. `served` tells whether the contract has a route for a method and path: then who would
    /// answer is not obvious, and the start is refused.
    pub fn new(
        config: &config::Pages,
        document: &Value,
        served: impl Fn(&Method, &str) -> bool,
        upstreams: watch::Receiver<Vec<(String, bool)>>,
        metrics: Arc<Metrics>,
        stopping: CancellationToken,
    ) -> anyhow::Result<Self> {
        let mut paths: Vec<(String, Page)> = Vec::new();
        for (key, path, page) in [
            ("health", &config.health, Page::Health),
            ("ready", &config.ready, Page::Ready),
            ("openapi", &config.openapi, Page::Openapi),
            ("metrics", &config.metrics, Page::Metrics),
        ] {
            if path.is_empty() {
                continue;
            }
            anyhow::ensure!(path.starts_with('/'), "pages.{key}: {path:?} is not a path");
            let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
            if let Some(method) = methods.iter().find(|method| served(method, path)) {
                anyhow::bail!(
                    "pages.{key}: the contract has a route for {method} {path}; choose another path, or \"\" for none"
                );
            }
            anyhow::ensure!(
                paths.iter().all(|(other, _)| other != path),
                "pages.{key}: {path} is taken by another page"
            );
            paths.push((path.clone(), page));
        }
        let openapi = Bytes::from(serde_json::to_vec(document)?);
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&openapi));
        let openapi_etag = HeaderValue::try_from(format!("\"{hash}\""))?;
        Ok(Self(Arc::new(Shared { paths, upstreams, metrics, stopping, openapi, openapi_etag })))
    }

    /// The page at a path.
    pub fn find(&self, path: &str) -> Option<Page> {
        self.0.paths.iter().find(|(known, _)| known == path).map(|(_, page)| *page)
    }

    /// Answers a request for a page.
    pub fn answer(&self, page: Page, method: &Method, headers: &HeaderMap) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", Bytes::new());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let mut response = match page {
            Page::Health => self.health(),
            Page::Ready => self.ready(),
            Page::Metrics => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                respond(StatusCode::OK, content_type, self.0.metrics.text().into())
            }
            Page::Openapi => self.openapi(headers),
        };
        if method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    fn health(&self) -> Response<Body> {
        let upstreams = self.0.upstreams.borrow().clone();
        let there = upstreams.iter().filter(|(_, up)| *up).count();
        let status = match there {
            0 => "down",
            n if n == upstreams.len() => "up",
            _ => "degraded",
        };
        let up = |up: bool| if up { "up" } else { "down" };
        let checks: Value = upstreams.iter().map(|(name, is_up)| (name.clone(), json!(up(*is_up)))).collect();
        // The gateway is not healthier for being started again while its upstreams are away, so this stays 200.
        respond_json(
            StatusCode::OK,
            &json!({
                "status": status,
                "version": env!("CARGO_PKG_VERSION"),
                "upstreams": checks,
            }),
        )
    }

    fn ready(&self) -> Response<Body> {
        let ready = self.0.upstreams.borrow().iter().any(|(_, up)| *up) && !self.0.stopping.is_cancelled();
        let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond_json(code, &json!({ "ready": ready }))
    }

    fn openapi(&self, headers: &HeaderMap) -> Response<Body> {
        let etag = &self.0.openapi_etag;
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut known = known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        let mut response = match known.any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes()) {
            true => respond(StatusCode::NOT_MODIFIED, "application/json", Bytes::new()),
            false => respond(StatusCode::OK, "application/json", self.0.openapi.clone()),
        };
        response.headers_mut().insert(header::ETAG, etag.clone());
        response
    }
}

fn respond_json(status: StatusCode, body: &Value) -> Response<Body> {
    respond(status, "application/json", body.to_string().into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The OpenAPI document of what is served.
pub fn document(pool: &DescriptorPool, config: &config::Pages, services: Vec<String>) -> Value {
    let info = Info {
        title: config.title.clone(),
        version: config.version.clone(),
        servers: config.servers.clone(),
        services: Some(services),
        ..Info::default()
    };
    openapi::document(pool, &info, |_, _| {})
}

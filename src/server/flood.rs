//! The flood guard: requests a second from one client address, counted in this process before anything costs.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::KeyExtractor;

use crate::kernel::app::App;
use crate::kernel::caller::ClientAddress;
use crate::kernel::rates::Subject;

/// The layer; see the module.
pub type FloodGuard = GovernorLayer<ByClient, NoOpMiddleware, Body>;

/// How often addresses that were silent are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Put into the answer to a request that was refused; the caller makes it a proper error of the client's protocol.
#[derive(Clone, Copy)]
pub struct Flooded(pub Duration);

/// Tells clients apart as the rate limits do.
#[derive(Clone)]
pub struct ByClient {
    ipv6_prefix: u8,
}

impl KeyExtractor for ByClient {
    type Key = Subject;

    fn extract<T>(&self, request: &Request<T>) -> Result<Subject, GovernorError> {
        let address = request.extensions().get::<ClientAddress>().map(|address| address.0);
        Ok(Subject::address(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), self.ipv6_prefix))
    }
}

/// The guard as configured.
pub fn guard(app: &App) -> anyhow::Result<FloodGuard> {
    let (server, factor) = (&app.config.server, app.config.rates.factor.max(1));
    let per_second = u64::from(server.flood_per_second.saturating_mul(factor).max(1));
    let config: GovernorConfig<_, NoOpMiddleware> = GovernorConfigBuilder::default()
        .per_nanosecond((1_000_000_000 / per_second).max(1))
        .burst_size(server.flood_burst.saturating_mul(factor).max(1))
        .key_extractor(ByClient { ipv6_prefix: server.ipv6_prefix })
        .finish()
        .ok_or_else(|| anyhow::anyhow!("server.flood_per_second and server.flood_burst must be at least 1"))?;
    let config = Arc::new(config);
    tokio::spawn(forget_silent(Arc::clone(&config), app.stopping.clone()));
    Ok(GovernorLayer::new(config).error_handler(refused))
}

fn refused(error: GovernorError) -> Response<Body> {
    let wait = match error {
        GovernorError::TooManyRequests { wait_time, .. } => Duration::from_secs(wait_time.max(1)),
        _ => Duration::from_secs(1),
    };
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Flooded(wait));
    response
}

async fn forget_silent(config: Arc<GovernorConfig<ByClient, NoOpMiddleware>>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(FORGET) => config.limiter().retain_recent(),
        }
    }
}

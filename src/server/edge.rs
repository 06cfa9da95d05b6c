//! The outermost layer: gives each request its id, its client address and its log line, and counts what a connection has
//! in flight.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::ways::{Http, REQUEST_ID};
use crate::kernel::caller::{ClientAddress, RequestRecord, Transport};
use crate::kernel::error::Error;
use crate::kernel::metrics::Metrics;
use crate::kernel::rng::Rng;

/// A request that takes longer is logged as a warning.
const SLOW: Duration = Duration::from_secs(1);

/// See the module.
pub struct Edge {
    http: Http,
    metrics: Arc<Metrics>,
    /// How many reverse proxies in front append to `x-forwarded-for`.
    trusted_proxies: usize,
    /// What the ids of this process's requests begin with, and how many there were.
    ids: String,
    made: AtomicU64,
}

impl Edge {
    /// The edge in front of everything.
    pub fn new(http: Http, metrics: Arc<Metrics>, trusted_proxies: usize) -> Result<Arc<Self>, Error> {
        let ids = format!("{:016x}", u64::from_be_bytes(Rng.bytes()?));
        Ok(Arc::new(Self { http, metrics, trusted_proxies, ids, made: AtomicU64::new(0) }))
    }

    /// The edge of one connection.
    pub fn of(self: Arc<Self>, peer: SocketAddr, activity: Arc<Activity>) -> Connection {
        Connection { edge: self, peer, activity }
    }

    async fn handle(&self, peer: IpAddr, mut request: Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let transport = self.http.transport(&request);
        let id = self.request_id(request.headers());
        let address = client_address(request.headers(), peer, self.trusted_proxies);
        let (method, account) = (OnceLock::new(), OnceLock::new());
        let record = Arc::new(RequestRecord { id: id.into(), transport, method, account });
        let mut id = HeaderValue::from_str(&record.id).unwrap_or_else(|_| HeaderValue::from_static("-"));
        // It never comes again, so HPACK need not remember it, here or upstream (RFC 7541, section 6.2.3).
        id.set_sensitive(true);
        request.headers_mut().insert(REQUEST_ID, id.clone());
        request.extensions_mut().insert(Arc::clone(&record));
        request.extensions_mut().insert(ClientAddress(address));

        let span = tracing::info_span!("request", request_id = %record.id);
        let mut response = self.http.call(request).instrument(span.clone()).await;
        response.headers_mut().insert(REQUEST_ID, id);
        let _in_span = span.enter();
        self.log(&record, address, &response, started.elapsed());
        response
    }

    /// The client's id for the request, if it is one that a log can bear, or a new one.
    fn request_id(&self, headers: &HeaderMap) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        match given.filter(|id| (1..=64).contains(&id.len()) && id.chars().all(allowed)) {
            Some(id) => id.to_owned(),
            None => format!("{}{:x}", self.ids, self.made.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn log(&self, record: &RequestRecord, address: IpAddr, response: &Response<Body>, took: Duration) {
        let method = record.method.get().copied().unwrap_or("-");
        let http_status = response.status().as_u16();
        // gRPC answers 200 whatever happens; a failed call has its status in the head.
        let grpc_status = response.headers().get("grpc-status").map_or("0", |code| code.to_str().unwrap_or("2"));
        let transport = record.transport.name();
        let status = match record.transport {
            Transport::Grpc | Transport::GrpcWeb => grpc_status.parse().unwrap_or(2),
            Transport::Connect | Transport::Rest | Transport::WebSocket => http_status,
        };
        self.metrics.request(transport, method, status, took);
        let account = record.account.get().map(tracing::field::display);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if took > SLOW {
            tracing::warn!(transport, method, status, %address, account, micros, "slow request");
        } else {
            tracing::info!(transport, method, status, %address, account, micros, "request");
        }
    }
}

/// The client's address. With `trusted` proxies in front, each has appended the address that it saw to
/// `x-forwarded-for`; the client is the one that the outermost of them saw. What stands further left, the client wrote.
fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: usize) -> IpAddr {
    let Some(back) = trusted.checked_sub(1) else { return peer };
    let values: Vec<_> = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let mut hops = values.iter().flat_map(|value| value.split(',')).map(str::trim).collect::<Vec<_>>();
    hops.reverse();
    hops.get(back).and_then(|hop| hop.parse().ok()).unwrap_or(peer)
}

/// The service of one connection.
#[derive(Clone)]
pub struct Connection {
    edge: Arc<Edge>,
    peer: SocketAddr,
    activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<Tracked>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Tracked>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (edge, peer) = (self.edge.clone(), self.peer.ip().to_canonical());
        let running = Running::new(Arc::clone(&self.activity));
        Box::pin(async move {
            let response = edge.handle(peer, request).await;
            Ok(response.map(|inner| Tracked { inner, _running: running }))
        })
    }
}

/// What a connection has in flight.
pub struct Activity {
    running: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    /// A connection that was just opened.
    pub fn new() -> Self {
        Self { running: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }

    /// How many requests are in flight.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How long the connection may still be idle; `None` when it was idle for too long.
    pub fn idle_left(&self, most: Duration) -> Option<Duration> {
        if self.running() > 0 {
            return Some(most);
        }
        let idle = self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        most.checked_sub(idle).filter(|left| !left.is_zero())
    }
}

/// A request in flight, up to the end of its answer's body.
struct Running(Arc<Activity>);

impl Running {
    fn new(activity: Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer in flight.
pub struct Tracked {
    inner: Body,
    _running: Running,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_hop_that_the_outermost_trusted_proxy_saw() {
        let peer: IpAddr = "10.0.0.9".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 1.2.3.4"));
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
        let seen = |trusted| client_address(&headers, peer, trusted).to_string();
        assert_eq!(seen(0), "10.0.0.9");
        assert_eq!(seen(1), "10.0.0.1");
        assert_eq!(seen(2), "1.2.3.4");
        assert_eq!(seen(9), "10.0.0.9");
    }
}

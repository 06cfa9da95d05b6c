//! The servers behind the gateway: their connections, which service is where, and whether they are there.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Uri};
use rialto_gateway::{BoxError, grpc_timeout};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, TimeoutExpired};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt};

use super::connector::Connector;
use super::{Contract, config};
use crate::kernel::caller::{RequestRecord, Transport};
use crate::server::after_others::AfterOthersExecutor;

/// How often each upstream is asked how it is, and how long it may take to answer.
const INTERVAL: Duration = Duration::from_secs(2);

/// One server.
pub struct Upstream {
    /// The service that it is there for; `None` for all that have no upstream of their own.
    service: Option<String>,
    channels: Vec<Channel>,
    next: AtomicUsize,
}

impl Upstream {
    /// All of the configuration. Nothing is connected before it is used.
    pub fn all(config: &config::Upstream) -> anyhow::Result<Vec<Self>> {
        let tls = tls(config)?;
        let mut upstreams = Vec::new();
        if !config.default.is_empty() {
            upstreams.push(Self::new(None, &config.default, config, &tls)?);
        }
        for (service, url) in &config.services {
            ensure!(
                !service.is_empty() && !service.contains('/'),
                "upstream.services: {service:?} is not a service's name"
            );
            upstreams.push(Self::new(Some(service.clone()), url, config, &tls)?);
        }
        Ok(upstreams)
    }

    fn new(
        service: Option<String>,
        url: &str,
        config: &config::Upstream,
        tls: &ClientTlsConfig,
    ) -> anyhow::Result<Self> {
        let not_a_url = || format!("upstream {url:?} is not http://host:port or https://host:port");
        let uri: Uri = url.parse().with_context(not_a_url)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        if !bare || user || !matches!(uri.scheme_str(), Some("http" | "https")) {
            bail!(not_a_url());
        }
        let connect_timeout = Duration::from_secs(config.connect_timeout_seconds);
        let keepalive = Duration::from_secs(config.keepalive_seconds);
        let mut endpoint = Endpoint::from(uri)
            .executor(AfterOthersExecutor)
            // For TCP, which the connector gives up on its own, and for TLS.
            .connect_timeout(connect_timeout * 2)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive);
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(tls.clone()).with_context(|| format!("TLS to {url}"))?;
        }
        let connector = Connector::new(connect_timeout);
        let channel = |_| endpoint.connect_with_connector_lazy(connector.clone());
        let channels = (0..config.connections).map(channel).collect();
        Ok(Self { service, channels, next: AtomicUsize::new(0) })
    }

    /// What it is called to people.
    pub fn name(&self) -> &str {
        self.service.as_deref().unwrap_or("default")
    }

    /// The service that it is there for; `None` for all that have no upstream of their own.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// One of its connections, in turn.
    pub fn channel(&self) -> Channel {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        self.channels[at].clone()
    }
}

fn tls(config: &config::Upstream) -> anyhow::Result<ClientTlsConfig> {
    let Some(path) = &config.ca_file else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let pem = std::fs::read(path).with_context(|| format!("upstream.ca_file {}", path.display()))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// Sends each call to the upstream of its service, as it came. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Table>);

struct Table {
    upstreams: Vec<Upstream>,
    /// Which upstream each service of the contract has.
    services: HashMap<String, usize>,
    /// The one for services that the contract does not have, such as reflection, if they are reachable at all.
    default: Option<usize>,
    /// The methods of the contract, by path: is its answer one message? Clients choose paths; metrics and logs count these.
    methods: HashMap<&'static str, bool>,
    unary_timeout: Duration,
}

impl Upstreams {
    /// Knows where the services of the contract are.
    pub fn new(upstreams: Vec<Upstream>, contract: &Contract, config: &config::Upstream) -> anyhow::Result<Self> {
        let default = upstreams.iter().position(|upstream| upstream.service.is_none());
        let mut services = HashMap::new();
        let mut methods = HashMap::new();
        for name in &contract.services {
            let own = upstreams.iter().position(|upstream| upstream.service() == Some(name));
            let upstream = own.or(default);
            let upstream = upstream
                .with_context(|| format!("{name} has no upstream: say `--upstream URL` or `--upstream {name}=URL`"))?;
            services.insert(name.clone(), upstream);
            let service = contract.pool.get_service_by_name(name);
            let service = service.with_context(|| format!("the contract has no service {name}"))?;
            for method in service.methods() {
                // Once a method, for the life of the process: metrics want names that stay.
                let path: &'static str = format!("/{name}/{}", method.name()).leak();
                methods.insert(path, !method.is_server_streaming());
            }
        }
        for name in upstreams.iter().filter_map(Upstream::service) {
            ensure!(services.contains_key(name), "upstream {name}: it is not among the services that are served");
        }
        let default = default.filter(|_| !contract.restricted);
        let unary_timeout = Duration::from_secs(config.request_timeout_seconds);
        Ok(Self(Arc::new(Table { upstreams, default, services, methods, unary_timeout })))
    }

    /// The upstream of a path such as `/package.Service/Method`.
    fn find(&self, path: &str) -> Option<&Upstream> {
        let table = &*self.0;
        let service = path.strip_prefix('/')?.split_once('/')?.0;
        table.upstreams.get(table.services.get(service).copied().or(table.default)?)
    }

    /// Asks the upstreams how they are until told to stop: by name, is it there?
    pub fn watch(&self, stopping: &CancellationToken) -> watch::Receiver<Vec<(String, bool)>> {
        let names = self.0.upstreams.iter().map(|upstream| (upstream.name().to_owned(), false));
        let (sender, receiver) = watch::channel(names.collect::<Vec<_>>());
        for at in 0..self.0.upstreams.len() {
            tokio::spawn(self.clone().ask(at, sender.clone(), stopping.clone()));
        }
        receiver
    }

    async fn ask(self, at: usize, states: watch::Sender<Vec<(String, bool)>>, stopping: CancellationToken) {
        let Some(upstream) = self.0.upstreams.get(at) else { return };
        let mut before = None;
        loop {
            let up = is_up(upstream).await;
            if before.replace(up) != Some(up) {
                match up {
                    true => tracing::info!(upstream = upstream.name(), "the upstream is there"),
                    false => tracing::warn!(upstream = upstream.name(), "the upstream can't be reached"),
                }
                states.send_modify(|all| all.iter_mut().skip(at).take(1).for_each(|(_, known)| *known = up));
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}

/// Does it answer, and not say that it is out of service? Not every server has `grpc.health.v1`: one that refuses the
/// question is there.
async fn is_up(upstream: &Upstream) -> bool {
    let mut client = HealthClient::new(upstream.channel());
    let answer = tokio::time::timeout(INTERVAL, client.check(HealthCheckRequest::default())).await;
    match answer {
        Ok(Ok(answer)) => answer.get_ref().status() != ServingStatus::NotServing,
        Ok(Err(status)) => !matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
        ),
        Err(_) => false,
    }
}

impl Service<Request<Body>> for Upstreams {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    /// Always ready: each call waits for its own connection.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let record = RequestRecord::of(request.extensions());
        let method = self.0.methods.get_key_value(path);
        if let (Some((method, _)), Some(record)) = (method, &record) {
            let _ = record.method.set(method);
        }
        let Some(channel) = self.find(path).map(Upstream::channel) else {
            let status = Status::unimplemented("there is no such service here");
            return Box::pin(async move { Ok(status.into_http()) });
        };
        let unary = method.is_some_and(|(_, unary)| *unary) && record.is_none_or(|r| r.transport != Transport::Grpc);
        // One that makes no sense is the upstream's to refuse.
        let asked = request.headers().get("grpc-timeout").and_then(|value| grpc_timeout(value.as_bytes()));
        let timeout = asked.into_iter().chain(unary.then_some(self.0.unary_timeout)).min();
        Box::pin(async move {
            let answer = channel.oneshot(request);
            // The connection keeps deadlines too, but only from when there is one.
            let answered = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, answer).await,
                None => Ok(answer.await),
            };
            match answered {
                Ok(Ok(response)) => Ok(response),
                // tonic says CANCELLED; gRPC's word for it is another.
                Ok(Err(error)) if causes(&error).any(|cause| cause.is::<TimeoutExpired>()) => Err(late()),
                Ok(Err(error)) => {
                    let cause = causes(&error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
                    tracing::warn!(cause, "the upstream did not answer");
                    Err(error.into())
                }
                Err(_) => Err(late()),
            }
        })
    }
}

fn late() -> BoxError {
    Status::deadline_exceeded("the deadline has passed").into()
}

/// An error and what is behind it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source())
}

/// Removes what is between two neighbours only (RFC 9110, section 7.6.1), from a gRPC request that came by whatever HTTP.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let nominated = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let nominated = nominated.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    for name in nominated.collect::<Vec<HeaderName>>() {
        headers.remove(name);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "host"] {
        headers.remove(name);
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hop_by_hop_goes_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-secret, keep-alive"),
            ("x-secret", "1"),
            ("te", "gzip"),
            ("x-bin", "AAE="),
            ("x-bin", "Ag=="),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.get("te").unwrap(), "trailers");
        assert_eq!(headers.get_all("x-bin").iter().count(), 2);
        assert_eq!(headers.len(), 3, "{headers:?}");
    }

    #[test]
    fn an_upstream_is_a_scheme_a_host_and_a_port() {
        let read = |url: &str| {
            let config = config::Upstream { default: url.into(), ..Default::default() };
            Upstream::all(&config).err().map(|error| error.to_string())
        };
        for bad in ["127.0.0.1:1", "ftp://a:1", "http://a:1/path", "http://u:p@a:1", "http://a:1/?x", "://"] {
            assert!(read(bad).is_some_and(|error| error.contains("http://host:port")), "{bad}");
        }
    }
}

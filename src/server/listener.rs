//! Accepts connections and limits them: how many, how long, how idle, and what HTTP may do on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::after_others::AfterOthers;
use super::edge::{Activity, Edge};
use super::socket::{Held, Socket};
use crate::kernel::config;
use crate::kernel::metrics::Metrics;
use crate::kernel::rng::Rng;

/// How much of an answer waits in memory for a slow client, for each HTTP/2 stream. hyper's own default is 400 KB.
const SEND_BUFFER: usize = 64 << 10;
/// How long connections that were cut off may take to notice.
const ABORT: Duration = Duration::from_secs(1);

/// What connections may do, and for how long. The fields are those of [`config::Server`].
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_connections: usize,
    pub max_concurrent_streams: u32,
    pub max_pending_reset_streams: usize,
    pub max_header_list_bytes: u32,
    pub header_timeout_seconds: u64,
    pub keepalive_seconds: u64,
    pub idle_seconds: u64,
    pub max_connection_age_seconds: u64,
    pub shutdown_seconds: u64,
}

impl From<&config::Server> for Limits {
    fn from(server: &config::Server) -> Self {
        Self {
            max_connections: server.max_connections,
            max_concurrent_streams: server.max_concurrent_streams,
            max_pending_reset_streams: server.max_pending_reset_streams,
            max_header_list_bytes: server.max_header_list_bytes,
            header_timeout_seconds: server.header_timeout_seconds,
            keepalive_seconds: server.keepalive_seconds,
            idle_seconds: server.idle_seconds,
            max_connection_age_seconds: server.max_connection_age_seconds,
            shutdown_seconds: server.shutdown_seconds,
        }
    }
}

/// Binds, and says where if that fails.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address} can't be listened on"))
}

/// A port that is served.
pub struct Port {
    stopping: CancellationToken,
    connections: TaskTracker,
    /// Ends connections that did not end by themselves.
    abort: CancellationToken,
    grace: Duration,
}

impl Port {
    /// Serves until `stopping` is cancelled.
    pub fn serve(
        listener: TcpListener,
        limits: Limits,
        edge: Arc<Edge>,
        metrics: Arc<Metrics>,
        stopping: CancellationToken,
    ) -> Self {
        let (connections, abort) = (TaskTracker::new(), CancellationToken::new());
        let grace = Duration::from_secs(limits.shutdown_seconds);
        let accepting = Accepting {
            builder: builder(&limits),
            limits,
            edge,
            metrics,
            stopping: stopping.clone(),
            connections: connections.clone(),
            abort: abort.clone(),
        };
        tokio::spawn(Arc::new(accepting).run(listener));
        Self { stopping, connections, abort, grace }
    }

    /// Stops: takes no more connections, lets calls that run finish, and ends what is left at the deadline.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.connections.close();
        if tokio::time::timeout(self.grace, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "some connections did not end in time");
            self.abort.cancel();
            // A WebSocket ends with the call behind it, not with this token.
            let _ = tokio::time::timeout(ABORT, self.connections.wait()).await;
        }
    }
}

/// What accepts connections needs.
struct Accepting {
    builder: Builder<TokioExecutor>,
    limits: Limits,
    edge: Arc<Edge>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
    connections: TaskTracker,
    abort: CancellationToken,
}

impl Accepting {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.limits.max_connections));
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let accepted = tokio::select! {
                () = self.stopping.cancelled() => return,
                // The semaphore is never closed.
                Ok(place) = place => tokio::select! {
                    () = self.stopping.cancelled() => return,
                    accepted = listener.accept() => accepted.map(|(stream, peer)| (stream, peer, place)),
                },
                else => return,
            };
            let (stream, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, for one. It passes when connections end.
                    tracing::error!(%error, "a connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let held = Held::new(place, &self.metrics, self.connections.token());
            let this = Arc::clone(&self);
            let activity = Arc::new(Activity::new());
            let shares = {
                let activity = Arc::clone(&activity);
                move || activity.running() > 1
            };
            let connection = Box::pin(async move { this.serve(stream, held, peer, activity).await });
            self.connections.spawn(AfterOthers::new(connection, shares));
        }
    }

    async fn serve(&self, stream: TcpStream, held: Held, peer: SocketAddr, activity: Arc<Activity>) {
        // Answers are small and wait for nothing.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let io = TokioIo::new(Socket::new(stream, held));
        let edge = Arc::clone(&self.edge).of(peer, Arc::clone(&activity));
        // With upgrades, which WebSockets begin with.
        let mut connection = std::pin::pin!(self.builder.serve_connection_with_upgrades(io, edge));
        let mut leave = std::pin::pin!(async {
            let idle_or_old = async {
                let most = Duration::from_secs(self.limits.idle_seconds);
                let (opened, age) = (Instant::now(), age(&self.limits));
                while let Some(idle_left) = activity.idle_left(most)
                    && let Some(age_left) = age.checked_sub(opened.elapsed())
                {
                    tokio::time::sleep(idle_left.min(age_left)).await;
                }
            };
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = idle_or_old => {}
            }
        });
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = leave.as_mut() => {
                // HTTP/2 clients get GOAWAY, HTTP/1.1 clients `connection: close`; what runs may finish.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    // Only ever when it was asked to leave.
                    () = self.abort.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// The age at which a connection is asked to leave: spread by a tenth, so that clients don't come back all at once.
fn age(limits: &Limits) -> Duration {
    let spread = Rng.bytes::<1>().map_or(0.0, |[byte]| f64::from(byte) / 255.0);
    Duration::from_secs(limits.max_connection_age_seconds).mul_f64(0.9 + spread / 5.0)
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let keepalive = Duration::from_secs(limits.keepalive_seconds);
    let headers = usize::try_from(limits.max_header_list_bytes).unwrap_or(usize::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.header_timeout_seconds))
        .max_buf_size(headers.max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_pending_accept_reset_streams(limits.max_pending_reset_streams)
        .max_local_error_reset_streams(limits.max_pending_reset_streams)
        .max_header_list_size(limits.max_header_list_bytes)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive);
    builder
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode, header};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic::body::Body;
    use tower::service_fn;

    use super::*;
    use crate::kernel::config::Server;
    use crate::server::ways::{Answering, Http, cors};

    /// Answers an upgrade, and says back what it hears on it.
    async fn echo(request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        tokio::spawn(async move {
            let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let (mut reading, mut writing) = tokio::io::split(&mut io);
            tokio::io::copy(&mut reading, &mut writing).await.unwrap();
        });
        let head = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let head = head.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "echo");
        Ok(head.body(Body::empty()).unwrap())
    }

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), future).await.expect("it hangs")
    }

    #[tokio::test]
    async fn an_upgraded_connection_keeps_its_place_and_is_waited_for() {
        let echo = Answering::new(service_fn(echo));
        let gateway = rialto_gateway::Gateway::builder(&[]).build(()).unwrap();
        let http = Http::new(echo.clone(), echo.clone(), echo, cors(&[], false, []).unwrap(), &gateway);
        let metrics = Arc::new(Metrics::default());
        let edge = Edge::new(http, Arc::clone(&metrics), 0).unwrap();
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { max_connections: 1, ..Limits::from(&Server::default()) };
        let port = Port::serve(listener, limits, edge, Arc::clone(&metrics), CancellationToken::new());

        let upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(upgrade).await.unwrap();
        let mut head = vec![0; 12];
        within(first.read_exact(&mut head)).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 101");
        // Past the head, what is said comes back.
        first.write_all(b"hello!").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"hello!") {
            heard.push(within(first.read_u8()).await.unwrap());
        }
        assert_eq!(metrics.connections.get(), 1);

        // There is one place, and it is taken until the first goes.
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(upgrade).await.unwrap();
        assert_eq!(metrics.connections.get(), 1);
        drop(first);
        within(second.read_exact(&mut head)).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 101");

        let stopped = tokio::spawn(port.stop());
        second.write_all(b"bye").await.unwrap();
        assert!(!stopped.is_finished());
        drop(second);
        within(stopped).await.unwrap();
        assert_eq!(metrics.connections.get(), 0);
    }
}

//! Accepts connections and limits them: how many, how long, how idle, and what HTTP may do on them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::edge::{Activity, Connection, Edge};
use super::linger::Lingering;
use crate::kernel::app::App;
use crate::kernel::config;

/// How much of an answer waits in memory for a slow client, for each HTTP/2 stream. hyper's own default is 400 KB.
const SEND_BUFFER: usize = 64 << 10;

/// Accepts until the server stops.
pub async fn run(listener: TcpListener, app: App, edge: Arc<Edge>, connections: TaskTracker, abort: CancellationToken) {
    let limits = &app.config.server;
    let builder = Arc::new(builder(limits));
    let places = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            () = app.stopping.cancelled() => return,
            // The semaphore is never closed.
            Ok(place) = place => tokio::select! {
                () = app.stopping.cancelled() => return,
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
        let (app, edge, builder, abort) = (app.clone(), Arc::clone(&edge), Arc::clone(&builder), abort.clone());
        let connection = async move {
            let _place = place;
            app.metrics.connections.inc();
            let activity = Arc::new(Activity::new());
            tokio::select! {
                () = abort.cancelled() => {}
                () = serve(stream, &app, &builder, edge.of(peer, Arc::clone(&activity)), &activity) => {}
            }
            app.metrics.connections.dec();
        };
        connections.spawn(AfterOthers { connection: Box::pin(connection), yielded: false });
    }
}

/// Polls a connection only after everything else that is ready has run. tokio would poll it after each of its streams,
/// and each answer would be a write of its own; this way the answers of many streams go out in one.
struct AfterOthers<F> {
    connection: Pin<Box<F>>,
    yielded: bool,
}

impl<F: Future<Output = ()>> Future for AfterOthers<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.yielded = !self.yielded;
        if self.yielded {
            return std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        self.connection.as_mut().poll(cx)
    }
}

async fn serve(stream: TcpStream, app: &App, builder: &Builder<TokioExecutor>, edge: Connection, activity: &Activity) {
    let limits = &app.config.server;
    // Answers are small and wait for nothing.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Lingering::new(stream)), edge));
    let mut leave = std::pin::pin!(async {
        let idle = async {
            let most = Duration::from_secs(limits.idle_seconds);
            while let Some(left) = activity.idle_left(most) {
                tokio::time::sleep(left).await;
            }
        };
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep(age(app)) => {}
            () = idle => {}
        }
    });
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = leave.as_mut() => {
            // HTTP/2 clients get GOAWAY, HTTP/1.1 clients `connection: close`; what runs may finish.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// The age at which a connection is asked to leave: spread by a tenth, so that clients don't come back all at once.
fn age(app: &App) -> Duration {
    let spread = app.rng.bytes::<1>().map_or(0.0, |[byte]| f64::from(byte) / 255.0);
    Duration::from_secs(app.config.server.max_connection_age_seconds).mul_f64(0.9 + spread / 5.0)
}

fn builder(limits: &config::Server) -> Builder<TokioExecutor> {
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

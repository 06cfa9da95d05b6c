//! Makes the connections to upstreams.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rialto_gateway::BoxError;
use tokio::net::TcpStream;
use tower::Service;

/// How long a failure counts.
const MOMENT: Duration = Duration::from_millis(200);

/// Connects by TCP, and fails again at once for a moment after it has failed. tonic makes an attempt for each call that waits
/// for a connection, one after the other: where packets get lost, the last of a hundred calls would wait for a hundred
/// timeouts. This way all that wait are answered with the first.
#[derive(Clone)]
pub struct Connector {
    tcp: HttpConnector,
    timeout: Duration,
    failed: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Connector {
    /// An attempt may take so long.
    pub fn new(timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        // TLS comes on top.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, timeout, failed: Arc::default() }
    }

    fn just_failed(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, why) = failed.as_ref().filter(|(when, _)| when.elapsed() < MOMENT)?;
        Some(format!("{why} ({} ms ago)", when.elapsed().as_millis()))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Some(why) = self.just_failed() {
            return Box::pin(async move { Err(why.into()) });
        }
        let (connecting, failed) = (tokio::time::timeout(self.timeout, self.tcp.call(uri)), Arc::clone(&self.failed));
        Box::pin(async move {
            let error: BoxError = match connecting.await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error.into(),
                Err(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
            };
            let why = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why));
            Err(error)
        })
    }
}

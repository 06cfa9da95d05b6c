//! Serves HTTP/1.1 and HTTP/2 on one port, with the limits that the server sets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tonic::body::Body;

/// Serves until the process ends.
pub async fn run<F>(listen: SocketAddr, serve: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Result<()>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(60));
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(200).max_send_buf_size(64 << 10);
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        stream.set_nodelay(true)?;
        let (builder, serve) = (builder.clone(), serve.clone());
        tokio::spawn(async move {
            let connection = builder.serve_connection(TokioIo::new(stream), service_fn(serve));
            // Clients go when a round is over, in the middle of whatever they did.
            connection.await.ok();
        });
    }
}

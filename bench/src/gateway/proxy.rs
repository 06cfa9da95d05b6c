//! The gateway as a process of its own, in front of a server.

use std::net::SocketAddr;

use anyhow::Result;
use rialto_gateway::Gateway;
use tonic::transport::{Channel, Uri};
use tower::Service;

use super::{listener, orders};

/// Serves until the process ends.
pub async fn serve(listen: SocketAddr, upstream: Uri) -> Result<()> {
    let gateway = Gateway::builder(orders::DESCRIPTORS).build(Channel::builder(upstream).connect_lazy())?;
    listener::run(listen, move |request| gateway.clone().call(request)).await
}

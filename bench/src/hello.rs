//! The reference for gRPC: a tonic server as in tonic's own example, which knows nobody and checks nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tonic::{Request, Response, Status};

use contract::hello_service_server::{HelloService, HelloServiceServer};
use contract::{HelloRequest, HelloResponse};

/// The code that the build makes of `hello.proto`.
pub mod contract {
    #![allow(clippy::all, clippy::pedantic, reason = "generated")]

    tonic::include_proto!("hello");
}

struct Hello {
    text: String,
}

#[tonic::async_trait]
impl HelloService for Hello {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse { text: self.text.clone() }))
    }
}

/// Serves until the process ends. Each answer is a message of `bytes` bytes.
pub async fn serve(listen: SocketAddr, bytes: usize) -> Result<()> {
    // A tag and a length of one byte each stand before the text, as long as it has less than 128 bytes, then one more.
    let text = "x".repeat(bytes.saturating_sub(if bytes < 130 { 2 } else { 3 }));
    let service = HelloServiceServer::new(Hello { text });
    tonic::transport::Server::builder().add_service(service).serve(listen).await.context("the reference can't serve")
}

//! One who calls: over REST or gRPC, and reads answers without decoding them, so that the load generator does the same work
//! for all.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::BodyExt;
use prost::Message;
use tonic::body::Body;
use tonic::client::Grpc;
use tower::{Service, ServiceExt};

use super::orders::contract::GetRequest;
use crate::client::{Http1, Http2, Raw};

/// How calls are made.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    /// REST on HTTP/1.1: each call at once has a connection of its own.
    Http1,
    /// REST on HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
}

/// What is called.
#[derive(Clone, Copy, PartialEq)]
pub enum Method {
    /// One order.
    Get,
    /// A hundred.
    List,
}

impl Method {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Get, Self::List];

    /// How the tables call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Get => "Get",
            Self::List => "List",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Get => "/v1/orders/a0eebc99-9c0b-4ef8-bb6d-6bb9bd380011",
            Self::List => "/v1/orders",
        }
    }

    fn grpc(self) -> (&'static str, Bytes) {
        match self {
            Self::Get => {
                let request = GetRequest { id: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380011".to_owned() };
                ("/bench.v1.OrderService/Get", request.encode_to_vec().into())
            }
            Self::List => ("/bench.v1.OrderService/List", Bytes::new()),
        }
    }
}

/// Makes one call after the other.
pub enum Caller {
    /// REST on a connection of its own.
    Http1(Http1, &'static str),
    /// REST on a connection that others may share.
    Http2(Http2, Uri),
    /// gRPC on a connection that others may share.
    Grpc(Grpc<Http2>, PathAndQuery, Bytes),
}

impl Caller {
    /// Callers, so many at once. They share the connections, if there are fewer.
    pub async fn connect(
        address: SocketAddr,
        way: Way,
        method: Method,
        count: usize,
        connections: usize,
    ) -> Result<Vec<Self>> {
        if way == Way::Http1 {
            let connections = try_join_all((0..count).map(|_| Http1::connect(address, None))).await?;
            return Ok(connections.into_iter().map(|connection| Self::Http1(connection, method.path())).collect());
        }
        let connections = try_join_all((0..connections).map(|_| Http2::connect(address))).await?;
        let callers = connections.iter().cycle().take(count);
        callers
            .map(|connection| match way {
                Way::Grpc => Ok(Self::grpc(connection, method.grpc())),
                _ => Ok(Self::Http2(
                    connection.clone(),
                    format!("{}{}", connection.origin, &method.path()[1..]).parse()?,
                )),
            })
            .collect()
    }

    /// One who calls any method over gRPC.
    pub fn grpc(connection: &Http2, (path, request): (&'static str, Bytes)) -> Self {
        let client = Grpc::with_origin(connection.clone(), connection.origin.clone());
        Self::Grpc(client, PathAndQuery::from_static(path), request)
    }

    /// A call. Anything but success is an error.
    pub async fn call(&mut self) -> Result<Bytes> {
        match self {
            Self::Http1(connection, path) => connection.get(path).await,
            Self::Http2(connection, uri) => {
                let request = Request::get(uri.clone()).body(Body::empty())?;
                let response = connection.ready().await?.call(request).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                ensure!(status == StatusCode::OK, "{uri} answered {status}: {}", String::from_utf8_lossy(&body));
                Ok(body)
            }
            Self::Grpc(client, path, request) => {
                client.ready().await.context("the connection ended")?;
                let request = tonic::Request::new(request.clone());
                Ok(client.unary(request, path.clone(), Raw).await?.into_inner())
            }
        }
    }
}

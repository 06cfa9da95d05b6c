//! Streaming methods as WebSockets (RFC 6455). The README has the protocol.

mod connection;
mod handshake;
mod inbound;
mod life;
mod requests;

use std::pin::Pin;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tower::Service;

use crate::BoxError;
use crate::error::{Asker, Failure, Rejection};
use crate::headers::{self, GRPC_TIMEOUT};
use crate::service::Shared;
use crate::upstream;
use connection::{Call, Connection};
use handshake::Handshake;
use inbound::Inbound;

/// Serves one open WebSocket, to its end.
pub type Socket = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the embedding program chose.
pub(crate) struct Options {
    pub cookie: Option<String>,
    pub origins: Vec<String>,
    pub spawn: Box<dyn Fn(Socket) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cookie: None, origins: Vec::new(), spawn: Box::new(|socket| drop(tokio::spawn(socket))) }
    }
}

impl Shared {
    pub fn has_socket(&self, path: &str) -> bool {
        !self.plan.sockets.is_empty() && self.resolve(&self.plan.socket_router, &Method::GET, path).is_ok()
    }
}

/// Does the request ask for a WebSocket?
pub(crate) fn is_wanted(request: &Parts) -> bool {
    request.method == Method::GET
        && request.version == Version::HTTP_11
        && lists(&request.headers, header::UPGRADE, "websocket")
        && lists(&request.headers, header::CONNECTION, "upgrade")
}

fn lists(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// The refusal of a plain request for a path that has a WebSocket, in place of the one that it would get without.
pub(crate) fn instead(method: &Method, miss: Rejection) -> Rejection {
    match miss {
        Rejection::Route | Rejection::Method(_) if matches!(*method, Method::GET | Method::HEAD) => Rejection::Upgrade,
        Rejection::Route => Rejection::Method(vec![Method::GET, Method::OPTIONS]),
        Rejection::Method(mut allowed) => {
            allowed.insert(0, Method::GET);
            Rejection::Method(allowed)
        }
        other => other,
    }
}

/// Opens the call and then the WebSocket, so that a call that fails at once is answered with an HTTP status.
pub(crate) async fn handle<U>(
    shared: &Arc<Shared>,
    upstream: U,
    mut parts: Parts,
) -> Result<Response<Body>, Box<Failure>>
where
    U: Service<http::Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
{
    let (index, segments) = shared.resolve(&shared.plan.socket_router, &Method::GET, parts.uri.path())?;
    let Some(route) = shared.plan.sockets.get(index) else { return Err(Rejection::Route.into()) };
    let handshake = Handshake::read(&parts.headers, &shared.sockets)?;
    let mut metadata = shared.headers.request(&parts.headers)?;
    if let Some(authorization) = handshake.authorization {
        metadata.insert(header::AUTHORIZATION, authorization);
    }
    let timeout = headers::timeout(&parts.headers)?;
    if let Some(timeout) = timeout {
        metadata.insert(GRPC_TIMEOUT, headers::write_timeout(timeout));
    }
    let inbound = Inbound::new(shared.clone(), index, handshake.protocol, &segments, parts.uri.query())
        .map_err(Rejection::Format)?;
    // Without it the server that this runs in can't upgrade the connection.
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else { return Err(Rejection::Upgrade.into()) };

    let (requests, body) = requests::channel();
    let request = upstream::request(&route.rpc.uri, metadata, parts.extensions.clone(), Body::new(body));
    let mut call = {
        let shared = shared.clone();
        let mut deadline = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout.saturating_add(headers::GRACE))));
        Call::Opening(Box::pin(async move {
            let passed = async {
                match &mut deadline {
                    Some(deadline) => deadline.await,
                    None => std::future::pending().await,
                }
            };
            let mut answer = tokio::select! {
                answer = upstream::call(&shared, upstream, request) => answer?,
                () = passed => return Err(Rejection::Deadline.into()),
            };
            answer.deadline = deadline;
            Ok(answer)
        }))
    };
    // Late is no failure: the service waits for the first message.
    tokio::time::timeout(shared.limits.header_hold, call.open()).await.unwrap_or(Ok(()))?;

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, handshake.accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(handshake.protocol.name()));
    if let Call::Open(answer) = &call {
        shared.headers.response(&answer.head, headers);
    }
    let asker = Asker::new(&parts.headers).without_problem();
    let connection = Connection { shared: shared.clone(), socket: index, protocol: handshake.protocol, asker };
    (shared.sockets.spawn)(Box::pin(async move {
        // Without the response there is no upgrade, and the call is dropped.
        if let Ok(io) = upgrade.await {
            connection.serve(TokioIo::new(io), inbound, requests, call).await;
        }
        drop(parts.extensions);
    }));
    Ok(response)
}

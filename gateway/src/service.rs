//! The HTTP service: which protocol a request speaks.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header};
use http_body_util::BodyExt;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use tower_http::decompression::RequestDecompression;

use crate::BoxError;
use crate::builder::{Builder, Limits};
use crate::codec::Codec;
use crate::connect;
use crate::error::{Asker, ErrorRenderer, Rejection};
use crate::headers::HeaderRules;
use crate::rest;
use crate::route::plan::Plan;
use crate::websocket;

/// A gRPC service as REST, JSON, server-sent events, WebSockets and Connect. Cheap to clone.
pub struct Gateway<U> {
    shared: Arc<Shared>,
    upstream: U,
}

/// What was worked out at start.
pub(crate) struct Shared {
    pub plan: Plan,
    pub codec: Codec,
    pub aliases: Vec<Alias>,
    pub headers: HeaderRules,
    pub errors: ErrorRenderer,
    pub limits: Limits,
    /// Indent the JSON of unary answers.
    pub pretty: bool,
    pub sockets: websocket::Options,
}

pub(crate) struct Alias {
    pub prefix: Vec<Box<str>>,
    pub target: Vec<Box<str>>,
}

impl Gateway<()> {
    /// Begins with an encoded `FileDescriptorSet`, whose method options must have kept their extensions.
    pub fn builder(descriptor_set: &[u8]) -> Builder {
        Builder::new(descriptor_set)
    }
}

impl<U> Gateway<U> {
    pub(crate) fn new(shared: Shared, upstream: U) -> Self {
        Self { shared: Arc::new(shared), upstream }
    }

    /// The renderer of this gateway, for errors that the embedding program answers itself.
    pub fn errors(&self) -> &ErrorRenderer {
        &self.shared.errors
    }

    /// Is there a route or a WebSocket for this method and path (aliases included)?
    pub fn has_route(&self, method: &Method, path: &str) -> bool {
        self.shared.route(method, path).is_ok() || (method == Method::GET && self.shared.has_socket(path))
    }

    /// Is this a call in the Connect protocol? Its errors have a form of their own: [`crate::connect_error`].
    pub fn is_connect(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        matches!(connect::claim(&self.shared, method, uri, headers), Some(Ok(_)))
    }
}

impl<U: Clone> Clone for Gateway<U> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), upstream: self.upstream.clone() }
    }
}

impl<U, B> Service<Request<B>> for Gateway<U>
where
    U: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    /// Always ready: each call waits for its own clone of the upstream.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (shared, upstream) = (self.shared.clone(), self.upstream.clone());
        // Few requests are compressed; the others need no further layer around their body.
        if !request.headers().contains_key(header::CONTENT_ENCODING) {
            return Box::pin(async move { Ok(answer(&shared, upstream, request).await) });
        }
        Box::pin(async move {
            let inner = tower::service_fn(move |request: Request<_>| {
                let (shared, upstream) = (shared.clone(), upstream.clone());
                async move { Ok::<_, Infallible>(answer(&shared, upstream, request).await) }
            });
            let decompressing = RequestDecompression::new(inner).pass_through_unaccepted(true);
            let Ok(response) = decompressing.oneshot(request.map(Body::new)).await;
            Ok(response.map(|body| Body::new(body.map_err(BoxError::from))))
        })
    }
}

async fn answer<U, B>(shared: &Arc<Shared>, upstream: U, request: Request<B>) -> Response<Body>
where
    U: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let asker = Asker::new(&parts.headers);
    let answered = if websocket::is_wanted(&parts) && shared.has_socket(parts.uri.path()) {
        websocket::handle(shared, upstream, parts).await
    } else {
        match connect::claim(shared, &parts.method, &parts.uri, &parts.headers) {
            Some(Ok(call)) => Ok(connect::handle(shared, upstream, call, parts, body).await),
            Some(Err(Rejection::Method(allowed))) if parts.method == Method::OPTIONS => Ok(rest::options(&allowed)),
            Some(Err(refused)) => Err(refused.into()),
            None => rest::handle(shared, upstream, parts, body).await,
        }
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(failure) => shared.errors.respond(&failure, &asker),
    };
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

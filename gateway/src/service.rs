//! The HTTP service: route, transcode, call, transcode back.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Extensions, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::BoxError;
use crate::answer;
use crate::builder::{Builder, Limits};
use crate::codec::{Codec, CodecError, Problem, wire::Writer};
use crate::error::{ErrorRenderer, Failure, Rejection};
use crate::frame;
use crate::headers::{Accept, HeaderRules, LAST_EVENT_ID, REQUEST_ID, is_json};
use crate::params::{self, Query};
use crate::route::plan::{BodyRule, Plan, Route};

/// A gRPC service as REST, JSON and server-sent events. Cheap to clone.
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

    /// Is there a route for this method and path (aliases included)?
    pub fn has_route(&self, method: &Method, path: &str) -> bool {
        self.shared.route(method, path).is_ok()
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
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let head = parts.method == Method::HEAD;
            let request_id = parts.headers.get(&REQUEST_ID).cloned();
            let mut response = match handle(&shared, upstream, parts, body).await {
                Ok(response) => response,
                Err(failure) => shared.errors.respond(&failure, request_id.as_ref()),
            };
            if head {
                *response.body_mut() = Body::empty();
            }
            Ok(response)
        })
    }
}

async fn handle<U, B>(shared: &Arc<Shared>, upstream: U, parts: Parts, body: B) -> Result<Response<Body>, Box<Failure>>
where
    U: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Parts { method, uri, headers, extensions, .. } = parts;
    let (index, segments) = shared.route(&method, uri.path())?;
    let Some(route) = shared.plan.routes.get(index) else { return Err(Rejection::Route.into()) };
    let accept = Accept::new(&headers);
    let format = answer::Format::choose(&route.rpc, accept)?;
    let json = match route.body {
        BodyRule::None => Bytes::new(),
        _ => read_body(body, &headers, shared.limits.request_bytes).await?,
    };
    let message = shared.request_message(route, &segments, uri.query(), &headers, &json)?;
    let request_id = headers.get(&REQUEST_ID).cloned();
    let request = upstream_request(&route.rpc.uri, message, shared.headers.request(&headers)?, extensions);
    let call = async move { upstream.oneshot(request).await.map_err(|e| unreachable_upstream(e.into())) };
    match format {
        None => answer::unary(shared, route, call.await?).await,
        Some(format) => answer::stream(shared, index, format, request_id, call.await?).await,
    }
}

fn upstream_request(uri: &Uri, message: Bytes, headers: HeaderMap, extensions: Extensions) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(message)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    *request.extensions_mut() = extensions;
    request
}

/// A service may fail with a status of its own. Of anything else only the code is told: the cause is not for clients.
fn unreachable_upstream(error: BoxError) -> Box<Failure> {
    let error = match error.downcast::<Status>() {
        Ok(status) => return Failure::from_status(&status),
        Err(error) => error,
    };
    let code = match Status::try_from_error(error) {
        Ok(status) if status.code() != Code::Unknown => status.code(),
        _ => Code::Unavailable,
    };
    Failure::upstream(code, "the service cannot be reached")
}

async fn read_body<B>(body: B, headers: &HeaderMap, limit: usize) -> Result<Bytes, Rejection>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Rejection::MediaType);
    }
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(Rejection::TooLarge(limit));
    }
    let collected = Limited::new(body, limit).collect().await;
    let bytes = collected.map_err(|e| match e.is::<http_body_util::LengthLimitError>() {
        true => Rejection::TooLarge(limit),
        false => Rejection::Body,
    })?;
    let bytes = bytes.to_bytes();
    if bytes.is_empty() || is_json(headers) { Ok(bytes) } else { Err(Rejection::MediaType) }
}

impl Shared {
    /// Index of the route and the raw path segments: as the path is, else through the first alias that fits.
    fn route<'r>(&'r self, method: &Method, path: &'r str) -> Result<(usize, Vec<&'r str>), Rejection> {
        let mut segments: Vec<&str> = Vec::with_capacity(8);
        segments.extend(path.strip_prefix('/').ok_or(Rejection::Route)?.split('/'));
        let mut allowed = match self.plan.router.find(method, &mut segments) {
            Ok(route) => return Ok((route, segments)),
            Err(miss) => miss.allowed,
        };
        for alias in &self.aliases {
            let prefix = segments.iter().zip(&alias.prefix);
            if segments.len() < alias.prefix.len() || prefix.into_iter().any(|(a, b)| *a != &**b) {
                continue;
            }
            let rest = segments.iter().skip(alias.prefix.len()).copied();
            let mut aliased: Vec<&str> = alias.target.iter().map(|s| &**s).chain(rest).collect();
            match self.plan.router.find(method, &mut aliased) {
                Ok(route) => return Ok((route, aliased)),
                Err(miss) if allowed.is_empty() => allowed = miss.allowed,
                Err(_) => {}
            }
        }
        Err(if allowed.is_empty() { Rejection::Route } else { Rejection::Method(allowed) })
    }

    /// The framed request message: query, then body, then path, then header, so that what takes precedence comes last.
    fn request_message(
        &self,
        route: &Route,
        segments: &[&str],
        query: Option<&str>,
        headers: &HeaderMap,
        json: &[u8],
    ) -> Result<Bytes, Rejection> {
        let (schema, root) = (&self.codec.schema, route.rpc.input);
        let mut out = Writer::new(frame::buffer(json.len() + 64));
        let resume = route.rpc.resume_field.as_deref().and_then(|field| Some((field, headers.get(&LAST_EVENT_ID)?)));
        if let Some(query) = query.filter(|q| !q.is_empty()) {
            let bound = if matches!(route.body, BodyRule::All) { None } else { Some(&route.query_bound) };
            Query { schema, root, bound, overridden: resume.map(|(field, _)| field) }.write(query, &mut out)?;
        }
        self.body(route, json, &mut out)?;
        for capture in &route.captures {
            let raw = segments.get(capture.start..capture.end.unwrap_or(segments.len())).unwrap_or_default();
            let text = match raw {
                [one] => params::decode_path(one, capture.multi),
                many => params::decode_path(&many.join("/"), capture.multi).map(|t| t.into_owned().into()),
            };
            text.and_then(|text| params::write(schema, root, &capture.field, &text, &mut out))
                .map_err(|p| CodecError::from(p).at_field(&capture.name))?;
        }
        if let Some((field, id)) = resume {
            let text = id.to_str().map_err(|_| Problem::Utf8);
            text.and_then(|text| params::write(schema, root, field, text, &mut out))
                .map_err(|p| CodecError::from(p).at_field(LAST_EVENT_ID.as_str()))?;
        }
        frame::seal(out.finish()).ok_or(Rejection::TooLarge(self.limits.request_bytes))
    }

    fn body(&self, route: &Route, json: &[u8], out: &mut Writer) -> Result<(), CodecError> {
        // No body at all is a body that sets nothing.
        if json.is_empty() {
            return Ok(());
        }
        let root = route.rpc.input;
        match route.body {
            BodyRule::None => Ok(()),
            BodyRule::All => self.codec.decode(json, out, |d| d.message(root, &route.path_bound)),
            BodyRule::Field(index) => {
                let Some(f) = self.codec.schema.message(root).fields.get(usize::from(index)) else { return Ok(()) };
                let bound = route.path_bound.get(index).unwrap_or(crate::codec::Bound::NONE);
                self.codec.decode(json, out, |d| d.field(f, bound).map(drop)).map_err(|e| e.at_field(&f.json_name))
            }
        }
    }

    /// The JSON of one response message.
    pub fn print(&self, route: &Route, wire: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        let message = self.codec.schema.message(route.rpc.output);
        match route.response_body.and_then(|i| message.fields.get(usize::from(i))) {
            None => self.codec.encoder(out).message(route.rpc.output, wire),
            Some(f) => self.codec.encoder(out).field(f, wire),
        }
    }

    pub fn error_line(&self, failure: &Failure, request_id: Option<&HeaderValue>) -> String {
        self.errors.body(failure, request_id).1
    }
}

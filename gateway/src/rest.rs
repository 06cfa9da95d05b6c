//! Requests of the `google.api.http` mapping: route, transcode, call, transcode back.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use tonic::body::Body;
use tower::Service;

use crate::BoxError;
use crate::answer::{self, Form};
use crate::body::RequestBody;
use crate::client_stream;
use crate::codec::{Bound, CodecError, Problem, wire::Writer};
use crate::conditional;
use crate::download;
use crate::error::{Asker, Failure, Rejection, allow};
use crate::frame;
use crate::headers::{self, Accept, GRPC_TIMEOUT, LAST_EVENT_ID, is_json};
use crate::http_body as raw;
use crate::params::{self, Query};
use crate::patch;
use crate::route::plan::{BodyRule, Route};
use crate::route::router::Router;
use crate::service::Shared;
use crate::upload;
use crate::upstream;
use crate::websocket;

pub(crate) async fn handle<U, B>(
    shared: &Arc<Shared>,
    upstream: U,
    parts: Parts,
    body: B,
) -> Result<Response<Body>, Box<Failure>>
where
    U: Service<http::Request<Body>, Response = Response<Body>> + Send + 'static,
    U::Error: Into<BoxError>,
    U::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let Parts { method, uri, headers, extensions, .. } = parts;
    let (index, segments) = match shared.route(&method, uri.path()) {
        Err(Rejection::Method(allowed)) if method == Method::OPTIONS => return Ok(options(&allowed)),
        found => found?,
    };
    let Some(route) = shared.plan.routes.get(index) else { return Err(Rejection::Route.into()) };
    let form = Form::choose(route, Accept::new(&headers))?;
    let mut metadata = shared.headers.request(&headers)?;
    if route.raw_response {
        headers::copy_conditions(&headers, &mut metadata);
    }
    let timeout = headers::timeout(&headers)?;

    let work = async {
        let (body, sending) = if route.rpc.client_streaming {
            let messages = upload::messages(shared, index, &segments, uri.query(), &headers, body)?;
            let (body, sending) = client_stream::body(messages);
            (body, Some(sending))
        } else {
            let body = shared.whole_body(route, &headers, body).await?;
            let message = shared.request_message(route, &segments, uri.query(), &headers, &body)?;
            (Body::new(Full::new(message)), None)
        };
        if let Some(timeout) = timeout {
            metadata.insert(GRPC_TIMEOUT, headers::write_timeout(timeout.saturating_sub(started.elapsed())));
        }
        let request = upstream::request(&route.rpc.uri, metadata, extensions, body);
        let mut answer = match sending {
            Some(sending) => client_stream::call(shared, upstream, request, sending).await?,
            None => upstream::call(shared, upstream, request).await?,
        };
        if let Some(timeout) = timeout.filter(|_| route.rpc.server_streaming) {
            let left = timeout.saturating_add(headers::GRACE).saturating_sub(started.elapsed());
            answer.deadline = Some(Box::pin(tokio::time::sleep(left)));
        }
        let mut response = match form {
            Form::Document => answer::unary(shared, route, answer).await?,
            Form::Raw => download::respond(shared, route, &method, &headers, answer).await?,
            Form::Stream(format) => answer::stream(shared, index, format, Asker::new(&headers), answer).await?,
        };
        conditional::not_modified(&method, &headers, &mut response);
        Ok(response)
    };
    match timeout {
        None => work.await,
        Some(timeout) => {
            tokio::time::timeout(timeout.saturating_add(headers::GRACE), work).await.map_err(|_| Rejection::Deadline)?
        }
    }
}

/// What the path takes (RFC 9110 section 9.3.7). Requests of browsers before those of other origins are the embedding
/// program's: a CORS layer answers them.
pub(crate) fn options(allowed: &[Method]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allowed) = HeaderValue::try_from(allow(allowed)) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

impl Shared {
    /// Index of the route and the raw path segments.
    pub fn route<'r>(&'r self, method: &Method, path: &'r str) -> Result<(usize, Vec<&'r str>), Rejection> {
        let found = self.resolve(&self.plan.router, method, path);
        match found {
            Err(miss) if self.has_socket(path) => Err(websocket::instead(method, miss)),
            found => found,
        }
    }

    /// As the path is, else through the first alias that fits.
    pub fn resolve<'r>(
        &'r self,
        router: &Router,
        method: &Method,
        path: &'r str,
    ) -> Result<(usize, Vec<&'r str>), Rejection> {
        let mut segments: Vec<&str> = Vec::with_capacity(8);
        segments.extend(path.strip_prefix('/').ok_or(Rejection::Route)?.split('/'));
        let mut allowed = match router.find(method, &mut segments) {
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
            match router.find(method, &mut aliased) {
                Ok(route) => return Ok((route, aliased)),
                Err(miss) if allowed.is_empty() => allowed = miss.allowed,
                Err(_) => {}
            }
        }
        Err(if allowed.is_empty() { Rejection::Route } else { Rejection::Method(allowed) })
    }

    async fn whole_body<B>(&self, route: &Route, headers: &HeaderMap, body: B) -> Result<Bytes, Rejection>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if let BodyRule::None = route.body {
            return Ok(Bytes::new());
        }
        let limits = &self.limits;
        let body = RequestBody::new(body, headers, limits.request_bytes, limits.body_patience)?.whole().await?;
        if !route.raw_request && !body.is_empty() && !is_json(headers) {
            return Err(Rejection::MediaType("application/json"));
        }
        Ok(body)
    }

    /// The framed request message: query, then body, then path, then header, so that what takes precedence comes last.
    fn request_message(
        &self,
        route: &Route,
        segments: &[&str],
        query: Option<&str>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Bytes, Rejection> {
        let mut out = Writer::new(frame::buffer(body.len() + 64));
        let given = self.query(route, query, headers, &mut out)?;
        if route.raw_request {
            raw::write_request(route, raw::content_type(headers)?, body, &mut out);
        } else {
            self.body(route, body, &mut out)?;
            if let (Some(mask), false) = (route.mask, body.is_empty())
                && !given.contains(&[mask])
            {
                patch::write_mask(&self.codec.schema, route, mask, body, self.limits.request_bytes, &mut out)?;
            }
        }
        self.path(route, segments, &mut out)?;
        self.last_event_id(route, headers, &mut out)?;
        frame::seal(out.finish()).ok_or(Rejection::TooLarge(self.limits.request_bytes))
    }

    /// The fields that query parameters set; tells which.
    pub fn query(
        &self,
        route: &Route,
        query: Option<&str>,
        headers: &HeaderMap,
        out: &mut Writer,
    ) -> Result<params::Given, CodecError> {
        let Some(query) = query.filter(|q| !q.is_empty()) else { return Ok(params::Given::default()) };
        let (schema, root) = (&self.codec.schema, route.rpc.input);
        let bound = if matches!(route.body, BodyRule::All) { None } else { Some(&route.query_bound) };
        let overridden = route.rpc.resume_field.as_deref().filter(|_| headers.contains_key(&LAST_EVENT_ID));
        Query { schema, root, bound, overridden }.write(query, out)
    }

    /// One field that a form sets, as a query parameter would.
    pub fn form_field(
        &self,
        route: &Route,
        name: &str,
        text: &str,
        given: &mut params::Given,
        out: &mut Writer,
    ) -> Result<(), CodecError> {
        let (schema, root, bound) = (&self.codec.schema, route.rpc.input, Some(&route.query_bound));
        let written = Query { schema, root, bound, overridden: None }.parameter(name, text, given, out);
        written.map_err(|e| if *e.problem() == Problem::UnknownParameter { Problem::UnknownField.into() } else { e })
    }

    /// The fields that path variables set.
    pub fn path(&self, route: &Route, segments: &[&str], out: &mut Writer) -> Result<(), CodecError> {
        for capture in &route.captures {
            let raw = segments.get(capture.start..capture.end.unwrap_or(segments.len())).unwrap_or_default();
            let text = match raw {
                [one] => params::decode_path(one, capture.multi),
                many => params::decode_path(&many.join("/"), capture.multi).map(|t| t.into_owned().into()),
            };
            text.and_then(|text| params::write(&self.codec.schema, route.rpc.input, &capture.field, &text, out))
                .map_err(|p| CodecError::from(p).at_field(&capture.name))?;
        }
        Ok(())
    }

    pub fn last_event_id(&self, route: &Route, headers: &HeaderMap, out: &mut Writer) -> Result<(), CodecError> {
        let Some((field, id)) = route.rpc.resume_field.as_deref().zip(headers.get(&LAST_EVENT_ID)) else {
            return Ok(());
        };
        let text = id.to_str().map_err(|_| Problem::Utf8);
        text.and_then(|text| params::write(&self.codec.schema, route.rpc.input, field, text, out))
            .map_err(|p| CodecError::from(p).at_field(LAST_EVENT_ID.as_str()))
    }

    /// The fields that a JSON body sets.
    pub fn body(&self, route: &Route, json: &[u8], out: &mut Writer) -> Result<(), CodecError> {
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
                let bound = route.path_bound.get(index).unwrap_or(Bound::NONE);
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

    pub fn error_line(&self, failure: &Failure, asker: &Asker) -> Vec<u8> {
        self.errors.body(failure, asker).2
    }
}

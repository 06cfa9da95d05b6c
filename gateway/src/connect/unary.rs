//! Unary calls, by POST and, for methods without side effects, by GET.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use http_body_util::Full;
use tonic::body::Body;
use tower::Service;

use super::error::refusal;
use super::requests::{gunzip, unsupported_encoding};
use super::{Call, Form, check_version, parameter, required, timeout};
use crate::BoxError;
use crate::body::RequestBody;
use crate::codec::{CodecError, Problem};
use crate::conditional;
use crate::error::{Failure, Rejection};
use crate::headers::{self, GRPC_TIMEOUT};
use crate::service::Shared;
use crate::upstream::{self, Answer};

/// The URL-safe alphabet, with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) async fn handle<U, B>(
    shared: &Arc<Shared>,
    upstream: U,
    call: Call,
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
    check_version(&headers)?;
    let timeout = timeout(&headers)?;
    let mut metadata = shared.headers.request(&headers)?;
    let limits = &shared.limits;
    let work = async {
        let message = if method == Method::POST {
            RequestBody::new(body, &headers, limits.request_bytes, limits.body_patience)?.whole().await?
        } else {
            get_message(uri.query().unwrap_or_default(), limits.request_bytes)?
        };
        let message = call.request(shared, &message)?;
        if let Some(timeout) = timeout {
            metadata.insert(GRPC_TIMEOUT, headers::write_timeout(timeout.saturating_sub(started.elapsed())));
        }
        Ok(upstream::request(&call.rpc.uri, metadata, extensions, Body::new(Full::new(message))))
    };
    let work = async {
        let request = work.await.map_err(refusal)?;
        respond(shared, &call, upstream::call(shared, upstream, request).await?).await
    };
    let mut response = match timeout {
        None => work.await?,
        Some(timeout) => tokio::time::timeout(timeout.saturating_add(headers::GRACE), work)
            .await
            .map_err(|_| Rejection::Deadline)??,
    };
    conditional::not_modified(&method, &headers, &mut response);
    Ok(response)
}

/// The request message of a GET or HEAD.
fn get_message(query: &str, limit: usize) -> Result<Bytes, Rejection> {
    if parameter(query, "connect")?.is_some_and(|version| version != "v1") {
        return Err(CodecError::from(Problem::expected("v1", "another version")).at_field("connect").into());
    }
    required(query, "encoding")?;
    let text = required(query, "message")?;
    let message = if parameter(query, "base64")?.as_deref() == Some("1") {
        let bad = |_| CodecError::from(Problem::expected("base64", &text)).at_field("message");
        BASE64.decode(text.as_bytes()).map_err(bad)?.into()
    } else {
        Bytes::from(text.into_owned())
    };
    if message.len() > limit {
        return Err(Rejection::TooLarge(limit));
    }
    match parameter(query, "compression")?.as_deref() {
        None | Some("" | "identity") => Ok(message),
        Some("gzip") => gunzip(message, limit),
        Some(_) => Err(unsupported_encoding()),
    }
}

async fn respond(shared: &Shared, call: &Call, mut answer: Answer) -> Result<Response<Body>, Box<Failure>> {
    let mut message = answer.only_message().await?;
    if call.form == Form::Json {
        let mut json = Vec::with_capacity(message.len() * 2 + 64);
        call.response(shared, &message, &mut json)?;
        message = json.into();
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, call.form.content_type(false));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(message.len()));
    shared.headers.response(&answer.head, headers);
    let mut trailers = HeaderMap::new();
    shared.headers.response(&answer.trailers, &mut trailers);
    for (name, value) in &trailers {
        if let Ok(name) = HeaderName::try_from(format!("trailer-{name}")) {
            headers.append(name, value.clone());
        }
    }
    *response.body_mut() = Body::new(Full::new(message));
    Ok(response)
}

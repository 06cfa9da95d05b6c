//! Idempotency keys: a repeated call gets the first answer (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! A key belongs to an account, a method and one request, for a day. Only answers that succeeded are kept: after an error
//! the same key may be tried again. A call that a crashed server has left without an answer may be made again after a
//! minute; should it have succeeded just before the crash, that makes it happen twice, which the method's own rules have
//! to bear.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use sha2::{Digest, Sha256};
use tonic::Status;
use tonic::body::Body;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::policy::Rule;
use crate::proto;
use crate::schema::idempotency_keys as table;

const HEADER: &str = "idempotency-key";
/// After so long without an answer, the server that took the call is believed dead.
const ABANDONED: TimeDelta = TimeDelta::seconds(60);
/// How long an answer is kept.
pub const KEPT: TimeDelta = TimeDelta::days(1);

/// One use of a key.
struct Use {
    account_id: Uuid,
    method: &'static str,
    key: String,
    request_hash: Vec<u8>,
}

#[derive(Queryable)]
struct Seen {
    request_hash: Vec<u8>,
    response: Option<Vec<u8>>,
}

/// Makes the call unless its key was seen before. Without a key it is simply made.
pub async fn once<F>(
    app: &App,
    rule: &'static Rule,
    caller: &Caller,
    mut request: Request<Body>,
    call: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, Status>
where
    F: Future<Output = Response<Body>>,
{
    let Some(key) = key(request.headers())? else { return Ok(call(request).await) };
    // The kept answer must be readable for every client.
    request.headers_mut().remove("grpc-accept-encoding");
    let (head, body) = request.into_parts();
    let body = collect(body, app.config.server.max_message_bytes).await?;
    let request_hash = Sha256::digest(canonical(rule, &body)).to_vec();
    let this = Use { account_id: caller.account_id, method: rule.path, key, request_hash };

    {
        let mut conn = app.db.get().await.map_err(Status::from)?;
        if !this.begin(&mut conn, app.clock.now()).await? {
            let seen = this.seen(&mut conn).await?;
            return Ok(replay(this.answer(seen)?));
        }
    }
    let response = call(Request::from_parts(head, Body::new(Full::new(body)))).await;
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let data = collected.to_bytes();
    let mut conn = app.db.get().await.map_err(Status::from)?;
    let status = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
    if status.is_some_and(|status| status == "0") {
        this.finish(&mut conn, &data).await?;
    } else {
        this.forget(&mut conn).await?;
    }
    Ok(Response::from_parts(head, with_trailers(data, trailers)))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(key) = values.next() else { return Ok(None) };
    let fit = key.to_str().ok().filter(|key| (1..=255).contains(&key.len()) && values.next().is_none());
    let unfit =
        || Error::new(Reason::InvalidInput, "idempotency-key must be one, of 1 to 255 visible ASCII characters");
    fit.map(|key| Some(key.to_owned())).ok_or_else(unfit)
}

/// The same request in the same bytes, in whatever order its fields came. What can't be decoded, because it is compressed
/// or broken, stands for itself.
fn canonical(rule: &Rule, body: &Bytes) -> Vec<u8> {
    static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).ok());
    let (service, method) = rule.path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let service = POOL.as_ref().and_then(|pool| pool.get_service_by_name(service));
    let method = service.and_then(|service| service.methods().find(|found| found.name() == method));
    match (method, body.split_at_checked(5)) {
        (Some(method), Some(([0, ..], message))) => DynamicMessage::decode(method.input(), message)
            .map_or_else(|_| body.to_vec(), |message| message.encode_to_vec()),
        _ => body.to_vec(),
    }
}

async fn collect(body: Body, max: usize) -> Result<Bytes, Error> {
    // A message and the five bytes before it.
    let collected = Limited::new(body, max.saturating_add(5)).collect().await;
    let too_large = |_| Error::new(Reason::PayloadTooLarge, format!("the message is larger than {max} bytes"));
    Ok(collected.map_err(too_large)?.to_bytes())
}

fn replay(data: Vec<u8>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(with_trailers(data.into(), trailers));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

fn with_trailers(data: Bytes, trailers: HeaderMap) -> Body {
    let frames = [Frame::data(data), Frame::trailers(trailers)].map(Ok::<_, Status>);
    Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
}

impl Use {
    /// Takes the key; false when it is taken.
    async fn begin(&self, conn: &mut Conn, now: DateTime<Utc>) -> Result<bool, Error> {
        let row = (
            table::account_id.eq(self.account_id),
            table::method.eq(self.method),
            table::key.eq(&self.key),
            table::request_hash.eq(&self.request_hash),
            table::created_at.eq(now),
        );
        let taken = diesel::insert_into(table::table).values(row).on_conflict_do_nothing().execute(conn).await?;
        if taken == 1 {
            return Ok(true);
        }
        let abandoned = self
            .row()
            .filter(table::response.is_null())
            .filter(table::request_hash.eq(&self.request_hash))
            .filter(table::created_at.lt(now - ABANDONED));
        Ok(diesel::update(abandoned).set(table::created_at.eq(now)).execute(conn).await? == 1)
    }

    async fn seen(&self, conn: &mut Conn) -> Result<Option<Seen>, Error> {
        Ok(self.row().select((table::request_hash, table::response)).first(conn).await.optional()?)
    }

    /// The answer that is kept for this request.
    fn answer(&self, seen: Option<Seen>) -> Result<Vec<u8>, Error> {
        if seen.as_ref().is_some_and(|seen| seen.request_hash != self.request_hash) {
            return Err(Error::new(Reason::IdempotencyKeyReused, "this idempotency key belongs to another request"));
        }
        let under_way = || {
            let error = Error::new(Reason::ResourceConflict, "the first call with this idempotency key is under way");
            error.retry_after(Duration::from_secs(1))
        };
        seen.and_then(|seen| seen.response).ok_or_else(under_way)
    }

    async fn finish(&self, conn: &mut Conn, response: &[u8]) -> Result<(), Error> {
        diesel::update(self.row()).set(table::response.eq(response)).execute(conn).await?;
        Ok(())
    }

    async fn forget(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::delete(self.row()).execute(conn).await?;
        Ok(())
    }

    fn row(&self) -> row<'_> {
        row(self.account_id, self.method, &self.key)
    }
}

#[diesel::dsl::auto_type]
fn row<'a>(account_id: Uuid, method: &'static str, key: &'a str) -> _ {
    table::table.find((account_id, method, key))
}

/// Forgets keys that are older than a day; returns how many.
pub async fn delete_old(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    let old = table::table.filter(table::created_at.lt(app.clock.now() - KEPT));
    Ok(diesel::delete(old).execute(&mut *conn).await?)
}

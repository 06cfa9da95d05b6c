//! The audit log: who did what to what, from where, and how it ended. A call that acts on several things has an entry for
//! each; they share the id of the request.

use std::sync::Arc;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use http::{Extensions, Response};
use serde_json::Value;
use tonic::body::Body;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::caller::{ActingAccount, Caller, ClientAddress, RequestRecord};
use crate::kernel::error::Error;
use crate::kernel::policy::Rule;
use crate::schema::audit_log;

/// What is known before the call.
pub struct Note {
    rule: &'static Rule,
    caller: Option<Caller>,
    address: Option<String>,
    record: Option<Arc<RequestRecord>>,
}

#[derive(Insertable)]
#[diesel(table_name = audit_log, treat_none_as_default_value = false)]
struct Entry<'a> {
    id: Uuid,
    at: chrono::DateTime<chrono::Utc>,
    account_id: Option<Uuid>,
    session_id: Option<Uuid>,
    method: &'a str,
    address: Option<&'a str>,
    request_id: &'a str,
    grpc_code: i16,
    target_kind: Option<&'static str>,
    target_id: Option<Uuid>,
    before: Option<Value>,
    after: Option<Value>,
}

/// How a call ended.
pub struct Outcome {
    /// The account that a public method found out it was about.
    account_id: Option<Uuid>,
    grpc_code: i16,
}

impl Outcome {
    /// The outcome of a unary call: a failed one has its status in its head, a good one only in its trailers.
    pub fn of(result: &Result<Response<Body>, Status>) -> Self {
        match result {
            Ok(response) => {
                let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok());
                Self {
                    account_id: response.extensions().get::<ActingAccount>().map(|account| account.0),
                    grpc_code: code.map_or(0, |code| code.parse().unwrap_or(2)),
                }
            }
            Err(status) => Self { account_id: None, grpc_code: number(status.code()) },
        }
    }
}

/// Codes are 0 to 16.
fn number(code: Code) -> i16 {
    i16::try_from(i32::from(code)).unwrap_or(2)
}

impl Note {
    /// A note of a call that is about to be made.
    pub fn new(rule: &'static Rule, caller: Option<&Caller>, extensions: &Extensions) -> Self {
        let address = extensions.get::<ClientAddress>().map(|address| address.0.to_string());
        Self { rule, caller: caller.cloned(), address, record: RequestRecord::of(extensions) }
    }

    /// Writes it, with how the call ended. The call stands even if this fails; the log says so then.
    pub async fn write(self, app: &App, outcome: Outcome) {
        if let Err(error) = self.insert(app, outcome).await {
            tracing::error!(method = self.rule.path, address = self.address, %error, "an audit entry was not written");
        }
    }

    async fn insert(&self, app: &App, outcome: Outcome) -> Result<(), Error> {
        let now = app.clock.now();
        let deeds = self.caller.as_ref().map(|caller| caller.trail.take()).unwrap_or_default();
        // A call that named nothing has one entry too.
        let nothing = deeds.is_empty().then_some(None);
        let mut entries = Vec::new();
        for deed in deeds.into_iter().map(Some).chain(nothing) {
            let (target_kind, target_id) = deed.as_ref().map(|deed| deed.target.parts()).unzip();
            let code = deed.as_ref().and_then(|deed| deed.code);
            let (before, after) = deed.map(|deed| (deed.before, deed.after)).unwrap_or_default();
            entries.push(Entry {
                id: app.rng.id(now)?,
                at: now,
                account_id: self.caller.as_ref().map(|caller| caller.account_id).or(outcome.account_id),
                session_id: self.caller.as_ref().map(|caller| caller.session_id),
                method: self.rule.path,
                address: self.address.as_deref(),
                request_id: self.record.as_ref().map_or("", |record| &record.id),
                grpc_code: code.map_or(outcome.grpc_code, number),
                target_kind,
                target_id,
                before,
                after,
            });
        }
        let mut conn = app.db.get().await?;
        // One by itself is prepared once and for all, unlike several.
        match entries.as_slice() {
            [entry] => diesel::insert_into(audit_log::table).values(entry).execute(&mut *conn).await?,
            entries => diesel::insert_into(audit_log::table).values(entries).execute(&mut *conn).await?,
        };
        Ok(())
    }
}

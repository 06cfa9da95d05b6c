//! The gate: one tower layer in front of every method, whatever way a call came in.
//!
//! In order: the rule of the method, who calls, have they the second factor that their role needs, may they, how often, how
//! long; then, where the rule says so, whether this idempotency key was seen before, and a note for the audit log. Default
//! deny: a method without a rule can't be called.

mod audit;
mod idempotency;
mod personal_data;
mod stream;

pub mod jobs;

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, header};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};
use tower::{Service, ServiceExt};

use crate::domains::auth::{Browser, Sessions};
use crate::domains::roles::Roles;
use crate::kernel::app::App;
use crate::kernel::caller::{Caller, ClientAddress, RequestRecord, Transport};
use crate::kernel::error::{Error, Reason};
use crate::kernel::policy::{Access, Rule};
use crate::kernel::rates::{Allowance, Rate, Subject};
use crate::kernel::security::{Event, Kind, Origin};
use crate::kernel::trail::Trail;
use rialto_gateway::grpc_timeout;

pub use personal_data::PERSONAL_DATA;

/// Methods of others that anybody may call. Reflection is there only when the server is told to serve it.
const OPEN: [Rule; 4] = [
    open("/grpc.health.v1.Health/Check", false),
    open("/grpc.health.v1.Health/Watch", true),
    open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
    open("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true),
];

/// What an account may call whose role needs two-factor authentication, until it has it.
const WITHOUT_TWO_FACTOR: [&str; 12] = [
    "/rialto.auth.v1.AuthService/GetMe",
    "/rialto.auth.v1.AuthService/Logout",
    "/rialto.auth.v1.AuthService/Reauthenticate",
    "/rialto.passkeys.v1.PasskeyService/BeginRegistration",
    "/rialto.passkeys.v1.PasskeyService/FinishRegistration",
    "/rialto.passkeys.v1.PasskeyService/ListPasskeys",
    "/rialto.twofactor.v1.TwoFactorService/Disable",
    "/rialto.twofactor.v1.TwoFactorService/Enable",
    "/rialto.twofactor.v1.TwoFactorService/GetBackupCodes",
    "/rialto.twofactor.v1.TwoFactorService/GetStatus",
    "/rialto.twofactor.v1.TwoFactorService/RegenerateBackupCodes",
    "/rialto.twofactor.v1.TwoFactorService/Setup",
];

const fn open(path: &'static str, streaming: bool) -> Rule {
    let (access, rate) = (Access::Public, Rate::Default);
    Rule { path, access, rate, audit: false, idempotency_key: false, streaming, read_only: true }
}

/// See the module.
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    checks: Checks,
}

/// Finds the rule of a gRPC path, as [`crate::kernel::policy::rule`] does.
pub type Rules = fn(&str) -> Option<&'static Rule>;

/// The questions that a call has to answer.
#[derive(Clone)]
struct Checks {
    app: App,
    rules: Rules,
    sessions: Arc<Sessions>,
    roles: Arc<Roles>,
}

impl<S> Gate<S> {
    /// Puts the gate in front of the services.
    pub fn new(inner: S, app: App, rules: Rules, sessions: Arc<Sessions>, roles: Arc<Roles>) -> Self {
        Self { inner, checks: Checks { app, rules, sessions, roles } }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The inner service is made ready for each request, by `oneshot`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = self.clone();
        Box::pin(async move { Ok(gate.pass(request).await.unwrap_or_else(Status::into_http)) })
    }
}

impl<S> Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn pass(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (mut head, body) = request.into_parts();
        let rule = self.checks.rule(head.uri.path())?;
        let record = RequestRecord::of(&head.extensions);
        if let Some(record) = &record {
            let _ = record.method.set(rule.path);
        }
        let caller = self.checks.who(rule, &head).await;
        let mut caller = caller.inspect_err(|refused| self.checks.note_stranger(rule, &head, refused))?;
        if let (Some(record), Some(caller)) = (&record, &caller) {
            let _ = record.account.set(caller.account_id);
        }
        if caller.as_ref().is_some_and(|caller| caller.lacks_two_factor) && !WITHOUT_TWO_FACTOR.contains(&rule.path) {
            let message = "the account's role needs two-factor authentication; enable it first";
            return Err(Error::new(Reason::TwoFactorRequired, message).into());
        }
        if let (Access::Permission(permission), Some(caller)) = (rule.access, &caller) {
            // The rest of it, for which objects, is the method's to put into its query.
            let lacking = |_: &Error| self.checks.note_denied(rule, &head, caller, permission);
            caller.scope(permission).inspect_err(lacking)?;
        }
        let allowance = self.checks.count(rule, caller.as_ref(), &head).await?;
        let deadline = self.checks.deadline(rule, &head.headers)?;

        if let Some(caller) = &mut caller {
            if rule.audit {
                caller.trail = Trail::kept();
            }
            head.extensions.insert(caller.clone());
        }
        let request = Request::from_parts(head, body);
        let show_rates = record.is_some_and(|record| !matches!(record.transport, Transport::Grpc | Transport::GrpcWeb));
        let mut response = if rule.streaming {
            self.stream(caller, deadline, request).await?
        } else {
            self.unary(rule, caller, deadline, request).await?
        };
        if show_rates {
            write_rates(response.headers_mut(), &allowance);
        }
        Ok(response)
    }

    async fn unary(
        self,
        rule: &'static Rule,
        caller: Option<Caller>,
        deadline: Option<Duration>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let deadline = deadline.unwrap_or(Duration::MAX);
        if rule.read_only {
            let mut answer = std::pin::pin!(run(self.inner, request));
            // Most reads are answered out of memory, and need no timer.
            if let Poll::Ready(answer) = futures_util::poll!(answer.as_mut()) {
                return Ok(answer);
            }
            return tokio::time::timeout(deadline, answer).await.map_err(|_| late());
        }
        // What changes something runs to its end, also when the client goes away or does not wait that long.
        let work = tokio::spawn(tracing::Instrument::in_current_span(self.change(rule, caller, request)));
        match tokio::time::timeout(deadline, work).await.map_err(|_| late())? {
            Ok(result) => result,
            Err(panic) => Err(Error::internal("the call failed", panic).into()),
        }
    }

    /// A call that changes something: at most once for an idempotency key, and noted for the audit log.
    async fn change(
        self,
        rule: &'static Rule,
        caller: Option<Caller>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let note = rule.audit.then(|| audit::Note::new(rule, caller.as_ref(), request.extensions()));
        let Self { inner, checks: Checks { app, .. } } = self;
        let origin = Origin::of(rule.path, request.headers(), request.extensions());
        let caller_id = caller.as_ref().map(|caller| caller.account_id);
        let called = async {
            let result = match caller.filter(|_| rule.idempotency_key) {
                Some(caller) => idempotency::once(&app, rule, &caller, request, |request| run(inner, request)).await,
                None => Ok(run(inner, request).await),
            };
            if let Some(caller_id) = caller_id.filter(|_| is_denied(&result)) {
                app.security.record(Event::about(Kind::AccessDenied, caller_id));
            }
            result
        };
        let result = origin.scope(called).await;
        if let Some(note) = note {
            note.write(&app, audit::Outcome::of(&result)).await;
        }
        result
    }

    async fn stream(
        self,
        caller: Option<Caller>,
        deadline: Option<Duration>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        // Until so many years from now there is none.
        let deadline = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let session = caller.as_ref().map(|caller| self.checks.sessions.stream(caller));
        let roles = Arc::clone(&self.checks.roles);
        let outdated = caller.map(|caller| roles.outdated(caller.account_id, caller.role, caller.abilities));
        let stopping = self.checks.app.stopping.clone();
        let begun = run(self.inner, request);
        let response = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, begun).await.map_err(|_| late())?,
            None => begun.await,
        };
        Ok(response.map(|body| Body::new(stream::Guarded::new(body, session, outdated, stopping, deadline))))
    }
}

impl Checks {
    fn rule(&self, path: &str) -> Result<&'static Rule, Error> {
        static OPEN_RULES: [Rule; 4] = OPEN;
        let open = || OPEN_RULES.iter().find(|rule| rule.path == path);
        let served = |rule: &&Rule| self.app.config.server.reflection || !rule.path.starts_with("/grpc.reflection.");
        let found = (self.rules)(path).or_else(|| open().filter(served));
        found.ok_or_else(|| Error::new(Reason::MethodUnknown, "the server has no such method"))
    }

    /// Who calls. `None` for a public method, whatever credentials came along.
    async fn who(&self, rule: &Rule, head: &Parts) -> Result<Option<Caller>, Error> {
        if rule.access == Access::Public {
            return Ok(None);
        }
        let refused = match self.authenticate(rule, head).await {
            Ok(mut caller) => {
                self.roles.equip(&mut caller).await?;
                return Ok(Some(caller));
            }
            Err(refused) => refused,
        };
        // Whoever tries out tokens is counted as what it is: an anonymous address.
        self.app.rates.check(Rate::Default, self.address(head)).await?;
        Err(refused)
    }

    /// The caller behind a bearer token or, where no `authorization` header decides, behind a browser's cookies.
    async fn authenticate(&self, rule: &Rule, head: &Parts) -> Result<Caller, Error> {
        if !head.headers.contains_key(header::AUTHORIZATION)
            && let Some(browser) = Browser::of(&head.extensions).filter(|browser| browser.has_session())
        {
            return self.sessions.authenticate_cookie(&browser, rule.read_only).await;
        }
        self.sessions.authenticate(bearer(&head.headers)?).await
    }

    /// Takes note of credentials that are missing or were never good. Those that have expired or were revoked are everyday.
    fn note_stranger(&self, rule: &Rule, head: &Parts, refused: &Error) {
        if matches!(refused.reason, Reason::Unauthorized | Reason::TokenInvalid) {
            let origin = Origin::of(rule.path, &head.headers, &head.extensions);
            self.app.security.record_from(Event::new(Kind::Unauthenticated), &origin);
        }
    }

    fn note_denied(&self, rule: &Rule, head: &Parts, caller: &Caller, permission: &'static str) {
        let origin = Origin::of(rule.path, &head.headers, &head.extensions);
        let event = Event::about(Kind::AccessDenied, caller.account_id).detail(permission);
        self.app.security.record_from(event, &origin);
    }

    async fn count(&self, rule: &Rule, caller: Option<&Caller>, head: &Parts) -> Result<Allowance, Status> {
        let subject = match caller {
            Some(caller) => Subject::Account(caller.account_id),
            None => self.address(head),
        };
        self.app.rates.check(rule.rate, subject).await.map_err(|error| {
            let reset = error.retry_after.unwrap_or_default();
            let mut status = Status::from(error);
            let limit = self.app.rates.limit(rule.rate, subject).calls;
            let mut headers = HeaderMap::new();
            write_rates(&mut headers, &Allowance { limit, remaining: 0, reset });
            *status.metadata_mut() = MetadataMap::from_headers(headers);
            status
        })
    }

    /// The address that counts as one client. The listener knows it always; without it nobody gets a limit of their own.
    fn address(&self, head: &Parts) -> Subject {
        let address = head.extensions.get::<ClientAddress>().map(|address| address.0);
        Subject::address(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.app.config.server.ipv6_prefix)
    }

    /// How long the call may take: what the client says, and for a unary call at most what the server says.
    fn deadline(&self, rule: &Rule, headers: &HeaderMap) -> Result<Option<Duration>, Error> {
        let malformed =
            || Error::new(Reason::InvalidFormat, "grpc-timeout must be at most eight digits and one of HMSmun");
        let asked = headers.get("grpc-timeout").map(|value| grpc_timeout(value.as_bytes()).ok_or_else(malformed));
        let asked = asked.transpose()?;
        let most = self.app.config.server.request_timeout();
        Ok(if rule.streaming { asked } else { Some(asked.map_or(most, |asked| asked.min(most))) })
    }
}

/// Runs the service. Its error type has no value.
async fn run<S>(service: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Ok(response) = service.oneshot(request).await;
    match framing_error(response.headers()) {
        Some(error) => Status::from(error).into_http(),
        None => response,
    }
}

/// tonic refuses messages that are too large or not framed as gRPC with a bare status, and calls the latter internal
/// errors. They are the client's, and get a reason like every other. Errors of ours have one already.
fn framing_error(headers: &HeaderMap) -> Option<Error> {
    let status = headers.get("grpc-status").filter(|_| !headers.contains_key("grpc-status-details-bin"))?;
    let (reason, message) = match Code::from_bytes(status.as_bytes()) {
        Code::OutOfRange | Code::ResourceExhausted => {
            (Reason::PayloadTooLarge, "the message is larger than the server takes")
        }
        Code::Internal => (Reason::InvalidFormat, "the request is not a well-formed gRPC message"),
        Code::Unimplemented => {
            (Reason::UnsupportedMediaType, "the message is compressed in a way that is not supported")
        }
        _ => return None,
    };
    Some(Error::new(reason, message))
}

/// Whether the method itself found that the caller may not. That somebody has to prove again who they are is everyday.
fn is_denied(result: &Result<Response<Body>, Status>) -> bool {
    let Some(status) = result.as_ref().ok().and_then(|response| Status::from_header_map(response.headers())) else {
        return false;
    };
    let denies = |info: ErrorInfo| ["INSUFFICIENT_PERMISSIONS", "GRANT_NOT_HELD"].contains(&info.reason.as_str());
    status.code() == Code::PermissionDenied && status.get_details_error_info().is_some_and(denies)
}

fn late() -> Status {
    Error::new(Reason::Timeout, "the call took longer than it may").into()
}

/// The token of `authorization: Bearer …` (RFC 6750, section 2.1). Two such headers are refused, because two servers
/// could believe different ones (CVE-2021-41130).
fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let missing = || Error::new(Reason::Unauthorized, "credentials are needed: authorization: Bearer <access token>");
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Error::new(Reason::TokenInvalid, "there are two authorization headers"));
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

/// `ratelimit-*` (draft-ietf-httpapi-ratelimit-headers-06).
fn write_rates(headers: &mut HeaderMap, allowance: &Allowance) {
    let seconds = allowance.reset.as_secs() + u64::from(allowance.reset.subsec_nanos() > 0);
    static LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
    static REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
    static RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
    headers.insert(&LIMIT, allowance.limit.into());
    headers.insert(&REMAINING, allowance.remaining.into());
    headers.insert(&RESET, seconds.into());
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::kernel::policy;

    #[test]
    fn what_can_be_called_without_two_factor_exists() {
        for path in WITHOUT_TWO_FACTOR {
            assert!(policy::rule(path).is_some_and(|rule| rule.access == Access::Authenticated), "{path}");
        }
    }

    #[test]
    fn only_one_bearer_token_is_accepted() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        assert_eq!(bearer(&headers(&["bearer abc"])).unwrap(), "abc");
        for refused in [&[][..], &["abc"], &["Basic abc"], &["Bearer a", "Bearer b"]] {
            assert!(bearer(&headers(refused)).is_err(), "{refused:?}");
        }
    }
}

//! The one error type. A reason of the contract decides what each transport answers; the cause is logged here, once, and
//! never sent.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

pub use crate::proto::rialto::error::v1::Reason;

type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why a request was refused.
#[derive(Debug, Clone)]
pub struct Error {
    /// For programs.
    pub reason: Reason,
    /// For people. Never holds a cause.
    pub message: Cow<'static, str>,
    /// The fields at fault.
    pub violations: Vec<Violation>,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// What programs need to know besides the reason: `google.rpc.ErrorInfo.metadata`.
    pub metadata: Vec<(&'static str, String)>,
    cause: Option<Cause>,
}

/// A field at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the request, in proto names: `member_ids[1]`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Error {
    /// An error without a cause.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
            metadata: Vec::new(),
            cause: None,
        }
    }

    /// A fault of ours. Only the log sees the cause.
    pub fn internal(what: &'static str, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(Reason::Internal, what).caused_by(cause)
    }

    /// A field that is at fault for a reason that the contract's rules can't express.
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// Fields that break the contract's rules.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [one] => format!("{}: {}", one.field, one.description),
            many => format!("{} fields are not valid", many.len()),
        };
        Self { violations, ..Self::new(Reason::ValidationError, message) }
    }

    /// Something that is not there, or that the caller may not know of.
    pub fn not_found(what: &str) -> Self {
        Self::new(Reason::ResourceNotFound, format!("there is no such {what}"))
    }

    /// Names the field that the error is about.
    pub fn at_field(mut self, field: impl Into<String>) -> Self {
        self.violations = vec![Violation { field: field.into(), description: self.message.to_string() }];
        self
    }

    /// Adds when to come back.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds what programs need to know besides the reason.
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }

    /// The error with its cause, for logs and for those who operate the server.
    pub fn report(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{self}: {}", Causes(cause.as_ref())),
            None => self.to_string(),
        }
    }

    /// Adds what the log is to say.
    pub fn caused_by(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason.info().name, self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let info = error.reason.info();
        if let Some(cause) = &error.cause {
            tracing::error!(reason = info.name, cause = %Causes(cause.as_ref()), "{}", error.message);
        }
        let metadata = error.metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        let metadata: std::collections::HashMap<_, _> = metadata.collect();
        let mut details = ErrorDetails::with_error_info(info.name, "rialto", metadata);
        for violation in &error.violations {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        if let Some(after) = error.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(info.grpc_code.into(), error.message, details)
    }
}

/// An error and what is below it, on one line.
struct Causes<'a>(&'a (dyn std::error::Error + Send + Sync));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut below = self.0.source();
        while let Some(cause) = below {
            write!(f, ": {cause}")?;
            below = cause.source();
        }
        Ok(())
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};
        const CONNECTION_LOST: (Reason, &str) = (Reason::ConnectionError, "the database connection was lost");
        const ROLLED_BACK: (Reason, &str) = (Reason::TransactionFailed, "the transaction was rolled back");
        let (reason, message) = match &error {
            // The second is what diesel-async makes of a connection that ended under a query.
            Diesel::DatabaseError(Kind::ClosedConnection | Kind::UnableToSendCommand, _)
            | Diesel::BrokenTransactionManager => CONNECTION_LOST,
            Diesel::DatabaseError(Kind::SerializationFailure, _) | Diesel::RollbackTransaction => ROLLED_BACK,
            Diesel::DatabaseError(Kind::UniqueViolation, _) => {
                (Reason::ResourceConflict, "somebody else made the same change at the same time")
            }
            // Whichever domain changes accounts: the trigger speaks for all of them.
            Diesel::DatabaseError(Kind::CheckViolation, info)
                if info.constraint_name() == Some("accounts_last_administrator") =>
            {
                return Self::new(Reason::LastAdministrator, "no active administrator would be left");
            }
            // diesel keeps no SQLSTATE, so what it does not tell apart is told by the text, which a server with
            // another `lc_messages` than English says otherwise: then it is a query that failed.
            Diesel::DatabaseError(Kind::Unknown, info) => match info.message() {
                // 57P01, 57P02, 25P03: an administrator, a crash, the end of Postgres, or a time-out of ours.
                text if text.starts_with("terminating connection") => CONNECTION_LOST,
                "deadlock detected" => ROLLED_BACK,
                text if text.starts_with("canceling statement") => (Reason::Timeout, "the database took too long"),
                _ => (Reason::QueryFailed, "a query failed"),
            },
            _ => (Reason::DatabaseError, "the database failed"),
        };
        Self::new(reason, message).caused_by(error)
    }
}

impl From<bb8::RunError<diesel_async::pooled_connection::PoolError>> for Error {
    fn from(error: bb8::RunError<diesel_async::pooled_connection::PoolError>) -> Self {
        Self::new(Reason::ConnectionError, "the database can't be reached").caused_by(error)
    }
}

/// How a reason is answered on each transport.
pub struct ReasonInfo {
    number: i32,
    /// Its name without `REASON_`, as `google.rpc.ErrorInfo.reason` holds it.
    pub name: &'static str,
    /// The gRPC status code.
    pub grpc_code: i32,
    /// The HTTP status.
    pub http_status: u16,
    /// The code that older clients know.
    pub legacy_code: u32,
}

include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

impl Reason {
    /// How the reason is answered.
    pub fn info(self) -> &'static ReasonInfo {
        static UNSPECIFIED: ReasonInfo =
            ReasonInfo { number: 0, name: "UNSPECIFIED", grpc_code: 2, http_status: 500, legacy_code: 5001 };
        REASONS.iter().find(|info| info.number == self as i32).unwrap_or(&UNSPECIFIED)
    }

    /// How every reason is answered, in the order of their numbers.
    pub fn all() -> &'static [ReasonInfo] {
        REASONS
    }
}

impl ReasonInfo {
    /// How the reason of this name is answered, if the contract has it.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        REASONS.iter().find(|info| info.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_reason_the_fields_and_when_to_retry_but_no_cause() {
        let error = Error::invalid_field("email", "is not an e-mail address")
            .retry_after(Duration::from_secs(3))
            .caused_by(std::io::Error::other("secret cause"));
        let status = Status::from(error);
        let details = status.get_error_details();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("VALIDATION_ERROR"));
        assert_eq!(details.bad_request().map(|bad| bad.field_violations[0].field.as_str()), Some("email"));
        assert_eq!(details.retry_info().and_then(|retry| retry.retry_delay), Some(Duration::from_secs(3)));
        assert!(!String::from_utf8_lossy(status.details()).contains("secret cause"));
        assert!(!status.message().contains("secret cause"));
    }

    #[test]
    fn a_connection_to_postgres_that_ends_under_a_query_is_worth_another_try() {
        use diesel::result::{DatabaseErrorKind, Error as Diesel};
        let closed = Diesel::DatabaseError(DatabaseErrorKind::UnableToSendCommand, Box::new("closed".to_owned()));
        assert_eq!(Status::from(Error::from(closed)).code(), tonic::Code::Unavailable);
    }

    #[test]
    fn every_reason_of_the_contract_has_an_answer() {
        assert_eq!(Reason::TokenExpired.info().legacy_code, 1003);
        assert_eq!(Reason::TokenExpired.info().http_status, 401);
        assert!(ReasonInfo::by_name("RATE_LIMIT_EXCEEDED").is_some_and(|info| info.http_status == 429));
    }
}

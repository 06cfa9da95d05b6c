//! Who calls, and from where. The gate puts both into the request's extensions; a handler takes them out.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use tonic::Extensions;
use uuid::Uuid;

use crate::kernel::abilities::{Abilities, Scope};
use crate::kernel::error::{Error, Reason};
use crate::kernel::trail::Trail;
use crate::proto::rialto::policy::v1::Role;

/// The account and session behind a request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The account.
    pub account_id: Uuid,
    /// The session of the account.
    pub session_id: Uuid,
    /// The account's built-in role.
    pub role: Role,
    /// What all of the account's roles let it do.
    pub abilities: Arc<Abilities>,
    /// The account's token version, which a stream's session is checked against later.
    pub token_version: i32,
    /// Whether the account's role needs two-factor authentication that it does not have. The gate lets it do little.
    pub lacks_two_factor: bool,
    /// Where methods note what they act on, for the audit log.
    pub trail: Trail,
}

impl Caller {
    /// The caller of a request whose method is not public. The gate has put it there; without it, nobody gets in.
    pub fn of(extensions: &Extensions) -> Result<Self, Error> {
        extensions.get::<Self>().cloned().ok_or_else(|| Error::new(Reason::Unauthorized, "credentials are needed"))
    }

    /// For which objects the caller holds a permission; an error if for none. A method whose permission names the fields of
    /// conditions in the contract puts this into its query ([`Scope::predicate`]).
    pub fn scope(&self, permission: &str) -> Result<&Scope, Error> {
        self.abilities.scope(permission).ok_or_else(|| lacking(permission))
    }
}

/// The refusal of a caller who does not hold a permission.
pub fn lacking(permission: &str) -> Error {
    Error::new(Reason::InsufficientPermissions, format!("this needs the permission {permission}"))
}

/// Put into the response by a public method that found out whose account it is about; for the audit log.
#[derive(Clone, Copy, Debug)]
pub struct ActingAccount(pub Uuid);

impl ActingAccount {
    /// The response with this in its extensions.
    pub fn on<T>(self, message: T) -> tonic::Response<T> {
        let mut response = tonic::Response::new(message);
        response.extensions_mut().insert(self);
        response
    }
}

/// The client's end of the connection, as far as trusted proxies tell.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The address of a request. The listener has put it there.
    pub fn of(extensions: &Extensions) -> Option<IpAddr> {
        extensions.get::<Self>().map(|address| address.0)
    }
}

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transport {
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// The Connect protocol.
    Connect,
    /// HTTP with JSON, and everything else.
    Rest,
    /// The request for a WebSocket.
    WebSocket,
}

impl Transport {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
            Self::Connect => "connect",
            Self::Rest => "rest",
            Self::WebSocket => "websocket",
        }
    }
}

/// What is found out about a request on its way in, for its log line, its metrics and the audit log.
#[derive(Debug)]
pub struct RequestRecord {
    /// The id under which it is logged, as accepted from the client or made by us.
    pub id: Box<str>,
    /// How it came in.
    pub transport: Transport,
    /// The path of the method, once it is known to be one.
    pub method: OnceLock<&'static str>,
    /// The account, once it is known.
    pub account: OnceLock<Uuid>,
}

impl RequestRecord {
    /// The record of a request. The listener has put it there.
    pub fn of(extensions: &http::Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }
}

//! Between rows and the contract.

use super::model;
use crate::domains::auth::device;
use crate::kernel::caller;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::account::v1::{Connection, Presence, Transport};

/// What a transport is called in a row; empty where it is not known.
pub fn transport_name(transport: Option<caller::Transport>) -> &'static str {
    transport.map_or("", caller::Transport::name)
}

fn transport(name: &str) -> Transport {
    use caller::Transport as Way;
    let ways = [
        (Way::Grpc, Transport::Grpc),
        (Way::GrpcWeb, Transport::GrpcWeb),
        (Way::Connect, Transport::Connect),
        (Way::Rest, Transport::Rest),
        (Way::WebSocket, Transport::Websocket),
    ];
    ways.into_iter().find(|(way, _)| way.name() == name).map_or(Transport::Unspecified, |(_, transport)| transport)
}

impl From<&model::Connection> for Connection {
    fn from(row: &model::Connection) -> Self {
        Self {
            id: row.id.to_string(),
            session_id: row.session_id.to_string(),
            transport: transport(&row.transport).into(),
            device: device(&row.user_agent),
            user_agent: row.user_agent.clone(),
            address: row.address.clone(),
            opened_at: Some(timestamp(row.opened_at)),
        }
    }
}

impl From<&model::Presence> for Presence {
    fn from(row: &model::Presence) -> Self {
        Self { account_id: row.account_id.to_string(), online: row.online, seen_at: Some(timestamp(row.seen_at)) }
    }
}

//! `rialto.account.v1.AccountService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::connections::Connections;
use super::model::Connection;
use super::presence;
use super::stream::{Messages, Stream};
use super::wire::transport_name;
use crate::domains::auth::Client;
use crate::domains::messaging::Heads;
use crate::kernel::app::App;
use crate::kernel::caller::{Caller, RequestRecord};
use crate::kernel::error::Error;
use crate::kernel::wire;
use crate::proto::rialto::account::v1::account_service_server::AccountService as Contract;
use crate::proto::rialto::account::v1::{
    GetPresencesRequest, GetPresencesResponse, ListConnectionsRequest, ListConnectionsResponse,
    RevokeConnectionRequest, RevokeConnectionResponse, SubscribeRequest,
};

/// The service.
pub struct AccountService {
    app: App,
    connections: Arc<Connections>,
    heads: Arc<Heads>,
}

impl AccountService {
    /// The service, whose streams are among these, and are told these heads of conversations.
    pub fn new(app: App, connections: Arc<Connections>, heads: Arc<Heads>) -> Self {
        Self { app, connections, heads }
    }

    /// A stream of an account, as a row.
    fn row(&self, caller: &Caller, request: &Request<SubscribeRequest>) -> Result<Connection, Error> {
        let (now, client) = (self.app.clock.now(), Client::of(request));
        let record = request.extensions().get::<Arc<RequestRecord>>();
        Ok(Connection {
            id: self.app.rng.id(now)?,
            account_id: caller.account_id,
            session_id: caller.session_id,
            node_id: self.app.node_id,
            transport: transport_name(record.map(|record| record.transport)).to_owned(),
            user_agent: client.user_agent,
            address: client.address,
            opened_at: now,
        })
    }
}

#[tonic::async_trait]
impl Contract for AccountService {
    type SubscribeStream = Messages;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Messages>, Status> {
        let caller = Caller::of(request.extensions())?;
        let presence_of = wire::ids("presence_of", &request.get_ref().presence_of)?;
        let reader = self.app.account_events.reader(caller.account_id, request.get_ref().after_seq).await?;
        let connection = self.connections.open(self.row(&caller, &request)?).await?;
        let mut values = self.app.account_events.latest.stream(caller.account_id);
        // The reader is there already: what is joined meanwhile is followed when it is told.
        self.heads.follow_all(caller.account_id).await?;
        self.connections.presences.watch(&mut values, caller.account_id, &presence_of).await?;
        let account_id = caller.account_id;
        let patience = Duration::from_secs(self.app.config.account.unread_seconds.into());
        Ok(Response::new(
            Stream { account_id, reader, values, heads: Arc::clone(&self.heads), patience }.begin(connection),
        ))
    }

    async fn get_presences(
        &self,
        request: Request<GetPresencesRequest>,
    ) -> Result<Response<GetPresencesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let ids = wire::ids("account_ids", &request.get_ref().account_ids)?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let presences = presence::of(&mut conn, caller.account_id, &ids).await?;
        Ok(Response::new(GetPresencesResponse { presences }))
    }

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let connections = Connection::list(&mut conn, caller.account_id).await?;
        Ok(Response::new(ListConnectionsResponse { connections: connections.iter().map(Into::into).collect() }))
    }

    async fn revoke_connection(
        &self,
        request: Request<RevokeConnectionRequest>,
    ) -> Result<Response<RevokeConnectionResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("connection_id", &request.get_ref().connection_id)?;
        if !self.connections.revoke(caller.account_id, id).await? {
            return Err(Error::not_found("connection").into());
        }
        Ok(Response::new(RevokeConnectionResponse {}))
    }
}

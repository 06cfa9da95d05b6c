//! `rialto.security.v1.SecurityService`.

use std::net::IpAddr;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::alerts::{self, Decision};
use super::live::Live;
use super::model::{Alert, Event, Filter};
use super::wire::{of_account, stored_state};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::kernel::security::{Kind, client_network, kind_name};
use crate::kernel::{pages, wire};
use crate::proto::rialto::security::v1::security_service_server::SecurityService as Contract;
use crate::proto::rialto::security::v1::{
    self as proto, AcknowledgeAlertRequest, AcknowledgeAlertResponse, GetAlertRequest, GetAlertResponse,
    ListAlertsRequest, ListAlertsResponse, ListEventsRequest, ListEventsResponse, ResolveAlertRequest,
    ResolveAlertResponse, WatchAlertsRequest, WatchAlertsResponse,
};

/// The kinds of page tokens.
const EVENTS: u8 = 1;
const ALERTS: u8 = 2;

/// The service.
pub struct SecurityService {
    app: App,
    live: Live,
}

impl SecurityService {
    /// The service, whose streams get what is published there.
    pub fn new(app: App, live: Live) -> Self {
        Self { app, live }
    }

    async fn events(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Error> {
        let after = pages::by_time(EVENTS, &request.page_token)?;
        let size = pages::size(request.page_size);
        let kind = Some(request.kind()).filter(|kind| *kind != Kind::Unspecified).map(kind_name);
        let account = request.account_id.as_deref().map(|id| wire::id("account_id", id)).transpose()?;
        let address = request.address.as_deref().map(|address| self.address(address)).transpose()?;
        let filter = Filter {
            kind,
            subject: account.map(of_account),
            address,
            since: request.since.map(|at| wire::time("since", at)).transpose()?,
            before: request.before.map(|at| wire::time("before", at)).transpose()?,
        };
        let mut conn = self.app.db.get().await?;
        let mut rows = Event::list(&mut conn, &filter, after, size + 1).await?;
        let next_page_token = pages::cut(&mut rows, size, EVENTS, |last| pages::time_key(last.at, last.id));
        Ok(ListEventsResponse { events: rows.iter().map(Into::into).collect(), next_page_token })
    }

    /// An address as events have it.
    fn address(&self, address: &str) -> Result<String, Error> {
        let parsed: Result<IpAddr, _> = address.parse();
        let parsed = parsed.map_err(|_| Error::invalid_field("address", "must be an IPv4 or IPv6 address"))?;
        Ok(client_network(parsed, self.app.config.server.ipv6_prefix).to_string())
    }

    async fn alerts(&self, request: ListAlertsRequest) -> Result<ListAlertsResponse, Error> {
        let before = pages::key(ALERTS, &request.page_token)?.map(Uuid::from_bytes);
        let size = pages::size(request.page_size);
        let state = stored_state(request.state());
        let severity = i16::try_from(request.severity).ok().filter(|severity| *severity > 0);
        let mut conn = self.app.db.get().await?;
        let mut rows = Alert::list(&mut conn, state, severity, before, size + 1).await?;
        let next_page_token = pages::cut(&mut rows, size, ALERTS, |last| last.id.into_bytes());
        Ok(ListAlertsResponse { alerts: rows.iter().map(Into::into).collect(), next_page_token })
    }

    async fn decide(
        &self,
        caller: &Caller,
        id: &str,
        decision: Decision,
        note: String,
    ) -> Result<Option<proto::Alert>, Error> {
        let id = wire::id("alert_id", id)?;
        let (alert, changes) = alerts::decide(&self.app, id, decision, caller.account_id, note).await?;
        self.live.publish(changes).await;
        Ok(Some((&alert).into()))
    }
}

#[tonic::async_trait]
impl Contract for SecurityService {
    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        Ok(Response::new(self.events(request.into_inner()).await?))
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        Ok(Response::new(self.alerts(request.into_inner()).await?))
    }

    async fn get_alert(&self, request: Request<GetAlertRequest>) -> Result<Response<GetAlertResponse>, Status> {
        let id = wire::id("alert_id", &request.get_ref().alert_id)?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let alert = Alert::find(&mut conn, id).await?;
        Ok(Response::new(GetAlertResponse { alert: Some((&alert).into()) }))
    }

    async fn acknowledge_alert(
        &self,
        request: Request<AcknowledgeAlertRequest>,
    ) -> Result<Response<AcknowledgeAlertResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let AcknowledgeAlertRequest { alert_id, note } = request.into_inner();
        let alert = self.decide(&caller, &alert_id, Decision::Acknowledge, note).await?;
        Ok(Response::new(AcknowledgeAlertResponse { alert }))
    }

    async fn resolve_alert(
        &self,
        request: Request<ResolveAlertRequest>,
    ) -> Result<Response<ResolveAlertResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let ResolveAlertRequest { alert_id, note } = request.into_inner();
        let alert = self.decide(&caller, &alert_id, Decision::Resolve, note).await?;
        Ok(Response::new(ResolveAlertResponse { alert }))
    }

    type WatchAlertsStream = BoxStream<'static, Result<WatchAlertsResponse, Status>>;

    async fn watch_alerts(
        &self,
        request: Request<WatchAlertsRequest>,
    ) -> Result<Response<Self::WatchAlertsStream>, Status> {
        let reader = self.live.reader(request.get_ref().after_seq).await?;
        let batches = stream::try_unfold(reader, |mut reader| async {
            let changes = reader.next().await?;
            Ok::<_, Status>(Some((stream::iter(changes).map(|change| Ok(change.into_message())), reader)))
        });
        Ok(Response::new(batches.try_flatten().boxed()))
    }
}

//! The way in: what listens, the order of the layers, and how it all stops.

mod browser;
mod dev_mail;
mod dispatch;
mod docs;
mod flood;
mod health;
mod socket;

pub(crate) mod after_others;
pub mod doctor;
pub(crate) mod edge;
pub(crate) mod listener;
pub mod openapi;
pub mod personal_data;
pub(crate) mod ways;
pub mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

use self::listener::{Port, bind};
use crate::domains::account::{AccountService, Connections};
use crate::domains::auth::{AuthService, Keys, Sessions};
use crate::domains::keys::KeyService;
use crate::domains::messaging::{MessagingService, serve_subscribe};
use crate::domains::passkeys::PasskeyService;
use crate::domains::privacy::PrivacyService;
use crate::domains::roles::{RoleService, Roles};
use crate::domains::security::{self, SecurityService};
use crate::domains::two_factor::TwoFactorService;
use crate::domains::users::UserService;
use crate::gate::{Gate, Rules};
use crate::kernel::app::{self, App};
use crate::kernel::clock::Clock;
use crate::kernel::config::Config;
use crate::kernel::policy;
use crate::proto;
use crate::proto::rialto::account::v1::account_service_server::AccountServiceServer;
use crate::proto::rialto::auth::v1::auth_service_server::AuthServiceServer;
use crate::proto::rialto::keys::v1::key_service_server::KeyServiceServer;
use crate::proto::rialto::messaging::v1::group_service_server::GroupServiceServer;
use crate::proto::rialto::messaging::v1::message_service_server::MessageServiceServer;
use crate::proto::rialto::messaging::v1::messaging_service_server::MessagingServiceServer;
use crate::proto::rialto::messaging::v1::receipt_service_server::ReceiptServiceServer;
use crate::proto::rialto::messaging::v1::scheduled_message_service_server::ScheduledMessageServiceServer;
use crate::proto::rialto::messaging::v1::search_service_server::SearchServiceServer;
use crate::proto::rialto::passkeys::v1::passkey_service_server::PasskeyServiceServer;
use crate::proto::rialto::privacy::v1::privacy_service_server::PrivacyServiceServer;
use crate::proto::rialto::roles::v1::role_service_server::RoleServiceServer;
use crate::proto::rialto::security::v1::security_service_server::SecurityServiceServer;
use crate::proto::rialto::twofactor::v1::two_factor_service_server::TwoFactorServiceServer;
use crate::proto::rialto::users::v1::user_service_server::UserServiceServer;

/// A server that runs.
pub struct Server {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where metrics are, if they have a place of their own.
    pub ops_address: Option<SocketAddr>,
    /// Its shared state.
    pub app: App,
    port: Port,
    events: security::Writer,
    connections: Arc<Connections>,
}

impl Server {
    /// Binds and serves. The database must be migrated.
    pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Self> {
        Self::start_with(config, clock, policy::rule, |services| services).await
    }

    /// The same with other rules, and services besides the product's, for a program that measures what rules cost.
    pub async fn start_with(
        config: Config,
        clock: Clock,
        rules: Rules,
        and: impl FnOnce(Routes) -> Routes,
    ) -> anyhow::Result<Self> {
        let listener = bind(config.server.listen).await?;
        let ops_listener = match config.server.ops_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let app = app::start(config, clock, CancellationToken::new())?;
        let keys = Arc::new(Keys::new(&app.config.auth)?);
        let sessions = Sessions::start(app.clone(), Arc::clone(&keys)).await;
        let roles = Roles::start(app.clone()).await?;

        let connections = Connections::start(app.clone()).await?;
        let (health, health_service) = health::Health::start(&app);
        let alerts = security::Live::start(&app);
        let events = security::Writer::start(app.clone(), alerts.clone());
        let services = and(services(&app, &keys, &sessions, &roles, alerts, &connections)?.add_service(health_service));
        let services = if app.config.server.reflection { reflection(services)? } else { services };
        let gate = Gate::new(services.prepare(), app.clone(), rules, sessions, roles);
        let http = dispatch::http(&app, gate, &keys, health)?;
        let edge = edge::Edge::new(http, Arc::clone(&app.metrics), app.config.server.trusted_proxies)?;

        let address = listener.local_addr()?;
        let ops_address = ops_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let limits = (&app.config.server).into();
        let port = Port::serve(listener, limits, edge, Arc::clone(&app.metrics), app.stopping.clone());
        if let Some(listener) = ops_listener {
            let stopping = app.stopping.clone();
            let router = dispatch::metrics_router(&app);
            tokio::spawn(async move {
                let served = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).await;
                if let Err(error) = served {
                    tracing::error!(%error, "the ops address is not served");
                }
            });
        }
        Ok(Self { address, ops_address, app, port, events, connections })
    }

    /// Stops: takes no more connections, ends streams with a status that asks clients to connect again, lets calls that
    /// run finish, and ends what is left at the deadline.
    pub async fn stop(self) {
        self.port.stop().await;
        self.events.finish().await;
        self.connections.finish().await;
    }
}

/// Resolves when the process is asked to stop, by Ctrl-C or SIGTERM.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The services of every domain, with their limits.
fn services(
    app: &App,
    keys: &Arc<Keys>,
    sessions: &Arc<Sessions>,
    roles: &Arc<Roles>,
    alerts: security::Live,
    connections: &Arc<Connections>,
) -> anyhow::Result<Routes> {
    let max = app.config.server.max_message_bytes;
    let auth = Arc::new(AuthService::new(app.clone(), Arc::clone(keys), Arc::clone(sessions))?);
    let messaging = Arc::new(MessagingService::start(app.clone()));
    let roles = RoleService::new(app.clone(), Arc::clone(roles), Arc::clone(sessions));
    let two_factor = TwoFactorService::new(app.clone(), Arc::clone(sessions), auth.confirmation())?;
    let passkeys = PasskeyService::new(app.clone(), Arc::clone(&auth), Arc::clone(sessions))?;
    let account = AccountService::new(app.clone(), Arc::clone(connections), Arc::clone(messaging.heads()));
    let routes = Routes::default()
        .add_service(
            AccountServiceServer::new(account)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            AuthServiceServer::from_arc(auth)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            KeyServiceServer::new(KeyService::new(app.clone(), Arc::clone(sessions)))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            GroupServiceServer::from_arc(Arc::clone(&messaging))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            MessageServiceServer::from_arc(Arc::clone(&messaging))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            MessagingServiceServer::from_arc(Arc::clone(&messaging))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            ReceiptServiceServer::from_arc(Arc::clone(&messaging))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            ScheduledMessageServiceServer::from_arc(Arc::clone(&messaging))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            SearchServiceServer::from_arc(Arc::clone(&messaging))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            PasskeyServiceServer::new(passkeys)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            PrivacyServiceServer::new(PrivacyService::new(app.clone(), Arc::clone(sessions)))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            RoleServiceServer::new(roles)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            SecurityServiceServer::new(SecurityService::new(app.clone(), alerts))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            TwoFactorServiceServer::new(two_factor)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            UserServiceServer::new(UserService::new(app.clone(), Arc::clone(sessions)))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        );
    Ok(serve_subscribe(routes, messaging, max))
}

/// Adds reflection, in both versions that clients ask for.
fn reflection(routes: Routes) -> anyhow::Result<Routes> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

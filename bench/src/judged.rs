//! What the gate's judgement costs: the server, with a service of the bench besides its own, of which one method is public
//! and the other needs a permission. They do the same, which is nothing.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use rialto::kernel::clock::Clock;
use rialto::kernel::config::{self, Config};
use rialto::kernel::policy::{self, Access, Rule};
use rialto::kernel::rates::Rate;
use rialto::kernel::telemetry;
use rialto::server::{self, Server};
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::hello::contract::judged_service_server::{JudgedService, JudgedServiceServer};
use crate::hello::contract::{HelloRequest, HelloResponse};

static RULES: [Rule; 2] = [
    rule("/hello.JudgedService/Public", Access::Public),
    rule("/hello.JudgedService/Authorised", Access::Permission("users:read")),
];

const fn rule(path: &'static str, access: Access) -> Rule {
    let rate = Rate::Default;
    Rule { path, access, rate, audit: false, idempotency_key: false, streaming: false, read_only: true }
}

fn rules(path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.path == path).or_else(|| policy::rule(path))
}

struct Judged;

#[tonic::async_trait]
impl JudgedService for Judged {
    async fn public(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse { text: "hello".into() }))
    }

    async fn authorised(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse { text: "hello".into() }))
    }
}

/// Serves with the server's configuration until the process is told to stop.
pub async fn serve(listen: SocketAddr, file: &Path) -> Result<()> {
    let config = Config::read(&config::sources(&json!({}), Some(file), &json!({ "server": { "listen": listen } })))?;
    let _log = telemetry::start(&config.log)?;
    let stop = server::stop_signal()?;
    let server = Server::start_with(config, Clock::default(), rules, |services| {
        services.add_service(JudgedServiceServer::new(Judged))
    })
    .await?;
    stop.await;
    server.stop().await;
    Ok(())
}

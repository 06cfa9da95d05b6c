//! The contract as others see it: reflection, health, and that every method is reachable both ways.

use std::collections::BTreeSet;

use reqwest::Method;
use rialto::kernel::policy::{Access, RULES};
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Node, World, eventually};

async fn reflected_services(node: &Node) -> Result<Vec<String>, tonic::Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(node.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await?.unwrap().message_response else {
        panic!("no list");
    };
    Ok(list.service.into_iter().map(|service| service.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_unless_it_is_off() {
    let mut world = World::new().await;
    let node = world.node().await;
    let services = reflected_services(&node).await.unwrap();
    for service in [
        "rialto.auth.v1.AuthService",
        "rialto.messaging.v1.MessagingService",
        "rialto.users.v1.UserService",
        "grpc.health.v1.Health",
    ] {
        assert!(services.iter().any(|name| name == service), "{services:?}");
    }
    world.config.server.reflection = false;
    let closed = world.node().await;
    assert_eq!(reflected_services(&closed).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_per_service() {
    let world = World::new().await;
    let node = world.node().await;
    let check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(node.channel()).check(request).await.map(|answer| answer.into_inner().status)
    };
    for service in ["", "rialto.auth.v1.AuthService", "rialto.messaging.v1.MessagingService"] {
        eventually(async || check(service).await.is_ok_and(|status| status == 1)).await;
    }
    assert_eq!(check("no.such.Service").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_that_is_not_public_refuses_anonymous_callers_on_both_transports() {
    let world = World::new().await;
    let node = world.node().await;
    let openapi = node.rest(Method::GET, "/openapi.json", None, None).await.ok();
    for rule in RULES.iter().filter(|rule| rule.access != Access::Public) {
        let request = node.http().post(node.url(rule.path)).header("content-type", "application/grpc-web+proto");
        let answer = request.body(vec![0, 0, 0, 0, 0]).send().await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "16", "{}", rule.path);
    }
    let mut checked = BTreeSet::new();
    for (path, operations) in openapi["paths"].as_object().unwrap() {
        for (verb, operation) in operations.as_object().unwrap() {
            // None, or `{}` among others.
            let optional = |security: &Vec<Value>| security.is_empty() || security.contains(&json!({}));
            if operation["security"].as_array().is_some_and(optional) {
                continue;
            }
            // A number that is none is refused before anybody is asked who calls.
            let fill = |part| match part {
                "{seq}" => "1",
                part if part.starts_with('{') => "x",
                part => part,
            };
            let path = path.split('/').map(fill);
            let path = path.collect::<Vec<_>>().join("/");
            let verb = Method::from_bytes(verb.to_uppercase().as_bytes()).unwrap();
            let answer = node.rest(verb, &path.replace('{', "x"), None, Some(Value::Object(Default::default()))).await;
            answer.refused(401, "UNAUTHORIZED", 1001);
            checked.insert(format!("/{}", operation["x-grpc-method"].as_str().unwrap()));
        }
    }
    let refusing = RULES.iter().filter(|rule| rule.access != Access::Public).map(|rule| rule.path.to_owned());
    let missing: Vec<_> = refusing.filter(|path| !checked.contains(path)).collect();
    assert_eq!(missing, ["/rialto.messaging.v1.MessagingService/Connect"], "only the two-way stream has no HTTP path");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_get_changes_anything() {
    let world = World::new().await;
    let node = world.node().await;
    let openapi = node.rest(Method::GET, "/openapi.json", None, None).await.ok();
    let operations = openapi["paths"].as_object().unwrap().values().filter_map(|path| path["get"].as_object());
    let mut gets = 0;
    for get in operations {
        let path = format!("/{}", get["x-grpc-method"].as_str().unwrap());
        assert!(rialto::kernel::policy::rule(&path).unwrap().read_only, "{path}");
        gets += 1;
    }
    assert!(gets > 10, "{gets}");
}

#[test]
fn the_page_of_permissions_is_what_the_command_prints() {
    let written = include_str!("../../docs/permissions.md");
    let change = "docs/permissions.md is not what the contract says: run `target/debug/rialto permissions > docs/permissions.md`";
    assert!(written == rialto::kernel::policy::markdown(), "{change}");
}

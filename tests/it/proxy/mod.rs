//! `rialto gateway`, in front of real gRPC servers. It needs no Postgres and no Redis.

mod start;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use http::uri::PathAndQuery;
use reqwest::{Client, StatusCode};
use rialto::proxy::Proxy;
use rialto::proxy::config::Config;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_web::GrpcWebClientLayer;
use tower::Layer;

use self::upstream::{Kind, Reflection, Text, Upstream, descriptors, text};
use crate::harness::{eventually, soon};

/// The contract in a file.
struct Contract(tempfile::TempDir);

impl Contract {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("shop.binpb"), descriptors()).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("shop.binpb")
    }

    fn config(&self, upstream: &str) -> Config {
        let mut config = config(upstream);
        config.descriptors.files = vec![self.path()];
        config
    }
}

fn config(upstream: &str) -> Config {
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.shutdown_seconds = 20;
    config.upstream.default = upstream.into();
    config
}

async fn gateway(config: Config) -> Gateway {
    Gateway { proxy: soon(Proxy::start(config)).await.unwrap_or_else(|error| panic!("{error:#}")) }
}

struct Gateway {
    proxy: Proxy,
}

impl Gateway {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.proxy.address)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = soon(Client::new().get(self.url(path)).send()).await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.url("")).unwrap().connect().await.unwrap()
    }

    async fn call(&self, method: &'static str, request: impl tonic::IntoRequest<Text>) -> Result<String, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel().await);
        grpc.ready().await.unwrap();
        let (path, codec) = (PathAndQuery::from_static(method), ProstCodec::<Text, Text>::default());
        Ok(soon(grpc.unary(request.into_request(), path, codec)).await?.into_inner().text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_routed_to_their_upstreams() {
    let (shop, billing, contract) = (Upstream::start("shop").await, Upstream::start("billing").await, Contract::new());
    let mut config = contract.config(&shop.url());
    config.upstream.services.insert("shop.v1.Billing".into(), billing.url());
    let gateway = gateway(config).await;
    assert_eq!(gateway.get("/v1/shop/a").await, (StatusCode::OK, json!({ "text": "a from shop" })));
    assert_eq!(gateway.get("/v1/billing/a").await, (StatusCode::OK, json!({ "text": "a from billing" })));
    assert_eq!(gateway.call("/shop.v1.Shop/Get", text("b")).await.unwrap(), "b from shop");
    assert_eq!(gateway.call("/shop.v1.Billing/Get", text("b")).await.unwrap(), "b from billing");

    eventually(async || {
        gateway.get("/health").await.1["upstreams"] == json!({ "default": "up", "shop.v1.Billing": "up" })
    })
    .await;
    billing.stop().await;
    eventually(async || gateway.get("/health").await.1["status"] == "degraded").await;
    assert_eq!(gateway.get("/ready").await.0, StatusCode::OK);
    assert_eq!(gateway.get("/v1/shop/a").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_default_only_the_named_services_are_served() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let mut config = contract.config("");
    config.upstream.services.insert("shop.v1.Billing".into(), upstream.url());
    let gateway = gateway(config).await;
    assert_eq!(gateway.get("/v1/billing/a").await.0, StatusCode::OK);
    assert_eq!(gateway.get("/v1/shop/a").await.0, StatusCode::NOT_FOUND);
    let refused = gateway.call("/shop.v1.Shop/Get", text("a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let (_, document) = gateway.get("/openapi.json").await;
    assert_eq!(document["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["/v1/billing/{text}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_not_listed_are_reached_in_no_protocol() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let mut config = contract.config(&upstream.url());
    config.gateway.services = vec!["shop.v1.Shop".into()];
    let gateway = gateway(config).await;
    assert_eq!(gateway.get("/v1/shop/a").await.0, StatusCode::OK);
    assert_eq!(gateway.get("/v1/billing/a").await.0, StatusCode::NOT_FOUND);
    let (_, document) = gateway.get("/openapi.json").await;
    assert_eq!(document["tags"].as_array().unwrap().len(), 1, "{document}");
    assert!(!document.to_string().contains("Billing"), "{document}");
    for method in ["/shop.v1.Billing/Get", "/grpc.health.v1.Health/Check"] {
        assert_eq!(gateway.call(method, text("a")).await.unwrap_err().code(), Code::Unimplemented);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_away_is_503_until_it_is_back() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let gateway = gateway(contract.config(&upstream.url())).await;
    eventually(async || gateway.get("/ready").await.0 == StatusCode::OK).await;
    assert_eq!(gateway.get("/v1/shop/a").await.0, StatusCode::OK);

    let address = upstream.stop().await;
    let (status, body) = gateway.get("/v1/shop/a").await;
    assert_eq!((status, &body["error"]["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("UPSTREAM_ERROR")));
    let refused = gateway.call("/shop.v1.Shop/Get", text("a")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the service cannot be reached"));
    eventually(async || gateway.get("/ready").await.0 == StatusCode::SERVICE_UNAVAILABLE).await;
    let (status, health) = gateway.get("/health").await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("down")));

    let kind = Kind { name: "again", reflection: Reflection::None, tls: None };
    let _upstream = Upstream::on(TcpListener::bind(address).await.unwrap(), kind);
    eventually(async || gateway.get("/v1/shop/a").await.1 == json!({ "text": "a from again" })).await;
    eventually(async || gateway.get("/ready").await.0 == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_connection_fail_together_when_packets_get_lost() {
    // Linux drops what comes to a port whose queue of connections is full.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(connected.unwrap());
    }
    let contract = Contract::new();
    let mut config = contract.config(&format!("http://{address}"));
    config.upstream.connections = 1;
    config.upstream.connect_timeout_seconds = 1;
    let gateway = gateway(config).await;
    // One after the other they would take longer than anybody's patience.
    let calls = (0..60).map(|_| gateway.get("/v1/shop/a"));
    for (status, body) in futures_util::future::join_all(calls).await {
        assert_eq!((status, &body["error"]["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("UPSTREAM_ERROR")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes_through_with_messages_both_ways_metadata_and_trailers() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let gateway = gateway(contract.config(&upstream.url())).await;
    let mut request = Request::new(text("x-mine"));
    request.metadata_mut().insert("x-mine", "anything".parse().unwrap());
    assert_eq!(gateway.call("/shop.v1.Shop/Get", request).await.unwrap(), "anything");

    let mut grpc = tonic::client::Grpc::new(gateway.channel().await);
    grpc.ready().await.unwrap();
    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = Request::new(tokio_stream::wrappers::ReceiverStream::new(said));
    let (path, codec) = (PathAndQuery::from_static("/shop.v1.Shop/Talk"), ProstCodec::<Text, Text>::default());
    let answer = soon(grpc.streaming(said, path, codec)).await.unwrap();
    assert_eq!(answer.metadata().get("x-head").unwrap(), "h");
    let mut heard = answer.into_inner();
    for word in ["one", "two"] {
        say.send(text(word)).await.unwrap();
        assert_eq!(soon(heard.message()).await.unwrap(), Some(text(word.to_uppercase())));
    }
    drop(say);
    let status = soon(heard.message()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message(), status.details()),
        (Code::FailedPrecondition, "not nöw", &b"details"[..])
    );
    assert_eq!(status.metadata().get("x-why").unwrap(), "because");
    assert_eq!(status.metadata().get_bin("x-why-bin"), Some(&MetadataValue::from_bytes(b"\0\xff")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cancelled_when_its_client_goes_whatever_it_speaks() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let gateway = gateway(contract.config(&upstream.url())).await;
    let seen = &upstream.seen;

    // A stream over gRPC, a unary call over gRPC, a unary call over REST, a stream over REST.
    let mut grpc = tonic::client::Grpc::new(gateway.channel().await);
    grpc.ready().await.unwrap();
    let (path, codec) = (PathAndQuery::from_static("/shop.v1.Shop/Watch"), ProstCodec::<Text, Text>::default());
    let mut stream = grpc.server_streaming(Request::new(text("w")), path, codec).await.unwrap().into_inner();
    assert_eq!(soon(stream.message()).await.unwrap(), Some(text("w 0")));
    drop(stream);
    soon(seen.cancelled.notified()).await;

    tokio::select! {
        answer = gateway.call("/shop.v1.Shop/Get", text("wait")) => panic!("{answer:?}"),
        () = seen.waiting.notified() => {}
    }
    soon(seen.cancelled.notified()).await;

    tokio::select! {
        answer = Client::new().get(gateway.url("/v1/shop/wait")).send() => panic!("{answer:?}"),
        () = seen.waiting.notified() => {}
    }
    soon(seen.cancelled.notified()).await;

    let answer = Client::new().get(gateway.url("/v1/watch/w")).send().await.unwrap();
    let mut body = answer.bytes_stream();
    assert!(soon(body.next()).await.unwrap().unwrap().starts_with(b"{\"result\":{\"text\":\"w 0\"}}"));
    drop(body);
    soon(seen.cancelled.notified()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_call_also_when_the_upstream_says_nothing() {
    let (silent, contract) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Contract::new());
    let gateway = gateway(contract.config(&format!("http://{}", silent.local_addr().unwrap()))).await;
    let request = Client::new().get(gateway.url("/v1/shop/a")).header("x-request-timeout", "0.05");
    assert_eq!(soon(request.send()).await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    // By hand: tonic's client would keep the deadline itself.
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let client = client.clone().http2_only(true).build_http();
    let request = http::Request::post(gateway.url("/shop.v1.Shop/Get"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(http_body_util::Full::new(bytes::Bytes::from_static(b"\0\0\0\0\0")))
        .unwrap();
    let answer = soon(client.request(request)).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_call_over_rest_does_not_take_for_ever() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let mut config = contract.config(&upstream.url());
    config.upstream.request_timeout_seconds = 1;
    let gateway = gateway(config).await;
    let (status, body) = gateway.get("/v1/shop/wait").await;
    assert_eq!((status, &body["error"]["status"]), (StatusCode::GATEWAY_TIMEOUT, &json!("DEADLINE_EXCEEDED")));
    soon(upstream.seen.cancelled.notified()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_call_over_grpc_web_and_see_the_status() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let mut config = contract.config(&upstream.url());
    config.server.cors_origins = vec!["https://app.example.com".into()];
    config.gateway.response_headers = vec!["x-own".into()];
    let gateway = gateway(config).await;
    let http = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let web = GrpcWebClientLayer::new().layer(http);
    let mut grpc = tonic::client::Grpc::with_origin(web, gateway.url("").parse().unwrap());
    let get = async |grpc: &mut tonic::client::Grpc<_>, asked: &str| {
        grpc.ready().await.unwrap();
        let (path, codec) = (PathAndQuery::from_static("/shop.v1.Shop/Get"), ProstCodec::<Text, Text>::default());
        soon(grpc.unary(Request::new(text(asked)), path, codec)).await
    };
    assert_eq!(get(&mut grpc, "web").await.unwrap().into_inner().text, "web from shop");
    let status: Status = get(&mut grpc, "fail").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not nöw"));

    let preflight = Client::new()
        .request(reqwest::Method::OPTIONS, gateway.url("/v1/shop/a"))
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "GET");
    let preflight = preflight.send().await.unwrap();
    assert_eq!(preflight.headers()["access-control-allow-origin"], "https://app.example.com");
    let answer = Client::new().get(gateway.url("/v1/shop/a")).header("origin", "https://app.example.com");
    let exposed = answer.send().await.unwrap().headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("x-own") && exposed.contains("grpc-status"), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_ids_are_compressed_and_counted() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let mut config = contract.config(&upstream.url());
    config.server.ops_listen = Some(([127, 0, 0, 1], 0).into());
    let gateway = gateway(config).await;
    // The id of the client, and no other, goes on to the upstream and comes back.
    let mut request = Client::new().get(gateway.url("/v1/shop/x-request-id"));
    request = request.header("x-request-id", "mine").header("x-request-id", "forged");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine");
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "text": "mine" }));
    for coding in ["gzip", "br", "zstd"] {
        let large = Client::new().get(gateway.url("/v1/shop/large")).header("accept-encoding", coding);
        let large = large.send().await.unwrap();
        assert_eq!(large.headers()["content-encoding"], coding);
        // The gateway itself reads what it has written.
        let again = Client::new().post(gateway.url("/v1/shop")).header("content-encoding", coding);
        let again = again.body(large.bytes().await.unwrap()).send().await.unwrap();
        let expected = json!({ "text": format!("{} from shop", "x".repeat(10_000)) });
        assert_eq!(again.json::<Value>().await.unwrap(), expected, "{coding}");
    }

    let ops = gateway.proxy.ops_address.unwrap();
    let numbers = Client::new().get(format!("http://{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = "http_requests_total{transport=\"rest\",method=\"/shop.v1.Shop/Get\",status=\"200\"} 7";
    assert!(numbers.contains(line) && !numbers.contains("database"), "{numbers}");
    assert_eq!(Client::new().get(gateway.url("/metrics")).send().await.unwrap().status(), StatusCode::NOT_FOUND);

    let (_, document) = gateway.get("/openapi.json").await;
    assert!(document["paths"]["/v1/shop/{text}"]["get"].is_object());
    let answer = Client::new().get(gateway.url("/openapi.json")).send().await.unwrap();
    let again = Client::new().get(gateway.url("/openapi.json")).header("if-none-match", &answer.headers()["etag"]);
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_reached_over_tls_if_its_certificate_is_good() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let identity = Identity::from_pem(certified.cert.pem(), certified.signing_key.serialize_pem());
    let upstream = Upstream::of(Kind { name: "tls", reflection: Reflection::None, tls: Some(identity) }).await;
    let contract = Contract::new();
    let authorities = contract.0.path().join("ca.pem");
    std::fs::write(&authorities, certified.cert.pem()).unwrap();
    let mut config = contract.config(&format!("https://localhost:{}", upstream.address.port()));
    config.upstream.ca_file = Some(authorities);
    let trusting = gateway(config.clone()).await;
    assert_eq!(trusting.get("/v1/shop/a").await, (StatusCode::OK, json!({ "text": "a from tls" })));

    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(config.upstream.ca_file.as_ref().unwrap(), other.cert.pem()).unwrap();
    let wary = gateway(config).await;
    assert_eq!(wary.get("/v1/shop/a").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_finished_before_the_gateway_stops() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let gateway = gateway(contract.config(&upstream.url())).await;
    let (address, url) = (gateway.proxy.address, gateway.url("/v1/shop/wait"));
    let running = tokio::spawn(async move { Client::new().get(url).send().await.unwrap().text().await.unwrap() });
    soon(upstream.seen.waiting.notified()).await;
    let stopped = tokio::spawn(gateway.proxy.stop());
    // Nobody is let in any more.
    eventually(async || TcpStream::connect(address).await.is_err()).await;
    assert!(!stopped.is_finished());
    upstream.seen.go_on.notify_one();
    assert_eq!(soon(running).await.unwrap(), r#"{"text":"waited"}"#);
    soon(stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_option_of_the_gateway_reaches_it() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let mut config = contract.config(&upstream.url());
    config.gateway.aliases.insert("/api".into(), "/v1".into());
    config.gateway.request_headers = vec!["x-mine".into()];
    config.gateway.max_request_bytes = 32;
    config.gateway.max_response_message_bytes = 1000;
    config.gateway.ignore_unknown_fields = true;
    config.gateway.always_print_fields = true;
    let gateway = gateway(config).await;
    let post = async |body: Value| Client::new().post(gateway.url("/api/shop")).json(&body).send().await.unwrap();
    let with_header = Client::new().get(gateway.url("/api/shop/x-mine")).header("x-mine", "yes");
    assert_eq!(with_header.send().await.unwrap().json::<Value>().await.unwrap(), json!({ "text": "yes" }));
    assert_eq!(post(json!({ "unknown": 1 })).await.status(), StatusCode::OK);
    assert_eq!(post(json!({ "text": "x".repeat(40) })).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let (status, body) = gateway.get("/v1/shop/large").await;
    assert_eq!((status, &body["error"]["reason"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("UPSTREAM_ERROR")));
}

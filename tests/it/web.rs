//! Browsers: gRPC-Web, CORS, and the server's own pages.

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;
use rialto::proto::rialto::auth::v1::{GetMeRequest, LoginRequest, RegisterRequest};
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{SendMessageRequest, SubscribeRequest};
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic_web::GrpcWebClientLayer;
use tower::Layer;

use crate::harness::{Bearer, PASSWORD, World, refusal, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_registers_chats_and_watches_over_grpc_web() {
    let world = World::new().await;
    let node = world.node().await;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let web = GrpcWebClientLayer::new().layer(http);
    let origin: http::Uri = node.url("").parse().unwrap();
    let mut auth = AuthServiceClient::with_origin(web.clone(), origin.clone());

    let refused = refusal(auth.get_me(GetMeRequest {}).await);
    assert_eq!(refused, (Code::Unauthenticated, "UNAUTHORIZED".into()));
    let email = "web@example.com".to_owned();
    let request = RegisterRequest { email: email.clone(), password: PASSWORD.into(), display_name: "Web".into() };
    auth.register(request).await.unwrap();
    let tokens =
        auth.login(LoginRequest { email, password: PASSWORD.into(), ..Default::default() }).await.unwrap().into_inner();
    let bearer = Bearer(tokens.access_token);
    let mut auth = AuthServiceClient::with_origin(InterceptedService::new(web.clone(), bearer.clone()), origin.clone());
    let me = auth.get_me(GetMeRequest {}).await.unwrap().into_inner().account.unwrap();
    assert_eq!(me.display_name, "Web");

    let bob = node.user("bob").await;
    let id = bob.conversation(&node, &[&crate::harness::User { id: me.id, ..bob.clone() }]).await;
    let mut messaging = MessagingServiceClient::with_origin(InterceptedService::new(web, bearer), origin);
    let subscribe = SubscribeRequest { conversation_id: id.clone(), after_seq: Some(0) };
    let mut events = messaging.subscribe(subscribe).await.unwrap().into_inner();
    let send = SendMessageRequest {
        conversation_id: id,
        client_message_id: "1".into(),
        text: "hi".into(),
        ..Default::default()
    };
    messaging.send_message(send).await.unwrap();
    assert_eq!(soon(events.message()).await.unwrap().unwrap().seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_calls_are_logged_counted_and_compressed_as_such() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let bob = node.user("bob").await;
    let id = ann.conversation(&node, &[&bob]).await;
    let message = serde_json::json!({ "client_message_id": "1", "text": "long ".repeat(1000) });
    ann.post(&node, &format!("/v1/conversations/{id}/messages"), message).await.ok();
    let call = async |method: &str, content_type: &'static str, body: Vec<u8>| {
        let request = node.http().post(node.url(&format!("/rialto.messaging.v1.MessagingService/{method}")));
        let request = request.bearer_auth(&ann.token).header("content-type", content_type).body(body);
        let request = request.header("accept-encoding", "gzip").header("origin", "https://app.example.com");
        request.send().await.unwrap()
    };
    let body = serde_json::json!({ "conversationId": id, "afterSeq": "0" }).to_string().into_bytes();
    let unary = call("ListMessages", "application/json", body.clone()).await;
    assert_eq!((unary.status().as_u16(), &unary.headers()["content-encoding"]), (200, &"gzip".parse().unwrap()));
    assert_eq!(unary.headers()["access-control-allow-origin"], "https://app.example.com");
    assert!(unary.headers().contains_key("ratelimit-remaining"));

    // A stream comes as it happens: no compressor holds it back.
    let envelope = [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat();
    let mut stream = call("Subscribe", "application/connect+json", envelope).await;
    assert_eq!(stream.headers()["content-type"], "application/connect+json");
    assert!(!stream.headers().contains_key("content-encoding"));
    let first = soon(stream.chunk()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("long long"), "{first:?}");
    ann.send(&node, &id, "short").await;
    let second = soon(stream.chunk()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&second).contains("short"), "{second:?}");

    let metrics = node.rest(Method::GET, "/metrics", None, None).await.ok();
    let line = metrics.as_str().unwrap().lines().find(|line| line.contains(r#"transport="connect""#));
    assert!(line.is_some_and(|line| line.contains("MessagingService") && line.contains(r#"status="200""#)), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_origins_may_read_answers() {
    let world = World::new().await;
    let node = world.node().await;
    let preflight = async |origin: &str, path: &str| {
        let request = node.http().request(Method::OPTIONS, node.url(path)).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let answer = request.header("access-control-request-headers", "authorization,content-type,x-grpc-web").send();
        let answer = answer.await.unwrap();
        // `*` would not cover authorization.
        let headers = &answer.headers()["access-control-allow-headers"];
        assert_eq!(headers, "authorization,content-type,x-grpc-web");
        answer.headers().get("access-control-allow-origin").map(|origin| origin.to_str().unwrap().to_owned())
    };
    // The second is both gRPC-Web's and Connect's.
    for path in ["/v1/auth/login", "/rialto.auth.v1.AuthService/Login"] {
        assert_eq!(preflight("https://app.example.com", path).await.as_deref(), Some("https://app.example.com"));
        assert_eq!(preflight("https://evil.example.com", path).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_pages_are_there_and_safe() {
    let world = World::new().await;
    let node = world.node().await;
    let health = node.rest(Method::GET, "/health", None, None).await;
    assert_eq!(health.headers["x-content-type-options"], "nosniff");
    crate::harness::eventually(async || node.rest(Method::GET, "/health", None, None).await.body["status"] == "up")
        .await;
    node.rest(Method::GET, "/ready", None, None).await.ok();
    let openapi = node.rest(Method::GET, "/openapi.json", None, None).await.ok();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(openapi["paths"]["/v1/conversations/{conversationId}/messages"]["post"].is_object());
    let asyncapi = node.rest(Method::GET, "/asyncapi.json", None, None).await.ok();
    assert_eq!(asyncapi["asyncapi"], "3.0.0");
    let metrics = node.rest(Method::GET, "/metrics", None, None).await.ok();
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("http_requests_total{") && metrics.contains("http_request_duration_seconds_bucket{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_page_loads_nothing_from_elsewhere_and_allows_no_script_in_itself() {
    let world = World::new().await;
    let node = world.node().await;
    for path in ["/docs", "/api-docs"] {
        let page = node.rest(Method::GET, path, None, None).await;
        let policy = page.headers["content-security-policy"].clone();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let html = page.ok();
        let html = html.as_str().unwrap();
        assert!(!html.contains("<style") && !html.contains("style=") && !html.contains("<script>"));
        for part in html.split(['"']).filter(|part| part.starts_with("/docs/")) {
            let file = node.rest(Method::GET, part, None, None).await;
            let kind = if part.ends_with(".css") { "text/css" } else { "text/javascript" };
            assert!(file.headers["content-type"].starts_with(kind), "{part}");
            assert_eq!(file.status, 200, "{part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_has_not_changed_is_not_sent_again() {
    let world = World::new().await;
    let node = world.node().await;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(node.http().get(node.url(path)), |all, (name, value)| all.header(*name, *value));
        request.send().await.unwrap()
    };
    for path in ["/openapi.json", "/asyncapi.json", "/docs", "/docs/swagger-ui-bundle.js"] {
        let plain = get(path, &[]).await;
        let gzip = get(path, &[("accept-encoding", "br;q=0, gzip")]).await;
        let tags = [&plain, &gzip].map(|answer| answer.headers()["etag"].to_str().unwrap().to_owned());
        // Other bytes have another strong tag.
        assert!(tags[0] != tags[1] && tags.iter().all(|tag| tag.starts_with('"')), "{tags:?}");
        assert!(plain.headers().get("content-encoding").is_none());
        assert_eq!(
            (&gzip.headers()["content-encoding"], &gzip.headers()["cache-control"]),
            (&"gzip".parse().unwrap(), &"no-cache".parse().unwrap())
        );
        // Nothing is compressed on the way, which would make a third one.
        assert_eq!(get(path, &[("accept-encoding", "br")]).await.headers()["etag"].to_str().unwrap(), tags[0]);
        let [plain, gzip] = [plain.bytes().await.unwrap(), gzip.bytes().await.unwrap()];
        assert!(gzip.starts_with(&[0x1f, 0x8b]) && !plain.is_empty());

        let again = get(path, &[("if-none-match", &format!("\"other\", W/{}", tags[0]))]).await;
        assert_eq!((again.status().as_u16(), again.headers()["etag"].to_str().unwrap()), (304, tags[0].as_str()));
        assert!(again.bytes().await.unwrap().is_empty());
        assert_eq!(get(path, &[("if-none-match", "\"other\"")]).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_an_address_of_their_own_in_production() {
    let mut world = World::new().await;
    world.config.server.metrics = false;
    world.config.server.ops_listen = Some(([127, 0, 0, 1], 0).into());
    let node = world.node().await;
    assert_eq!(node.rest(Method::GET, "/metrics", None, None).await.status, 404);
    let url = format!("http://{}/metrics", node.server.ops_address.unwrap());
    let text = node.http().get(url).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("connections_open"));
}

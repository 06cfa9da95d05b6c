//! Cookies on every transport that a browser has, and not on the one that it lacks.

use futures_util::{SinkExt, StreamExt};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;
use rialto::proto::rialto::auth::v1::{GetMeRequest, LoginRequest, LogoutRequest};
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{CreateConversationRequest, SubscribeRequest};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use tonic_web::GrpcWebClientLayer;
use tower::Layer;

use super::{ACCESS, ORIGIN, Page, REFRESH, send};
use crate::harness::{Node, PASSWORD, World, refusal, soon};

/// Adds headers to each call.
#[derive(Clone)]
struct Headers(Vec<(&'static str, String)>);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        Ok(request)
    }
}

fn cookie(page: &Page) -> String {
    format!("{ACCESS}={}; {REFRESH}={}", page.cookies[ACCESS], page.cookies[REFRESH])
}

fn set_cookies(metadata: &tonic::metadata::MetadataMap) -> usize {
    metadata.get_all("set-cookie").iter().count()
}

/// A conversation between the page's account and somebody else.
async fn conversation(node: &Node, page: &Page) -> String {
    let bob = node.user("bob").await;
    let request = page.request(node, Method::POST, "/v1/conversations").json(&json!({ "member_ids": [bob.id] }));
    send(request).await.answer.ok()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_web_reads_need_the_origin_and_changes_the_csrf_token_too() {
    let world = World::new().await;
    let node = world.node().await;
    let user = node.user("ann").await;
    let web = GrpcWebClientLayer::new().layer(Client::builder(TokioExecutor::new()).build_http());
    let uri: http::Uri = node.url("").parse().unwrap();
    let with = |headers: Vec<(&'static str, String)>| InterceptedService::new(web.clone(), Headers(headers));
    let origin = || ("origin", ORIGIN.to_owned());

    let login =
        || LoginRequest { email: user.email.clone(), password: PASSWORD.into(), cookie: true, ..Default::default() };
    let opened = AuthServiceClient::with_origin(with(vec![origin()]), uri.clone()).login(login()).await.unwrap();
    assert_eq!(set_cookies(opened.metadata()), 3);
    let opened = opened.into_inner();
    assert!(opened.access_token.is_empty() && !opened.csrf_token.is_empty());
    let evil = AuthServiceClient::with_origin(with(vec![("origin", "https://evil.example.com".into())]), uri.clone())
        .login(login())
        .await;
    assert_eq!(refusal(evil), (Code::PermissionDenied, "ORIGIN_NOT_ALLOWED".into()));

    let page = Page::log_in(&node, &user.email).await;
    let id = conversation(&node, &page).await;
    let client = |headers: Vec<(&'static str, String)>| {
        let headers = headers.into_iter().chain([("cookie", cookie(&page))]).collect();
        MessagingServiceClient::with_origin(with(headers), uri.clone())
    };
    let subscribe = || SubscribeRequest { conversation_id: id.clone(), after_seq: Some(0), ..Default::default() };
    let watched = client(vec![origin()]).subscribe(subscribe()).await;
    assert!(watched.is_ok(), "{watched:?}");
    let refused = refusal(client(vec![("sec-fetch-site", "cross-site".into())]).subscribe(subscribe()).await);
    assert_eq!(refused, (Code::PermissionDenied, "ORIGIN_NOT_ALLOWED".into()));
    let create = || CreateConversationRequest { member_ids: vec![user.id.clone()], ..Default::default() };
    let refused = refusal(client(vec![origin()]).create_conversation(create()).await);
    assert_eq!(refused, (Code::PermissionDenied, "CSRF_TOKEN_INVALID".into()));
    let token = ("x-csrf-token", page.csrf.clone());
    // Whatever is wrong with such a conversation, the gate has let it through.
    let passed = client(vec![origin(), token.clone()]).create_conversation(create()).await;
    assert!(passed.is_ok() || refusal(passed).0 != Code::PermissionDenied);

    let headers = vec![origin(), token, ("cookie", cookie(&page))];
    let left = AuthServiceClient::with_origin(with(headers), uri).logout(LogoutRequest::default()).await.unwrap();
    assert_eq!(set_cookies(left.metadata()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn native_grpc_takes_and_gives_no_cookies() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let headers = [("origin", ORIGIN.into()), ("cookie", cookie(&page)), ("x-csrf-token", page.csrf.clone())];
    let mut auth = AuthServiceClient::with_interceptor(node.channel(), Headers(headers.to_vec()));
    assert_eq!(refusal(auth.get_me(GetMeRequest {}).await), (Code::Unauthenticated, "UNAUTHORIZED".into()));
    let login =
        LoginRequest { email: "ann@example.com".into(), password: PASSWORD.into(), cookie: true, ..Default::default() };
    assert_eq!(refusal(auth.login(login).await), (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    let refused = refusal(auth.refresh(rialto::proto::rialto::auth::v1::RefreshRequest::default()).await);
    assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_calls_by_cookie_obey_the_same_rules() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let call = async |path: &str, content_type: &str, token: Option<&str>| {
        let request = page.bare(&node, Method::POST, path).header("origin", ORIGIN);
        let request = request.header("content-type", content_type).body("{}");
        let request = token.into_iter().fold(request, |request, token| request.header("x-csrf-token", token));
        let got = send(request).await;
        (got.answer.status, got.answer.body["code"].as_str().map(ToOwned::to_owned), got.cleared().len())
    };
    let (me, logout) = ("/rialto.auth.v1.AuthService/GetMe", "/rialto.auth.v1.AuthService/Logout");
    assert_eq!(call(me, "application/json", None).await.0, 200);
    assert_eq!(call(logout, "application/json", None).await, (403, Some("permission_denied".into()), 0));
    // Connect does not take it at all.
    assert_eq!(call(logout, "text/plain", Some(&page.csrf)).await.0, 415);
    assert_eq!(call(logout, "application/json", Some(&page.csrf)).await, (200, None, 2));
    assert_eq!(call(me, "application/json", None).await, (401, Some("unauthenticated".into()), 2));
    // What changes something has no GET.
    let get = page.bare(&node, Method::GET, &format!("{logout}?encoding=json&message=%7B%7D&connect=v1"));
    assert_eq!(send(get.header("origin", ORIGIN)).await.answer.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_by_cookie_ends_with_its_session() {
    let world = World::new().await;
    let node = world.node().await;
    let mut page = Page::of(&node, "ann").await;
    let path = format!("/v1/conversations/{}/events", conversation(&node, &page).await);
    let request = page.bare(&node, Method::GET, &path).header("accept", "text/event-stream");
    let mut stream = soon(request.header("sec-fetch-site", "same-origin").send()).await.unwrap();
    assert_eq!(stream.status(), 200);
    page.post(&node, "/v1/auth/logout", json!({})).await.answer.ok();
    let mut heard = String::new();
    while let Some(chunk) = soon(stream.chunk()).await.unwrap() {
        heard += &String::from_utf8_lossy(&chunk);
    }
    assert!(heard.contains("SESSION_REVOKED"), "{heard}");
}

/// Opens a WebSocket; the status if it does not open.
async fn open(node: &Node, path: &str, headers: &[(&'static str, &str)]) -> Result<Value, u16> {
    let mut request = format!("ws://{}{path}", node.server.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(node.server.address).await.unwrap();
    match soon(tokio_tungstenite::client_async(request, stream)).await {
        Ok((mut socket, response)) => {
            // The token is not said back.
            assert_eq!(response.headers()["sec-websocket-protocol"], "rialto.json.v1");
            socket.send(Message::text("half-close")).await.unwrap();
            match soon(socket.next()).await.unwrap().unwrap() {
                Message::Text(text) => Ok(serde_json::from_str(&text).unwrap()),
                _ => Ok(Value::Null),
            }
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_takes_the_csrf_token_as_a_subprotocol_unless_it_only_reads() {
    let world = World::new().await;
    let node = world.node().await;
    let page = Page::of(&node, "ann").await;
    let id = conversation(&node, &page).await;
    send(
        page.request(&node, Method::POST, &format!("/v1/conversations/{id}/messages"))
            .json(&json!({ "clientMessageId": "1", "text": "hi" })),
    )
    .await
    .answer
    .ok();
    let bob = node.log_in("bob@example.com", "").await;
    let cookie = cookie(&page);
    let both = "/v1/messages/connect";
    let reads = format!("/v1/conversations/{id}/events?after_seq=0");
    let good = format!("rialto.json.v1, csrf.{}", page.csrf);
    let wrong = format!("rialto.json.v1, csrf.{}", Page::of(&node, "eve").await.csrf);
    let bearer = format!("rialto.json.v1, bearer.{}", bob.token);
    let attempt = async |path: &str, origin: &str, protocols: &str| {
        open(&node, path, &[("origin", origin), ("cookie", &cookie), ("sec-websocket-protocol", protocols)]).await
    };
    let evil = "https://evil.example.com";
    assert_eq!(attempt(both, ORIGIN, &good).await, Ok(Value::Null));
    assert_eq!(attempt(both, ORIGIN, "rialto.json.v1").await, Err(403));
    assert_eq!(attempt(both, ORIGIN, &wrong).await, Err(403));
    assert_eq!(attempt(both, evil, &good).await, Err(403));
    assert_eq!(attempt(both, "null", &good).await, Err(403));
    assert_eq!(open(&node, both, &[("cookie", &cookie), ("sec-websocket-protocol", &good)]).await, Err(403));

    let heard = attempt(&reads, ORIGIN, "rialto.json.v1").await.unwrap();
    assert_eq!(heard["result"]["message"]["text"], "hi");
    assert_eq!(attempt(&reads, evil, "rialto.json.v1").await, Err(403));
    // A token in the subprotocol decides alone, as the header does.
    assert_eq!(attempt(both, evil, &bearer).await, Ok(Value::Null));
}

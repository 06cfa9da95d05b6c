//! The two-way stream and Subscribe as WebSockets.

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Node, World, eventually, number, soon};

const CONNECT: &str = "/v1/messages/connect";

/// An open WebSocket.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// With a token as a browser gives it, by a subprotocol.
    pub async fn open(node: &Node, path: &str, token: &str) -> Self {
        Self::try_open(node, path, Some(token)).await.unwrap()
    }

    /// The status if it does not open.
    async fn try_open(node: &Node, path: &str, token: Option<&str>) -> Result<Self, u16> {
        let mut request = format!("ws://{}{path}", node.server.address).into_client_request().unwrap();
        let protocols = token.map_or("rialto.json.v1".into(), |token| format!("rialto.json.v1, bearer.{token}"));
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        request.headers_mut().insert("origin", "https://app.example.com".parse().unwrap());
        let stream = TcpStream::connect(node.server.address).await.unwrap();
        match soon(tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], "rialto.json.v1");
                assert!(response.headers().contains_key("x-request-id"));
                Ok(Self(socket))
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn say(&mut self, command: Value) {
        self.0.send(Message::text(command.to_string())).await.unwrap();
    }

    /// The next message, or the error that comes before the end.
    pub async fn hear(&mut self) -> Value {
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => break serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The close code and reason, which come next.
    pub async fn closed(&mut self) -> (u16, String) {
        match soon(self.0.next()).await.unwrap().unwrap() {
            Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// Watches a conversation from this number on.
    async fn watch(&mut self, conversation: &str, after_seq: i64) {
        self.say(json!({ "commandId": 1, "subscribe": { "conversationId": conversation, "afterSeq": after_seq } }))
            .await;
        let heard = self.hear().await;
        assert_eq!(heard["result"]["subscribed"]["conversationId"], conversation, "{heard}");
    }

    /// Number and text of the next message that is seen.
    async fn event(&mut self) -> (i64, String) {
        let heard = self.hear().await;
        let message = &heard["result"]["event"]["event"]["message"];
        (number(&message["seq"]), message["text"].as_str().unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_chat_over_web_sockets() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let (mut anns, mut bobs) = (
        Socket::open(&node, CONNECT, &ann.token).await,
        Socket::open(&node, "/api/messages/connect", &bob.token).await,
    );
    bobs.watch(&id, 0).await;
    for i in 1..=20 {
        let send = json!({ "conversationId": id, "clientMessageId": i.to_string(), "text": format!("m{i}") });
        anns.say(json!({ "commandId": i, "send": send })).await;
    }
    let mut answered = Vec::new();
    for i in 1..=20 {
        let heard = anns.hear().await;
        answered.push(number(&heard["result"]["commandId"]));
        assert_eq!(heard["result"]["sent"]["message"]["text"], format!("m{}", answered[answered.len() - 1]));
        assert_eq!(bobs.event().await, (i, format!("m{i}")));
    }
    answered.sort_unstable();
    assert_eq!(answered, Vec::from_iter(1..=20));
    // Who has said everything and watches nothing is done.
    anns.0.send(Message::text("half-close")).await.unwrap();
    assert_eq!(anns.closed().await, (1000, "OK".into()));
    let mut subscribed = Socket::open(&node, &format!("/v1/conversations/{id}/events?after_seq=18"), &bob.token).await;
    subscribed.say(json!({})).await;
    for i in 19..=20 {
        assert_eq!(subscribed.hear().await["result"]["message"]["text"], format!("m{i}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_no_socket_opens() {
    let world = World::new().await;
    let node = world.node().await;
    let user = node.user("ann").await;
    let events = format!("/v1/conversations/{}/events", user.id);
    for path in [CONNECT, events.as_str()] {
        for token in [None, Some("abc")] {
            assert_eq!(Socket::try_open(&node, path, token).await.err(), Some(401), "{path}");
        }
    }
    let by_query = format!("{CONNECT}?access_token={}", user.token);
    assert_eq!(Socket::try_open(&node, &by_query, None).await.err(), Some(400));
    let plain = node.rest(Method::GET, CONNECT, Some(&user.token), None).await;
    assert_eq!((plain.status, plain.headers["upgrade"].as_str()), (426, "websocket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_breaks_a_rule_closes_with_the_reason() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut socket = Socket::open(&node, CONNECT, &ann.token).await;
    socket.say(json!({ "commandId": 1 })).await;
    let error = socket.hear().await;
    assert_eq!(error["error"]["reason"], "VALIDATION_ERROR", "{error}");
    assert!(error["error"]["requestId"].is_string());
    assert_eq!(socket.closed().await.0, 4003);
    let mut socket = Socket::open(&node, CONNECT, &ann.token).await;
    socket.say(json!({ "commandId": 1, "send": { "conversation": "x" } })).await;
    assert_eq!(socket.hear().await["error"]["reason"], "INVALID_FORMAT");
    assert_eq!(socket.closed().await, (1007, "send.conversation: unknown field".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_closes_its_sockets() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let (mut anns, mut bobs) =
        (Socket::open(&node, CONNECT, &ann.token).await, Socket::open(&node, CONNECT, &bob.token).await);
    bobs.watch(&id, 0).await;
    anns.watch(&id, 0).await;
    bob.post(&node, "/v1/auth/logout", json!({})).await.ok();
    assert_eq!(bobs.hear().await["error"]["reason"], "SESSION_REVOKED");
    assert_eq!(bobs.closed().await, (4016, "the session has ended".into()));
    ann.send(&node, &id, "still here").await;
    assert_eq!(anns.event().await, (1, "still here".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_and_what_was_missed_comes_from_the_next() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut socket = Socket::open(&node, CONNECT, &bob.token).await;
    socket.watch(&id, 0).await;
    ann.send(&node, &id, "before").await;
    assert_eq!(socket.event().await, (1, "before".into()));
    // A client that does not read its goodbye does not hold the server up.
    let _silent = Socket::open(&node, CONNECT, &bob.token).await;
    let stopping = tokio::spawn(node.stop());
    assert_eq!(socket.hear().await["error"]["reason"], "SERVICE_UNAVAILABLE");
    assert_eq!(socket.closed().await, (4014, "the server stops; connect again".into()));
    soon(stopping).await.unwrap();

    let node = world.node().await;
    ann.send(&node, &id, "after").await;
    let mut socket = Socket::open(&node, CONNECT, &bob.token).await;
    socket.watch(&id, 1).await;
    assert_eq!(socket.event().await, (2, "after".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_counts_as_a_connection_that_is_not_idle() {
    let mut world = World::new().await;
    world.config.server.idle_seconds = 1;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut socket = Socket::open(&node, CONNECT, &bob.token).await;
    socket.watch(&id, 0).await;
    let connections = || node.server.app.metrics.connections.get();
    // All others are closed for being idle.
    eventually(async || connections() == 1).await;
    ann.send(&node, &id, "hi").await;
    assert_eq!(socket.event().await, (1, "hi".into()));
    drop(socket);
    eventually(async || connections() == 0).await;
    let metrics = node.server.app.metrics.text();
    let line = metrics.lines().find(|line| line.contains("transport=\"websocket\"") && line.contains("Connect"));
    assert!(line.is_some_and(|line| line.contains("101")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_sockets_are_counted_by_the_flood_guard() {
    let mut world = World::new().await;
    world.config.server.flood_per_second = 1;
    world.config.server.flood_burst = 20;
    world.config.rates.factor = 1;
    let node = world.node().await;
    let mut refused = 0;
    for _ in 0..30 {
        refused += usize::from(Socket::try_open(&node, CONNECT, None).await.err() == Some(429));
    }
    assert!(refused >= 5, "{refused}");
}

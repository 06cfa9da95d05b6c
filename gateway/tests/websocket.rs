//! WebSockets: the handshake, what frames mean, and how they end.

mod support;

use futures_util::{SinkExt, StreamExt};
use http::{Method, Request};
use rialto_gateway::Builder;
use serde_json::json;
use support::websocket::{Server, closed, echo, gateway, hear, played, refuse, request, request_message, say};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tonic::{Code, Status};

const JSON: &str = "rialto.json.v1";
const PROTO: &str = "rialto.proto.v1";

async fn echoing() -> Server {
    Server::start(gateway(|b| b, echo())).await
}

fn as_is(builder: Builder) -> Builder {
    builder
}

#[tokio::test]
async fn json_goes_both_ways_in_text_frames_until_both_sides_have_ended() {
    let server = echoing().await;
    let mut socket = server.open("/v1/talk/lounge?n=7", JSON).await;
    say(&mut socket, r#"{"text":"hi"}"#).await;
    assert_eq!(hear(&mut socket).await, json!({ "result": { "room": "lounge", "text": "hi", "n": "7" } }));
    // Path and query are of the first message only.
    say(&mut socket, r#"{"room":"hall","tags":["a"]}"#).await;
    assert_eq!(hear(&mut socket).await, json!({ "result": { "room": "hall", "tags": ["a"] } }));
    say(&mut socket, "{}").await;
    assert_eq!(hear(&mut socket).await, json!({ "result": {} }));
    say(&mut socket, "half-close").await;
    assert_eq!(closed(&mut socket).await, (1000, "OK".into()));
    assert!(socket.next().await.is_none());
}

#[tokio::test]
async fn protobuf_goes_both_ways_in_binary_frames() {
    let server = echoing().await;
    let mut socket = server.open("/v1/talk/x", PROTO).await;
    // text: "hi"
    say(&mut socket, b"\x12\x02hi".to_vec()).await;
    assert_eq!(socket.next().await.expect("a frame").expect("no error"), Message::binary(&b"\x12\x02hi\x0a\x01x"[..]));
    // The empty message is one too.
    say(&mut socket, Vec::new()).await;
    assert_eq!(socket.next().await.expect("a frame").expect("no error"), Message::binary(&b""[..]));
    say(&mut socket, "half-close").await;
    assert_eq!(closed(&mut socket).await, (1000, "OK".into()));
}

#[tokio::test]
async fn the_first_protocol_of_the_client_that_is_known_is_the_one() {
    let server = echoing().await;
    for (offer, chosen) in [
        ("rialto.proto.v1, rialto.json.v1", PROTO),
        ("soap, rialto.json.v1,rialto.proto.v1", JSON),
        ("bearer.abc.d-e_f, rialto.json.v1", JSON),
    ] {
        let stream = tokio::net::TcpStream::connect(server.address).await.expect("the server accepts");
        let request = request("/v1/say", &[("sec-websocket-protocol", offer)]);
        let (_, response) = tokio_tungstenite::client_async(request, stream).await.expect("101");
        let echoed: Vec<_> = response.headers().get_all("sec-websocket-protocol").iter().collect();
        assert_eq!(echoed, [chosen]);
    }
}

#[tokio::test]
async fn a_handshake_that_is_wrong_is_answered_in_http() {
    let server = echoing().await;
    for (headers, status, field) in [
        (&[("sec-websocket-protocol", "")][..], 400, "sec-websocket-protocol"),
        (&[("sec-websocket-protocol", "soap")], 400, "sec-websocket-protocol"),
        (&[("sec-websocket-key", "c2hvcnQ=")], 400, "sec-websocket-key"),
        (&[("sec-websocket-key", "")], 400, "sec-websocket-key"),
        (&[("sec-websocket-version", "8")], 426, ""),
        (&[("upgrade", "")], 426, ""),
        (&[("upgrade", "h2c")], 426, ""),
        (&[("connection", "keep-alive")], 426, ""),
    ] {
        let headers = [&[("sec-websocket-protocol", JSON)], headers].concat();
        let answer = server.refused(&request("/v1/say", &headers)).await;
        assert_eq!(answer.status, status, "{headers:?}");
        let error = &answer.json()["error"];
        assert_eq!(error["details"][0]["fieldViolations"][0]["field"].as_str().unwrap_or_default(), field, "{error}");
        if status == 426 {
            assert_eq!((answer.header("upgrade"), answer.header("sec-websocket-version")), ("websocket", "13"));
        }
    }
}

#[tokio::test]
async fn a_path_that_is_only_a_web_socket_has_no_other_method() {
    let server = echoing().await;
    let mut request = Request::get("/v1/say").body(()).expect("a request");
    assert_eq!(server.refused(&request).await.status, 426);
    *request.method_mut() = Method::POST;
    let answer = server.refused(&request).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, OPTIONS"));
    *request.method_mut() = Method::OPTIONS;
    let answer = server.refused(&request).await;
    assert_eq!((answer.status, answer.header("allow")), (204, "GET, OPTIONS"));
    let elsewhere = support::websocket::request("/v1/nowhere", &[("sec-websocket-protocol", JSON)]);
    assert_eq!(server.refused(&elsewhere).await.status, 404);
    assert!(gateway(as_is, echo()).has_route(&Method::GET, "/v1/say"));
}

#[tokio::test]
async fn one_path_may_be_a_web_socket_and_a_route() {
    let server = Server::start(gateway(|b| b.alias("/api", "/v1"), echo())).await;
    for path in ["/v1/watch/x", "/api/watch/x"] {
        let mut socket = server.open(path, JSON).await;
        say(&mut socket, r#"{"text":"hi"}"#).await;
        assert_eq!(hear(&mut socket).await, json!({ "result": { "room": "x", "text": "hi" } }));
        // One message is all that the method takes.
        assert_eq!(closed(&mut socket).await, (1000, "OK".into()));
        let answer = server.refused(&Request::get(path).body(()).expect("a request")).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "result": { "room": "x" } })));
    }
}

#[tokio::test]
async fn a_half_close_alone_is_the_message_of_path_and_query() {
    let server = echoing().await;
    for (path, message) in [
        ("/v1/watch/x?n=1", Some(json!({ "room": "x", "n": "1" }))),
        ("/v1/talk/x", Some(json!({ "room": "x" }))),
        ("/v1/say", None),
    ] {
        let mut socket = server.open(path, JSON).await;
        say(&mut socket, "half-close").await;
        say(&mut socket, "half-close").await;
        if let Some(message) = message {
            assert_eq!(hear(&mut socket).await["result"], message);
        }
        assert_eq!(closed(&mut socket).await, (1000, "OK".into()), "{path}");
    }
}

#[tokio::test]
async fn path_and_query_are_checked_before_the_socket_opens() {
    let server = echoing().await;
    for (path, field) in [
        ("/v1/say?nope=1", "nope"),
        ("/v1/say?access_token=abc", "access_token"),
        ("/v1/say?n=x", "n"),
        ("/v1/talk/x?room=y", "room"),
    ] {
        let answer = server.refused(&request(path, &[("sec-websocket-protocol", JSON)])).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["details"][0]["fieldViolations"][0]["field"]),
            (400, &json!(field)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_path_and_query_set_the_first_message_must_not() {
    let server = echoing().await;
    let message = b"\x0a\x01y"; // room: "y"
    let machine = b"\x3a\x01m"; // machine: "m"
    let inner = b"\x22\x03\x12\x01t"; // inner: { text: "t" }
    for (path, text, binary, reason) in [
        ("/v1/talk/x", r#"{"room":"y"}"#, &message[..], "room: already given in another part of the request"),
        ("/v1/say?room=x", r#"{"room":"y"}"#, message, "room: already given in another part of the request"),
        ("/v1/say?inner.text=x", r#"{"inner":{"text":"t"}}"#, inner, "inner.text: already given"),
        ("/v1/say?other.text=x", r#"{"machine":"m"}"#, machine, "another member of oneof \"by\" is already set"),
        ("/v1/say?person=x", r#"{"machine":"m"}"#, machine, "another member of oneof \"by\" is already set"),
    ] {
        for (protocol, message) in [(JSON, Message::text(text)), (PROTO, Message::binary(binary.to_vec()))] {
            let mut socket = server.open(path, protocol).await;
            say(&mut socket, message).await;
            let error = hear(&mut socket).await;
            assert_eq!(error["error"]["code"], 400, "{error}");
            let (code, given) = closed(&mut socket).await;
            assert!(code == 1007 && given.contains(reason), "{path}: {given}");
        }
    }
    // Another part of the same message, and elements of the same list, are not the same field.
    let mut socket = server.open("/v1/say?inner.text=x", JSON).await;
    say(&mut socket, r#"{"inner":{"n":"1"}}"#).await;
    assert_eq!(hear(&mut socket).await, json!({ "result": { "inner": { "text": "x", "n": "1" } } }));
}

#[tokio::test]
async fn messages_that_are_malformed_close_with_the_place_of_the_mistake() {
    let server = echoing().await;
    for (protocol, message, code, reason) in [
        (JSON, Message::text(r#"{"inner":{"n":"x"}}"#), 1007, "inner.n: expected int64, got \"x\""),
        (JSON, Message::text(r#"{"nope":1}"#), 1007, "nope: unknown field"),
        (JSON, Message::text(""), 1007, "malformed JSON at byte 0: expected object"),
        (PROTO, Message::binary(&b"\x22\x02\x0a\x05"[..]), 1007, "inner: truncated message"),
        (PROTO, Message::binary(&b"\x0a\x01\xff"[..]), 1007, "room: not valid UTF-8"),
        (JSON, Message::binary(&b"{}"[..]), 1003, "rialto.json.v1 has text frames only"),
        (PROTO, Message::text("{}"), 1003, "a text frame of rialto.proto.v1 can only be half-close"),
    ] {
        let mut socket = server.open("/v1/say", protocol).await;
        say(&mut socket, message.clone()).await;
        let error = &hear(&mut socket).await["error"];
        assert_eq!((&error["reason"], &error["message"]), (&json!("INVALID_FORMAT"), &json!(reason)), "{message:?}");
        assert_eq!(closed(&mut socket).await, (code, reason.to_owned()));
    }
}

#[tokio::test]
async fn frames_that_are_none_close_too() {
    let server = echoing().await;
    let text = |payload: &'static [u8]| Frame::message(payload, OpCode::Data(Data::Text), true);
    let continuation = Frame::message(&b"{}"[..], OpCode::Data(Data::Continue), true);
    for (frame, code) in [(text(b"\"\xff\""), 1007), (continuation, 1002)] {
        let mut socket = server.open("/v1/say", JSON).await;
        say(&mut socket, Message::Frame(frame)).await;
        hear(&mut socket).await;
        assert_eq!(closed(&mut socket).await.0, code);
    }
}

#[tokio::test]
async fn no_message_may_follow_the_half_close() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(as_is, upstream)).await;
    // Reads, and does not answer.
    tokio::spawn(async move {
        let mut feeds = Vec::new();
        while let Some(call) = calls.recv().await {
            let (mut requests, feed) = call.feed();
            while request_message(&mut requests).await.is_some_and(|message| message.is_ok()) {}
            feeds.push(feed);
        }
    });
    for (path, before) in [("/v1/say", "half-close"), ("/v1/watch/x", "{}")] {
        let mut socket = server.open(path, JSON).await;
        say(&mut socket, before).await;
        say(&mut socket, "{}").await;
        hear(&mut socket).await;
        assert_eq!(closed(&mut socket).await, (1008, "no message may follow the half-close".into()));
    }
}

#[tokio::test]
async fn a_message_may_come_in_fragments_and_none_may_be_too_large() {
    let server = Server::start(gateway(|b| b.max_request_bytes(1000), echo())).await;
    let fragment =
        |payload: &[u8], kind, last| Message::Frame(Frame::message(payload.to_vec(), OpCode::Data(kind), last));
    let mut socket = server.open("/v1/say", JSON).await;
    say(&mut socket, fragment(br#"{"te"#, Data::Text, false)).await;
    say(&mut socket, Message::Ping("p".into())).await;
    say(&mut socket, fragment(br#"xt":"#, Data::Continue, false)).await;
    say(&mut socket, fragment(br#""hi"}"#, Data::Continue, true)).await;
    assert_eq!(socket.next().await.expect("a frame").expect("no error"), Message::Pong("p".into()));
    assert_eq!(hear(&mut socket).await, json!({ "result": { "text": "hi" } }));
    // As large as allowed, then larger: in one frame, and in fragments of which none is.
    let padded = |size: usize| format!("{{}}{}", " ".repeat(size - 2));
    say(&mut socket, padded(1000)).await;
    assert_eq!(hear(&mut socket).await, json!({ "result": {} }));
    say(&mut socket, padded(1001)).await;
    assert_eq!(hear(&mut socket).await["error"]["reason"], "PAYLOAD_TOO_LARGE");
    assert_eq!(closed(&mut socket).await, (1009, "the request body is larger than 1000 bytes".into()));
    let mut socket = server.open("/v1/say", JSON).await;
    say(&mut socket, fragment(&[b' '; 600], Data::Text, false)).await;
    say(&mut socket, fragment(&[b' '; 600], Data::Continue, true)).await;
    hear(&mut socket).await;
    assert_eq!(closed(&mut socket).await.0, 1009);
}

#[tokio::test]
async fn a_client_that_still_sends_learns_why_it_was_closed() {
    let server = Server::start(gateway(|b| b.max_request_bytes(1000), echo())).await;
    let (mut sink, mut stream) = server.open("/v1/say", JSON).await.split();
    // More than the sockets' buffers hold, so that it is on its way when the answer comes.
    let sending = tokio::spawn(async move { sink.send(Message::text(" ".repeat(20 << 20))).await });
    let mut last = None;
    while let Some(Ok(frame)) = stream.next().await {
        last = Some(frame);
    }
    let Some(Message::Close(Some(close))) = last else { panic!("{last:?}") };
    assert_eq!(u16::from(close.code), 1009);
    let _ = sending.await;
}

#[tokio::test]
async fn a_client_stream_has_one_answer() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(as_is, upstream)).await;
    let mut socket = server.open("/v1/collect?n=2", JSON).await;
    for text in ["a", "b"] {
        say(&mut socket, json!({ "text": text }).to_string()).await;
    }
    say(&mut socket, "half-close").await;
    let (mut requests, feed) = calls.recv().await.expect("a call").feed();
    for message in [&b"\x12\x01a\x18\x02"[..], b"\x12\x01b"] {
        assert_eq!(request_message(&mut requests).await.expect("a message").expect("no error"), message);
    }
    assert!(request_message(&mut requests).await.is_none());
    feed.message(b"\x18\x02");
    feed.end(0);
    assert_eq!(hear(&mut socket).await, json!({ "result": { "n": "2" } }));
    assert_eq!(closed(&mut socket).await, (1000, "OK".into()));
}

#[tokio::test]
async fn a_call_that_fails_at_once_has_an_http_status() {
    let server = Server::start(gateway(as_is, refuse(Status::unauthenticated("who are you?")))).await;
    for path in ["/v1/say", "/v1/collect", "/v1/watch/x"] {
        let headers = [("sec-websocket-protocol", JSON), ("x-request-id", "r1")];
        let answer = server.refused(&request(path, &headers)).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["status"]), (401, &json!("UNAUTHENTICATED")));
        assert_eq!((&error["message"], &error["requestId"]), (&json!("who are you?"), &json!("r1")));
    }
}

#[tokio::test]
async fn a_call_that_fails_later_closes_with_its_code_and_the_whole_error() {
    for protocol in [JSON, PROTO] {
        let (upstream, mut calls) = played();
        // The hold passes before the call fails.
        let configure = |b: Builder| b.stream_header_hold(std::time::Duration::ZERO);
        let server = Server::start(gateway(configure, upstream)).await;
        let stream = tokio::net::TcpStream::connect(server.address).await.expect("the server accepts");
        let headers =
            [("sec-websocket-protocol", protocol), ("x-request-id", "r1"), ("accept", "application/problem+json")];
        let mut socket = support::websocket::client(stream, &request("/v1/say", &headers)).await;
        let long = "ä".repeat(100);
        let failed = Status::permission_denied(&long).into_http();
        let _requests = calls.recv().await.expect("a call").answer(failed);
        let error = hear(&mut socket).await;
        assert_eq!((&error["error"]["message"], &error["error"]["requestId"]), (&json!(long), &json!("r1")));
        assert_eq!(error["error"]["code"], 403);
        // 123 bytes would end within a character.
        assert_eq!(closed(&mut socket).await, (4007, "ä".repeat(61)));
    }
}

#[tokio::test]
async fn every_failing_status_has_a_close_code() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(as_is, upstream)).await;
    for code in 1..=16 {
        let (mut socket, call) = tokio::join!(server.open("/v1/say", JSON), async {
            let (requests, feed) = calls.recv().await.expect("a call").feed();
            feed.message(b"");
            feed.end(code);
            requests
        });
        assert_eq!(hear(&mut socket).await, json!({ "result": {} }));
        assert_eq!(hear(&mut socket).await["error"]["message"], "");
        assert_eq!(closed(&mut socket).await, (4000 + code as u16, String::new()), "{:?}", Code::from(code));
        drop(call);
    }
}

#[tokio::test]
async fn one_credential_reaches_the_upstream_as_authorization() {
    const PAGE: &str = "https://app.example.com";
    let (upstream, mut calls) = played();
    let configure = |b: Builder| b.web_socket_cookie("session").web_socket_origins([PAGE]);
    let server = Server::start(gateway(configure, upstream)).await;
    let bearer = "bearer.a.b-c_d, rialto.json.v1";
    for (headers, token) in [
        (&[][..], ""),
        (&[("authorization", "Bearer abc")], "Bearer abc"),
        (&[("authorization", "Bearer abc"), ("origin", "https://evil.example.com")], "Bearer abc"),
        (&[("sec-websocket-protocol", bearer)], "Bearer a.b-c_d"),
        (&[("sec-websocket-protocol", bearer), ("origin", "https://evil.example.com")], "Bearer a.b-c_d"),
        (&[("cookie", "a=b; session=abc"), ("origin", PAGE)], "Bearer abc"),
        (&[("cookie", "sessions=abc; session="), ("origin", "https://evil.example.com")], ""),
    ] {
        let stream = tokio::net::TcpStream::connect(server.address).await.expect("the server accepts");
        let request = request("/v1/say", &[&[("sec-websocket-protocol", JSON)], headers].concat());
        let (_, call) = tokio::join!(support::websocket::client(stream, &request), async {
            let call = calls.recv().await.expect("a call");
            let headers = call.headers.clone();
            (headers, call.feed())
        });
        let sent = call.0.get("authorization").map_or("", |value| value.to_str().expect("ASCII"));
        assert_eq!(sent, token, "{headers:?}");
        assert!(call.0.get("cookie").is_none() && call.0.get("sec-websocket-protocol").is_none());
    }
    for (headers, status, field) in [
        (&[("cookie", "session=abc")][..], 403, ""),
        (&[("cookie", "session=abc"), ("origin", "https://evil.example.com")], 403, ""),
        (&[("cookie", "session=abc"), ("origin", "https://app.example.com.evil.org")], 403, ""),
        (&[("cookie", "session=a c"), ("origin", PAGE)], 400, "cookie"),
        (&[("cookie", "session=abc; session=def"), ("origin", PAGE)], 400, "authorization"),
        (&[("cookie", "session=abc"), ("authorization", "Bearer abc"), ("origin", PAGE)], 400, "authorization"),
        (&[("sec-websocket-protocol", bearer), ("authorization", "Bearer abc")], 400, "authorization"),
        (&[("sec-websocket-protocol", "bearer.a, bearer.b, rialto.json.v1")], 400, "authorization"),
        (&[("sec-websocket-protocol", "bearer., rialto.json.v1")], 400, "sec-websocket-protocol"),
        (&[("authorization", "Bearer abc"), ("authorization", "Bearer def")], 400, "authorization"),
    ] {
        let request = request("/v1/say", &[&[("sec-websocket-protocol", JSON)], headers].concat());
        let answer = server.refused(&request).await;
        assert_eq!(answer.status, status, "{headers:?}");
        let error = &answer.json()["error"];
        assert_eq!(error["details"][0]["fieldViolations"][0]["field"].as_str().unwrap_or_default(), field, "{error}");
        assert!(!answer.text().contains("abc"), "{}", answer.text());
    }
}

#[tokio::test]
async fn without_a_name_no_cookie_counts() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(as_is, upstream)).await;
    let stream = tokio::net::TcpStream::connect(server.address).await.expect("the server accepts");
    let request = request("/v1/say", &[("sec-websocket-protocol", JSON), ("cookie", "session=abc")]);
    let (_, call) = tokio::join!(support::websocket::client(stream, &request), calls.recv());
    assert!(call.expect("a call").headers.get("authorization").is_none());
}

#[tokio::test]
async fn headers_and_deadlines_pass_as_elsewhere() {
    let (upstream, mut calls) = played();
    let server = Server::start(gateway(as_is, upstream)).await;
    let stream = tokio::net::TcpStream::connect(server.address).await.expect("the server accepts");
    let headers = [("sec-websocket-protocol", JSON), ("x-request-timeout", "2.5"), ("x-request-id", "r1")];
    let request = request("/v1/talk/x", &headers);
    let (response, call) = tokio::join!(tokio_tungstenite::client_async(request, stream), async {
        let call = calls.recv().await.expect("a call");
        let seen = (call.path.clone(), call.headers.clone());
        let (_, body) = played();
        drop(body);
        let mut answer = http::Response::new(tonic::body::Body::empty());
        answer.headers_mut().insert("x-request-id", "r1".parse().expect("a value"));
        answer.headers_mut().insert("x-secret", "s".parse().expect("a value"));
        call.answer(answer);
        seen
    });
    let (_, response) = response.expect("101");
    assert_eq!(response.headers()["x-request-id"], "r1");
    assert!(response.headers().get("x-secret").is_none());
    assert_eq!((call.0.as_str(), &call.1["grpc-timeout"]), ("/t.Chat/Talk", &"2500000u".parse().expect("a value")));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sockets_at_once_do_not_mix() {
    let server = echoing().await;
    let clients = (0..50).map(|i| {
        let server = &server;
        async move {
            let mut socket = server.open(&format!("/v1/talk/{i}"), JSON).await;
            for n in 1..=20 {
                say(&mut socket, json!({ "n": n.to_string() }).to_string()).await;
            }
            for n in 1..=20 {
                let heard = hear(&mut socket).await;
                let room = if n == 1 { json!(i.to_string()) } else { json!(null) };
                assert_eq!((&heard["result"]["n"], &heard["result"]["room"]), (&json!(n.to_string()), &room));
            }
            say(&mut socket, "half-close").await;
            assert_eq!(closed(&mut socket).await, (1000, "OK".into()));
        }
    });
    futures_util::future::join_all(clients).await;
}

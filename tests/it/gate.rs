//! The gate: rates, deadlines, idempotency keys, and what it lets through.

use std::time::Duration;

use reqwest::Method;
use rialto::kernel::config::Limit;
use rialto::proto::rialto::auth::v1::{GetMeRequest, LoginRequest};
use rialto::proto::rialto::messaging::v1::CreateConversationRequest;
use serde_json::json;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::harness::{World, refusal, soon};

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_counted_by_the_flood_guard() {
    let mut world = World::new().await;
    world.config.server.flood_per_second = 1;
    world.config.server.flood_burst = 20;
    world.config.rates.factor = 1;
    let node = world.node().await;
    let mut refused = 0;
    for _ in 0..30 {
        let preflight = node.http().request(Method::OPTIONS, node.url("/v1/auth/login"));
        let preflight = preflight.header("origin", "https://app.example.com");
        let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
        refused += usize::from(preflight.status() == 429);
    }
    assert!(refused >= 5, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_calls_too_often_is_told_when_to_come_back_on_every_node() {
    let mut world = World::new().await;
    world.config.rates.factor = 1;
    world.config.rates.account = Limit { calls: 5, seconds: 3600 };
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    for (left, node) in (0..5).rev().zip([&one, &two, &one, &two, &one]) {
        let answer = ann.get(node, "/v1/auth/me").await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            (&answer.headers["ratelimit-limit"], &answer.headers["ratelimit-remaining"]),
            (&"5".into(), &left.to_string())
        );
        assert!(answer.headers.contains_key("ratelimit-reset"));
    }
    let refused = ann.get(&two, "/v1/auth/me").await;
    refused.refused(429, "RATE_LIMIT_EXCEEDED", 5004);
    assert_eq!(refused.headers["ratelimit-remaining"], "0");
    assert!((1..=720).contains(&refused.headers["retry-after"].parse::<u64>().unwrap()), "{:?}", refused.headers);

    let status = ann.auth(&one).get_me(GetMeRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() <= Duration::from_secs(720));
}

#[tokio::test(flavor = "multi_thread")]
async fn proving_who_one_is_is_limited_per_address_and_asking_for_mail_per_address_that_is_named() {
    let mut world = World::new().await;
    world.config.server.trusted_proxies = 1;
    world.config.rates.factor = 1;
    world.config.rates.authentication = Limit { calls: 3, seconds: 3600 };
    let node = world.node().await;
    let guess = async |address: &str, email: &str| {
        let body = json!({ "email": email, "password": "guess" });
        let request = node.http().post(node.url("/v1/auth/login")).header("x-forwarded-for", address).json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    let forgot = async |address: &str, email: &str| {
        let request = node.http().post(node.url("/v1/auth/forgot-password")).header("x-forwarded-for", address);
        request.json(&json!({ "email": email })).send().await.unwrap().status().as_u16()
    };
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        assert_eq!(forgot(address, "ann@example.com").await, 200);
    }
    assert_eq!(forgot("10.0.0.4", "ANN@example.com").await, 429);
    // What the client itself wrote into the header does not help it.
    for email in ["b@example.com", "c@example.com", "d@example.com"] {
        assert_eq!(guess("6.6.6.6, 10.0.1.1", email).await, 401);
    }
    assert_eq!(guess("7.7.7.7, 10.0.1.1", "e@example.com").await, 429);
    // An IPv6 network is one client.
    for (host, expected) in [(1, 401), (2, 401), (3, 401), (4, 429)] {
        assert_eq!(guess(&format!("2001:db8::{host}"), &format!("{host}@example.com")).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_calls_and_bad_tokens_are_limited_per_address() {
    let mut world = World::new().await;
    world.config.rates.factor = 1;
    world.config.rates.anonymous = Limit { calls: 3, seconds: 3600 };
    let node = world.node().await;
    for _ in 0..3 {
        node.rest(Method::GET, "/v1/auth/me", Some("x"), None).await.refused(401, "TOKEN_INVALID", 1004);
    }
    node.rest(Method::GET, "/v1/auth/me", Some("x"), None).await.refused(429, "RATE_LIMIT_EXCEEDED", 5004);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_in_the_clients_own_protocol() {
    let mut world = World::new().await;
    world.config.rates.factor = 1;
    (world.config.server.flood_per_second, world.config.server.flood_burst) = (1, 3);
    let node = world.node().await;
    for _ in 0..3 {
        node.rest(Method::GET, "/health", None, None).await.ok();
    }
    let from_a_page = node.http().get(node.url("/health")).header("origin", "https://app.example.com").send();
    let refused = crate::harness::Answer::of(from_a_page.await.unwrap()).await;
    refused.refused(429, "RATE_LIMIT_EXCEEDED", 5004);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["access-control-allow-origin"], "https://app.example.com");
    let login = LoginRequest { email: "a@b.c".into(), password: "x".into(), ..Default::default() };
    let refused = refusal(node.auth().login(login).await);
    assert_eq!(refused, (Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED".into()));
    let connect = async |method: &str, content_type: &str| {
        let request = node.http().post(node.url(&format!("/rialto.{method}"))).header("content-type", content_type);
        crate::harness::Answer::of(request.send().await.unwrap()).await
    };
    let refused = connect("auth.v1.AuthService/GetMe", "application/proto").await;
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("resource_exhausted")));
    assert_eq!(refused.body["details"][1]["debug"]["reason"], "RATE_LIMIT_EXCEEDED", "{}", refused.body);
    let refused = connect("messaging.v1.MessagingService/Subscribe", "application/connect+json").await;
    assert_eq!((refused.status, refused.headers["content-type"].as_str()), (200, "application/connect+json"));
    assert!(refused.body.as_str().unwrap().contains(r#"{"error":{"code":"resource_exhausted""#), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_given_up_at_its_deadline_over_grpc_and_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    // Holds the only thing that the call needs.
    use diesel_async::SimpleAsyncConnection;
    let mut lock = world.database().await;
    lock.batch_execute("BEGIN; LOCK TABLE accounts").await.unwrap();

    // Not by tonic's client, which gives up by itself.
    let message = prost::Message::encode_to_vec(&LoginRequest {
        email: ann.email.clone(),
        password: "x".into(),
        ..Default::default()
    });
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let request = node.http().post(node.url("/rialto.auth.v1.AuthService/Login")).header("grpc-timeout", "50m");
    let request = request.header("content-type", "application/grpc-web+proto");
    let answer = soon(request.body([&[0], &length[..], &message].concat()).send()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");

    let login = |name: &'static str, value: &'static str| {
        let request = node.http().post(node.url("/v1/auth/login")).header(name, value);
        request.json(&json!({ "email": ann.email, "password": "x" })).send()
    };
    for (name, value) in [("grpc-timeout", "50m"), ("x-request-timeout", "0.05")] {
        let answer = crate::harness::Answer::of(soon(login(name, value)).await.unwrap()).await;
        answer.refused(503, "TIMEOUT", 5003);
    }
    let answer = crate::harness::Answer::of(login("grpc-timeout", "soon").await.unwrap()).await;
    answer.refused(400, "INVALID_FORMAT", 2004);
    lock.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_repeated_with_its_idempotency_key_happens_once() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let create = async |user: &crate::harness::User, key: &str, title: &str| {
        let body = json!({ "title": title, "member_ids": [bob.id] });
        let request = node.http().post(node.url("/v1/conversations")).bearer_auth(&user.token);
        crate::harness::Answer::of(request.header("idempotency-key", key).json(&body).send().await.unwrap()).await
    };
    let first = create(&ann, "k", "one").await;
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let first = first.ok();
    let again = create(&ann, "k", "one").await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(), first);
    // The same request, said otherwise.
    let reordered = format!(r#"{{"memberIds":["{}"],"title":"one"}}"#, bob.id);
    let request = node.http().post(node.url("/v1/conversations")).bearer_auth(&ann.token);
    let request = request.header("idempotency-key", "k").header("content-type", "application/json").body(reordered);
    assert_eq!(crate::harness::Answer::of(request.send().await.unwrap()).await.ok(), first);
    create(&ann, "k", "another").await.refused(409, "IDEMPOTENCY_KEY_REUSED", 3003);
    // A key is its account's own.
    assert_ne!(create(&bob, "k", "one").await.ok()["id"], first["id"]);
    create(&ann, &"k".repeat(256), "one").await.refused(400, "INVALID_INPUT", 2002);
    assert_eq!(world.count("conversations").await, 2);

    // Over gRPC the same key and request give the same answer too, also compressed.
    let request = || {
        let message =
            CreateConversationRequest { title: "grpc".into(), member_ids: vec![bob.id.clone()], ..Default::default() };
        let mut request = Request::new(message);
        request.metadata_mut().insert("idempotency-key", "g".parse().unwrap());
        request
    };
    let mut client = ann.messaging(&node).accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    let one = client.create_conversation(request()).await.unwrap().into_inner();
    let two = client.create_conversation(request()).await.unwrap().into_inner();
    assert_eq!(one, two);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_with_one_idempotency_key_at_once_one_happens() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let calls = (0..10).map(|_| {
        let body = json!({ "member_ids": [bob.id] });
        let request = node.http().post(node.url("/v1/conversations")).bearer_auth(&ann.token);
        request.header("idempotency-key", "k").json(&body).send()
    });
    let statuses: Vec<_> = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .map(|answer| answer.unwrap().status().as_u16())
        .collect();
    assert!(statuses.contains(&200) && statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert_eq!(world.count("conversations").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_crashed_server_left_without_an_answer_can_be_made_again_after_a_minute() {
    use diesel_async::SimpleAsyncConnection;
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let create = async || {
        let request = node.http().post(node.url("/v1/conversations")).bearer_auth(&ann.token);
        let request = request.header("idempotency-key", "k").json(&json!({ "member_ids": [bob.id] }));
        crate::harness::Answer::of(request.send().await.unwrap()).await
    };
    create().await.ok();
    // As the crash would have left it.
    world.database().await.batch_execute("UPDATE idempotency_keys SET response = NULL").await.unwrap();
    let under_way = create().await;
    under_way.refused(409, "RESOURCE_CONFLICT", 3003);
    assert_eq!(under_way.headers["retry-after"], "1");
    world.clock.advance(Duration::from_secs(61));
    create().await.ok();
    create().await.ok();
    assert_eq!(world.count("conversations").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_not_kept_under_an_idempotency_key() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let create = async |member: &str| {
        let request = node.http().post(node.url("/v1/conversations")).bearer_auth(&ann.token);
        let body = json!({ "member_ids": [member] });
        request.header("idempotency-key", "k").json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(create("01890a5d-ac96-774b-bcce-b302099a8057").await, 422);
    assert_eq!(create(&bob.id).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_larger_than_the_limit_are_refused_on_every_transport() {
    let mut world = World::new().await;
    world.config.server.max_message_bytes = 2000;
    let node = world.node().await;
    let long = "x".repeat(3000);
    let login = LoginRequest { email: long.clone(), password: "x".into(), ..Default::default() };
    let refused = refusal(node.auth().login(login).await);
    assert_eq!(refused, (Code::ResourceExhausted, "PAYLOAD_TOO_LARGE".into()));
    let answer = node.rest(Method::POST, "/v1/auth/login", None, Some(json!({"email": long, "password": "x"}))).await;
    answer.refused(413, "PAYLOAD_TOO_LARGE", 2002);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_grpc_message_is_the_clients_fault() {
    let world = World::new().await;
    let node = world.node().await;
    let status = async |body: &[u8]| {
        let request = node.http().post(node.url("/rialto.auth.v1.AuthService/Login"));
        let request = request.header("content-type", "application/grpc-web+proto").body(body.to_vec());
        soon(request.send()).await.unwrap().headers()["grpc-status"].to_str().unwrap().to_owned()
    };
    // Nothing, half a head, an unknown flag, compression that was not announced, a length that lies, no protobuf.
    for body in [&[][..], &[0, 0], &[9, 0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 1], &[0, 0, 0, 0, 1, 0xff]] {
        assert_eq!(status(body).await, "3", "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_unimplemented_and_an_unknown_path_is_not_found() {
    let world = World::new().await;
    let node = world.node().await;
    let mut grpc = tonic::client::Grpc::new(node.channel());
    for path in ["/rialto.auth.v1.AuthService/Nothing", "/no.such.Service/Login", "/x"] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<GetMeRequest, GetMeRequest>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let refused = refusal(grpc.unary(Request::new(GetMeRequest {}), path, codec).await);
        assert_eq!(refused, (Code::Unimplemented, "METHOD_UNKNOWN".into()));
    }
    node.rest(Method::GET, "/v1/nothing", None, None).await.refused(404, "ROUTE_NOT_FOUND", 3001);
    let wrong_method = node.rest(Method::DELETE, "/v1/auth/login", None, None).await;
    wrong_method.refused(405, "METHOD_NOT_ALLOWED", 2002);
    assert_eq!(wrong_method.headers["allow"], "OPTIONS, POST");
    // The path of a method is Connect's.
    let connect = node.rest(Method::POST, "/rialto.auth.v1.AuthService/GetMe", None, Some(json!({}))).await;
    assert_eq!((connect.status, &connect.body["code"]), (401, &json!("unauthenticated")));
    let nothing = node.rest(Method::POST, "/rialto.auth.v1.AuthService/Nothing", None, Some(json!({}))).await;
    nothing.refused(404, "ROUTE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_taken_from_the_client_if_it_is_fit_for_a_log() {
    let world = World::new().await;
    let node = world.node().await;
    let ask = async |id: &str| {
        let answer = node.http().get(node.url("/v1/nothing")).header("x-request-id", id).send().await.unwrap();
        answer.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("abc-1.2_3").await, "abc-1.2_3");
    for unfit in ["", "a b", "a\"b", &"x".repeat(65)] {
        let given = ask(unfit).await;
        assert!(given.len() > 16 && given.chars().all(|c| c.is_ascii_hexdigit()), "{given}");
    }
}

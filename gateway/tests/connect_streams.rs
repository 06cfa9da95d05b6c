//! Streams of the Connect protocol, through a socket.

mod support;

use std::convert::Infallible;
use std::io::Read;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use support::echo::{Fixture, failed, gzip, json_request, next, note, open, request};
use support::socket::{Client, Envelopes, envelope, feed, full};
use support::{Iter, framed, ok, trailers};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;

#[tokio::test]
async fn a_server_streams_in_json_and_in_protobuf() {
    let mut f = Fixture::new().await;
    for (content_type, form) in [("application/connect+json", "json"), ("application/connect+proto", "proto")] {
        let mut client = Client::h1(f.address).await;
        let body = if form == "json" { note("a") } else { envelope(0, f.note("a")) };
        let sent = tokio::spawn(async move {
            client.send(request("Watch", &format!("{content_type}; charset=utf-8"), full(body))).await
        });
        let (mut requests, answer) = f.incall().await.begin();
        assert_eq!(requests.next().await, Some((0, f.note("a").into())));
        assert_eq!(requests.next().await, None);
        for text in ["b", "c"] {
            answer.data(framed(&f.note(text))).await;
        }
        let mut last = trailers(0);
        last.insert("ratelimit-reset", 7.into());
        last.insert("x-secret", 7.into());
        answer.trailers(last).await;
        let sent = sent.await.expect("an answer");
        assert_eq!((sent.status, sent.header("content-type")), (200, content_type));
        assert_eq!(sent.header("x-accel-buffering"), "no");
        let mut expected = Vec::new();
        for text in ["b", "c"] {
            let message = f.note(text);
            let json = format!("{{\"text\":\"{text}\"}}").into_bytes();
            expected.extend(envelope(0, if form == "json" { json } else { message }));
        }
        expected.extend(envelope(2, r#"{"metadata":{"ratelimit-reset":["7"]}}"#));
        assert_eq!(sent.body, expected);
    }
}

#[tokio::test]
async fn a_client_streams_and_gets_one_message() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    // However the bytes are cut.
    let bytes: Vec<u8> = [note("a"), note("b"), envelope(0, "{}")].concat();
    let pieces = bytes.chunks(3).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))));
    let body = Body::new(StreamBody::new(Iter(pieces.collect::<Vec<_>>().into_iter())));
    let sent = tokio::spawn(async move { client.send(json_request("Collect", body)).await });
    let (mut requests, answer) = f.incall().await.begin();
    for text in ["a", "b", ""] {
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
    }
    assert_eq!(requests.next().await, None);
    answer.data(framed(&f.note("done"))).await;
    answer.trailers(trailers(0)).await;
    let sent = sent.await.expect("an answer");
    assert_eq!(sent.body, [note("done"), envelope(2, "{}")].concat());
    // An answer may end before the client's half does.
    assert_eq!(sent.header("connection"), "close");
}

#[tokio::test]
async fn both_sides_talk_at_once_over_http_2() {
    let mut f = Fixture::new().await;
    let mut client = Client::h2(f.address).await;
    let (say, body) = feed();
    let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
    let (mut requests, answer) = f.incall().await.begin();
    let mut stream = opened.await.expect("an answer before the first message");
    for text in ["a", "b", "c"] {
        say.data(note(text)).await;
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
        answer.data(framed(&f.note(text))).await;
        assert_eq!(next(&mut stream).await, Ok(text.into()));
    }
    drop(say);
    assert_eq!(requests.next().await, None);
    // The client's half is closed, the service's is not.
    answer.data(framed(&f.note("last"))).await;
    assert_eq!(next(&mut stream).await, Ok("last".into()));
    answer.trailers(trailers(0)).await;
    assert_eq!(next(&mut stream).await, Err(json!({})));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn one_side_talks_after_the_other_over_http_1() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    let body = full([note("a"), note("b")].concat());
    let opened = tokio::spawn(async move { open(&mut client, json_request("Chat", body)).await });
    let (mut requests, answer) = f.incall().await.begin();
    for text in ["a", "b"] {
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
    }
    assert_eq!(requests.next().await, None);
    let mut stream = opened.await.expect("an answer");
    answer.data(framed(&f.note("c"))).await;
    answer.trailers(trailers(0)).await;
    assert_eq!(next(&mut stream).await, Ok("c".into()));
    assert_eq!(next(&mut stream).await, Err(json!({})));
}

#[tokio::test]
async fn a_call_that_fails_at_once_or_later_says_so_at_the_end_of_its_stream() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    let sent = tokio::spawn(async move { client.send(json_request("Watch", full(note("a")))).await });
    let denied = Status::with_error_details(Code::PermissionDenied, "not yours", details());
    f.incall().await.answer.send(Ok(denied.into_http())).expect("the gateway waits");
    let sent = sent.await.expect("an answer");
    assert_eq!((sent.status, sent.header("content-type")), (200, "application/connect+json"));
    let end: Value = serde_json::from_slice(&sent.body[5..]).expect("JSON");
    assert_eq!((&end["error"]["code"], &end["error"]["message"]), (&json!("permission_denied"), &json!("not yours")));
    assert_eq!(end["error"]["details"][0]["debug"]["reason"], "NOT_YOURS");

    let mut client = Client::h1(f.address).await;
    let opened = tokio::spawn(async move { open(&mut client, json_request("Watch", full(note("a")))).await });
    let (_, answer) = f.incall().await.begin();
    let mut stream = opened.await.expect("an answer");
    answer.data(framed(&f.note("b"))).await;
    answer.trailers(trailers(14)).await;
    assert_eq!(next(&mut stream).await, Ok("b".into()));
    failed(next(&mut stream).await, "unavailable", "");
    assert_eq!(stream.next().await, None);
}

fn details() -> tonic_types::ErrorDetails {
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info("NOT_YOURS", "test", []);
    details
}

#[tokio::test]
async fn what_is_wrong_with_the_head_is_told_at_the_end_of_the_stream() {
    let f = Fixture::new().await;
    for (name, value, code, part) in [
        ("connect-protocol-version", "2", "invalid_argument", "connect-protocol-version"),
        ("connect-timeout-ms", "x", "invalid_argument", "connect-timeout-ms"),
        ("connect-content-encoding", "br", "unimplemented", "gzip"),
        ("content-encoding", "snappy", "unimplemented", "gzip"),
    ] {
        let mut client = Client::h1(f.address).await;
        let mut request = json_request("Watch", full(note("a")));
        request.headers_mut().insert(name, value.parse().expect("value"));
        failed(next(&mut open(&mut client, request).await).await, code, part);
    }
}

#[tokio::test]
async fn a_method_that_takes_one_message_takes_one_message() {
    let mut f = Fixture::new().await;
    for body in [Vec::new(), [note("a"), note("b")].concat()] {
        let mut client = Client::h1(f.address).await;
        let end = next(&mut open(&mut client, json_request("Watch", full(body))).await).await;
        failed(end, "unimplemented", "exactly one message");
    }
    assert!(f.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_method_that_gives_one_message_gives_one_message() {
    let mut f = Fixture::new().await;
    for (messages, part) in [(vec![], "without a message"), (vec![Vec::new(); 2], "more than one message")] {
        let mut client = Client::h1(f.address).await;
        let opened = tokio::spawn(async move { open(&mut client, json_request("Collect", full(note("a")))).await });
        f.incall().await.answer.send(Ok(ok(messages))).expect("the gateway waits");
        let mut stream = opened.await.expect("an answer");
        let mut end = stream.next().await.expect("a message");
        while end.0 == 0 {
            end = stream.next().await.expect("a message");
        }
        failed(Err(serde_json::from_slice(&end.1).expect("JSON")), "internal", part);
    }
}

#[tokio::test]
async fn messages_may_be_compressed_one_by_one() {
    let mut f = Fixture::new().await;
    let mut client = Client::h1(f.address).await;
    let body = full([envelope(1, gzip(br#"{"text":"a"}"#)), note("b"), envelope(1, gzip(b"{}"))].concat());
    let mut request = json_request("Collect", body);
    request.headers_mut().insert("connect-content-encoding", "gzip".parse().expect("value"));
    let sent = tokio::spawn(async move { client.send(request).await });
    let (mut requests, answer) = f.incall().await.begin();
    for text in ["a", "b", ""] {
        assert_eq!(requests.next().await, Some((0, f.note(text).into())));
    }
    answer.data(framed(&f.note("c"))).await;
    answer.trailers(trailers(0)).await;
    let sent = sent.await.expect("an answer");
    assert_eq!(sent.header("connect-accept-encoding"), "gzip");
    assert_eq!(sent.body, [note("c"), envelope(2, "{}")].concat());
}

#[tokio::test]
async fn long_messages_are_compressed_for_clients_that_take_it() {
    let mut f = Fixture::new().await;
    let long = "long ".repeat(1000);
    for (header, value, compressed) in [
        ("connect-accept-encoding", "br, gzip", true),
        ("connect-content-encoding", "gzip", true),
        ("connect-accept-encoding", "br", false),
        ("x-none", "", false),
    ] {
        let mut client = Client::h1(f.address).await;
        let mut request = json_request("Watch", full(note("a")));
        request.headers_mut().insert(header, value.parse().expect("value"));
        let opened = tokio::spawn(async move { client.open(request).await });
        f.incall().await.answer.send(Ok(ok([f.note("short"), f.note(&long)]))).expect("the gateway waits");
        let response = opened.await.expect("an answer");
        assert_eq!(response.headers().get("connect-content-encoding").is_some_and(|e| e == "gzip"), compressed);
        let mut stream = Envelopes::new(response.into_body());
        assert_eq!(next(&mut stream).await, Ok("short".into()));
        let (flags, message) = stream.next().await.expect("a message");
        assert_eq!((flags, message.len() < 1000), (u8::from(compressed), compressed), "{value}");
        let mut plain = Vec::new();
        if compressed {
            flate2::read::GzDecoder::new(&*message).read_to_end(&mut plain).expect("gzip");
        } else {
            plain.extend_from_slice(&message);
        }
        assert_eq!(serde_json::from_slice::<Value>(&plain).expect("JSON"), json!({ "text": long }));
        assert_eq!(next(&mut stream).await, Err(json!({})));
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_or_broken_upstream_ends_the_stream() {
    let mut f = Fixture::with(|b| b.max_response_message_bytes(100)).await;
    for (bytes, part) in [(framed(&[0; 101]), "too large"), (framed(b"\xff"), "no JSON form")] {
        let mut client = Client::h1(f.address).await;
        let opened = tokio::spawn(async move { open(&mut client, json_request("Watch", full(note("a")))).await });
        let (_, answer) = f.incall().await.begin();
        let mut stream = opened.await.expect("an answer");
        answer.data(framed(&f.note("b"))).await;
        assert_eq!(next(&mut stream).await, Ok("b".into()));
        answer.data(bytes).await;
        failed(next(&mut stream).await, "internal", part);
        answer.abandoned().await;
    }
}

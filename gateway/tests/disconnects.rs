//! Whoever leaves, the other side learns it: no test waits for a time to pass.

mod support;

use std::io;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::json;
use support::files::{Files, Guard, Seen, WAYS, Way, collecting, message, start};
use support::net::{self, Client, FedBody, fed_body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

const PUT: &str = "test.files.PutRequest";

#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// The socket is closed.
    Connection,
    /// The request breaks off: over HTTP/1.1 this is the same, over HTTP/2 a reset of the stream.
    Request,
}

async fn upload(f: &mut Files, http2: bool, leaving: Leaving) -> Seen {
    let (feed, body) = fed_body();
    let mut client: Client<FedBody> = if http2 { Client::http2(f.addr).await } else { Client::http1(f.addr).await };
    let request = Request::post("/v1/folders/f/files").body(body).expect("request");
    feed.send(Ok("half of it".into())).expect("open");
    let answer = tokio::spawn(async move {
        let answer = client.send(request).await;
        (client, answer)
    });
    assert!(matches!(f.next().await, Seen::Message(_)));
    assert!(matches!(f.next().await, Seen::Message(_)));
    match leaving {
        Leaving::Connection => answer.abort(),
        Leaving::Request => feed.send(Err(io::Error::other("enough"))).expect("open"),
    }
    f.next().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_off_never_looks_complete() {
    for way in WAYS {
        for http2 in [false, true] {
            for leaving in [Leaving::Connection, Leaving::Request] {
                for _ in 0..5 {
                    let mut f = collecting(way, PUT, |b| b);
                    let end = upload(&mut f, http2, leaving).await;
                    let broken = matches!(end, Seen::Broken(Code::Aborted | Code::Internal) | Seen::Dropped);
                    assert!(broken, "{way:?} http2={http2} {leaving:?}: {end:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_shorter_than_declared_never_looks_complete() {
    for way in WAYS {
        let mut f = collecting(way, PUT, |b| b);
        let mut socket = TcpStream::connect(f.addr).await.expect("connect");
        let head = "POST /v1/folders/f/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf of it";
        socket.write_all(head.as_bytes()).await.expect("write");
        assert!(matches!(f.next().await, Seen::Message(_)));
        assert!(matches!(f.next().await, Seen::Message(_)));
        // The writing side only: the client could still read.
        socket.shutdown().await.expect("shutdown");
        let end = f.next().await;
        assert!(matches!(end, Seen::Broken(Code::Aborted | Code::Internal) | Seen::Dropped), "{way:?}: {end:?}");
    }
}

/// Answers one message and then none for ever, or no message at all.
fn silent(way: Way, first: Option<(&'static str, serde_json::Value)>) -> Files {
    start(
        way,
        |b| b.stream_header_hold(std::time::Duration::ZERO),
        move |_, seen| {
            let first = first.clone();
            Box::pin(async move {
                let guard = Guard::new(seen.clone());
                let _ = seen.send(Seen::Ended);
                let Some((name, json)) = first else {
                    std::future::pending::<()>().await;
                    unreachable!("{}", std::mem::size_of_val(&guard));
                };
                let message = Bytes::from(message(name, json));
                let rest = stream::once(async move {
                    let _guard = guard;
                    std::future::pending().await
                });
                Ok(tonic::Response::new(stream::iter([Ok(message)]).chain(rest).boxed()))
            })
        },
    )
}

fn body() -> (&'static str, serde_json::Value) {
    ("google.api.HttpBody", json!({ "contentType": "a/b", "data": "AAAA" }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_the_call() {
    let row = || ("test.files.Row", json!({ "price": 1 }));
    for way in WAYS {
        for http2 in [false, true] {
            for (path, accept, first) in [
                ("/v1/described/x", "*/*", None),
                ("/v1/files/x", "*/*", None),
                ("/v1/files/x:download", "*/*", Some(body())),
                ("/v1/rows", "text/event-stream", Some(row())),
                ("/v1/rows", "application/x-ndjson", Some(row())),
                ("/v1/rows", "application/json", Some(row())),
            ] {
                let begun = first.is_some();
                let mut f = silent(way, first);
                let mut client = if http2 { Client::http2(f.addr).await } else { Client::http1(f.addr).await };
                let request = Request::get(path).header("accept", accept).body(Empty::<Bytes>::new()).expect("request");
                let answer = tokio::spawn(async move {
                    let answer = client.send(request).await;
                    (client, answer)
                });
                assert_eq!(f.next().await, Seen::Ended, "{path}: the call has begun");
                if begun {
                    let (client, answer) = answer.await.expect("no panic");
                    let mut answer = answer.expect("a head").into_body();
                    answer.frame().await.expect("a frame").expect("no error");
                    drop((client, answer));
                } else {
                    answer.abort();
                }
                assert_eq!(f.next().await, Seen::Dropped, "{way:?} http2={http2} {path} {accept}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_dies_ends_the_answer() {
    let row = || ("test.files.Row", json!({ "price": 1 }));
    // What says that the call failed; nothing where the body can only break off.
    for (path, accept, first, end) in [
        ("/v1/files/x:download", "*/*", body(), None),
        ("/v1/rows", "application/json", row(), None),
        ("/v1/rows", "application/x-ndjson", row(), Some("{\"error\":")),
        ("/v1/rows", "text/event-stream", row(), Some("event: error\n")),
    ] {
        let mut f = silent(Way::Tcp, Some(first));
        let mut client = Client::http1(f.addr).await;
        let request = Request::get(path).header("accept", accept).body(Empty::<Bytes>::new()).expect("request");
        let mut answer = client.send(request).await.expect("a head").into_body();
        answer.frame().await.expect("a frame").expect("no error");
        f.server = None;
        let rest = answer.collect().await.map(|rest| String::from_utf8(rest.to_bytes().to_vec()).expect("text"));
        match (end, rest) {
            (None, rest) => assert!(rest.is_err(), "{path} {accept}: {rest:?}"),
            (Some(end), rest) => assert!(rest.expect("a clean end").contains(end), "{path} {accept}"),
        }
    }
    // Before the answer has begun, the failure has a status.
    let mut f = silent(Way::Tcp, None);
    let addr = f.addr;
    let request = Request::get("/v1/described/x").body(Empty::<Bytes>::new()).expect("request");
    let answer = tokio::spawn(net::send(addr, request));
    assert_eq!(f.next().await, Seen::Ended);
    f.server = None;
    let answer = answer.await.expect("no panic");
    assert_eq!(answer.json()["error"]["reason"], "UPSTREAM_ERROR");
    assert!(answer.status >= 500, "{}", answer.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_dies_ends_the_upload() {
    let mut f = collecting(Way::Tcp, PUT, |b| b);
    let (feed, body) = fed_body();
    feed.send(Ok("half of it".into())).expect("open");
    let request = Request::post("/v1/folders/f/files").body(body).expect("request");
    let answer = tokio::spawn(net::send(f.addr, request));
    assert!(matches!(f.next().await, Seen::Message(_)));
    assert!(matches!(f.next().await, Seen::Message(_)));
    f.server = None;
    let answer = answer.await.expect("no panic");
    assert_eq!(answer.json()["error"]["reason"], "UPSTREAM_ERROR", "{}", answer.text());
    drop(feed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_fails_breaks_off_over_http1() {
    let mut f = silent(Way::Tcp, Some(body()));
    let mut socket = TcpStream::connect(f.addr).await.expect("connect");
    let head = "GET /v1/files/x:download HTTP/1.1\r\nhost: x\r\n\r\n";
    socket.write_all(head.as_bytes()).await.expect("write");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\0\0\0\r\n") {
        assert_ne!(socket.read_buf(&mut bytes).await.expect("read"), 0);
    }
    f.server = None;
    // The connection is closed, without the chunk that would end the body.
    let _ = socket.read_to_end(&mut bytes).await;
    assert!(bytes.ends_with(b"\r\n\0\0\0\r\n"), "{}", String::from_utf8_lossy(&bytes));
}

//! What a connection may do, and for how long.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Node, World, soon};

/// What the server says to these bytes, until it closes the connection.
async fn said(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_closed() {
    let mut world = World::new().await;
    world.config.server.idle_seconds = 1;
    let node = world.node().await;
    assert_eq!(said(&node, b"").await, "");
    assert!(said(&node, b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_when_it_is_old() {
    let mut world = World::new().await;
    world.config.server.max_connection_age_seconds = 1;
    let node = world.node().await;
    assert!(said(&node, b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_slow_or_too_large_ends_the_connection() {
    let mut world = World::new().await;
    world.config.server.header_timeout_seconds = 1;
    let node = world.node().await;
    said(&node, b"GET /ready HTTP/1.1\r\nhost:").await;
    let large = format!("GET /ready HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    assert!(said(&node, large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut world = World::new().await;
    world.config.server.body_timeout_seconds = 1;
    world.config.server.idle_seconds = 1;
    let node = world.node().await;
    let request =
        b"POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    assert!(said(&node, request).await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_more_than_allowed_waits_for_a_place() {
    let mut world = World::new().await;
    world.config.server.max_connections = 1;
    world.config.server.idle_seconds = 1;
    let node = world.node().await;
    let first = TcpStream::connect(node.server.address).await.unwrap();
    // Served only when the idle first one was sent away.
    let second = said(&node, b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(second.starts_with("HTTP/1.1 "), "{second}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_while_it_still_sends_is_not_cut_off() {
    let world = World::new().await;
    let node = world.node().await;
    let mut stream = TcpStream::connect(node.server.address).await.unwrap();
    // Refused by the head alone.
    let head = b"POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    for _ in 0..64 {
        stream.write_all(&[0; 1024]).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_web_call_that_is_refused_does_not_cost_the_connection() {
    let world = World::new().await;
    let node = world.node().await;
    let mut stream = TcpStream::connect(node.server.address).await.unwrap();
    for _ in 0..3 {
        let head = b"POST /rialto.auth.v1.AuthService/GetMe HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\
            content-type: application/grpc-web+proto\r\n\r\n";
        stream.write_all(head).await.unwrap();
        // Time enough to refuse it by the head alone.
        for _ in 0..3 {
            node.rest(reqwest::Method::GET, "/ready", None, None).await;
        }
        stream.write_all(&[0; 5]).await.unwrap();
        let mut answer = [0; 4096];
        let length = soon(stream.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.contains("grpc-status: 16"), "{answer}");
    }
}

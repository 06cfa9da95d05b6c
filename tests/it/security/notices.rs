//! Webhooks and mails about alerts.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rialto::kernel::config::Severity;
use rialto::kernel::secret::Secret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{MINUTE, alert, eventually_stored, fail_to_log_in, world};
use crate::harness::{World, eventually, soon};
use crate::smtp::Smtp;

/// What listens for webhooks, and how it answers them.
struct Receiver {
    address: SocketAddr,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    calls: mpsc::UnboundedReceiver<(Uri, HeaderMap, String)>,
}

type Shared = (Arc<Mutex<VecDeque<StatusCode>>>, mpsc::UnboundedSender<(Uri, HeaderMap, String)>);

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<_>>> = Arc::default();
        async fn take(State((answers, calls)): State<Shared>, uri: Uri, headers: HeaderMap, body: String) -> Response {
            let _ = calls.send((uri, headers, body));
            let status = answers.lock().unwrap().pop_front().unwrap_or(StatusCode::NO_CONTENT);
            (status, [("location", "/elsewhere")]).into_response()
        }
        let router = axum::Router::new().fallback(take).with_state((Arc::clone(&answers), sender));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, answers, calls }
    }

    /// The next call, whose signature must be good.
    async fn next(&mut self) -> (String, Value) {
        let (uri, headers, body) = soon(self.calls.recv()).await.unwrap();
        assert_eq!(uri.path(), "/hook");
        let header = |name: &str| headers[name].to_str().unwrap();
        let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
        let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
        assert_eq!(header("content-type"), "application/json");
        (header("webhook-id").into(), serde_json::from_str(&body).unwrap())
    }
}

fn hook(world: &mut World, address: SocketAddr) {
    world.config.security.webhook_url = format!("http://{address}/hook");
    world.config.security.webhook_secret = Secret::new(format!("whsec_{}", STANDARD.encode([7; 32])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_once_of_each_escalation_also_when_it_was_down() {
    let (mut world, mut receiver) = (world().await, Receiver::start().await);
    hook(&mut world, receiver.address);
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    // A redirect is no success and is not followed; an error neither.
    receiver.answers.lock().unwrap().extend([StatusCode::TEMPORARY_REDIRECT, StatusCode::SERVICE_UNAVAILABLE]);
    node.work();
    fail_to_log_in(&node, &ann.email, 3).await;
    let (first_id, first) = receiver.next().await;
    for attempt in 1..=2 {
        let failed = format!(
            "jobs WHERE kind = 'security.webhook' AND attempts = {attempt} AND last_error IS NOT NULL \
                              AND locked_until IS NULL"
        );
        eventually(async || world.count(&failed).await == 1).await;
        world.clock.advance(MINUTE);
        let (id, again) = receiver.next().await;
        assert_eq!((&id, &again), (&first_id, &first));
    }
    let alert = alert(&node, &admin, 3).await;
    assert_eq!((&first["type"], &first["data"]["severity"]), (&json!("security.alert.raised"), &json!("low")));
    assert_eq!((&first["data"]["id"], &first["data"]["kind"]), (&alert["id"], &json!("login_failed")));
    assert_eq!(first["data"]["subject"], format!("account:{}", ann.id));
    assert_eq!(first["data"]["count"], 3);
    eventually(async || world.count("jobs WHERE kind = 'security.webhook'").await == 0).await;

    fail_to_log_in(&node, &ann.email, 1).await;
    eventually_stored(&world, "login_failed", 4).await;
    fail_to_log_in(&node, &ann.email, 1).await;
    let (id, second) = receiver.next().await;
    assert_ne!(id, first_id);
    assert_eq!((&second["type"], &second["data"]["severity"]), (&json!("security.alert.escalated"), &json!("medium")));
    assert_eq!(second["data"]["id"], first["data"]["id"]);
    eventually(async || world.count("jobs WHERE kind = 'security.webhook'").await == 0).await;
    assert!(receiver.calls.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_to_each_address_from_the_configured_severity_on() {
    let (mut world, mut smtp) = (world().await, Smtp::start().await);
    world.config.mail = smtp.config();
    world.config.server.public_url = "https://app.example.com".into();
    world.config.security.mail_to = vec!["one@example.net".into(), "two@example.net".into()];
    world.config.security.mail_severity = Severity::Medium;
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    fail_to_log_in(&node, &ann.email, 3).await;
    let alert = alert(&node, &admin, 3).await;
    assert_eq!(world.count("jobs WHERE kind = 'security.mail'").await, 0);
    node.work();
    fail_to_log_in(&node, &ann.email, 2).await;
    let mails = [smtp.next().await, smtp.next().await];
    let mut to = mails.each_ref().map(|mail| mail.to.as_str());
    to.sort_unstable();
    assert_eq!(to, ["one@example.net", "two@example.net"]);
    for mail in mails {
        assert!(mail.text.contains("Subject: Security alert (medium): failed logins"), "{}", mail.text);
        assert!(mail.text.contains(&format!("5 so far, about account:{}", ann.id)), "{}", mail.text);
        let link = format!("https://app.example.com/security/alerts/{}", alert["id"].as_str().unwrap());
        assert!(mail.text.contains(&link), "{}", mail.text);
    }
    eventually(async || world.count("jobs WHERE kind = 'security.mail'").await == 0).await;
    assert!(smtp.is_empty());
}

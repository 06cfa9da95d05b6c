//! Mail: over SMTP, and in the inbox of `rialto dev`.

use diesel_async::AsyncConnection;
use reqwest::Method;
use rialto::kernel::config::{Mail as Config, MailTransport};
use rialto::kernel::error::Error;
use rialto::kernel::jobs::{self, Handlers, Job, NewJob};
use rialto::kernel::mail::{Link, Mail};

use crate::harness::{Node, World, eventually};
use crate::smtp::{Mode, Smtp};

fn mail(to: &str) -> Mail {
    Mail {
        to: to.into(),
        subject: "Grüße".into(),
        paragraphs: vec!["Hello <Ann>,".into(), ".".into()],
        link: Some(Link { label: "Open it".into(), url: "https://app.example.com/x?token=abc".into() }),
    }
}

/// Sends a mail as a domain does: by a job.
async fn send(node: &Node, to: &str) {
    let app = &node.server.app;
    let handlers = Handlers::default().handle("test", |app, job: Job<String>| async move {
        app.mail.send(job.id, app.clock.now(), &mail(&job.payload)).await
    });
    tokio::spawn(jobs::run(app.clone(), handlers));
    let mut conn = app.db.get().await.unwrap();
    let enqueued = conn.transaction(async |conn| NewJob::new(app, "test", &to)?.enqueue(conn).await);
    enqueued.await.map_err(|error: Error| error.report()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_out_by_smtp_as_text_and_html_and_waits_while_the_server_is_busy() {
    let mut smtp = Smtp::start().await;
    let mut world = World::new().await;
    world.config.mail = smtp.config();
    let node = world.node().await;
    smtp.mode(Mode::Busy);
    send(&node, "ann@example.com").await;
    eventually(async || world.count("jobs WHERE last_error LIKE '%come again%' AND state = 'ready'").await == 1).await;
    assert!(smtp.is_empty());

    smtp.mode(Mode::Take);
    world.clock.advance(std::time::Duration::from_secs(6));
    let message = smtp.next().await;
    assert_eq!((message.to.as_str(), message.token().as_str()), ("ann@example.com", "abc"));
    let text = &message.text;
    assert!(text.contains("From: Rialto <rialto@example.net>") && text.contains("To: ann@example.com"), "{text}");
    assert!(text.contains("Auto-Submitted: auto-generated") && text.contains("@example.net>"), "{text}");
    assert!(text.contains("text/plain") && text.contains("Hello <Ann>,\n\n.\n"), "{text}");
    assert!(text.contains("text/html") && text.contains("Hello &#60;Ann&#62;,"), "{text}");
    eventually(async || world.count("jobs").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_server_refuses_is_not_tried_again() {
    let smtp = Smtp::start().await;
    let mut world = World::new().await;
    world.config.mail = smtp.config();
    let node = world.node().await;
    smtp.mode(Mode::Refuse);
    send(&node, "nobody@example.com").await;
    eventually(async || world.count("jobs WHERE state = 'dead' AND attempts = 1").await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_dev_mail_stays_in_the_server_and_is_shown() {
    let mut world = World::new().await;
    let other = world.node().await;
    other.rest(Method::GET, "/dev/mail", None, None).await.refused(404, "ROUTE_NOT_FOUND", 3001);

    world.config.mail = Config { transport: Some(MailTransport::Inbox), ..Config::default() };
    let node = world.node().await;
    send(&node, "ann@example.com").await;
    let get = async |path: &str, accept: &str| {
        let answer = node.http().get(node.url(path)).header("accept", accept).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    eventually(async || get("/dev/mail", "application/json").await.1.contains("ann@example.com")).await;
    let list: serde_json::Value = serde_json::from_str(&get("/dev/mail", "application/json").await.1).unwrap();
    let one = &list["mails"][0];
    assert_eq!((&one["to"], &one["link"]), (&"ann@example.com".into(), &"https://app.example.com/x?token=abc".into()));

    let path = format!("/dev/mail/{}", one["id"].as_str().unwrap());
    let (_, page) = get("/dev/mail", "text/html").await;
    assert!(page.contains(&path) && page.contains("Grüße"), "{page}");
    let (status, page) = get(&path, "text/html").await;
    assert!(status == 200 && page.contains("token=abc") && !page.contains("<Ann>"), "{page}");
    assert_eq!(get("/dev/mail/01890a5d-ac96-774b-bcce-b302099a8057", "text/html").await.0, 404);
    assert_eq!(get("/dev/mail/x", "text/html").await.0, 400);
}

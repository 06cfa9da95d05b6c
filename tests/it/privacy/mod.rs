//! Archives of what is held about somebody, and their erasure.

mod erasure;

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::join_all;
use prost::Message;
use reqwest::Method;
use rialto::proto::rialto::messaging::v1::{EncryptedContent, Envelope, EnvelopeType};
use rialto::proto::rialto::privacy::v1::privacy_service_client::PrivacyServiceClient;
use rialto::proto::rialto::privacy::v1::{DownloadExportRequest, ExportState, GetExportRequest, RequestExportRequest};
use rialto::server::personal_data::PARTS;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Authorized, Bearer, Node, PASSWORD, User, World, eventually, number, refusal};
use crate::smtp::Smtp;

const EXPORT: &str = "/v1/privacy/export";
const ARCHIVE: &str = "/v1/privacy/export/archive";
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn with_mail() -> (World, Smtp) {
    let (mut world, smtp) = (World::new().await, Smtp::start().await);
    world.config.mail = smtp.config();
    world.config.server.public_url = "https://app.example.com".into();
    (world, smtp)
}

fn privacy(node: &Node, user: &User) -> PrivacyServiceClient<Authorized> {
    PrivacyServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

/// A text that the database answers.
async fn text(world: &World, query: &str) -> String {
    #[derive(diesel::QueryableByName)]
    struct Text {
        #[diesel(sql_type = diesel::sql_types::Text)]
        text: String,
    }
    let query = diesel::sql_query(format!("SELECT coalesce(({query})::text, '') AS text"));
    query.get_result::<Text>(&mut world.database().await).await.unwrap().text
}

/// Waits until an archive can be downloaded; returns what is told of it.
async fn ready(node: &Node, user: &User) -> Value {
    let mut export = Value::Null;
    eventually(async || {
        export = user.get(node, EXPORT).await.ok();
        export["state"] == "EXPORT_STATE_READY"
    })
    .await;
    export
}

async fn download(node: &Node, user: &User) -> reqwest::Response {
    node.http().get(node.url(ARCHIVE)).bearer_auth(&user.token).send().await.unwrap()
}

/// What an archive has in it: the JSON of its files, and its README.
fn unpack(archive: Vec<u8>) -> (Value, String) {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(archive)).unwrap();
    let (mut files, mut readme) = (json!({}), String::new());
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).unwrap();
        let (name, mut text) = (file.name().unwrap().into_owned(), String::new());
        file.read_to_string(&mut text).unwrap();
        match name.as_str() {
            "README.txt" => readme = text,
            _ => files[name] = serde_json::from_str(&text).unwrap(),
        }
    }
    (files, readme)
}

/// Somebody of whom every domain holds something, and somebody else. The names are found nowhere by chance.
struct Lives {
    ann: User,
    bob: User,
    /// What must not be found anywhere once Ann was erased.
    traces: Vec<String>,
    with_bob: String,
}

async fn live(world: &World, node: &Node) -> Lives {
    let (ann, bob, admin) =
        (node.user("annika-qx").await, node.user("bob").await, world.administrator(node, "boss").await);
    let handle = json!({ "handle": "annikahandle", "displayName": "Annika Quixote", "bio": "I am Annika Quixote" });
    ann.call(node, Method::PATCH, "/v1/users/me", handle).await.ok();
    let with_bob = ann.conversation(node, &[&bob]).await;
    ann.send(node, &with_bob, "from annika-qx").await;
    bob.send(node, &with_bob, "from bob").await;
    for text in ["annika-qx was here", "from annika-qx"] {
        let message = format!("/v1/conversations/{with_bob}/messages/1");
        ann.call(node, Method::PATCH, &message, json!({ "text": text })).await.ok();
    }
    for seq in 1..=2 {
        let reaction = format!("/v1/conversations/{with_bob}/messages/{seq}/reactions/%F0%9F%91%8D");
        ann.call(node, Method::PUT, &reaction, json!({})).await.ok();
    }
    let at = (world.clock.now() + chrono::TimeDelta::days(300)).to_rfc3339();
    let scheduled = json!({ "text": "happy birthday from annika-qx", "send_at": at });
    ann.post(node, &format!("/v1/conversations/{with_bob}/scheduled-messages"), scheduled).await.ok();
    let alone = ann.conversation(node, &[&ann]).await;
    ann.send(node, &alone, "a note of annika-qx").await;
    ann.post(node, &format!("/v1/users/{}/block", admin.id), json!({})).await.ok();
    admin.post(node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    ann.post(node, "/v1/twofa/setup", json!({ "password": PASSWORD })).await.ok();
    let role = admin.post(node, "/v1/roles", json!({ "name": "helper", "grants": [] })).await.ok();
    let assign = json!({ "role_id": role["id"] });
    admin.post(node, &format!("/v1/accounts/{}/roles", ann.id), assign).await.ok();
    ann.post(node, "/v1/auth/forgot-password", json!({ "email": ann.email })).await.ok();
    let mut database = world.database().await;
    // For two of her devices.
    let envelope = |device_id: u128| Envelope {
        account_id: ann.id.clone(),
        device_id: uuid::Uuid::from_u128(device_id).to_string(),
        registration_id: 7,
        r#type: EnvelopeType::SealedBox.into(),
        ciphertext: vec![9; 99],
    };
    let content = EncryptedContent { envelopes: vec![envelope(1), envelope(2)], ..Default::default() };
    let ciphertext: String = content.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
    // What other ways lead to as well, but not in a moment.
    let rows = format!(
        "INSERT INTO idempotency_keys (account_id, method, key, request_hash, created_at, response)
             VALUES ('{id}', 'm', 'k', '', now(), convert_to('{email}', 'UTF8'));
         INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text, ciphertext)
             SELECT '{with_bob}', seq, now(), gen_random_uuid(), sender, seq, seq, '', decode('{ciphertext}', 'hex')
             FROM (VALUES (101, '{id}'::uuid), (102, '{bob}'::uuid)) AS sent (seq, sender);
         INSERT INTO backup_codes (account_id, hash, created_at) VALUES ('{id}', 'x', now());
         INSERT INTO login_challenges (hash, account_id, credentials, client, expires_at)
             VALUES ('h', '{id}', '', '', now() + interval '1 year');
         INSERT INTO registrations (id, email, display_name, password_hash, created_at)
             VALUES (gen_random_uuid(), '{email}', 'Annika Quixote', '', now() + interval '1 year');
         INSERT INTO roles (id, name, description, created_by, created_at, updated_at)
             VALUES (gen_random_uuid(), 'hers', '', '{id}', now(), now());
         INSERT INTO account_roles (account_id, role_id, assigned_by, assigned_at)
             SELECT '{bob}', id, '{id}', now() FROM roles WHERE name = 'hers';
         INSERT INTO jobs (id, kind, payload, state, run_at, created_at, last_error) VALUES
             (gen_random_uuid(), 'auth.reset_password', to_jsonb('{email}'::text), 'dead', now(), now(), NULL),
             (gen_random_uuid(), 'auth.notice', jsonb_build_object('account_id', '{id}'), 'dead', now(), now(), NULL),
             (gen_random_uuid(), 'auth.verification', '\"x\"', 'dead', now(), now(), '550 no {email}');
         INSERT INTO email_changes (account_id, new_email, session_id, created_at)
             VALUES ('{id}', 'annika-qx2@example.com', gen_random_uuid(), now());
         INSERT INTO account_keys (account_id, public_key, created_at) VALUES ('{id}', decode('{key}', 'hex'), now());
         INSERT INTO devices (account_id, device_id, registration_id, identity_key, signing_key, signature, name,
                 created_at, last_seen_at)
             SELECT '{id}', gen_random_uuid(), 7, decode('{key}', 'hex'), decode('{key}', 'hex'),
                 decode('{key}{key}', 'hex'), 'phone of annika-qx', now(), now() + interval '1 year';
         INSERT INTO signed_prekeys (account_id, device_id, kind, key_id, public_key, signature, set_at)
             SELECT account_id, device_id, 'x25519', 1, identity_key, signature, now() FROM devices;
         INSERT INTO one_time_prekeys (account_id, device_id, kind, key_id, public_key)
             SELECT account_id, device_id, 'x25519', 1, identity_key FROM devices;
         INSERT INTO email_undos (id, account_id, email, created_at, expires_at)
             VALUES (gen_random_uuid(), '{id}', 'annika-qx0@example.com', now(), now() + interval '1 year');
         INSERT INTO account_connections SELECT gen_random_uuid(), '{id}', gen_random_uuid(), id, 'grpc', '', '', now(), NULL
             FROM nodes;
         INSERT INTO presences VALUES ('{id}', now());",
        id = ann.id,
        email = ann.email,
        bob = bob.id,
        key = "09".repeat(32),
    );
    database.batch_execute(&rows).await.unwrap();
    // What was noticed about her is written a moment later, and long before an erasure.
    for table in ["security_events WHERE subject = 'account:", "security_networks WHERE account_id = '"] {
        eventually(async || world.count(&format!("{table}{}'", ann.id)).await > 0).await;
    }
    // The tests' limits are so wide that what is counted is forgotten in no time.
    let redis = &node.server.app.redis;
    let mut pipeline = redis::pipe();
    for rate in ["Default", "Write", "Message", "Authentication", "Sensitive"] {
        pipeline.set(redis.name(&format!("rate:{rate}:account:{}", ann.id)), "1").ignore();
    }
    redis.run::<()>(&pipeline).await.unwrap();
    let traces = vec![ann.id.clone(), "annika-qx".into(), "annika quixote".into(), "annikahandle".into()];
    Lives { ann, bob, traces, with_bob }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_exported_or_left_out_for_a_reason_and_not_both() {
    let world = World::new().await;
    let tables = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public' \
                  AND tablename <> '__diesel_schema_migrations'";
    let tables = text(&world, tables).await;
    let words = |query: &str| {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let exported: BTreeSet<_> = PARTS.iter().flat_map(|part| part.files).flat_map(|file| words(file.query)).collect();
    let left_out: Vec<_> = PARTS.iter().flat_map(|part| part.left_out).collect();
    for table in tables.split(' ') {
        let reasons = left_out.iter().filter(|(name, why)| *name == table && !why.is_empty()).count();
        assert_eq!(
            usize::from(exported.contains(table)) + reasons,
            1,
            "the table {table} must be in a file of some domain's PERSONAL_DATA, or left out for a reason, and not both"
        );
    }
    for (table, _) in left_out {
        assert!(tables.split(' ').any(|name| name == *table), "there is no table {table} that could be left out");
    }
    let mut names: Vec<_> =
        PARTS.iter().flat_map(|part| part.files.iter().map(|file| (part.name, file.name))).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two files of an archive have one name");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_has_what_is_held_about_somebody_and_nothing_of_others_and_no_secrets() {
    let (world, mut smtp) = with_mail().await;
    let node = world.node().await;
    let Lives { ann, bob, with_bob, .. } = live(&world, &node).await;
    node.work();
    assert_eq!(ann.get(&node, EXPORT).await.ok()["state"], "EXPORT_STATE_NONE");
    ann.get(&node, ARCHIVE).await.refused(409, "EXPORT_NOT_READY", 3003);
    let asked = ann.post(&node, EXPORT, json!({})).await.ok();
    assert!(asked["id"].as_str().is_some_and(|id| !id.is_empty()), "{asked}");
    let export = ready(&node, &ann).await;
    let files = PARTS.iter().map(|part| part.files.len()).sum::<usize>();
    assert_eq!(
        (&export["filesDone"], &export["files"], &export["percent"]),
        (&json!(files), &json!(files), &json!(100))
    );
    while !smtp.next().await.text.contains("archive of your data") {}

    let response = download(&node, &ann).await;
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header("content-type"), header("cache-control")),
        ("application/zip".into(), "private, no-store".into())
    );
    assert_eq!(header("content-length"), export["sizeBytes"].as_str().unwrap());
    assert!(header("content-disposition").starts_with("attachment; filename=\"data-"));
    let bytes = response.bytes().await.unwrap();
    let (files, readme) = unpack(bytes.to_vec());

    let account = &files["account/account.json"][0];
    assert_eq!((&account["id"], &account["email"]), (&json!(ann.id), &json!(ann.email)));
    assert_eq!(files["account/sessions.json"].as_array().unwrap().len(), 1);
    assert_eq!(files["account/known-devices.json"].as_array().unwrap().len(), 1);
    assert_eq!(files["account/email-changes.json"][0]["new_email"], "annika-qx2@example.com");
    assert_eq!(files["account/former-addresses.json"][0]["email"], "annika-qx0@example.com");
    assert_eq!(files["account-stream/connections.json"][0]["transport"], "grpc");
    assert!(files["account-stream/presence.json"][0]["seen_at"].is_string());
    assert_eq!(files["account-stream/events.json"][0]["seq"], 1);
    assert_eq!(files["keys/account-key.json"].as_array().unwrap().len(), 1);
    assert_eq!(files["keys/devices.json"][0]["name"], "phone of annika-qx");
    assert_eq!(files["two-factor/two-factor.json"][0]["backup_codes_left"], 1);
    assert_eq!(files["roles/roles.json"][0]["name"], "helper");
    assert_eq!(files["roles/made.json"][0]["name"], "hers");
    assert_eq!(files["profile/profile.json"][0]["handle"], "annikahandle");
    // Whom she blocks, and not who blocks her.
    assert_eq!(files["profile/blocks.json"].as_array().unwrap().len(), 1);
    assert_eq!(files["messages/conversations.json"].as_array().unwrap().len(), 2);
    let messages = files["messages/messages.json"].as_array().unwrap();
    let texts = |id: &str| {
        let of = messages.iter().filter(|message| message["conversation_id"] == id);
        of.map(|message| message["text"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((messages.len(), texts(&with_bob)), (5, vec!["from annika-qx", "from bob", "", ""]));
    assert_eq!(messages.iter().filter(|message| message["ciphertext"].is_string()).count(), 2);
    assert_eq!(files["messages/message-edits.json"].as_array().unwrap().len(), 2);
    assert_eq!(files["messages/reactions.json"].as_array().unwrap().len(), 2);
    assert_eq!(files["messages/scheduled-messages.json"][0]["text"], "happy birthday from annika-qx");
    let methods: Vec<_> = files["activity/activity.json"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["method"].as_str().unwrap())
        .collect();
    assert!(methods.contains(&"/rialto.users.v1.UserService/UpdateMe"), "{methods:?}");
    assert!(readme.contains("messages/messages.json") && readme.contains("refresh_tokens"), "{readme}");

    let all = files.to_string();
    for secret in ["argon2", "hash", "secret", &bob.email] {
        assert!(!all.contains(secret), "{secret} is in the archive");
    }
    // The next one is in its place.
    let again = ann.post(&node, EXPORT, json!({})).await.ok();
    assert_ne!(again["id"], asked["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_its_owners_who_has_proved_lately_who_they_are_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    node.work();
    let mut client = privacy(&node, &ann);
    client.request_export(RequestExportRequest {}).await.unwrap();
    ready(&node, &ann).await;
    let response = client.download_export(DownloadExportRequest {}).await.unwrap();
    let length: usize = response.metadata().get("x-content-length").unwrap().to_str().unwrap().parse().unwrap();
    let (mut stream, mut bytes, mut types) = (response.into_inner(), Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        let body = message.body.unwrap();
        types.push(body.content_type);
        bytes.extend(body.data);
    }
    assert_eq!((bytes.len(), types[0].as_str()), (length, "application/zip"));
    assert_eq!(unpack(bytes).0["account/account.json"][0]["email"], "ann@example.com");

    let refused = refusal(privacy(&node, &bob).download_export(DownloadExportRequest {}).await.map(drop));
    assert_eq!(refused, (Code::FailedPrecondition, "EXPORT_NOT_READY".into()));
    let theirs = privacy(&node, &bob).get_export(GetExportRequest {}).await.unwrap().into_inner().export.unwrap();
    assert_eq!((theirs.state(), theirs.id.as_str()), (ExportState::None, ""));
    node.rest(Method::GET, ARCHIVE, None, None).await.refused(401, "UNAUTHORIZED", 1001);

    world.clock.advance(Duration::from_secs(301));
    let refused = refusal(client.download_export(DownloadExportRequest {}).await.map(drop));
    assert_eq!(refused, (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".into()));
    let refused = refusal(client.request_export(RequestExportRequest {}).await);
    assert_eq!(refused, (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".into()));
    ann.post(&node, "/v1/auth/reauthenticate", json!({ "password": PASSWORD })).await.ok();
    let part = node.http().get(node.url(ARCHIVE)).bearer_auth(&ann.token).header("range", "bytes=0-3");
    let part = part.send().await.unwrap();
    assert_eq!((part.status().as_u16(), &part.bytes().await.unwrap()[..]), (206, &b"PK\x03\x04"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_requests_at_once_one_archive_comes_and_it_expires() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    let requests = (0..6).map(|index| {
        let mut client = privacy(if index % 2 == 0 { &one } else { &two }, &ann);
        async move { client.request_export(RequestExportRequest {}).await.unwrap().into_inner().export.unwrap().id }
    });
    let ids: BTreeSet<String> = join_all(requests).await.into_iter().collect();
    assert_eq!((ids.len(), world.count("jobs WHERE kind = 'privacy.export'").await), (1, 1));
    assert_eq!(ann.get(&one, EXPORT).await.ok()["state"], "EXPORT_STATE_WAITING");
    let worker = one.work();
    ready(&two, &ann).await;
    worker.abort();
    world.clock.advance(7 * DAY);
    // The session ended meanwhile.
    let ann = one.log_in(&ann.email, &ann.id).await;
    assert_eq!(ann.get(&one, EXPORT).await.ok()["state"], "EXPORT_STATE_NONE");
    ann.get(&one, ARCHIVE).await.refused(409, "EXPORT_NOT_READY", 3003);
    assert!(world.count("export_chunks").await > 0);
    two.work();
    eventually(async || world.count("exports").await + world.count("export_chunks").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_whose_worker_died_is_made_anew_and_what_is_half_done_can_not_be_seen() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    ann.post(&node, EXPORT, json!({})).await.ok();
    // As a worker leaves it that was killed: the job has its lease, and there are bytes of an attempt.
    let half = format!(
        "UPDATE jobs SET attempts = 1, locked_until = '{until}' WHERE kind = 'privacy.export';
         UPDATE exports SET state = 'running', attempt = 1, files = 15, files_done = 3;
         INSERT INTO export_chunks SELECT id, 1, 0, 'half of it' FROM exports",
        until = world.clock.now() + chrono::TimeDelta::seconds(60)
    );
    world.database().await.batch_execute(&half).await.unwrap();
    let export = ann.get(&node, EXPORT).await.ok();
    assert_eq!((&export["state"], &export["percent"]), (&json!("EXPORT_STATE_RUNNING"), &json!(20)));
    ann.get(&node, ARCHIVE).await.refused(409, "EXPORT_NOT_READY", 3003);
    // Asked for again, it is the one that is being made.
    assert_eq!(ann.post(&node, EXPORT, json!({})).await.ok()["id"], export["id"]);
    node.work();
    world.clock.advance(Duration::from_secs(61));
    ready(&node, &ann).await;
    let (files, _) = unpack(download(&node, &ann).await.bytes().await.unwrap().to_vec());
    assert_eq!(files["account/account.json"][0]["email"], "ann@example.com");
    assert_eq!(world.count("export_chunks WHERE attempt <> 2").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_a_hundred_thousand_messages_comes_in_chunks() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let conversation = ann.conversation(&node, &[&bob]).await;
    // Text that can't be compressed much.
    let messages = format!(
        "SELECT create_message_partitions(now(), 1); \
         INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text) \
         SELECT '{conversation}', n, now(), gen_random_uuid(), '{ann}', n::text, n, md5(n::text) \
         FROM generate_series(1, 100000) n; UPDATE conversations SET last_seq = 100000",
        ann = ann.id
    );
    world.database().await.batch_execute(&messages).await.unwrap();
    node.work();
    ann.post(&node, EXPORT, json!({})).await.ok();
    let mut export = Value::Null;
    let made = tokio::time::timeout(Duration::from_secs(300), async {
        while export["state"] != "EXPORT_STATE_READY" {
            export = ann.get(&node, EXPORT).await.ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    made.await.unwrap();
    assert!(world.count("export_chunks").await > 5);
    assert_eq!(world.count("export_chunks WHERE length(data) > 262144").await, 0);
    let bytes = download(&node, &ann).await.bytes().await.unwrap().to_vec();
    assert_eq!(i64::try_from(bytes.len()).unwrap(), number(&export["sizeBytes"]));
    let (files, _) = unpack(bytes);
    let messages = files["messages/messages.json"].as_array().unwrap();
    assert_eq!((messages.len(), &messages[99_999]["seq"]), (100_000, &json!(100_000)));
}

//! The command line, as processes.

use std::process::Stdio;
use std::time::Duration;

use rialto::dev::services::PrivateRedis;
use rialto::kernel::config::{Config, SealingKey};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{World, number, soon};

/// The command, with nothing of the machine's own configuration.
pub fn rialto(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rialto"));
    command.args(arguments).env_clear().env("PATH", std::env::var("PATH").unwrap()).kill_on_drop(true);
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// Whether it succeeded, and what it said.
pub async fn output(command: &mut Command) -> (bool, String, String) {
    let output = soon(command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// `rialto dev`, and what it says of itself.
async fn dev(data_dir: &std::path::Path) -> (Child, Value) {
    let data_dir = data_dir.to_str().unwrap();
    let mut command = rialto(&["dev", "--json", "--listen", "127.0.0.1:0", "--data-dir", data_dir]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = soon(lines.next_line()).await.unwrap().expect("rialto dev said nothing");
    (child, serde_json::from_str(&line).unwrap())
}

async fn post(url: String, token: &str, body: Value) -> Option<Value> {
    let request = reqwest::Client::new().post(url).bearer_auth(token).json(&body).send();
    let answer = request.await.ok()?;
    if answer.status() == 200 { answer.json().await.ok() } else { None }
}

async fn log_in(banner: &Value, index: usize) -> String {
    let account = &banner["accounts"][index];
    let body = json!({ "email": account["email"], "password": account["password"] });
    let tokens = post(format!("{}/v1/auth/login", banner["rest"].as_str().unwrap()), "", body).await.unwrap();
    tokens["accessToken"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_serves_demo_data_survives_kill_9_and_keeps_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, banner) = dev(folder.path()).await;
    let roles: Vec<_> = banner["accounts"].as_array().unwrap().iter().map(|account| account["role"].clone()).collect();
    assert_eq!(roles, [json!("admin"), json!("user"), json!("user")]);
    let rest = banner["rest"].as_str().unwrap().to_owned();
    let token = log_in(&banner, 1).await;
    let list = reqwest::Client::new().get(format!("{rest}/v1/conversations")).bearer_auth(&token);
    let list: Value = list.send().await.unwrap().json().await.unwrap();
    let id = list["conversations"][0]["id"].as_str().unwrap().to_owned();

    // A second one on the same data says so and goes.
    let second = output(&mut rialto(&["dev", "--data-dir", folder.path().to_str().unwrap()])).await;
    assert!(!second.0 && second.2.contains("running"), "{second:?}");

    let (acknowledged, mut received) = tokio::sync::mpsc::unbounded_channel();
    for sender in 0..4 {
        let (rest, token, id, acknowledged) = (rest.clone(), token.clone(), id.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for i in 0.. {
                let body = json!({ "client_message_id": format!("{sender}-{i}"), "text": format!("{sender}-{i}") });
                let url = format!("{rest}/v1/conversations/{id}/messages");
                let Some(message) = post(url, &token, body).await else { return };
                acknowledged.send((number(&message["seq"]), message["text"].as_str().unwrap().to_owned())).unwrap();
            }
        });
    }
    drop(acknowledged);
    let mut sent = Vec::new();
    while sent.len() < 50 {
        sent.push(soon(received.recv()).await.unwrap());
    }
    child.kill().await.unwrap();
    while let Some(message) = soon(received.recv()).await {
        sent.push(message);
    }

    let (mut child, banner) = dev(folder.path()).await;
    let (rest, token) = (banner["rest"].as_str().unwrap(), log_in(&banner, 1).await);
    let (mut stored, mut after) = (Vec::new(), 0);
    loop {
        let url = format!("{rest}/v1/conversations/{id}/messages?after_seq={after}&page_size=200");
        let page: Value =
            reqwest::Client::new().get(url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
        let messages = page["messages"].as_array().unwrap();
        let Some(last) = messages.last() else { break };
        after = number(&last["seq"]);
        stored.extend(messages.iter().map(|m| (number(&m["seq"]), m["text"].as_str().unwrap().to_owned())));
    }
    let numbers: Vec<_> = stored.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (1..=after).collect::<Vec<_>>());
    for message in &sent {
        assert_eq!(stored.iter().filter(|stored| *stored == message).count(), 1, "{message:?}");
    }

    // An orderly stop, with nothing left behind.
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(soon(child.wait()).await.unwrap().success());
    assert!(!folder.path().join("postgres/data/postmaster.pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_stops_everything_when_one_of_its_children_crashes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, _) = dev(folder.path()).await;
    let pid_file = std::fs::read_to_string(folder.path().join("postgres/data/postmaster.pid")).unwrap();
    let postgres = pid_file.lines().next().unwrap().parse().unwrap();
    let postgres = rustix::process::Pid::from_raw(postgres).unwrap();
    rustix::process::kill_process(postgres, rustix::process::Signal::KILL).unwrap();
    assert!(!soon(child.wait()).await.unwrap().success());
    // Nothing holds the folder any more: it starts again, and recovers.
    let (mut child, banner) = dev(folder.path()).await;
    log_in(&banner, 1).await;
    child.kill().await.unwrap();
}

pub fn production(config: &Config) -> Vec<(String, String)> {
    let key = &config.auth.signing_keys[0];
    let sealing: Vec<_> = config.secrets.sealing_keys.iter().map(sealing_key).collect();
    vec![
        ("RIALTO_DATABASE__URL".into(), config.database.url.expose().into()),
        ("RIALTO_REDIS__URL".into(), config.redis.url.expose().into()),
        ("RIALTO_SERVER__LISTEN".into(), "127.0.0.1:0".into()),
        ("RIALTO_MAIL__TRANSPORT".into(), "none".into()),
        ("RIALTO_AUTH__SIGNING_KEYS".into(), format!("[{{id={:?},seed={:?}}}]", key.id, key.seed.expose())),
        ("RIALTO_SECRETS__SEALING_KEYS".into(), format!("[{}]", sealing.join(","))),
    ]
}

fn sealing_key(key: &SealingKey) -> String {
    format!("{{id={:?},key={:?}}}", key.id, key.key.expose())
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_to_start_without_explicit_and_safe_configuration() {
    let (started, _, error) = output(&mut rialto(&["serve"])).await;
    assert!(!started && error.contains("database.url is not set") && error.contains("auth.signing_keys"), "{error}");
    assert!(error.contains("secrets.sealing_keys is empty"), "{error}");
    assert!(error.contains("mail.transport is not set"), "{error}");

    let world = World::new().await;
    let weak = ("RIALTO_AUTH__SIGNING_KEYS", "[{id=\"a\",seed=\"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\"}]");
    let mut command = rialto(&["serve"]);
    let (started, _, error) = output(command.envs(production(&world.config)).env(weak.0, weak.1)).await;
    assert!(!started && error.contains("not random") && !error.contains("YWFh"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_logs_one_json_line_a_request_and_no_secret_and_stops_in_order() {
    let world = World::new().await;
    let mut command = rialto(&["serve"]);
    let mut child = command.envs(production(&world.config)).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut line =
        async || -> Value { serde_json::from_str(&soon(lines.next_line()).await.unwrap().unwrap()).unwrap() };
    let address = line().await["address"].as_str().unwrap().to_owned();

    let url = format!("http://{address}/v1/auth/login");
    let body = json!({ "email": "a@b.c", "password": "hunter2-in-the-log" });
    let request = reqwest::Client::new().post(url).header("x-request-id", "from-the-client").json(&body);
    assert_eq!(request.send().await.unwrap().status(), 401);
    let logged = line().await;
    assert_eq!((&logged["method"], &logged["status"]), (&json!("/rialto.auth.v1.AuthService/Login"), &json!(401)));
    assert_eq!(logged["request_id"], "from-the-client");
    assert!(!logged.to_string().contains("hunter2"), "{logged}");

    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(soon(child.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_printed_with_its_sources_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rialto.toml");
    std::fs::write(&file, "[server]\nidle_seconds = 7\n[database]\nurl = \"postgres://u:hunter2@h/d\"\n").unwrap();
    let mut command = rialto(&["--config", file.to_str().unwrap(), "config", "print", "--listen", "127.0.0.1:9"]);
    let (printed, text, _) = output(command.env("RIALTO_RATES__FACTOR", "3")).await;
    assert!(printed);
    let line = |key: &str| text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned();
    assert!(line("server.listen").ends_with("\"127.0.0.1:9\"  # flag"), "{text}");
    assert!(line("rates.factor").ends_with("3  # environment RIALTO_RATES__FACTOR"), "{text}");
    assert!(line("server.idle_seconds").contains("7  # file "), "{text}");
    assert!(line("server.flood_burst").ends_with("# default"), "{text}");
    assert!(line("database.url").contains("[redacted]") && !text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let world = World::new().await;
    let (well, report, _) = output(rialto(&["doctor"]).envs(production(&world.config))).await;
    assert!(well, "{report}");

    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let mut command = rialto(&["doctor"]);
    command.envs(production(&world.config)).env("RIALTO_REDIS__URL", redis.url());
    redis.stop().unwrap();
    rialto(&["migrate", "down"]).envs(production(&world.config)).status().await.unwrap();
    let (well, report, _) = output(&mut command).await;
    assert!(!well && report.contains("FAIL  redis") && report.contains("rialto migrate up"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_up_and_down_and_seed_fills_an_empty_database_once() {
    let world = World::new().await;
    let run = async |arguments: &[&str]| output(rialto(arguments).envs(production(&world.config))).await;
    assert!(run(&["migrate", "down", "--all"]).await.0);
    assert!(run(&["migrate", "status"]).await.1.lines().all(|line| line.starts_with("pending")));
    let (refused, _, error) = run(&["serve"]).await;
    assert!(!refused && error.contains("rialto migrate up"), "{error}");
    assert!(run(&["migrate", "up"]).await.0);
    let (seeded, accounts, _) = run(&["seed"]).await;
    assert!(seeded && accounts.contains("alice@example.com"), "{accounts}");
    assert!(!run(&["seed"]).await.0);
    assert_eq!((world.count("accounts").await, world.count("messages").await), (3, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_deletes_what_is_old_and_stops_when_told() {
    use diesel_async::SimpleAsyncConnection;
    let world = World::new().await;
    let node = world.node().await;
    node.user("ann").await;
    let mut conn = world.database().await;
    let old = "UPDATE sessions SET expires_at = now() - interval '31 days';
        INSERT INTO idempotency_keys (account_id, method, key, request_hash, created_at)
        VALUES (gen_random_uuid(), 'm', 'k', '', now() - interval '2 days')";
    conn.batch_execute(old).await.unwrap();
    let mut worker = rialto(&["worker"]).envs(production(&world.config)).spawn().unwrap();
    crate::harness::eventually(async || {
        let (sessions, keys) = (world.count("sessions").await, world.count("idempotency_keys").await);
        (sessions, keys, world.count("refresh_tokens").await) == (0, 0, 0)
    })
    .await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(worker.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(10), worker.wait()).await.unwrap().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_and_permissions_are_printed() {
    let (_, openapi, _) = output(&mut rialto(&["openapi"])).await;
    assert!(serde_json::from_str::<Value>(&openapi).unwrap()["paths"]["/v1/auth/login"].is_object());
    let (_, asyncapi, _) = output(&mut rialto(&["openapi", "--async"])).await;
    assert!(serde_json::from_str::<Value>(&asyncapi).unwrap()["channels"].is_object());
    let (_, permissions, _) = output(&mut rialto(&["permissions"])).await;
    assert!(permissions.contains("| `messages:send` |") && permissions.contains("AuthService/RevokeSessions"));
}

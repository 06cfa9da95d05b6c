//! How it starts: the contract by reflection, what it refuses, the command.

use reqwest::{Client, StatusCode};
use rialto::proxy::Proxy;
use rialto::proxy::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use super::upstream::{Kind, Reflection, Upstream};
use super::{Contract, config, gateway};
use crate::command::{output, rialto};
use crate::harness::soon;

fn reflecting(name: &'static str, reflection: Reflection) -> Kind {
    Kind { name, reflection, tls: None }
}

async fn refusal(config: Config) -> String {
    format!("{:#}", soon(Proxy::start(config)).await.err().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_read_by_reflection_in_either_version() {
    let shop = Upstream::of(reflecting("shop", Reflection::V1)).await;
    let billing = Upstream::of(reflecting("billing", Reflection::V1Alpha)).await;
    let mut config = config(&shop.url());
    config.descriptors.reflect = true;
    config.upstream.services.insert("shop.v1.Billing".into(), billing.url());
    let gateway = gateway(config).await;
    assert_eq!(gateway.get("/v1/shop/a").await.1, json!({ "text": "a from shop" }));
    assert_eq!(gateway.get("/v1/billing/a").await.1, json!({ "text": "a from billing" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_waits_for_an_upstream_that_is_not_up_yet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&format!("http://{}", listener.local_addr().unwrap()));
    config.descriptors.reflect = true;
    let started = tokio::spawn(gateway(config));
    // Something that is not the server yet: it takes a connection, and goes.
    drop(soon(listener.accept()).await.unwrap());
    let _upstream = Upstream::on(listener, reflecting("late", Reflection::V1));
    let gateway = soon(started).await.unwrap();
    assert_eq!(gateway.get("/v1/shop/a").await.1, json!({ "text": "a from late" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_gives_up_in_time_and_at_once_where_waiting_is_no_use() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut nowhere = config(&format!("http://{port}"));
    nowhere.descriptors.reflect = true;
    nowhere.descriptors.reflect_timeout_seconds = 0;
    let error = refusal(nowhere).await;
    assert!(error.contains("reflection: upstream default"), "{error}");

    let silent = Upstream::start("silent").await;
    let mut config = config(&silent.url());
    config.descriptors.reflect = true;
    let error = refusal(config.clone()).await;
    assert!(error.contains("does not serve reflection: use --descriptor-set"), "{error}");

    let shop = Upstream::of(reflecting("shop", Reflection::V1)).await;
    config.upstream.default = String::new();
    config.upstream.services.insert("shop.v1.Nonsense".into(), shop.url());
    let error = refusal(config).await;
    assert!(error.contains("does not have the service shop.v1.Nonsense"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_work_says_why() {
    let contract = Contract::new();
    let good = contract.config("http://127.0.0.1:1");
    let changed = async |change: &dyn Fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        refusal(config).await
    };
    let error = changed(&|config| config.pages.health = "/v1/shop/health".into()).await;
    assert!(error.contains("pages.health: the contract has a route for GET /v1/shop/health"), "{error}");
    let error = changed(&|config| config.pages.ready = "/v1/shop".into()).await;
    assert!(error.contains("POST /v1/shop"), "{error}");
    let error = changed(&|config| config.gateway.services = vec!["shop.v1.None".into()]).await;
    assert!(error.contains("no service shop.v1.None"), "{error}");
    let named = |config: &mut Config| drop(config.upstream.services.insert("x.Y".into(), "http://a:1".into()));
    let error = changed(&named).await;
    assert!(error.contains("upstream x.Y"), "{error}");
    let error = changed(&|config| config.gateway.request_headers = vec!["te".into()]).await;
    assert!(error.contains("\"te\""), "{error}");
    let error = changed(&|config| config.gateway.response_headers = vec!["not a name".into()]).await;
    assert!(error.contains("gateway.response_headers: \"not a name\""), "{error}");
    let error = changed(&|config| drop(config.gateway.aliases.insert("api".into(), "/v1".into()))).await;
    assert!(error.contains("alias"), "{error}");
    let error = changed(&|config| config.upstream.default = "127.0.0.1:1".into()).await;
    assert!(error.contains("http://host:port"), "{error}");
    let error = changed(&|config| config.descriptors.files = vec!["/does/not/exist".into()]).await;
    assert!(error.contains("/does/not/exist"), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = changed(&|config| config.server.listen = taken.local_addr().unwrap()).await;
    assert!(error.contains("can't be listened on"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reads_flags_environment_and_file_logs_each_request_and_stops_when_told() {
    let (upstream, contract) = (Upstream::start("shop").await, Contract::new());
    let file = contract.0.path().join("gateway.toml");
    std::fs::write(&file, "[gateway]\naliases = { \"/api\" = \"/v1\" }\n[server]\nlisten = \"127.0.0.1:1\"").unwrap();
    let path = contract.path();
    let mut command =
        rialto(&["gateway", "--config", file.to_str().unwrap(), "--descriptor-set", path.to_str().unwrap()]);
    command.args(["--upstream", "http://127.0.0.1:1", "--upstream", &format!("shop.v1.Shop={}", upstream.url())]);
    command.env("RIALTO_GATEWAY_SERVER__LISTEN", "127.0.0.1:0");
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut logged = async |message: &str| loop {
        let line: Value = serde_json::from_str(&soon(lines.next_line()).await.unwrap().unwrap()).unwrap();
        if line["message"] == message {
            return line;
        }
    };
    let address = logged("serving").await["address"].as_str().unwrap().to_owned();
    let answer = Client::new().get(format!("http://{address}/api/shop/a")).header("x-request-id", "r-1");
    assert_eq!(answer.send().await.unwrap().json::<Value>().await.unwrap(), json!({ "text": "a from shop" }));
    let line = logged("request").await;
    assert_eq!((&line["method"], &line["status"]), (&json!("/shop.v1.Shop/Get"), &json!(200)));
    assert_eq!((&line["transport"], &line["request_id"]), (&json!("rest"), &json!("r-1")));
    let answer = Client::new().get(format!("http://{address}/v1/billing/a")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let cause = logged("the upstream did not answer").await["cause"].to_string();
    assert!(cause.contains("refused"), "{cause}");

    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(soon(child.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_is_missing_or_unknown() {
    let says = async |arguments: &[&str], setting: (&str, &str)| {
        let (started, _, error) = output(rialto(&[&["gateway"], arguments].concat()).env(setting.0, setting.1)).await;
        assert!(!started);
        error
    };
    let none = ("RIALTO_SERVER__LISTEN", "of another command");
    assert!(says(&[], none).await.contains("--upstream http://"));
    assert!(says(&["--upstream", "http://a:1"], none).await.contains("--descriptor-set FILE"));
    let twice = says(&["--upstream", "http://a:1", "--upstream", "http://b:1", "--reflect"], none).await;
    assert!(twice.contains("--upstream http://b:1"), "{twice}");
    let unknown = says(&["--upstream", "http://a:1", "--reflect"], ("RIALTO_GATEWAY_SERVER__LISTENS", "x")).await;
    assert!(unknown.contains("listens"), "{unknown}");
}

//! Others, and how they are started.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, str};

use anyhow::{Context, Result};
use serde_json::Value;

use super::caller::Method;
use super::http::expected_json;
use super::orders;
use crate::process::Server;
use crate::report::output_of;

/// Envoy's configuration, with names in `@` where something has to be filled in.
const ENVOY: &str = include_str!("../../envoy.yaml");

/// Installs a peer unless it is there, and returns where it is; or why that was not possible.
pub fn install(peer: &str) -> Result<PathBuf, String> {
    let output = Command::new("scripts/bench-peers.sh").arg(peer).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("scripts/bench-peers.sh: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    eprint!("{errors}");
    if !output.status.success() {
        // The last line is the script's own. The others name hosts and folders, which nobody else has.
        return Err(errors.lines().last().unwrap_or("scripts/bench-peers.sh failed").to_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Envoy before a server of orders, with a single worker.
pub fn start_envoy(program: &Path, folder: &Path, upstream: &Server) -> Result<Server> {
    let (descriptors, config) = (descriptors(folder)?, folder.join("envoy.yaml"));
    Server::start(|address| {
        let text = ENVOY
            .replace("@LISTEN@", &address.port().to_string())
            .replace("@UPSTREAM@", &upstream.address.port().to_string())
            .replace("@DESCRIPTORS@", &descriptors.to_string_lossy());
        fs::write(&config, text)?;
        let mut envoy = Command::new(program);
        envoy.arg("--config-path").arg(&config).args(["--concurrency", "1", "--disable-hot-restart"]);
        envoy.args(["--log-level", "error"]).stdout(Stdio::null());
        Ok(envoy)
    })
}

/// Envoy's version.
pub fn envoy_version(program: &Path) -> String {
    let version = output_of(&[&program.to_string_lossy(), "--version"]);
    // Its path, `version:`, a hash, the version, how it was built.
    let build = version.split_once("version:").map_or("", |(_, build)| build);
    format!("Envoy {}", build.split('/').nth(1).unwrap_or("?"))
}

/// `rialto gateway` before a server of orders.
pub fn start_gateway(rialto: Option<&Path>, folder: &Path, upstream: &Server) -> Result<Server> {
    let ourselves = std::env::current_exe().context("finding this program")?;
    let rialto = rialto.map_or_else(|| ourselves.with_file_name("rialto"), Path::to_owned);
    let (url, descriptors) = (format!("http://{}", upstream.address), descriptors(folder)?);
    Server::start(|address| {
        let mut gateway = Command::new(&rialto);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RIALTO_")) {
            gateway.env_remove(name);
        }
        gateway.arg("gateway").arg("--descriptor-set").arg(&descriptors).args(["--upstream", &url]);
        gateway.args(["--listen", &address.to_string()]);
        // Envoy's access log is off, too.
        gateway.env("RIALTO_GATEWAY_LOG__FILTER", "warn").stdout(Stdio::null());
        Ok(gateway)
    })
}

/// Orders over gRPC, and over REST with the gateway in process.
pub fn start_orders() -> Result<Server> {
    let ourselves = std::env::current_exe().context("finding this program")?;
    Server::start(|address| {
        let mut orders = Command::new(&ourselves);
        orders.args(["orders", "--listen", &address.to_string()]);
        Ok(orders)
    })
}

/// A server on Node.js: a script of `bench/node`, with its first arguments.
pub fn start_node(installed: &Path, answers: &Path, script: &[&str]) -> Result<Server> {
    for (method, name) in [(Method::Get, "order.json"), (Method::List, "list.json")] {
        fs::write(answers.join(name), expected_json(method)?.to_string())?;
    }
    Server::start(|address| {
        let mut node = Command::new("node");
        node.current_dir(installed).args(script).arg(address.port().to_string()).arg(answers);
        node.env("NODE_ENV", "production").stdout(Stdio::null());
        Ok(node)
    })
}

/// The versions of Node.js and of what runs on it, by the beginnings of packages' names.
pub fn node_versions(wanted: &[&str]) -> Result<Vec<String>> {
    let package: Value = serde_json::from_str(include_str!("../../node/package.json"))?;
    let packages = package.get("dependencies").and_then(Value::as_object).context("no dependencies")?;
    let packages = packages.iter().filter(|(name, _)| wanted.iter().any(|wanted| name.starts_with(wanted)));
    let packages = packages.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?")));
    Ok([format!("Node.js {}", output_of(&["node", "--version"]))].into_iter().chain(packages).collect())
}

fn descriptors(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("descriptors.bin");
    fs::write(&path, orders::DESCRIPTORS)?;
    Ok(path)
}

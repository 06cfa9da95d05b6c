//! Guessing passwords and codes. `docs/throttling.md` has the tables that these tests compare with.

mod guessing;
mod owners;
mod stopped;

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use rialto::kernel::config::Throttle;
use serde_json::{Value, json};

use crate::harness::{Answer, Node, PASSWORD, World};

const DAY: u64 = 24 * 3600;

/// A world that throttles as production does, where clients say which address they have.
async fn throttled() -> World {
    let mut world = World::new().await;
    strictly(&mut world);
    world
}

fn strictly(world: &mut World) {
    world.config.auth.throttle = Throttle::default();
    world.config.server.trusted_proxies = 1;
}

/// A call without credentials from an address.
async fn call(node: &Node, path: &str, address: &str, body: Value) -> Answer {
    let request = node.http().post(node.url(path)).header("x-forwarded-for", address).json(&body);
    Answer::of(request.send().await.unwrap()).await
}

async fn login(node: &Node, address: &str, email: &str, password: &str) -> Answer {
    call(node, "/v1/auth/login", address, json!({ "email": email, "password": password })).await
}

/// A login from a device that has been seen before.
async fn login_on(node: &Node, device: &str, address: &str, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password, "deviceToken": device });
    call(node, "/v1/auth/login", address, body).await
}

/// A new account, and the token of the device that it has logged in on.
async fn owner(node: &Node, name: &str) -> (String, String) {
    let email = format!("{name}@example.com");
    let register = json!({ "email": email, "password": PASSWORD, "display_name": name });
    node.rest(Method::POST, "/v1/auth/register", None, Some(register)).await.ok();
    let answer = login(node, "10.9.9.9", &email, PASSWORD).await.ok();
    (email, answer["deviceToken"].as_str().unwrap().to_owned())
}

/// The address of the attacker's number so and so.
fn address(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}")
}

/// The seconds for which an answer says that attempts are refused.
#[track_caller]
fn locked(answer: &Answer) -> u64 {
    answer.refused(403, "ACCOUNT_LOCKED", 1006);
    answer.headers["retry-after"].parse().unwrap()
}

/// Until when it says so.
#[track_caller]
fn locked_until(answer: &Answer) -> DateTime<Utc> {
    let details = answer.body["error"]["details"].as_array().unwrap();
    let mut untils = details.iter().filter_map(|detail| detail["metadata"]["locked_until"].as_str());
    untils.next().unwrap_or_else(|| panic!("{}", answer.body)).parse().unwrap()
}

/// Lets time go by for what is counted. The clock is Redis's own, so the counters move instead.
async fn pass(world: &World, seconds: u64) {
    const SCRIPT: &str = r"
        local by = tonumber(ARGV[2])
        for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
          local fields = redis.call('HGETALL', key)
          for i = 1, #fields, 2 do
            local failures, till = string.match(fields[i + 1], '(%d+):(%d+)')
            redis.call('HSET', key, fields[i], string.format('%d:%.0f', failures, till - by))
          end
          redis.call('PEXPIRE', key, string.format('%.0f', redis.call('PTTL', key) - by))
        end
        return true";
    let client = redis::Client::open(world.config.redis.url.expose()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let keys = format!("{}throttle:*", world.config.redis.prefix);
    let by = Duration::from_secs(seconds).as_millis().to_string();
    let moved: bool = redis::cmd("EVAL").arg(SCRIPT).arg(0).arg(keys).arg(by).query_async(&mut redis).await.unwrap();
    assert!(moved);
}

//! Whether an address has an account must not show: neither in answers (`accounts.rs`, `throttle.rs`) nor in the time that
//! they take, which is compared here.
//!
//! Two kinds of calls alternate, so that whatever else the machine does hits both. They are compared by rank, not by
//! milliseconds: the probability that a call of the one kind takes longer than one of the other (Mann and Whitney's U
//! divided by the number of pairs) is a half when they do the same, and close to 0 or 1 when one of them hashes a password more
//! or asks one thing more of the database. Noise brings it nearer to a half, and 30 calls of each spread it by 0.07
//! around there, so 0.2 and 0.8 are four deviations away. The lower quartiles, where noise is least, must also be within one
//! and a half of each other. A difference stays however often one looks, a coincidence does not: calls are added until both
//! hold, and the test fails when they never do. Without the hash that stands in for that of an account that does not exist
//! the probability is 1 and the quartiles are apart by a factor of five to seven (tried).

use std::time::{Duration, Instant};

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Node, World};

const ROUND: usize = 30;
const ROUNDS: usize = 5;

/// A node, and a world with accounts `known0@example.com` and on, of which each is asked about only once.
async fn crowded() -> (World, Node) {
    let mut world = World::new().await;
    world.node().await.user("known").await;
    let copies = format!(
        "INSERT INTO accounts (id, email, display_name, password_hash, role, state, token_version, created_at, updated_at)
         SELECT gen_random_uuid(), 'known' || n || '@example.com', display_name, password_hash, role, state, 0, created_at,
             updated_at
         FROM accounts, generate_series(0, {}) AS n WHERE email = 'known@example.com'; ANALYZE accounts",
        ROUND * ROUNDS
    );
    world.database().await.batch_execute(&copies).await.unwrap();
    // Where addresses need not be verified, Register tells.
    world.config.auth.require_verified_email = true;
    let node = world.node().await;
    (world, node)
}

/// How long a call takes, and what it answers.
async fn time(node: &Node, path: &str, body: Value) -> (Duration, u16) {
    let begun = Instant::now();
    let answer = node.rest(Method::POST, path, None, Some(body)).await;
    (begun.elapsed(), answer.status)
}

/// Fails unless calls about addresses with and without an account can't be told apart.
async fn alike(path: &str, status: u16, body: impl Fn(&str) -> Value) {
    let (_world, node) = crowded().await;
    // What the first calls do once.
    for number in 0..3 {
        time(&node, path, body(&format!("warm{number}@example.com"))).await;
    }
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    let mut said = String::new();
    for number in 0..ROUND * ROUNDS {
        let names = ["known", "other"].map(|name| format!("{name}{number}@example.com"));
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let (took, answered) = time(&node, path, body(&names[which])).await;
            assert_eq!(answered, status, "{}", names[which]);
            if which == 0 { known.push(took) } else { unknown.push(took) }
        }
        if (number + 1) % ROUND == 0 {
            let (longer, ratio) = (longer(&known, &unknown), quartile(&known) / quartile(&unknown));
            said += &format!("{path}: {longer:.2} are longer, quartiles {ratio:.2}; ");
            if (0.2..0.8).contains(&longer) && (1.0 / 1.5..1.5).contains(&ratio) {
                return;
            }
        }
    }
    panic!("{said}");
}

/// The probability that one of the first takes longer than one of the second.
fn longer(first: &[Duration], second: &[Duration]) -> f64 {
    let longer = first.iter().flat_map(|a| second.iter().map(move |b| a > b)).filter(|longer| *longer).count();
    longer as f64 / (first.len() * second.len()) as f64
}

fn quartile(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 4].as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_takes_as_long_for_an_address_without_an_account() {
    alike("/v1/auth/login", 401, |email| json!({ "email": email, "password": "wrong" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_a_device_token_takes_as_long_for_an_address_without_an_account() {
    let token = "x".repeat(43);
    alike("/v1/auth/login", 401, |email| json!({ "email": email, "password": "wrong", "deviceToken": token })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_takes_as_long_for_an_address_without_an_account() {
    let body = |email: &str| json!({ "email": email, "password": "staple h7-Kq.92z", "displayName": "Eve" });
    alike("/v1/auth/register", 200, body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_a_new_password_takes_as_long_for_an_address_without_an_account() {
    alike("/v1/auth/forgot-password", 200, |email| json!({ "email": email })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_a_new_verification_takes_as_long_for_an_address_without_an_account() {
    alike("/v1/auth/resend-verification", 200, |email| json!({ "email": email })).await;
}

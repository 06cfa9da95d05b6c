//! Two-factor authentication: somebody with an authenticator, and what they do.

mod administration;
mod changes;
mod enrolment;
mod login;
mod rotation;

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::proto::rialto::twofactor::v1::two_factor_service_client::TwoFactorServiceClient;
use serde_json::{Value, json};
use totp_rs::{Builder, Totp};

use crate::harness::{Answer, Authorized, Bearer, Node, PASSWORD, User, World};

/// The length of a step.
const STEP: Duration = Duration::from_secs(30);

/// Somebody's telephone.
pub struct Authenticator(Totp);

impl Authenticator {
    fn new(secret: &str) -> Self {
        let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
        Self(Builder::new().with_secret(secret).build().unwrap())
    }

    /// What it shows when its clock is some seconds ahead of the server's.
    fn ahead(&self, world: &World, seconds: i64) -> String {
        let time = world.clock.now().timestamp() + seconds;
        self.0.generate(u64::try_from(time).unwrap()).to_string()
    }

    fn code(&self, world: &World) -> String {
        self.ahead(world, 0)
    }

    /// A code that was not shown before.
    pub fn next_code(&self, world: &World) -> String {
        world.clock.advance(STEP);
        self.code(world)
    }
}

/// Somebody with two-factor authentication.
pub struct Enrolled {
    pub user: User,
    pub authenticator: Authenticator,
    secret: String,
    backup_codes: Vec<String>,
    /// The code that enabled it.
    used_code: String,
}

impl Enrolled {
    pub async fn new(world: &World, node: &Node, name: &str) -> Self {
        let user = node.user(name).await;
        Self::enrol(world, node, user).await
    }

    async fn enrol(world: &World, node: &Node, user: User) -> Self {
        let secret = set_up(node, &user).await;
        let authenticator = Authenticator::new(&secret);
        let used_code = authenticator.code(world);
        let enabled = user.post(node, "/v1/twofa/enable", json!({ "code": used_code })).await.ok();
        Self { user, authenticator, secret, backup_codes: strings(&enabled["backupCodes"]), used_code }
    }

    async fn regenerate(&self, node: &Node, code: &str) -> Answer {
        let body = json!({ "password": PASSWORD, "code": code });
        self.user.post(node, "/v1/twofa/regenerate-backup-codes", body).await
    }

    async fn disable(&self, node: &Node, body: Value) -> Answer {
        self.user.post(node, "/v1/twofa/disable", body).await
    }
}

/// What the answer to a login says: a challenge and nothing else.
pub async fn challenge(node: &Node, email: &str) -> String {
    let login = json!({ "email": email, "password": PASSWORD });
    let answer = node.rest(Method::POST, "/v1/auth/login", None, Some(login)).await.ok();
    assert_eq!(answer["twoFactorRequired"], true, "{answer}");
    let tokens = [&answer["accessToken"], &answer["refreshToken"]];
    assert!(tokens.iter().all(|token| token.as_str().is_none_or(str::is_empty)), "{answer}");
    answer["challengeToken"].as_str().unwrap().to_owned()
}

pub async fn verify(node: &Node, challenge: &str, code: &str) -> Answer {
    finish(node, json!({ "challengeToken": challenge, "code": code })).await
}

async fn finish(node: &Node, body: Value) -> Answer {
    node.rest(Method::POST, "/v1/auth/login/verify-2fa", None, Some(body)).await
}

/// Begins a setup; returns its secret.
async fn set_up(node: &Node, user: &User) -> String {
    let setup = user.post(node, "/v1/twofa/setup", json!({ "password": PASSWORD })).await.ok();
    setup["secret"].as_str().unwrap().to_owned()
}

/// Makes an account an administrator.
async fn promote(world: &World, node: &Node, user: &User) {
    let sql = format!("UPDATE accounts SET role = 'admin' WHERE id = '{}'", user.id);
    world.database().await.batch_execute(&sql).await.unwrap();
    let id = uuid::Uuid::parse_str(&user.id).unwrap();
    let message = bytes::Bytes::copy_from_slice(id.as_bytes());
    node.server.app.bus.publish([("sessions".into(), message)]).await.unwrap();
    let is_admin = async || user.get(node, "/v1/auth/me").await.ok()["role"] == "ROLE_ADMIN";
    crate::harness::eventually(is_admin).await;
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn over_grpc(node: &Node, user: &User) -> TwoFactorServiceClient<Authorized> {
    TwoFactorServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

/// What the answer of a call says about its fate: its status, and its reason if it was refused.
fn fate(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.body["error"]["reason"].as_str())
}

//! Passkeys: somebody with an authenticator, and what they do.

mod authenticator;
mod login;
mod registration;
mod second_factor;

use reqwest::Method;
use rialto::proto::rialto::passkeys::v1::passkey_service_client::PasskeyServiceClient;
use serde_json::{Value, json};

use self::authenticator::Authenticator;
use crate::harness::{Answer, Authorized, Bearer, Node, User, World};

const RP_ID: &str = "example.com";
const ORIGIN: &str = "https://app.example.com";

/// A world whose passkeys belong to example.com.
async fn world() -> World {
    let mut world = World::new().await;
    world.config.auth.passkeys.rp_id = RP_ID.into();
    world.config.auth.passkeys.origins = vec![ORIGIN.into(), "https://www.example.com".into()];
    world
}

/// A ceremony that was begun: its options and its token.
struct Ceremony {
    options: Value,
    token: String,
}

impl Ceremony {
    #[track_caller]
    fn of(answer: Answer) -> Self {
        let answer = answer.ok();
        Self { options: answer["options"].clone(), token: answer["ceremonyToken"].as_str().unwrap().to_owned() }
    }

    async fn registration(node: &Node, user: &User) -> Self {
        Self::of(user.post(node, "/v1/passkeys/register/begin", json!({})).await)
    }

    async fn reauthentication(node: &Node, user: &User) -> Self {
        Self::of(user.post(node, "/v1/passkeys/reauthenticate/begin", json!({})).await)
    }

    async fn login(node: &Node) -> Self {
        Self::of(node.rest(Method::POST, "/v1/passkeys/login/begin", None, Some(json!({}))).await)
    }

    async fn second_factor(node: &Node, challenge: &str) -> Self {
        let body = json!({ "challengeToken": challenge });
        Self::of(node.rest(Method::POST, "/v1/passkeys/second-factor/begin", None, Some(body)).await)
    }

    /// The body of the call that finishes it.
    fn body(&self, credential: Value) -> Value {
        json!({ "ceremonyToken": self.token, "credential": credential })
    }
}

async fn finish_registration(node: &Node, user: &User, ceremony: &Ceremony, credential: Value) -> Answer {
    let mut body = ceremony.body(credential);
    body["name"] = "Laptop".into();
    user.post(node, "/v1/passkeys/register/finish", body).await
}

async fn finish_login(node: &Node, ceremony: &Ceremony, credential: Value) -> Answer {
    node.rest(Method::POST, "/v1/passkeys/login/finish", None, Some(ceremony.body(credential))).await
}

async fn log_in(node: &Node, authenticator: &mut Authenticator) -> Answer {
    let ceremony = Ceremony::login(node).await;
    finish_login(node, &ceremony, authenticator.get(&ceremony.options)).await
}

/// Adds a passkey; returns what the server answered and the authenticator that has it.
async fn register(node: &Node, user: &User) -> (Value, Authenticator) {
    register_with(node, user, Authenticator::new()).await
}

async fn register_with(node: &Node, user: &User, mut authenticator: Authenticator) -> (Value, Authenticator) {
    let ceremony = Ceremony::registration(node, user).await;
    let credential = authenticator.create(&ceremony.options);
    (finish_registration(node, user, &ceremony, credential).await.ok(), authenticator)
}

fn over_grpc(node: &Node, user: &User) -> PasskeyServiceClient<Authorized> {
    PasskeyServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

/// What the answer of a call says about its fate: its status, and its reason if it was refused.
fn fate(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.body["error"]["reason"].as_str())
}

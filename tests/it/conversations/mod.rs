//! Conversations beyond sending and listing: members, single messages, receipts, and what account streams are told of them.

mod groups;
mod heads;
mod hostile;
mod lists;
mod messages;
mod receipts;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Events, Node, User};

fn path(conversation: &str, rest: &str) -> String {
    format!("/v1/conversations/{conversation}{rest}")
}

async fn patch(user: &User, node: &Node, path: &str, body: Value) -> Answer {
    user.call(node, Method::PATCH, path, body).await
}

/// Starts a conversation of two.
async fn direct(node: &Node, from: &User, to: &User) -> Answer {
    let body = json!({ "kind": "CONVERSATION_KIND_DIRECT", "memberIds": [to.id] });
    from.post(node, "/v1/conversations", body).await
}

async fn add(node: &Node, user: &User, conversation: &str, accounts: &[&User]) -> Answer {
    let ids: Vec<_> = accounts.iter().map(|account| account.id.as_str()).collect();
    user.post(node, &path(conversation, "/members"), json!({ "accountIds": ids })).await
}

async fn set_role(node: &Node, user: &User, conversation: &str, of: &User, role: &str) -> Answer {
    let body = json!({ "role": format!("MEMBER_ROLE_{role}") });
    patch(user, node, &path(conversation, &format!("/members/{}", of.id)), body).await
}

/// The members' ids and roles, in the order in which they came.
async fn roles(node: &Node, user: &User, conversation: &str) -> Vec<(String, String)> {
    let members = user.get(node, &path(conversation, "/members")).await.ok();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let members = members["members"].as_array().unwrap().iter();
    members.map(|member| (text(&member["accountId"]), text(&member["role"]).replace("MEMBER_ROLE_", ""))).collect()
}

/// The next thing that is told, which must be of this name.
async fn expect(events: &mut Events, name: &str) -> Value {
    let event = events.next().await.expect("the stream has ended");
    assert_eq!(event.name, name, "{event:?}");
    event.data[name].clone()
}

//! What accounts are told: each kind of event, and why sessions end.

use reqwest::Method;
use rialto::kernel::account_events::Event;
use rialto::proto::rialto::account::v1::{SecurityChange, SessionEndReason};
use serde_json::{Value, json};

use super::Stream;
use crate::harness::{Node, PASSWORD, User, World, soon};
use crate::two_factor::Enrolled;

const NEW_PASSWORD: &str = "staple h7-Kq.92z";

/// An event in short.
fn short(event: &Event) -> String {
    match event {
        Event::SessionEnded(ended) => format!("session {}", ended.reason().as_str_name()),
        Event::SecurityChanged(changed) => changed.change().as_str_name().to_owned(),
        Event::RoleAssigned(role) => format!("assigned {}", role.name),
        Event::RoleUnassigned(role) => format!("unassigned {}", role.name),
        Event::AbilitiesChanged(_) => "abilities".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn session(why: SessionEndReason) -> String {
    format!("session {}", why.as_str_name())
}

fn changed(what: SecurityChange) -> String {
    what.as_str_name().to_owned()
}

/// The first things that an account was told, in short.
pub async fn told(node: &Node, user: &User, count: usize) -> Vec<String> {
    let (mut told, mut last) = (Vec::new(), 0);
    soon(async {
        while told.len() < count {
            // A stream ends when its node hears of a change of roles, and the client comes back.
            let Ok(mut stream) = Stream::try_open(node, user, Some(last)).await else { continue };
            while told.len() < count
                && let Ok(Some(message)) = stream.messages.message().await
            {
                last = message.seq.unwrap();
                told.push(short(&message.event.unwrap()));
            }
        }
    })
    .await;
    told
}

/// The id of somebody's own session.
async fn own_session(node: &Node, user: &User) -> Value {
    let sessions = user.get(node, "/v1/auth/sessions").await.ok();
    let own = sessions["sessions"].as_array().unwrap().iter().find(|session| session["current"] == true);
    own.unwrap()["id"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_sessions_are_told_which_session_has_ended_and_why() {
    let mut world = World::new().await;
    world.config.auth.max_sessions = 3;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let admin = world.administrator(&node, "admin").await;
    let again = async || node.log_in(&ann.email, &ann.id).await;
    let mut stays = Stream::open(&node, &ann, None).await;
    let mut ended = async |id: Value, why: SessionEndReason| {
        let (_, Event::SessionEnded(told)) = stays.next().await else { panic!("something else was told") };
        assert_eq!((told.session_id.as_str(), told.reason()), (id.as_str().unwrap(), why));
    };

    let phone = again().await;
    let id = own_session(&node, &phone).await;
    phone.post(&node, "/v1/auth/logout", json!({})).await.ok();
    ended(id, SessionEndReason::LoggedOut).await;

    let phone = again().await;
    let id = own_session(&node, &phone).await;
    ann.delete(&node, &format!("/v1/auth/sessions/{}", id.as_str().unwrap())).await.ok();
    ended(id, SessionEndReason::Revoked).await;

    let phone = again().await;
    let id = own_session(&node, &phone).await;
    let refresh = async || {
        let body = json!({ "refresh_token": phone.refresh });
        node.rest(Method::POST, "/v1/auth/refresh", None, Some(body)).await
    };
    refresh().await.ok();
    refresh().await.refused(401, "SESSION_REVOKED", 1004);
    ended(id, SessionEndReason::RefreshTokenReused).await;

    // The one that was used longest ago is not the one that listens.
    let oldest = again().await;
    let id = own_session(&node, &oldest).await;
    world.clock.advance(std::time::Duration::from_secs(1));
    let renewed = json!({ "refresh_token": ann.refresh });
    node.rest(Method::POST, "/v1/auth/refresh", None, Some(renewed)).await.ok();
    let (_second, _third) = (again().await, again().await);
    ended(id, SessionEndReason::TooManySessions).await;

    // An administrator ends all: who comes back hears of them.
    admin.post(&node, &format!("/v1/auth/accounts/{}/revoke-sessions", ann.id), json!({})).await.ok();
    let told = told(&node, &again().await, 7).await;
    assert_eq!(told[4..], [(); 3].map(|()| session(SessionEndReason::Revoked)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_told_that_its_password_was_changed_and_that_it_was_suspended() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = node.user("ann").await;
    let admin = world.administrator(&node, "admin").await;
    node.log_in(&ann.email, &ann.id).await;
    let change = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    let tokens = ann.post(&node, "/v1/auth/change-password", change).await.ok();
    let ann = User { token: tokens["accessToken"].as_str().unwrap().into(), ..ann };
    let mut expected = vec![session(SessionEndReason::SecurityChanged), changed(SecurityChange::PasswordChanged)];
    assert_eq!(told(&other, &ann, 2).await, expected);

    for step in ["suspend", "reinstate"] {
        admin.post(&node, &format!("/v1/auth/accounts/{}/{step}", ann.id), json!({})).await.ok();
    }
    let login = json!({ "email": ann.email, "password": NEW_PASSWORD });
    let tokens = node.rest(Method::POST, "/v1/auth/login", None, Some(login)).await.ok();
    let ann = User { token: tokens["accessToken"].as_str().unwrap().into(), ..ann };
    expected.push(session(SessionEndReason::AccountClosed));
    assert_eq!(told(&other, &ann, 3).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_told_that_its_second_factor_was_enabled_and_disabled() {
    let world = World::new().await;
    let node = world.node().await;
    let Enrolled { user, authenticator, .. } = Enrolled::new(&world, &node, "ann").await;
    let disable = json!({ "password": PASSWORD, "code": authenticator.next_code(&world) });
    user.post(&node, "/v1/twofa/disable", disable).await.ok();
    let expected = [SecurityChange::TwoFactorEnabled, SecurityChange::TwoFactorDisabled].map(changed);
    assert_eq!(told(&node, &user, 2).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_told_of_roles_that_it_gets_and_loses_and_of_changes_of_those_that_it_has() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let admin = world.administrator(&node, "admin").await;
    node.work();
    let create = async |name: &str, parents: &[&str]| {
        let role = json!({ "name": name, "grants": [], "parent_ids": parents });
        admin.post(&node, "/v1/roles", role).await.ok()["id"].as_str().unwrap().to_owned()
    };
    let base = create("base", &[]).await;
    let heir = create("heir", &[&base]).await;
    let assign = async |user: &User, role: &str| {
        admin.post(&node, &format!("/v1/accounts/{}/roles", user.id), json!({ "role_id": role })).await.ok();
    };
    assign(&ann, &base).await;
    assign(&bob, &heir).await;
    let update = json!({ "name": "base", "grants": [{ "permission": "users:read" }] });
    admin.call(&node, Method::PATCH, &format!("/v1/roles/{base}?update_mask=grants"), update).await.ok();
    assert_eq!(told(&other, &ann, 2).await, ["assigned base", "abilities"]);
    assert_eq!(told(&other, &bob, 2).await, ["assigned heir", "abilities"]);

    admin.delete(&node, &format!("/v1/accounts/{}/roles/{heir}", bob.id)).await.ok();
    admin.delete(&node, &format!("/v1/roles/{base}")).await.ok();
    assert_eq!(told(&other, &ann, 3).await[2], "unassigned base");
    assert_eq!(told(&other, &bob, 3).await[2], "unassigned heir");
    const SUPPORT: &str = "00000000-0000-7000-8000-000000000004";
    assign(&bob, SUPPORT).await;
    assert_eq!(told(&other, &bob, 4).await[3], "assigned support");
}

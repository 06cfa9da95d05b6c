//! Who sees whose devices.

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::domains::keys::devices_of;
use serde_json::{Value, json};

use super::{Phone, claim, list, new_uuid, uuid};
use crate::harness::{Node, User, World};

/// What a call answers about an account, without its id: as one about an id that no account has, or with devices.
async fn sees(node: &Node, viewer: &User, other: &User) -> bool {
    let unknown = new_uuid().to_string();
    let ask = async |id: &str| {
        let list = viewer.get(node, &format!("/v1/keys/devices?accountId={id}")).await.ok();
        let claim = viewer.post(node, "/v1/keys/claim", json!({ "targets": [{ "accountId": id }] })).await.ok();
        let text = Value::from_iter([list, claim]).to_string();
        text.replace(id, "id")
    };
    let devices = ask(&other.id).await;
    let nothing = ask(&unknown).await;
    devices != nothing
}

async fn privacy(node: &Node, user: &User, privacy: Value) {
    user.call(node, Method::PATCH, "/v1/users/me", json!({ "privacy": privacy })).await.ok();
}

async fn world_with_devices() -> (World, Node, [User; 3]) {
    let world = World::new().await;
    let node = world.node().await;
    let users = [node.user("ann").await, node.user("bob").await, node.user("eve").await];
    for user in &users {
        Phone::new(user).publish(&node, 5).await;
    }
    (world, node, users)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_hides_devices_either_way_also_in_a_conversation() {
    let (_world, node, [ann, bob, eve]) = world_with_devices().await;
    assert!(sees(&node, &bob, &ann).await && sees(&node, &ann, &bob).await);
    ann.conversation(&node, &[&bob, &eve]).await;
    ann.post(&node, &format!("/v1/users/{}/block", bob.id), json!({})).await.ok();
    assert!(!sees(&node, &bob, &ann).await && !sees(&node, &ann, &bob).await);
    assert!(sees(&node, &eve, &ann).await && sees(&node, &eve, &bob).await && sees(&node, &ann, &ann).await);
    ann.delete(&node, &format!("/v1/users/{}/block", bob.id)).await.ok();
    assert!(sees(&node, &bob, &ann).await && sees(&node, &ann, &bob).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_shown_to_those_who_may_write_and_to_those_in_the_same_conversation() {
    let (_world, node, [ann, bob, eve]) = world_with_devices().await;
    let everyone = json!({ "messagesFrom": "AUDIENCE_EVERYONE", "profileVisibility": "PROFILE_VISIBILITY_MEMBERS" });
    ann.conversation(&node, &[&bob]).await;
    for closed in [
        json!({ "messagesFrom": "AUDIENCE_NOBODY" }),
        json!({ "messagesFrom": "AUDIENCE_CONTACTS" }),
        json!({ "profileVisibility": "PROFILE_VISIBILITY_NOBODY" }),
    ] {
        privacy(&node, &ann, closed).await;
        assert!(!sees(&node, &eve, &ann).await);
        assert!(sees(&node, &bob, &ann).await && sees(&node, &ann, &eve).await);
        privacy(&node, &ann, everyone.clone()).await;
        assert!(sees(&node, &eve, &ann).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_active_has_no_devices_until_it_is_again() {
    let (world, node, [ann, bob, _]) = world_with_devices().await;
    ann.conversation(&node, &[&bob]).await;
    for state in ["suspended", "deleted", "active"] {
        let set = format!("UPDATE accounts SET state = '{state}' WHERE id = '{}'", ann.id);
        world.database().await.batch_execute(&set).await.unwrap();
        let active = state == "active";
        assert_eq!(sees(&node, &bob, &ann).await, active, "{state}");
        let mut conn = node.server.app.db.get().await.unwrap();
        let devices = devices_of(&mut conn, &[uuid(&ann.id)]).await.unwrap();
        assert_eq!(devices.len(), usize::from(active), "{state}");
    }
    assert!(claim(&node, &bob, &ann).await.bundles[0].one_time_pre_key.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_an_account_key_and_no_device_looks_like_nobody() {
    let (_world, node, [ann, bob, _]) = world_with_devices().await;
    let own = list(&node, &ann, None).await;
    ann.delete(&node, &format!("/v1/keys/devices/{}", own.devices[0].device_id)).await.ok();
    assert!(!sees(&node, &bob, &ann).await);
    assert_eq!(list(&node, &ann, None).await.account_key, own.account_key);
}

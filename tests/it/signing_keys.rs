//! The signing key is replaced while people are logged in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rialto::kernel::config::SigningKey;
use rialto::kernel::secret::Secret;
use rialto::proto::rialto::auth::v1::RefreshRequest;

use crate::harness::{Events, Node, User, World};

/// Which key signed a token.
fn signer(user: &User) -> String {
    let header = URL_SAFE_NO_PAD.decode(user.token.split('.').next().unwrap()).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn renewed(node: &Node, user: &User) -> User {
    let request = RefreshRequest { refresh_token: user.refresh.clone() };
    let tokens = node.auth().refresh(request).await.unwrap().into_inner();
    User { token: tokens.access_token, refresh: tokens.refresh_token, ..user.clone() }
}

async fn good_at(nodes: &[&Node], user: &User) {
    for node in nodes {
        user.get(node, "/v1/auth/me").await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signing_key_is_replaced_and_no_session_notices() {
    let mut world = World::new().await;
    let first = world.node().await;
    let (ann, bob) = (first.user("ann").await, first.user("bob").await);
    let conversation = ann.conversation(&first, &[&bob]).await;

    // It is known on every server before it signs on one.
    let key = SigningKey { id: "new".into(), seed: Secret::new("OFrIFmCvHScIk4bMqqmaJ0Tq5VLLWVFTB6Mx0fbKv5I=") };
    world.config.auth.signing_keys.push(key);
    let second = world.node().await;
    let on_second = second.log_in(&ann.email, &ann.id).await;
    assert_eq!(signer(&on_second), "test");
    good_at(&[&first, &second], &ann).await;
    good_at(&[&first, &second], &on_second).await;

    world.config.auth.signing_keys.rotate_left(1);
    let third = world.node().await;
    let mut watching = Events::open(&third, &bob, &conversation, "", None).await;
    let on_third = renewed(&third, &on_second).await;
    assert_eq!(signer(&on_third), "new");
    good_at(&[&second, &third], &ann).await;
    good_at(&[&second, &third], &on_third).await;

    // The old one is dropped: its tokens are worth nothing, and the sessions go on.
    world.config.auth.signing_keys.truncate(1);
    let last = world.node().await;
    ann.get(&last, "/v1/auth/me").await.refused(401, "TOKEN_INVALID", 1004);
    let renewed = renewed(&last, &ann).await;
    assert_eq!(signer(&renewed), "new");
    good_at(&[&second, &third, &last], &renewed).await;
    good_at(&[&second, &third, &last], &on_third).await;
    assert_eq!(world.count("sessions WHERE revoked_at IS NULL").await, 3);
    // What was begun under the old key goes on.
    renewed.send(&last, &conversation, "still here").await;
    assert_eq!(watching.text().await, "still here");
}

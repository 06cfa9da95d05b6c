//! The sealing key is replaced while people log in with their second factor.

use futures_util::future::join_all;
use rialto::kernel::config::SealingKey;
use rialto::kernel::secret::Secret;

use super::{Authenticator, Enrolled, STEP, challenge, set_up, verify};
use crate::harness::{Node, World};

/// Everybody logs in at once, half of them on each node, with a code that was not used before.
async fn all_log_in(world: &World, nodes: [&Node; 2], people: &[Enrolled]) {
    world.clock.advance(STEP);
    let logins = people.iter().enumerate().map(async |(index, person)| {
        let node = nodes[index % 2];
        let challenge = challenge(node, &person.user.email).await;
        verify(node, &challenge, &person.authenticator.code(world)).await.ok();
    });
    join_all(logins).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sealing_key_is_replaced_while_people_log_in_and_none_is_refused() {
    let mut world = World::new().await;
    let first = world.node().await;
    let people = join_all(["ann", "bob", "cal", "dee"].map(|name| Enrolled::new(&world, &first, name))).await;
    let seal = SealingKey { id: "new".into(), key: Secret::new("OFrIFmCvHScIk4bMqqmaJ0Tq5VLLWVFTB6Mx0fbKv5I=") };

    // It is known on every server before it seals on one.
    world.config.secrets.sealing_keys.push(seal);
    let second = world.node().await;
    all_log_in(&world, [&first, &second], &people).await;
    world.config.secrets.sealing_keys.rotate_left(1);
    let third = world.node().await;
    // What the new key seals, the servers that are not restarted yet can open.
    let eve = third.user("eve").await;
    let code = Authenticator::new(&set_up(&third, &eve).await).code(&world);
    eve.post(&second, "/v1/twofa/enable", serde_json::json!({ "code": code })).await.ok();
    assert_eq!(world.count("two_factor WHERE substr(secret, 3, 3) = 'new'").await, 1);

    let mut rotate = crate::command::rialto(&["keys", "rotate"]);
    rotate.envs(crate::command::production(&world.config));
    let logins = async {
        for _ in 0..3 {
            all_log_in(&world, [&second, &third], &people).await;
        }
    };
    let (rotated, ()) = tokio::join!(crate::command::output(&mut rotate), logins);
    assert!(rotated.0 && rotated.1 == "two_factor.secret: 4 sealed again\n", "{rotated:?}");
    assert_eq!(world.count("two_factor WHERE substr(secret, 3, 3) = 'new'").await, 5);

    world.config.secrets.sealing_keys.truncate(1);
    let last = world.node().await;
    all_log_in(&world, [&third, &last], &people).await;
}

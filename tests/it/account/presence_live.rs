//! What streams are told of those that they watch.

use rialto::dev::services::PrivateRedis;

use super::presence::{never, seen_at, set, streams};
use super::{Stream, plain, tell_all};
use crate::harness::{Node, User, World, eventually};

impl Stream {
    /// Expects to be told this of somebody next.
    async fn sees(&mut self, user: &User, online: bool) {
        let told = self.presence().await;
        assert_eq!((told.account_id.as_str(), told.online), (user.id.as_str(), online));
        assert!(told.seen_at.is_some());
    }
}

/// Ends the one stream of somebody, and waits until that is known.
async fn leave(world: &World, user: &User, stream: Stream) {
    drop(stream);
    streams(world, user, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_all_nodes_are_told_who_comes_and_goes() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob, eve) = (one.user("ann").await, one.user("bob").await, one.user("eve").await);
    let mut here = Stream::watching(&one, &bob, &[&ann]).await;
    let mut there = Stream::watching(&two, &eve, &[&ann]).await;
    let mut blind = Stream::open(&one, &bob, None).await;
    for watcher in [&mut here, &mut there] {
        assert_eq!(watcher.presence().await, never(&ann.id));
    }
    let first = Stream::open(&two, &ann, None).await;
    for watcher in [&mut here, &mut there] {
        watcher.sees(&ann, true).await;
    }
    // A second one changes nothing, nor that the first one ends.
    let second = Stream::open(&one, &ann, None).await;
    drop(first);
    streams(&world, &ann, 1).await;
    let mut late = Stream::watching(&two, &bob, &[&ann]).await;
    late.sees(&ann, true).await;
    leave(&world, &ann, second).await;
    for watcher in [&mut here, &mut there, &mut late] {
        watcher.sees(&ann, false).await;
    }
    // Who does not watch is told nothing, also not what another stream of the account is.
    tell_all(&one, &bob, 1..=1).await;
    blind.expect(1..=1, plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_right_back_has_not_gone() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, carl) = (node.user("ann").await, node.user("bob").await, node.user("carl").await);
    let carls = Stream::open(&node, &carl, None).await;
    let anns = Stream::open(&node, &ann, None).await;
    let mut watcher = Stream::watching(&node, &bob, &[&ann, &carl]).await;
    for _ in 0..2 {
        assert!(watcher.presence().await.online);
    }
    leave(&world, &ann, anns).await;
    let _back = Stream::open(&node, &ann, None).await;
    watcher.sees(&ann, true).await;
    // Carl goes after her, and what is told of him is told after what would be of her.
    leave(&world, &carl, carls).await;
    watcher.sees(&carl, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_know_or_no_longer_may_is_told_nothing() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (carl, eve) = (node.user("carl").await, node.user("eve").await);
    ann.conversation(&node, &[&bob]).await;
    set(&node, &ann, "presenceTo", "AUDIENCE_CONTACTS").await;
    let carls = Stream::open(&node, &carl, None).await;
    // Bob is a contact, Eve is not.
    let mut watchers = [watch(&node, &bob, &ann, &carl).await, watch(&node, &eve, &ann, &carl).await];
    let anns = Stream::open(&node, &ann, None).await;
    watchers[0].sees(&ann, true).await;

    // From then on nobody hears of her, however it goes on. What is told of Carl, who does the same after her, says so.
    set(&node, &ann, "presenceTo", "AUDIENCE_NOBODY").await;
    leave(&world, &ann, anns).await;
    leave(&world, &carl, carls).await;
    for watcher in &mut watchers {
        watcher.sees(&carl, false).await;
    }
    let anns = Stream::open(&node, &ann, None).await;
    let carls = Stream::open(&node, &carl, None).await;
    for watcher in &mut watchers {
        watcher.sees(&carl, true).await;
    }
    set(&node, &ann, "presenceTo", "AUDIENCE_EVERYONE").await;
    leave(&world, &ann, anns).await;
    for watcher in &mut watchers {
        watcher.sees(&ann, false).await;
    }
    // Those who block hear as little as those who are blocked.
    ann.post(&node, &format!("/v1/users/{}/block", bob.id), serde_json::json!({})).await.ok();
    eve.post(&node, &format!("/v1/users/{}/block", ann.id), serde_json::json!({})).await.ok();
    let _anns = Stream::open(&node, &ann, None).await;
    leave(&world, &carl, carls).await;
    for watcher in &mut watchers {
        watcher.sees(&carl, false).await;
    }
}

/// A stream that watches Ann, of whom there is nothing to be seen, and Carl, who is there.
async fn watch(node: &Node, user: &User, ann: &User, carl: &User) -> Stream {
    let mut watcher = Stream::watching(node, user, &[ann, carl]).await;
    let mut told = [watcher.presence().await, watcher.presence().await];
    told.sort_by_key(|presence| presence.online);
    assert_eq!((&told[0], &told[1].account_id, told[1].online), (&never(&ann.id), &carl.id, true));
    watcher
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_streams_of_the_same_node_are_told_and_others_see_it_when_they_open_anew() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    redis.kill();
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    let mut here = Stream::watching(&one, &bob, &[&ann]).await;
    assert_eq!(here.presence().await, never(&ann.id));
    let anns = Stream::open(&one, &ann, None).await;
    here.sees(&ann, true).await;
    Stream::watching(&two, &bob, &[&ann]).await.sees(&ann, true).await;
    let before = world.clock.now();
    leave(&world, &ann, anns).await;
    let told = here.presence().await;
    assert!(!told.online && seen_at(&told).unwrap() >= before);
    assert_eq!(Stream::watching(&two, &bob, &[&ann]).await.presence().await, told);
}

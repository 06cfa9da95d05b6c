//! What streams are told of those that they watch.

use diesel_async::SimpleAsyncConnection;
use rialto::dev::services::PrivateRedis;
use rialto::proto::rialto::users::v1::DeleteMeRequest;
use serde_json::json;

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
async fn who_may_not_know_is_told_nothing_and_who_no_longer_may_once_that_there_is_nothing() {
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

    // Bob sees nothing any more, and Eve never saw anything. From then on nobody hears of her, however it goes on. What is told
    // of Carl, who does the same after her, says so.
    set(&node, &ann, "presenceTo", "AUDIENCE_NOBODY").await;
    assert_eq!(watchers[0].presence().await, never(&ann.id));
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
    for watcher in &mut watchers {
        watcher.sees(&ann, true).await;
    }
    leave(&world, &ann, anns).await;
    for watcher in &mut watchers {
        watcher.sees(&ann, false).await;
    }
    // Those who block hear as little as those who are blocked.
    ann.post(&node, &format!("/v1/users/{}/block", bob.id), json!({})).await.ok();
    eve.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    for watcher in &mut watchers {
        assert_eq!(watcher.presence().await, never(&ann.id));
    }
    let _anns = Stream::open(&node, &ann, None).await;
    leave(&world, &carl, carls).await;
    for watcher in &mut watchers {
        watcher.sees(&carl, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_sight_of_somebody_is_told_in_that_moment_on_whichever_node() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let admin = world.administrator(&one, "admin").await;
    let group = ann.conversation(&one, &[&bob]).await;
    set(&one, &ann, "presenceTo", "AUDIENCE_CONTACTS").await;
    let stream = Stream::open(&one, &ann, None).await;
    leave(&world, &ann, stream).await;
    let mut watchers = [Stream::watching(&one, &bob, &[&ann]).await, Stream::watching(&two, &bob, &[&ann]).await];
    // All that there is to see is when she was last there.
    let mut told = async |sees: bool| {
        for watcher in &mut watchers {
            if sees {
                watcher.sees(&ann, false).await;
            } else {
                assert_eq!(watcher.presence().await, never(&ann.id));
            }
        }
    };
    told(true).await;
    // They are contacts no longer, and again.
    let members = format!("/v1/conversations/{group}/members");
    let again = json!({ "accountIds": [bob.id] });
    bob.post(&one, &format!("/v1/conversations/{group}/leave"), json!({})).await.ok();
    told(false).await;
    ann.post(&one, &members, again.clone()).await.ok();
    told(true).await;
    ann.delete(&one, &format!("{members}/{}", bob.id)).await.ok();
    told(false).await;
    ann.conversation(&one, &[&bob]).await;
    told(true).await;
    // A block, and back.
    let block = format!("/v1/users/{}/block", ann.id);
    bob.post(&one, &block, json!({})).await.ok();
    told(false).await;
    bob.delete(&one, &block).await.ok();
    told(true).await;
    for (verb, sees) in [("suspend", false), ("reinstate", true)] {
        admin.post(&one, &format!("/v1/auth/accounts/{}/{verb}", ann.id), json!({})).await.ok();
        told(sees).await;
    }
    let ann = one.log_in(&ann.email, &ann.id).await;
    ann.users(&one).delete_me(DeleteMeRequest {}).await.unwrap();
    told(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_by_itself_that_another_one_was_killed_and_who_comes_without_redis() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, carl) = (node.user("ann").await, node.user("bob").await, node.user("carl").await);
    let killed = "00000000-0000-0000-0000-000000000001";
    // As a node leaves it that was killed just now.
    let rows = format!(
        "INSERT INTO nodes VALUES ('{killed}', now());
         INSERT INTO account_connections SELECT gen_random_uuid(), '{id}', gen_random_uuid(), '{killed}', 'grpc', '', \
             '127.0.0.1', now(), NULL;
         INSERT INTO presences VALUES ('{id}', now())",
        id = ann.id
    );
    let mut database = world.database().await;
    database.batch_execute(&rows).await.unwrap();
    let mut watcher = Stream::watching(&node, &bob, &[&ann]).await;
    watcher.sees(&ann, true).await;
    // A minute later; that the bus goes has the node look at once, and not only every ten seconds.
    database.batch_execute("UPDATE nodes SET seen_at = seen_at - interval '61 seconds'").await.unwrap();
    redis.kill();
    watcher.sees(&ann, false).await;
    let mut watcher = Stream::watching(&node, &bob, &[&carl]).await;
    assert_eq!(watcher.presence().await, never(&carl.id));
    let _carls = Stream::open(&other, &carl, None).await;
    watcher.sees(&carl, true).await;
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
async fn without_redis_streams_of_the_same_node_are_told_at_once_and_others_see_it_when_they_open_anew() {
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

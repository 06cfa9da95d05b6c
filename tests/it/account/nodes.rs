//! Producers and readers on several nodes, with and without Redis.

use std::collections::BTreeSet;

use rialto::dev::services::PrivateRedis;

use super::{Stream, commit, plain, tell_all};
use crate::harness::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn of_many_producers_on_two_nodes_every_reader_hears_each_event_once_and_in_one_order() {
    const EACH: usize = 25;
    const PRODUCERS: usize = 8;
    let world = World::new().await;
    let nodes = [world.node().await, world.node().await];
    let (ann, bob) = (nodes[0].user("ann").await, nodes[0].user("bob").await);
    let mut readers = Vec::new();
    for node in &nodes {
        for user in [&ann, &bob] {
            readers.push(Stream::open(node, user, None).await);
        }
    }
    let produce = async |producer: usize| {
        let node = &nodes[producer % 2];
        for number in 0..EACH {
            let name = format!("{producer}-{number}");
            // Both accounts in one transaction, named in either order: they must not wait for each other for ever.
            let told =
                if producer % 4 < 2 { [(&ann, &*name), (&bob, &*name)] } else { [(&bob, &*name), (&ann, &*name)] };
            let announcement = commit(node, &told).await;
            // What nobody announces is found as well.
            if number % 5 != 4 {
                node.server.app.account_events.announce(announcement).await;
            }
        }
    };
    futures_util::future::join_all((0..PRODUCERS).map(produce)).await;

    let mut heard = Vec::new();
    for reader in &mut readers {
        let mut names = Vec::new();
        for seq in 1..=i64::try_from(EACH * PRODUCERS).unwrap() {
            let (number, name) = reader.name().await;
            assert_eq!(number, seq);
            names.push(name);
        }
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), EACH * PRODUCERS, "something was told twice");
        for producer in 0..PRODUCERS {
            let begin = format!("{producer}-");
            let own: Vec<usize> = names.iter().filter_map(|name| name.strip_prefix(&begin)?.parse().ok()).collect();
            assert_eq!(own, (0..EACH).collect::<Vec<_>>(), "what one producer did is out of order");
        }
        heard.push(names);
    }
    // Those of one account hear one order, on whichever node.
    assert!(heard[0] == heard[2] && heard[1] == heard[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_each_others_streams_also_without_redis_and_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = PrivateRedis::start(folder.path()).unwrap();
    let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    let (mut on_one, mut on_two) = (Stream::open(&one, &ann, None).await, Stream::open(&two, &ann, None).await);
    let mut begin = 1;
    let mut exchange = async || {
        for seq in begin..begin + 10 {
            tell_all(if seq % 2 == 0 { &one } else { &two }, &ann, [seq]).await;
        }
        on_one.expect(begin..begin + 10, plain).await;
        on_two.expect(begin..begin + 10, plain).await;
        begin += 10;
    };
    exchange().await;
    redis.kill();
    exchange().await;
    for node in [&one, &two] {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    exchange().await;
    redis.start_again().unwrap();
    exchange().await;
    for node in [&one, &two] {
        eventually(async || node.server.app.bus.is_up()).await;
    }
    exchange().await;
    Stream::open(&two, &ann, Some(0)).await.expect(1..=50, plain).await;
}

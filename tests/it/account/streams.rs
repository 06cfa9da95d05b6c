//! What a stream tells, over each transport: what was missed, then what happens.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use rialto::domains::account::jobs::delete_old_events;
use serde_json::json;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_types::StatusExt;

use super::{EVENTS, Stream, client, commit, events, plain, tell, tell_all};
use crate::harness::{Bearer, World, number, refusal};
use crate::websocket::Socket;

use rialto::proto::rialto::account::v1::SubscribeRequest;
use rialto::proto::rialto::account::v1::account_service_client::AccountServiceClient;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_told_over_grpc_server_sent_events_and_web_sockets() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let mut grpc = Stream::open(&node, &ann, None).await;
    let mut sse = events(&node, &ann, "", None).await;
    let mut socket = Socket::open(&node, EVENTS, &ann.token).await;
    socket.say(json!({})).await;
    let mut bobs = Stream::open(&node, &bob, None).await;
    // The first message says where the stream begins, so that a client that hears nothing more can come back too.
    let opened = sse.next().await.unwrap();
    assert_eq!((opened.id.as_str(), opened.name.as_str()), ("0", "opened"));
    let over_socket = socket.hear().await;
    assert_eq!(over_socket["result"]["seq"], "0");
    let ids = [&opened.data["opened"]["connectionId"], &over_socket["result"]["opened"]["connectionId"]];
    assert!(ids.iter().all(|id| id.as_str().is_some_and(|id| id.len() == 36 && id != grpc.connection_id)), "{ids:?}");

    tell_all(&node, &ann, 1..=20).await;
    tell(&node, &bob, "n1").await;
    grpc.expect(1..=20, plain).await;
    for seq in 1..=20 {
        let event = sse.next().await.unwrap();
        assert_eq!((event.id, event.name.as_str()), (seq.to_string(), "roleAssigned"));
        assert_eq!(event.data["roleAssigned"]["name"], plain(seq));
        let heard = socket.hear().await;
        assert_eq!(
            (number(&heard["result"]["seq"]), &heard["result"]["roleAssigned"]["name"]),
            (seq, &json!(plain(seq)))
        );
    }
    // Nobody hears what others are told.
    bobs.expect(1..=1, plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_to_any_node_gets_exactly_what_was_missed_and_then_what_happens() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    // More than a topic keeps, so that the rest comes from Postgres.
    let mut first = Stream::open(&one, &ann, None).await;
    tell_all(&one, &ann, 1..=10).await;
    first.expect(1..=10, plain).await;
    drop(first);
    tell_all(&one, &ann, 11..=400).await;
    let mut grpc = Stream::open(&two, &ann, Some(10)).await;
    let mut by_header = events(&two, &ann, "?after_seq=1", Some("390")).await;
    let mut socket = Socket::open(&two, &format!("{EVENTS}?after_seq=395"), &ann.token).await;
    socket.say(json!({})).await;
    let mut new = Stream::open(&two, &ann, None).await;
    tell_all(&one, &ann, 401..=401).await;
    grpc.expect(11..=401, plain).await;
    assert_eq!(by_header.next().await.unwrap().id, "390");
    for seq in 391..=401 {
        assert_eq!(by_header.next().await.unwrap().id, seq.to_string());
    }
    for seq in 395..=401 {
        assert_eq!(number(&socket.hear().await["result"]["seq"]), seq);
    }
    new.expect(401..=401, plain).await;
    // From the very beginning.
    Stream::open(&one, &ann, Some(0)).await.expect(1..=401, plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_was_never_given_is_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    tell(&node, &ann, "n1").await;
    let refused =
        refusal(client(&node, &ann).subscribe(SubscribeRequest { after_seq: Some(2), ..Default::default() }).await);
    assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    for beyond in ["2", "-1"] {
        let answer = ann.get(&node, &format!("{EVENTS}?after_seq={beyond}")).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["after_seq"]);
    }
    assert_eq!(world.count("account_connections").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_what_is_no_longer_kept_is_told_the_oldest_number_that_is() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    tell_all(&node, &ann, 1..=5).await;
    tell_all(&node, &bob, 1..=2).await;
    world.clock.advance(Duration::from_secs(29 * 24 * 3600));
    tell_all(&node, &ann, 6..=7).await;
    assert_eq!(delete_old_events(&node.server.app).await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(delete_old_events(&node.server.app).await.unwrap(), 7);
    let (ann, bob) = (node.log_in(&ann.email, &ann.id).await, node.log_in(&bob.email, &bob.id).await);

    for (node, user, after, oldest) in [(&node, &ann, 0, "6"), (&other, &ann, 4, "6"), (&other, &bob, 1, "3")] {
        let request = SubscribeRequest { after_seq: Some(after), ..Default::default() };
        let status = client(node, user).subscribe(request).await.unwrap_err();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (Code::OutOfRange, "HISTORY_TRUNCATED"));
        assert_eq!(info.metadata["oldest_seq"], oldest);
        let answer = user.get(node, &format!("{EVENTS}?after_seq={after}")).await;
        answer.refused(409, "HISTORY_TRUNCATED", 3004);
        assert!(answer.body.to_string().contains(&format!("\"oldest_seq\":\"{oldest}\"")), "{}", answer.body);
    }
    Stream::open(&other, &ann, Some(5)).await.expect(6..=7, plain).await;
    // Numbers go on where they were.
    let mut bobs = Stream::open(&node, &bob, Some(2)).await;
    tell_all(&other, &bob, 3..=3).await;
    bobs.expect(3..=3, plain).await;
}

/// Bytes that are more than all buffers between the server and a client that does not read.
const LONG: usize = 20_000;
const MANY: i64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_delays_nobody_and_gets_everything_later() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut slow = Stream::open(&node, &ann, None).await;
    let mut quick = Stream::open(&node, &ann, None).await;
    let long = |seq: i64| format!("{seq}{}", "x".repeat(LONG));
    for seq in 1..=MANY {
        tell(&node, &ann, &long(seq)).await;
        assert_eq!(quick.name().await.0, seq);
    }
    slow.expect(1..=MANY, long).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lags_keeps_no_conversation_from_its_accounts_other_streams() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let id = ann.conversation(&node, &[&bob, &eve]).await;
    let members = format!("/v1/conversations/{id}/members");
    for _ in 0..40 {
        ann.delete(&node, &format!("{members}/{}", bob.id)).await.ok();
        ann.post(&node, &members, json!({ "account_ids": [bob.id] })).await.ok();
    }
    let mut live = Stream::open(&node, &bob, None).await;
    // Other devices come back after long and stop reading: some where bob has left, some where he is in again.
    let endpoint = Endpoint::from_shared(node.url("")).unwrap().initial_stream_window_size(400);
    let channel = endpoint.connect().await.unwrap();
    let mut lagging = AccountServiceClient::with_interceptor(channel, Bearer(bob.token.clone()));
    let mut waiting = Vec::new();
    for after_seq in (0..4).map(Some) {
        let request = SubscribeRequest { after_seq, ..Default::default() };
        waiting.push(lagging.subscribe(request).await.unwrap().into_inner());
    }
    for sent in 0..20 {
        let seq = ann.send(&node, &id, &format!("m{sent}")).await;
        assert_eq!(live.head().await, (id.clone(), seq));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_let_go_and_can_come_back() {
    let mut world = World::new().await;
    world.config.account.unread_seconds = 1;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut slow = Stream::open(&node, &ann, None).await;
    let long = |seq: i64| format!("{seq}{}", "x".repeat(LONG));
    for seq in 1..=MANY {
        tell(&node, &ann, &long(seq)).await;
    }
    // It is no longer among the open ones.
    crate::harness::eventually(async || world.count("account_connections").await == 0).await;
    let mut last = 0;
    let ended = loop {
        match crate::harness::soon(slow.messages.message()).await {
            Ok(Some(message)) => {
                assert_eq!(message.seq, Some(last + 1));
                last += 1;
            }
            ended => break refusal(ended),
        }
    };
    assert_eq!(ended, (Code::Unavailable, "SERVICE_UNAVAILABLE".into()));
    assert!(last < MANY, "it was told everything");
    Stream::open(&node, &ann, Some(last)).await.expect(last + 1..=MANY, long).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_so_late_that_something_is_gone_is_told_so() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let slow = Stream::open(&node, &ann, None).await;
    let long = "x".repeat(LONG);
    for _ in 1..=MANY + 300 {
        tell(&node, &ann, &long).await;
    }
    world.database().await.batch_execute(&format!("DELETE FROM account_events WHERE seq <= {MANY}")).await.unwrap();
    assert_eq!(slow.end().await, (Code::OutOfRange, "HISTORY_TRUNCATED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_accounts_that_are_gone_are_left_out_and_the_others_told() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, gone) = (node.user("ann").await, node.user("gone").await);
    let delete = format!("DELETE FROM accounts WHERE id = '{}'", gone.id);
    world.database().await.batch_execute(&delete).await.unwrap();
    let mut anns = Stream::open(&node, &ann, None).await;
    let announcement = commit(&node, &[(&gone, "lost"), (&ann, "n1"), (&gone, "lost"), (&ann, "n2")]).await;
    node.server.app.account_events.announce(announcement).await;
    anns.expect(1..=2, plain).await;
    assert_eq!(world.count("account_events").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session_or_its_server_and_says_which() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let ann = one.user("ann").await;
    let phone = one.log_in(&ann.email, &ann.id).await;
    let (mine, phones) = (Stream::open(&one, &ann, None).await, Stream::open(&two, &phone, None).await);
    let mut sse = events(&two, &phone, "", None).await;
    phone.post(&one, "/v1/auth/logout", json!({})).await.ok();
    assert_eq!(phones.end().await, (Code::Unauthenticated, "SESSION_REVOKED".into()));
    let last = loop {
        let event = sse.next().await.unwrap();
        if event.name == "error" {
            break event.data;
        }
    };
    assert_eq!(last["error"]["reason"], "SESSION_REVOKED");
    let stopping = tokio::spawn(one.stop());
    assert_eq!(mine.end().await, (Code::Unavailable, "SERVICE_UNAVAILABLE".into()));
    stopping.await.unwrap();
    // Orderly: nobody lists what the node had open.
    assert_eq!(world.count("nodes").await, 1);
    Stream::open(&two, &ann, Some(0)).await.next().await;
}

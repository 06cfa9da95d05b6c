//! Watching conversations: Subscribe over gRPC and as server-sent events, and the two-way stream.

use rialto::proto::rialto::error::v1::Reason;
use rialto::proto::rialto::messaging::v1::connect_request::Command;
use rialto::proto::rialto::messaging::v1::connect_response::Response;
use rialto::proto::rialto::messaging::v1::{
    ConnectRequest, ConnectResponse, SubscribeRequest, SubscribeResponse, Unsubscribe, subscribe_response,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::harness::{Events, Node, User, World, message, number, refusal, soon, text_of};

pub fn text(response: SubscribeResponse) -> (i64, String) {
    let Some(subscribe_response::Event::Message(message)) = response.event else { panic!("no message") };
    assert_eq!(response.seq, message.seq);
    (message.seq, text_of(&message).to_owned())
}

pub async fn subscribe(node: &Node, user: &User, id: &str, after_seq: Option<i64>) -> Streaming<SubscribeResponse> {
    let request = SubscribeRequest { conversation_id: id.into(), after_seq, ..Default::default() };
    user.messaging(node).subscribe(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_arrives_on_both_transports_with_its_number() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut grpc = subscribe(&node, &bob, &id, None).await;
    let mut sse = Events::open(&node, &ann, &id, "", None).await;
    for i in 1..=20 {
        assert_eq!(ann.send(&node, &id, &format!("m{i}")).await, i);
    }
    for i in 1..=20 {
        assert_eq!(text(soon(grpc.message()).await.unwrap().unwrap()), (i, format!("m{i}")));
        let event = sse.next().await.unwrap();
        assert_eq!((event.id.as_str(), event.name.as_str()), (i.to_string().as_str(), "message"));
        assert_eq!((number(&event.data["seq"]), &event.data["message"]["text"]), (i, &json!(format!("m{i}"))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_gets_exactly_what_it_missed_and_then_what_happens() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    // More than a topic keeps, so that the rest comes from Postgres.
    let mut sender = ann.messaging(&node);
    for i in 1..=400 {
        let request = message(&id, &i.to_string(), &format!("m{i}"));
        sender.send_message(request).await.unwrap();
    }
    let mut grpc = subscribe(&node, &bob, &id, Some(3)).await;
    let mut by_header = Events::open(&node, &bob, &id, "?after_seq=1", Some("390")).await;
    let mut by_query = Events::open(&node, &bob, &id, "?afterSeq=395", None).await;
    ann.send(&node, &id, "m401").await;
    for i in 4..=401 {
        assert_eq!(text(soon(grpc.message()).await.unwrap().unwrap()), (i, format!("m{i}")));
    }
    for i in 391..=401 {
        assert_eq!(by_header.text().await, format!("m{i}"));
    }
    for i in 396..=401 {
        assert_eq!(by_query.text().await, format!("m{i}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_in_while_others_write_misses_nothing_and_sees_nothing_twice() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let writer = {
        let (mut client, id) = (ann.messaging(&node), id.clone());
        tokio::spawn(async move {
            for i in 1..=300 {
                let request = message(&id, &i.to_string(), &format!("m{i}"));
                client.send_message(request).await.unwrap();
            }
        })
    };
    // Ten readers, each of which leaves after thirty messages and comes back with its last number.
    let readers = (0..10).map(|_| async {
        let mut last = 0;
        while last < 300 {
            let mut stream = subscribe(&node, &bob, &id, Some(last)).await;
            for _ in 0..30.min(300 - last) {
                let (seq, text) = text(soon(stream.message()).await.unwrap().unwrap());
                assert_eq!((seq, text), (last + 1, format!("m{}", last + 1)));
                last = seq;
            }
        }
    });
    futures_util::future::join_all(readers).await;
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_readers_gets_everything_once_while_some_come_and_go() {
    const MESSAGES: i64 = 60;
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    // More than are woken at a time. Each third goes after so many messages, and comes back.
    let readers = (0..150).map(|reader| {
        let (node, bob, id) = (&node, &bob, &id);
        async move {
            let stay = if reader % 3 == 0 { 7 } else { MESSAGES };
            let mut last = 0;
            while last < MESSAGES {
                let mut stream = subscribe(node, bob, id, Some(last)).await;
                for _ in 0..stay.min(MESSAGES - last) {
                    assert_eq!(
                        text(soon(stream.message()).await.unwrap().unwrap()),
                        (last + 1, format!("m{}", last + 1))
                    );
                    last += 1;
                }
            }
        }
    });
    let write = async {
        for i in 1..=MESSAGES {
            ann.send(&node, &id, &format!("m{i}")).await;
        }
    };
    tokio::join!(futures_util::future::join_all(readers), write);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_delays_nobody_and_gets_everything_later() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut slow = subscribe(&node, &bob, &id, Some(0)).await;
    let mut quick = subscribe(&node, &ann, &id, Some(0)).await;
    let mut client = ann.messaging(&node);
    // 4 MB: more than all buffers between the server and the slow reader hold.
    let filler = "x".repeat(10_000);
    for i in 1..=400 {
        let request = message(&id, &i.to_string(), &filler);
        client.send_message(request).await.unwrap();
        assert_eq!(text(soon(quick.message()).await.unwrap().unwrap()).0, i);
    }
    for i in 1..=400 {
        assert_eq!(text(soon(slow.message()).await.unwrap().unwrap()).0, i);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_was_never_given_is_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let request = SubscribeRequest { conversation_id: id.clone(), after_seq: Some(1), ..Default::default() };
    let refused = refusal(ann.messaging(&node).subscribe(request).await);
    assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    let answer = ann.get(&node, &format!("/v1/conversations/{id}/events?after_seq=1")).await;
    answer.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(answer.fields(), ["after_seq"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_streams_with_a_status_that_says_to_come_back() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut grpc = subscribe(&node, &bob, &id, None).await;
    let mut sse = Events::open(&node, &bob, &id, "", None).await;
    let stopping = tokio::spawn(node.stop());
    let ended = refusal(soon(grpc.message()).await);
    assert_eq!(ended, (Code::Unavailable, "SERVICE_UNAVAILABLE".into()));
    let last = sse.next().await.unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["reason"]), ("error", &json!("SERVICE_UNAVAILABLE")));
    soon(stopping).await.unwrap();
}

/// One end of a two-way stream.
struct Duplex {
    commands: mpsc::Sender<ConnectRequest>,
    responses: Streaming<ConnectResponse>,
}

impl Duplex {
    async fn open(node: &Node, user: &User) -> Self {
        let (commands, receiver) = mpsc::channel(100);
        let mut client = user.messaging(node);
        let connected = soon(client.connect(ReceiverStream::new(receiver))).await;
        Self { commands, responses: connected.unwrap().into_inner() }
    }

    async fn say(&self, command_id: i64, command: Command) {
        self.commands.send(ConnectRequest { command_id, command: Some(command) }).await.unwrap();
    }

    async fn hear(&mut self) -> (i64, Response) {
        let heard = soon(self.responses.message()).await.unwrap().unwrap();
        (heard.command_id, heard.response.unwrap())
    }
}

fn send(id: &str, text: &str) -> Command {
    Command::Send(message(id, text, text))
}

fn watch(id: &str, after_seq: Option<i64>) -> Command {
    Command::Subscribe(SubscribeRequest { conversation_id: id.into(), after_seq, ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_sends_to_and_watches_several_conversations() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (one, two) = (ann.conversation(&node, &[&bob]).await, ann.conversation(&node, &[&bob]).await);
    ann.send(&node, &one, "before").await;
    let mut bobs = Duplex::open(&node, &bob).await;

    bobs.say(1, watch(&one, Some(0))).await;
    let (id, Response::Subscribed(subscribed)) = bobs.hear().await else { panic!() };
    assert_eq!((id, subscribed.conversation_id.as_str(), subscribed.after_seq), (1, one.as_str(), 0));
    let (0, Response::Event(event)) = bobs.hear().await else { panic!() };
    assert_eq!(text(event.event.unwrap()), (1, "before".into()));

    bobs.say(2, watch(&two, None)).await;
    let (2, Response::Subscribed(_)) = bobs.hear().await else { panic!() };
    bobs.say(3, send(&two, "hello")).await;
    let (mut sent, mut seen) = (false, false);
    while !(sent && seen) {
        match bobs.hear().await {
            (3, Response::Sent(answer)) => sent = answer.message.unwrap().seq == 1,
            (0, Response::Event(event)) => {
                seen = (event.conversation_id, text(event.event.unwrap()).1) == (two.clone(), "hello".into())
            }
            other => panic!("{other:?}"),
        }
    }

    bobs.say(4, Command::Unsubscribe(Unsubscribe { conversation_id: two.clone() })).await;
    let (4, Response::Unsubscribed(_)) = bobs.hear().await else { panic!() };
    ann.send(&node, &two, "unheard").await;
    ann.send(&node, &one, "heard").await;
    let (0, Response::Event(event)) = bobs.hear().await else { panic!() };
    assert_eq!(text(event.event.unwrap()), (2, "heard".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_again_begins_again_and_nothing_of_the_first_time_follows() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    for i in 0..100 {
        ann.send(&node, &id, &i.to_string()).await;
    }
    for _ in 0..10 {
        let mut bobs = Duplex::open(&node, &bob).await;
        bobs.say(1, watch(&id, Some(0))).await;
        // The same conversation, whatever the case of its id.
        bobs.say(2, watch(&id.to_uppercase(), Some(0))).await;
        while !matches!(bobs.hear().await, (2, Response::Subscribed(_))) {}
        for expected in 1..=100 {
            let (0, Response::Event(event)) = bobs.hear().await else { panic!() };
            assert_eq!(event.event.unwrap().seq, expected);
        }
        bobs.say(3, Command::Unsubscribe(Unsubscribe { conversation_id: id.to_uppercase() })).await;
        let (3, Response::Unsubscribed(_)) = bobs.hear().await else { panic!() };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_stream_keep_their_order() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut anns = Duplex::open(&node, &ann).await;
    for i in 1..=100 {
        anns.say(i, send(&id, &format!("m{i}"))).await;
    }
    for _ in 1..=100 {
        let (command, Response::Sent(sent)) = anns.hear().await else { panic!() };
        assert_eq!(sent.message.unwrap().seq, command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_refused_does_not_end_the_stream() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut eves = Duplex::open(&node, &eve).await;
    for (number, command) in [(1, watch(&id, None)), (2, send(&id, "x"))] {
        eves.say(number, command).await;
        let (heard, Response::Failed(failed)) = eves.hear().await else { panic!() };
        assert_eq!((heard, failed.reason()), (number, Reason::ResourceNotFound));
    }
    let own = eve.conversation(&node, &[&bob]).await;
    eves.say(3, watch(&own, Some(9))).await;
    let (3, Response::Failed(failed)) = eves.hear().await else { panic!() };
    assert_eq!((failed.reason(), failed.field.as_str()), (Reason::ValidationError, "after_seq"));
    eves.say(4, send(&own, "still here")).await;
    let (4, Response::Sent(_)) = eves.hear().await else { panic!() };
    assert_eq!(world.count("messages").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_everything_still_hears_and_one_that_waits_for_nothing_is_done() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;

    let Duplex { commands, mut responses } = Duplex::open(&node, &bob).await;
    let command = Some(watch(&id, None));
    commands.send(ConnectRequest { command_id: 1, command }).await.unwrap();
    drop(commands);
    soon(responses.message()).await.unwrap().unwrap();
    ann.send(&node, &id, "hello").await;
    let event = soon(responses.message()).await.unwrap().unwrap();
    assert!(matches!(event.response, Some(Response::Event(_))));

    let Duplex { commands, mut responses } = Duplex::open(&node, &bob).await;
    commands.send(ConnectRequest { command_id: 1, command: Some(send(&id, "bye")) }).await.unwrap();
    drop(commands);
    assert!(matches!(soon(responses.message()).await.unwrap().unwrap().response, Some(Response::Sent(_))));
    assert!(soon(responses.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_leaves_nothing_behind_when_its_client_goes() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let channels = async || -> i64 {
        let client = redis::Client::open(world.config.redis.url.expose()).unwrap();
        let mut conn = client.get_multiplexed_async_connection().await.unwrap();
        let pattern = format!("{}conversation:*", world.config.redis.prefix);
        let found: Vec<String> =
            redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern).query_async(&mut conn).await.unwrap();
        i64::try_from(found.len()).unwrap()
    };
    let stream = subscribe(&node, &bob, &id, None).await;
    let events = Events::open(&node, &bob, &id, "", None).await;
    let duplex = Duplex::open(&node, &bob).await;
    duplex.say(1, watch(&id, None)).await;
    assert_eq!(channels().await, 1);
    drop((stream, events, duplex));
    crate::harness::eventually(async || channels().await == 0).await;
}

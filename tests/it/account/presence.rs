//! Who is there, as far as who asks may know.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel_async::SimpleAsyncConnection;
use rialto::proto::rialto::account::v1::{GetPresencesRequest, Presence, SubscribeRequest};
use rialto::proto::rialto::users::v1::DeleteMeRequest;
use serde_json::{Value, json};
use tonic::Code;

use super::{EVENTS, Stream, client, events};
use crate::harness::{Node, User, World, eventually, refusal};
use crate::users::patch;

const PRESENCES: &str = "/v1/account/presences";
const UNKNOWN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn path(ids: &[&str]) -> String {
    let query: Vec<_> = ids.iter().map(|id| format!("account_ids={id}")).collect();
    format!("{PRESENCES}?{}", query.join("&"))
}

/// What somebody is told of these accounts, which is the same over gRPC and REST.
async fn presences(node: &Node, viewer: &User, ids: &[&str]) -> Vec<Presence> {
    let request = GetPresencesRequest { account_ids: ids.iter().map(|id| (*id).into()).collect() };
    let told = client(node, viewer).get_presences(request).await.unwrap().into_inner().presences;
    let over_rest = viewer.get(node, &path(ids)).await.ok()["presences"].as_array().unwrap().clone();
    let asked: Vec<_> = told.iter().map(|presence| presence.account_id.as_str()).collect();
    assert_eq!(asked, ids);
    for (presence, rest) in told.iter().zip(&over_rest) {
        assert_eq!((&rest["accountId"], &rest["online"]), (&json!(presence.account_id), &json!(presence.online)));
        assert_eq!(rest["seenAt"].as_str().and_then(|at| at.parse().ok()), seen_at(presence));
    }
    assert_eq!(over_rest.len(), told.len());
    told
}

async fn presence(node: &Node, viewer: &User, of: &User) -> Presence {
    presences(node, viewer, &[&of.id]).await.remove(0)
}

pub fn seen_at(presence: &Presence) -> Option<DateTime<Utc>> {
    let at = presence.seen_at.as_ref()?;
    DateTime::from_timestamp(at.seconds, at.nanos.try_into().unwrap())
}

/// What there is of somebody who was never there.
pub fn never(id: &str) -> Presence {
    Presence { account_id: id.into(), online: false, seen_at: None }
}

pub async fn set(node: &Node, user: &User, setting: &str, to: &str) {
    patch(node, user, json!({ "privacy": { setting: to } })).await.ok();
}

async fn block(node: &Node, by: &User, whom: &User) {
    by.post(node, &format!("/v1/users/{}/block", whom.id), json!({})).await.ok();
}

/// Waits until an account has so many streams.
pub async fn streams(world: &World, of: &User, count: i64) {
    let own = format!("account_connections WHERE account_id = '{}'", of.id);
    eventually(async || world.count(&own).await == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_stream_on_any_node_is_online_and_was_last_seen_when_the_last_one_ended() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    assert_eq!(presence(&one, &bob, &ann).await, never(&ann.id));
    let mut before = world.clock.now();
    let mut was_seen = |presence: &Presence| {
        let at = seen_at(presence).unwrap();
        assert!(before <= at && at <= world.clock.now(), "{presence:?}");
        world.clock.advance(Duration::from_secs(60));
        before = world.clock.now();
    };

    let first = Stream::open(&one, &ann, None).await;
    for node in [&one, &two] {
        assert!(presence(node, &bob, &ann).await.online);
    }
    was_seen(&presence(&two, &bob, &ann).await);
    let second = Stream::open(&two, &ann, None).await;
    was_seen(&presence(&one, &bob, &ann).await);
    drop(first);
    streams(&world, &ann, 1).await;
    let still = presence(&one, &bob, &ann).await;
    assert!(still.online);
    was_seen(&still);
    drop(second);
    streams(&world, &ann, 0).await;
    let gone = presence(&one, &bob, &ann).await;
    assert!(!gone.online);
    was_seen(&gone);
    // Each that is named is answered, in that order, and as often.
    let told = presences(&one, &bob, &[UNKNOWN, &ann.id, &bob.id, &ann.id]).await;
    assert_eq!(told, [never(UNKNOWN), gone.clone(), never(&bob.id), gone]);

    // A stream that was revoked counts no more, and a node that stops takes its streams along.
    let here = Stream::open(&one, &ann, None).await;
    let there = Stream::open(&two, &ann, None).await;
    ann.delete(&one, &format!("/v1/account/connections/{}", there.connection_id)).await.ok();
    assert!(presence(&one, &bob, &ann).await.online);
    was_seen(&presence(&one, &bob, &ann).await);
    one.stop().await;
    let gone = presence(&two, &bob, &ann).await;
    assert!(!gone.online);
    was_seen(&gone);
    drop(here);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_know_sees_what_there_is_of_somebody_who_was_never_there() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let admin = world.administrator(&node, "admin").await;
    ann.conversation(&node, &[&bob]).await;
    let stream = Stream::open(&node, &ann, None).await;
    let sees = async |viewer: &User| {
        let told = presence(&node, viewer, &ann).await;
        assert!(told.online || told == never(&ann.id), "{told:?}");
        told.online
    };
    // Bob is a contact, Eve is not.
    let seen_by = async || (sees(&bob).await, sees(&eve).await);
    assert_eq!(seen_by().await, (true, true));
    set(&node, &ann, "presenceTo", "AUDIENCE_CONTACTS").await;
    assert_eq!(seen_by().await, (true, false));
    set(&node, &ann, "presenceTo", "AUDIENCE_NOBODY").await;
    assert_eq!(seen_by().await, (false, false));
    assert!(sees(&ann).await);
    assert!(!sees(&admin).await);
    // Whoever hides sees others all the same.
    set(&node, &bob, "presenceTo", "AUDIENCE_NOBODY").await;
    set(&node, &ann, "presenceTo", "AUDIENCE_EVERYONE").await;
    assert_eq!(seen_by().await, (true, true));
    set(&node, &ann, "profileVisibility", "PROFILE_VISIBILITY_NOBODY").await;
    assert_eq!(seen_by().await, (true, false));
    set(&node, &ann, "profileVisibility", "PROFILE_VISIBILITY_MEMBERS").await;

    block(&node, &ann, &bob).await;
    block(&node, &eve, &ann).await;
    assert_eq!(seen_by().await, (false, false));
    for (by, whom) in [(&ann, &bob), (&eve, &ann)] {
        by.delete(&node, &format!("/v1/users/{}/block", whom.id)).await.ok();
    }
    assert_eq!(seen_by().await, (true, true));
    let suspension = async |verb: &str| {
        admin.post(&node, &format!("/v1/auth/accounts/{}/{verb}", ann.id), json!({})).await.ok();
    };
    suspension("suspend").await;
    stream.end().await;
    streams(&world, &ann, 0).await;
    assert_eq!(presence(&node, &bob, &ann).await, never(&ann.id));
    suspension("reinstate").await;
    let seen = presence(&node, &bob, &ann).await;
    assert!(!seen.online && seen.seen_at.is_some());
    let ann = node.log_in(&ann.email, &ann.id).await;
    ann.users(&node).delete_me(DeleteMeRequest {}).await.unwrap();
    assert_eq!(presence(&node, &bob, &ann).await, never(&ann.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_node_that_was_killed_count_for_a_minute_and_then_its_last_sign_of_life_does() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    // As a node leaves it that was killed.
    let killed = async |seconds: u32| {
        let rows = format!(
            "DELETE FROM nodes WHERE id = '00000000-0000-0000-0000-000000000001';
             INSERT INTO nodes VALUES ('00000000-0000-0000-0000-000000000001', now() - interval '{seconds} seconds');
             INSERT INTO account_connections SELECT gen_random_uuid(), '{id}', gen_random_uuid(),
                 '00000000-0000-0000-0000-000000000001', 'grpc', '', '127.0.0.1', now(), NULL;
             INSERT INTO presences VALUES ('{id}', now() - interval '1 hour') ON CONFLICT DO NOTHING",
            id = ann.id
        );
        world.database().await.batch_execute(&rows).await.unwrap();
    };
    let ago = |presence: &Presence| (world.clock.now() - seen_at(presence).unwrap()).num_seconds();
    killed(30).await;
    let there = presence(&node, &bob, &ann).await;
    assert!(there.online && ago(&there) >= 3600, "{there:?}");
    killed(61).await;
    let gone = presence(&node, &bob, &ann).await;
    assert!(!gone.online && (61..1000).contains(&ago(&gone)), "{gone:?}");
    // The worker forgets the node; what is known stays.
    killed(601).await;
    let gone = presence(&node, &bob, &ann).await;
    let mut watcher = Stream::watching(&node, &bob, &[&ann]).await;
    assert_eq!(watcher.presence().await, gone);
    rialto::domains::account::jobs::delete_lost_nodes(&node.server.app).await.unwrap();
    assert_eq!(world.count("account_connections").await, 1);
    assert_eq!(presence(&node, &bob, &ann).await, gone);
    assert!((601..3000).contains(&ago(&gone)), "{gone:?}");
    assert_eq!(watcher.presence().await, gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_two_hundred_are_asked_for_and_what_is_wrong_is_named() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let _stream = Stream::open(&node, &ann, None).await;
    let many = |count: usize| (1..count).map(|_| UNKNOWN).chain([ann.id.as_str()]).collect::<Vec<_>>();
    let told = presences(&node, &bob, &many(200)).await;
    assert!(told.len() == 200 && told[199].online);
    let watching = many(200).join("&presence_of=");
    let mut sse = events(&node, &bob, &format!("?presence_of={watching}"), None).await;
    sse.next().await.unwrap();
    let mut told: Vec<Value> = Vec::new();
    for _ in 0..2 {
        let event = sse.next().await.unwrap();
        assert_eq!((event.id.as_str(), event.name.as_str()), ("0", "presence"));
        told.push(event.data["presence"].clone());
    }
    let [unknown, anns] = [UNKNOWN, &ann.id].map(|id| told.iter().find(|one| one["accountId"] == id).unwrap());
    assert_eq!((&unknown["online"], unknown["seenAt"].is_null()), (&json!(false), true));
    assert_eq!((&anns["online"], anns["seenAt"].is_null()), (&json!(true), false));

    for (ids, field) in [(many(201), "account_ids"), (vec![UNKNOWN, "x"], "account_ids[1]"), (vec![], "account_ids")] {
        let answer = bob.get(&node, &path(&ids)).await;
        assert_eq!((answer.status, answer.fields()), (422, vec![field]));
        let account_ids = ids.iter().map(|id| (*id).into()).collect();
        let refused = refusal(client(&node, &bob).get_presences(GetPresencesRequest { account_ids }).await);
        assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    }
    let answer = bob.get(&node, &format!("{EVENTS}?presence_of=x")).await;
    assert_eq!((answer.status, answer.fields()), (422, vec!["presence_of[0]"]));
    let presence_of = many(201).into_iter().map(Into::into).collect();
    let request = SubscribeRequest { presence_of, ..Default::default() };
    let refused = refusal(client(&node, &bob).subscribe(request).await);
    assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    node.rest(reqwest::Method::GET, &path(&[UNKNOWN]), None, None).await.refused(401, "UNAUTHORIZED", 1001);
}

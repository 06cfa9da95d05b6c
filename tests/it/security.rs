//! Security events, the alerts that they raise, and who is told.

mod notices;
mod streams;

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use rialto::domains::security::jobs;
use rialto::kernel::config::Threshold;
use rialto::proto::rialto::security::v1::security_service_client::SecurityServiceClient;
use rialto::proto::rialto::security::v1::{
    AlertState, EventKind, GetAlertRequest, ListAlertsRequest, ListEventsRequest, ResolveAlertRequest, subject,
};
use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Answer, Authorized, Bearer, Node, User, World, eventually, number, refusal};

const EVENTS: &str = "/v1/security/events";
const ALERTS: &str = "/v1/security/alerts";
const CHANGES: &str = "/v1/security/alert-changes";

/// A minute, after which a new row begins.
const MINUTE: Duration = Duration::from_secs(60);

fn client(node: &Node, user: &User) -> SecurityServiceClient<Authorized> {
    SecurityServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

/// A world where three failed logins to an account are low, five medium and eight high.
async fn world() -> World {
    let mut world = World::new().await;
    strict(&mut world);
    world
}

fn strict(world: &mut World) {
    let thresholds = &mut world.config.security.thresholds;
    thresholds.login_failed = Threshold { seconds: 600, low: 3, medium: 5, high: 8, critical: 0 };
    thresholds.login_failed_by_address = Threshold { seconds: 600, ..Threshold::default() };
    thresholds.access_denied = Threshold { seconds: 600, low: 3, ..Threshold::default() };
}

async fn fail_to_log_in(node: &Node, email: &str, times: usize) {
    let body = json!({ "email": email, "password": "a wrong one" });
    let attempts = (0..times).map(|_| node.rest(Method::POST, "/v1/auth/login", None, Some(body.clone())));
    for answer in join_all(attempts).await {
        answer.refused(401, "INVALID_CREDENTIALS", 1002);
    }
}

async fn alerts(node: &Node, admin: &User, query: &str) -> Vec<Value> {
    let list = admin.get(node, &format!("{ALERTS}{query}")).await.ok();
    list["alerts"].as_array().cloned().unwrap_or_default()
}

/// The only alert, when it counts so many events.
async fn alert(node: &Node, admin: &User, count: i64) -> Value {
    let mut found = None;
    eventually(async || {
        let all = alerts(node, admin, "").await;
        assert!(all.len() <= 1, "{all:?}");
        found = all.into_iter().find(|alert| number(&alert["count"]) == count);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// What somebody does about an alert.
async fn decide(node: &Node, by: &User, alert: &Value, verb: &str, note: &str) -> Answer {
    by.post(node, &format!("{ALERTS}/{}/{verb}", alert["id"].as_str().unwrap()), json!({ "note": note })).await
}

/// What is stored of events: kind and count, of all minutes together.
async fn stored(world: &World, kind: &str) -> i64 {
    world.count(&format!("(SELECT generate_series(1, count) FROM security_events WHERE kind = '{kind}') e")).await
}

async fn eventually_stored(world: &World, kind: &str, count: i64) {
    eventually(async || stored(world, kind).await == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_login_is_an_event_about_the_account_or_a_hash_of_the_address() {
    let world = world().await;
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    let before = world.clock.now();
    fail_to_log_in(&node, " ANN@example.com", 2).await;
    fail_to_log_in(&node, "nobody@example.com", 1).await;
    eventually_stored(&world, "login_failed", 3).await;

    let about_ann = admin.get(&node, &format!("{EVENTS}?account_id={}", ann.id)).await.ok();
    let events = about_ann["events"].as_array().unwrap();
    assert_eq!(events.iter().map(|event| number(&event["count"])).sum::<i64>(), 2, "{about_ann}");
    for event in events {
        assert_eq!(event["kind"], "EVENT_KIND_LOGIN_FAILED");
        assert_eq!(event["subject"], json!({ "accountId": ann.id }));
        assert_eq!(
            (&event["address"], &event["method"]),
            (&json!("127.0.0.1"), &json!("/rialto.auth.v1.AuthService/Login"))
        );
    }
    let request = ListEventsRequest {
        kind: EventKind::LoginFailed.into(),
        address: Some("::ffff:127.0.0.1".into()),
        since: Some(rialto::kernel::wire::timestamp(before)),
        ..Default::default()
    };
    let all = client(&node, &admin).list_events(request.clone()).await.unwrap().into_inner().events;
    let hashed = all.iter().filter_map(|event| match event.subject.clone()?.subject? {
        subject::Subject::EmailHash(hash) => Some(hash),
        _ => None,
    });
    // The beginning of `printf nobody@example.com | sha256sum`.
    assert_eq!(hashed.collect::<Vec<_>>(), ["e788ea2014693dcdb86767aceb3860a4"]);
    // Neither passwords nor addresses are kept.
    let secret = "security_events e WHERE e::text LIKE '%wrong one%' OR e::text LIKE '%@%'";
    assert_eq!(world.count(secret).await, 0);
    for (filter, expected) in [
        (ListEventsRequest { address: Some("192.0.2.1".into()), ..request.clone() }, 0),
        (ListEventsRequest { kind: EventKind::AccessDenied.into(), ..request.clone() }, 0),
        (ListEventsRequest { before: request.since, since: None, ..request.clone() }, 0),
        (request, 3),
    ] {
        let found = client(&node, &admin).list_events(filter).await.unwrap().into_inner().events;
        assert_eq!(found.iter().map(|event| event.count).sum::<i64>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_events_have_each_of_them_once() {
    let world = world().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "admin").await;
    for person in 0..5 {
        fail_to_log_in(&node, &format!("nobody{person}@example.com"), 1).await;
    }
    eventually_stored(&world, "login_failed", 5).await;
    let (mut ids, mut token) = (Vec::new(), String::new());
    for page in 0..3 {
        let path = format!("{EVENTS}?page_size=2&page_token={token}");
        let list = admin.get(&node, &path).await.ok();
        ids.extend(list["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        token = list["nextPageToken"].as_str().unwrap_or_default().to_owned();
        assert_eq!(token.is_empty(), page == 2);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_that_two_nodes_reach_together_raises_one_alert() {
    let mut world = world().await;
    world.config.security.thresholds.login_failed = Threshold { seconds: 600, low: 20, ..Threshold::default() };
    world.config.security.thresholds.login_failed_by_address =
        Threshold { seconds: 600, medium: 20, ..Threshold::default() };
    let (one, two) = (world.node().await, world.node().await);
    let (admin, ann) = (world.administrator(&one, "admin").await, one.user("ann").await);
    // Neither has enough.
    tokio::join!(fail_to_log_in(&one, &ann.email, 10), fail_to_log_in(&two, &ann.email, 10));
    eventually(async || alerts(&two, &admin, "").await.len() == 2).await;
    eventually_stored(&world, "login_failed", 20).await;

    let all = alerts(&one, &admin, "").await;
    for (subject, severity) in
        [(json!({ "accountId": ann.id }), "SEVERITY_LOW"), (json!({ "address": "127.0.0.1" }), "SEVERITY_MEDIUM")]
    {
        let alert = all.iter().find(|alert| alert["subject"] == subject).unwrap_or_else(|| panic!("{all:?}"));
        assert_eq!((&alert["severity"], &alert["state"]), (&json!(severity), &json!("ALERT_STATE_OPEN")));
        assert_eq!(number(&alert["count"]), 20);
    }
    tokio::join!(fail_to_log_in(&one, &ann.email, 5), fail_to_log_in(&two, &ann.email, 5));
    eventually(async || alerts(&one, &admin, "").await.iter().all(|alert| number(&alert["count"]) == 30)).await;
    assert_eq!(alerts(&one, &admin, "").await.len(), 2);
    assert_eq!(world.count("security_alert_changes").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_gets_worse_and_is_open_again_however_it_was_acknowledged() {
    let world = world().await;
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    fail_to_log_in(&node, &ann.email, 2).await;
    eventually_stored(&world, "login_failed", 2).await;
    assert!(alerts(&node, &admin, "").await.is_empty());
    fail_to_log_in(&node, &ann.email, 1).await;
    let low = alert(&node, &admin, 3).await;
    assert_eq!(low["severity"], "SEVERITY_LOW");

    let seen = decide(&node, &admin, &low, "acknowledge", "Ann has a new keyboard").await.ok();
    assert_eq!((&seen["state"], &seen["acknowledgedBy"]), (&json!("ALERT_STATE_ACKNOWLEDGED"), &json!(admin.id)));
    assert_eq!(seen["note"], "Ann has a new keyboard");
    fail_to_log_in(&node, &ann.email, 1).await;
    // It counts on, and nobody is bothered.
    assert_eq!(alert(&node, &admin, 4).await["state"], "ALERT_STATE_ACKNOWLEDGED");

    fail_to_log_in(&node, &ann.email, 1).await;
    let medium = alert(&node, &admin, 5).await;
    assert_eq!((&medium["id"], &medium["severity"]), (&low["id"], &json!("SEVERITY_MEDIUM")));
    assert_eq!(medium["state"], "ALERT_STATE_OPEN");
    assert_eq!(medium["firstSeenAt"], low["firstSeenAt"]);
    assert_ne!(medium["lastSeenAt"], low["lastSeenAt"]);
    // Events that have left the window don't make it worse, and it does not get better.
    world.clock.advance(Duration::from_secs(601));
    fail_to_log_in(&node, &ann.email, 3).await;
    assert_eq!(alert(&node, &admin, 8).await["severity"], "SEVERITY_MEDIUM");
    assert_eq!(alerts(&node, &admin, "?severity=SEVERITY_MEDIUM&state=ALERT_STATE_OPEN").await.len(), 1);
    assert!(alerts(&node, &admin, "?severity=SEVERITY_LOW").await.is_empty());
    assert!(alerts(&node, &admin, "?state=ALERT_STATE_RESOLVED").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolved_alert_stays_as_it_is_and_what_follows_raises_another() {
    let world = world().await;
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    fail_to_log_in(&node, &ann.email, 4).await;
    let first = alert(&node, &admin, 4).await;
    // Twice at once: one of them.
    let resolve = || decide(&node, &admin, &first, "resolve", "it was the cat");
    let (one, other) = tokio::join!(resolve(), resolve());
    let (won, lost) = if one.status == 200 { (one, other) } else { (other, one) };
    lost.refused(409, "ALERT_RESOLVED", 3003);
    let resolved = won.ok();
    assert_eq!((&resolved["state"], &resolved["resolvedBy"]), (&json!("ALERT_STATE_RESOLVED"), &json!(admin.id)));
    assert_eq!(resolved["note"], "it was the cat");
    let request = ResolveAlertRequest { alert_id: first["id"].as_str().unwrap().into(), note: String::new() };
    let again = client(&node, &admin).resolve_alert(request).await;
    assert_eq!(refusal(again), (Code::FailedPrecondition, "ALERT_RESOLVED".into()));
    decide(&node, &admin, &first, "acknowledge", "").await.refused(409, "ALERT_RESOLVED", 3003);

    // What was there before does not count again.
    world.clock.advance(MINUTE);
    fail_to_log_in(&node, &ann.email, 2).await;
    eventually_stored(&world, "login_failed", 6).await;
    assert_eq!(alerts(&node, &admin, "").await, std::slice::from_ref(&resolved));
    fail_to_log_in(&node, &ann.email, 1).await;
    eventually(async || alerts(&node, &admin, "").await.len() == 2).await;
    let all = alerts(&node, &admin, "").await;
    assert_eq!((number(&all[0]["count"]), &all[0]["state"]), (3, &json!("ALERT_STATE_OPEN")));
    assert_eq!(all[1], resolved);
    // Who decided is in the audit log.
    let audited = "audit_log WHERE method LIKE '%SecurityService/ResolveAlert' AND grpc_code = 0";
    assert_eq!(world.count(audited).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_denied_calls_is_a_few_rows_that_count() {
    let mut world = world().await;
    world.config.security.thresholds.access_denied = Threshold { seconds: 600, high: 500, ..Threshold::default() };
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    for _ in 0..10 {
        for answer in join_all((0..50).map(|_| ann.get(&node, "/v1/roles"))).await {
            answer.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
        }
    }
    let alert = alert(&node, &admin, 500).await;
    assert_eq!((&alert["severity"], &alert["subject"]), (&json!("SEVERITY_HIGH"), &json!({ "accountId": ann.id })));
    // One a minute, however often it is written.
    assert!(world.count("security_events WHERE kind = 'access_denied'").await <= 2);
    let denied = admin.get(&node, &format!("{EVENTS}?kind=EVENT_KIND_ACCESS_DENIED")).await.ok();
    assert_eq!(denied["events"][0]["detail"], "roles:read");
    let metrics = node.rest(Method::GET, "/metrics", None, None).await.body;
    assert!(metrics.as_str().unwrap().contains("security_events_total{kind=\"access_denied\"} 500"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_worth_noting_leaves_an_event() {
    let world = world().await;
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    // A wrong password in a session.
    let wrong = json!({ "password": "a wrong one" });
    ann.post(&node, "/v1/auth/reauthenticate", wrong).await.refused(401, "INVALID_CREDENTIALS", 1002);
    let change = json!({ "current_password": "a wrong one", "new_password": "staple h7-Kq.92z" });
    ann.post(&node, "/v1/auth/change-password", change).await.refused(401, "INVALID_CREDENTIALS", 1002);
    eventually_stored(&world, "confirmation_failed", 2).await;
    // Credentials that are none, or missing. An ended session is everyday.
    assert_eq!(node.rest(Method::GET, "/v1/auth/me", Some("forged"), None).await.status, 401);
    assert_eq!(node.rest(Method::GET, "/v1/auth/me", None, None).await.status, 401);
    let ended = node.log_in(&ann.email, &ann.id).await;
    ended.post(&node, "/v1/auth/logout", json!({})).await.ok();
    assert_eq!(ended.get(&node, "/v1/auth/me").await.status, 401);
    eventually_stored(&world, "unauthenticated", 2).await;
    assert_eq!(
        world.count("security_events WHERE kind = 'unauthenticated' AND subject <> 'address:127.0.0.1'").await,
        0
    );
    // Roles.
    let role = admin.post(&node, "/v1/roles", json!({ "name": "reader" })).await.ok();
    let assign = json!({ "role_id": role["id"] });
    admin.post(&node, &format!("/v1/accounts/{}/roles", ann.id), assign).await.ok();
    eventually_stored(&world, "privilege_changed", 1).await;
    let by = format!(
        "security_events WHERE kind = 'privilege_changed' AND subject = 'account:{}' AND actor_id = '{}' \
                      AND detail = 'role assigned'",
        ann.id, admin.id
    );
    assert_eq!(world.count(&by).await, 1);
    // A refresh token that was used twice. Nobody uses one by accident: the default threshold is one.
    let refresh = json!({ "refresh_token": ann.refresh });
    node.rest(Method::POST, "/v1/auth/refresh", None, Some(refresh.clone())).await.ok();
    assert_eq!(node.rest(Method::POST, "/v1/auth/refresh", None, Some(refresh)).await.status, 401);
    eventually(async || !alerts(&node, &admin, "?severity=SEVERITY_HIGH").await.is_empty()).await;
    let high = alerts(&node, &admin, "?severity=SEVERITY_HIGH").await;
    assert_eq!(
        (&high[0]["kind"], &high[0]["subject"]),
        (&json!("EVENT_KIND_REFRESH_TOKEN_REUSED"), &json!({ "accountId": ann.id }))
    );
    // What the method itself refuses; that somebody has to prove again who they are is none.
    let granting = json!({ "name": "all", "grants": [{ "permission": "security:respond" }] });
    let creator = json!({ "name": "creator", "grants": [{ "permission": "roles:create" }, { "permission": "two-factor:reset" }] });
    let role = admin.post(&node, "/v1/roles", creator).await.ok();
    let bob = node.user("bob").await;
    admin.post(&node, &format!("/v1/accounts/{}/roles", bob.id), json!({ "role_id": role["id"] })).await.ok();
    bob.post(&node, "/v1/roles", granting).await.refused(403, "GRANT_NOT_HELD", 1005);
    world.clock.advance(Duration::from_secs(301));
    let reset = format!("/v1/twofa/accounts/{}/reset", ann.id);
    bob.post(&node, &reset, json!({})).await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    eventually_stored(&world, "access_denied", 1).await;
    // A suspension.
    admin.post(&node, &format!("/v1/auth/accounts/{}/suspend", ann.id), json!({})).await.ok();
    eventually_stored(&world, "account_suspended", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_networks_within_an_hour_than_a_person_gets_around_are_an_event() {
    let mut world = world().await;
    world.config.server.trusted_proxies = 1;
    let node = world.node().await;
    let (admin, ann) = (world.administrator(&node, "admin").await, node.user("ann").await);
    let log_in_from = async |address: &str| {
        let body = json!({ "email": ann.email, "password": crate::harness::PASSWORD });
        let request = node.http().post(node.url("/v1/auth/login")).header("x-forwarded-for", address).json(&body);
        Answer::of(request.send().await.unwrap()).await.ok()["refreshToken"].as_str().unwrap().to_owned()
    };
    let networks = async |count: i64| {
        let of_ann = format!("security_networks WHERE account_id = '{}'", ann.id);
        eventually(async || world.count(&of_ann).await == count).await;
    };
    // One provider, at home, in the train, at work: with that of the first login these are four.
    for address in ["198.51.100.1", "198.51.7.7", "203.0.113.9", "2001:db8:1::1", "2001:db8:ffff::1"] {
        log_in_from(address).await;
    }
    networks(4).await;
    assert_eq!(stored(&world, "impossible_travel").await, 0);
    // An hour later it begins anew.
    world.clock.advance(Duration::from_secs(3601));
    let mut token = String::new();
    for address in ["192.0.2.1", "198.18.0.1", "100.64.0.1", "203.0.113.9"] {
        token = log_in_from(address).await;
    }
    networks(7).await;
    assert_eq!(stored(&world, "impossible_travel").await, 0);
    // A refresh counts like a login.
    let refresh = node.http().post(node.url("/v1/auth/refresh")).header("x-forwarded-for", "8.8.8.8");
    Answer::of(refresh.json(&json!({ "refresh_token": token })).send().await.unwrap()).await.ok();
    eventually_stored(&world, "impossible_travel", 1).await;
    let admin = node.log_in(&admin.email, &admin.id).await;
    let raised = alert(&node, &admin, 1).await;
    assert_eq!(
        (&raised["kind"], &raised["subject"]),
        (&json!("EVENT_KIND_IMPOSSIBLE_TRAVEL"), &json!({ "accountId": ann.id }))
    );
    // From where it was already it is none.
    log_in_from("8.8.4.4").await;
    log_in_from("100.64.1.1").await;
    networks(8).await;
    assert_eq!(stored(&world, "impossible_travel").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_writes_what_it_has_recorded() {
    let world = world().await;
    let (one, two) = (world.node().await, world.node().await);
    let admin = world.administrator(&two, "admin").await;
    fail_to_log_in(&one, "nobody@example.com", 3).await;
    one.stop().await;
    assert_eq!(stored(&world, "login_failed").await, 3);
    assert_eq!(alerts(&two, &admin, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_may_not_decide_and_others_learn_nothing() {
    let world = world().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "admin").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let grants = json!([{ "permission": "security:read" }]);
    let role = admin.post(&node, "/v1/roles", json!({ "name": "watcher", "grants": grants })).await.ok();
    let assign = json!({ "role_id": role["id"] });
    admin.post(&node, &format!("/v1/accounts/{}/roles", bob.id), assign).await.ok();
    fail_to_log_in(&node, &ann.email, 3).await;
    eventually(async || alerts(&node, &admin, "?severity=SEVERITY_LOW").await.len() == 2).await;
    let all = alerts(&node, &bob, "").await;
    let failed = all.iter().find(|alert| alert["kind"] == "EVENT_KIND_LOGIN_FAILED").unwrap();
    let path = format!("{ALERTS}/{}", failed["id"].as_str().unwrap());
    assert_eq!(&bob.get(&node, &path).await.ok(), failed);
    let alert_id = failed["id"].as_str().unwrap().to_owned();
    let same =
        client(&node, &bob).get_alert(GetAlertRequest { alert_id: alert_id.clone() }).await.unwrap().into_inner();
    assert_eq!(same.alert.unwrap().state(), AlertState::Open);
    for verb in ["acknowledge", "resolve"] {
        decide(&node, &bob, failed, verb, "").await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
        decide(&node, &ann, failed, verb, "").await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    }
    for path in [EVENTS, ALERTS, CHANGES, &path] {
        ann.get(&node, path).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
        node.rest(Method::GET, path, None, None).await.refused(401, "UNAUTHORIZED", 1001);
    }
    let unknown = client(&node, &admin).get_alert(GetAlertRequest { alert_id: Uuid::nil().to_string() }).await;
    assert_eq!(refusal(unknown), (Code::NotFound, "RESOURCE_NOT_FOUND".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_are_none_are_refused_and_named() {
    let world = world().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "admin").await;
    for (query, field) in [
        ("?account_id=1", "account_id"),
        ("?address=example.com", "address"),
        ("?address=127.0.0.1%27%20OR%201%3D1", "address"),
        ("?address=", "address"),
        ("?page_token=AAAA", "page_token"),
        ("?page_size=-1", "page_size"),
    ] {
        let refused = admin.get(&node, &format!("{EVENTS}{query}")).await;
        refused.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(refused.fields(), [field], "{query}");
    }
    let refused = admin.get(&node, &format!("{ALERTS}?page_token=AQEA")).await;
    assert_eq!(refused.fields(), ["page_token"]);
    for path in [format!("{ALERTS}/x"), format!("{CHANGES}?after_seq=-1")] {
        admin.get(&node, &path).await.refused(422, "VALIDATION_ERROR", 2001);
    }
    let mut client = client(&node, &admin);
    let unheard = client.list_events(ListEventsRequest { kind: 99, ..Default::default() }).await;
    assert_eq!(refusal(unheard), (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    let unheard = client.list_alerts(ListAlertsRequest { state: -1, severity: 5, ..Default::default() }).await;
    assert_eq!(refusal(unheard), (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    let since = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 });
    let no_time = client.list_events(ListEventsRequest { since, ..Default::default() }).await;
    assert_eq!(refusal(no_time), (Code::InvalidArgument, "VALIDATION_ERROR".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_forgotten() {
    let world = world().await;
    let node = world.node().await;
    node.user("ann").await;
    fail_to_log_in(&node, "ann@example.com", 3).await;
    eventually(async || world.count("security_networks").await == 1).await;
    eventually(async || world.count("security_alerts").await == 1).await;
    let tables = ["security_events", "security_networks", "security_alerts", "security_alert_changes"];
    let app = &node.server.app;
    jobs::delete_old(app).await.unwrap();
    for table in tables {
        assert_eq!(world.count(table).await, 1, "{table}");
    }
    world.clock.advance(Duration::from_secs(91 * 86_400));
    jobs::delete_old(app).await.unwrap();
    for table in tables {
        assert_eq!(world.count(table).await, 0, "{table}");
    }
}

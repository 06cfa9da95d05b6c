//! Claims: each one-time prekey once, and not too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use futures_util::stream::iter;
use rialto::dev::services::PrivateRedis;
use rialto::kernel::config::Limit;
use rialto::proto::rialto::keys::v1::ClaimTarget;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Phone, claim, claim_of, invalid, keys, new_uuid, one_time_keys};
use crate::harness::{Node, User, World, eventually, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_keys_are_handed_out_once_each_to_those_who_ask_at_once_on_two_nodes() {
    let mut world = World::new().await;
    world.config.rates.claim_target = Limit { calls: 10_000, seconds: 60 };
    let nodes = [world.node().await, world.node().await];
    let ann = nodes[0].user("ann").await;
    let phone = Phone::new(&ann);
    let signed = phone.publish(&nodes[0], 200).await;
    let mut callers = Vec::new();
    for name in ["bob", "eve", "joe", "kim"] {
        callers.push(nodes[0].user(name).await);
    }
    let claims = (0..240usize).map(|index| {
        let (node, caller, ann) = (&nodes[index % 2], &callers[index / 2 % 4], &ann);
        async move { claim(node, caller, ann).await.bundles.remove(0) }
    });
    let bundles: Vec<_> = iter(claims).buffer_unordered(24).collect().await;
    assert!(bundles.iter().all(|bundle| bundle.signed_pre_key.as_ref() == Some(&signed)));
    let claimed: Vec<_> = bundles.iter().filter_map(|bundle| bundle.one_time_pre_key.as_ref()).collect();
    let ids: BTreeSet<_> = claimed.iter().map(|key| key.key_id).collect();
    let points: BTreeSet<_> = claimed.iter().map(|key| &key.public_key).collect();
    assert_eq!((claimed.len(), ids.len(), points.len()), (200, 200, 200));
    assert_eq!(world.count("one_time_prekeys WHERE claimed_at IS NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_has_an_answer_for_each_account_and_the_devices_that_it_names() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let phone = Phone::new(&ann);
    let laptop = phone.sibling();
    let bobs = Phone::new(&bob);
    for device in [&phone, &laptop, &bobs] {
        device.publish(&node, 2).await;
    }
    let kem = phone.kem(1);
    keys(&node, &ann).set_signed_pre_key(phone.set_signed(None, Some(phone.kem(9)))).await.unwrap();
    keys(&node, &ann).upload_one_time_pre_keys(phone.upload(Vec::new(), vec![kem.clone()])).await.unwrap();

    let nobody = new_uuid().to_string();
    let answer = keys(&node, &eve).claim_bundles(claim_of(&[&bob.id, &nobody, &eve.id, &ann.id])).await;
    let accounts = answer.unwrap().into_inner().accounts;
    let ids: Vec<_> = accounts.iter().map(|account| account.account_id.as_str()).collect();
    assert_eq!(ids, [&bob.id, &nobody, &eve.id, &ann.id]);
    let devices: Vec<_> = accounts.iter().map(|account| account.bundles.len()).collect();
    assert_eq!(devices, [1, 0, 0, 2]);
    assert_eq!(accounts[3].account_key, phone.account_key());
    assert_eq!(accounts[3].bundles[0].kem_pre_key, Some(kem));
    assert!(accounts[3].bundles[0].kem_pre_key_is_one_time);
    let keys_of = |bundle: usize| accounts[3].bundles[bundle].one_time_pre_key.as_ref().map(|key| key.key_id);
    assert_eq!((keys_of(0), keys_of(1)), (Some(0), Some(0)));

    // Only one of the devices, and one that Ann does not have.
    let device_ids = vec![laptop.device_id.to_string(), bobs.device_id.to_string()];
    let target = ClaimTarget { account_id: ann.id.clone(), device_ids };
    let mut request = claim_of(&[]);
    request.targets.push(target);
    let account = keys(&node, &eve).claim_bundles(request).await.unwrap().into_inner().accounts.remove(0);
    assert_eq!(account.bundles.len(), 1);
    assert_eq!(account.bundles[0].device.as_ref().unwrap().device_id, laptop.device_id.to_string());
    let left = |device: &Phone| {
        let query = format!("one_time_prekeys WHERE claimed_at IS NULL AND device_id = '{}'", device.device_id);
        let world = &world;
        async move { world.count(&query).await }
    };
    assert_eq!((left(&phone).await, left(&laptop).await, left(&bobs).await), (1, 0, 1));
    // Of one's own devices too.
    assert_eq!(claim(&node, &ann, &ann).await.bundles.len(), 2);

    invalid(keys(&node, &eve).claim_bundles(claim_of(&[])).await, &["targets"]);
    let twice = claim_of(&[&ann.id, &bob.id, &ann.id]);
    invalid(keys(&node, &eve).claim_bundles(twice).await, &["targets[2].account_id"]);
    let many: Vec<_> = (0..51).map(|_| new_uuid().to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    invalid(keys(&node, &eve).claim_bundles(claim_of(&many)).await, &["targets"]);
}

/// Registers the same device anew, again and again; returns the one-time keys of each registration.
async fn register_anew(node: &Node, phone: &Phone, times: u32) -> BTreeMap<u32, BTreeSet<Vec<u8>>> {
    let mut published = BTreeMap::new();
    for registration_id in 8..8 + times {
        let phone = phone.anew(registration_id);
        phone.register(node).await.unwrap();
        let signed = phone.set_signed(Some(phone.signed(registration_id)), None);
        keys(node, &phone.user).set_signed_pre_key(signed).await.unwrap();
        let one_time = one_time_keys(0..5);
        published.insert(registration_id, one_time.iter().map(|key| key.public_key.clone()).collect());
        phone.add(node, one_time).await.unwrap();
    }
    published
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_of_one_registration_also_while_the_device_gets_new_keys() {
    let world = World::new().await;
    let nodes = [world.node().await, world.node().await];
    let (ann, bob) = (nodes[0].user("ann").await, nodes[0].user("bob").await);
    let phone = Phone::new(&ann);
    phone.register(&nodes[0]).await.unwrap();
    let done = AtomicBool::new(false);
    let claims = async || {
        let mut bundles = Vec::new();
        while !done.load(Ordering::Relaxed) {
            bundles.extend(claim(&nodes[1], &bob, &ann).await.bundles);
        }
        bundles
    };
    let register = async {
        let published = register_anew(&nodes[0], &phone, 15).await;
        done.store(true, Ordering::Relaxed);
        published
    };
    let (published, first, second) = tokio::join!(register, claims(), claims());
    for bundle in first.iter().chain(&second) {
        let registration_id = bundle.device.as_ref().unwrap().registration_id;
        // The signed prekey has the number of the registration for its id.
        assert!(bundle.signed_pre_key.as_ref().is_none_or(|key| key.key_id == registration_id), "{bundle:?}");
        if let Some(key) = &bundle.one_time_pre_key {
            assert!(published[&registration_id].contains(&key.public_key), "{bundle:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_claimed_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    Phone::new(&ann).publish(&node, 1).await;
    let body = json!({ "targets": [{ "accountId": ann.id }] });
    for one_time in [true, false] {
        let claimed = bob.post(&node, "/v1/keys/claim", body.clone()).await.ok();
        let bundle = &claimed["accounts"][0]["bundles"][0];
        assert_eq!(bundle["device"]["registrationId"], 7);
        assert_eq!(bundle["signedPreKey"]["keyId"], 1);
        assert_eq!(bundle["oneTimePreKey"]["publicKey"].is_string(), one_time, "{bundle}");
    }
    let refused = bob.post(&node, "/v1/keys/claim", json!({ "targets": [{ "accountId": "x" }] })).await;
    refused.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(refused.fields(), ["targets[0].account_id"]);
    bob.get(&node, "/v1/keys/claim").await.refused(405, "METHOD_NOT_ALLOWED", 2002);
}

/// A world that counts claims, and nothing else.
async fn counting(world: &mut World, claim: u32, pair: u32, target: u32) {
    let limit = |calls| Limit { calls, seconds: 3600 };
    let rates = &mut world.config.rates;
    rates.factor = 1;
    for limit in [
        &mut rates.anonymous,
        &mut rates.account,
        &mut rates.write,
        &mut rates.message,
        &mut rates.authentication,
        &mut rates.sensitive,
    ] {
        limit.calls = 100_000;
    }
    (rates.claim, rates.claim_pair, rates.claim_target) = (limit(claim), limit(pair), limit(target));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_counted_for_the_caller_and_for_the_caller_and_each_account() {
    let mut world = World::new().await;
    counting(&mut world, 8, 3, 1000).await;
    let nodes = [world.node().await, world.node().await];
    let (ann, bob, eve) = (nodes[0].user("ann").await, nodes[0].user("bob").await, nodes[0].user("eve").await);
    Phone::new(&ann).publish(&nodes[0], 10).await;
    // Whether there is such an account makes no difference.
    let nobody = new_uuid().to_string();
    for id in [&ann.id, &nobody] {
        for node in [&nodes[0], &nodes[1], &nodes[0]] {
            keys(node, &bob).claim_bundles(claim_of(&[id])).await.unwrap();
        }
        let refused = keys(&nodes[1], &bob).claim_bundles(claim_of(&[id])).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.get_details_error_info().unwrap().reason, "RATE_LIMIT_EXCEEDED");
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "targets[0].account_id");
        // Three an hour are one in twenty minutes.
        let retry = refused.get_details_retry_info().unwrap().retry_delay.unwrap().as_secs();
        assert!((1100..=1200).contains(&retry), "{retry}");
    }
    // Eight in all were counted; the ninth is one too many, whomever it is about.
    let refused = refusal(keys(&nodes[0], &bob).claim_bundles(claim_of(&[&eve.id])).await);
    assert_eq!(refused, (Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED".into()));
    let refused = bob.post(&nodes[0], "/v1/keys/claim", json!({ "targets": [{ "accountId": eve.id }] })).await;
    refused.refused(429, "RATE_LIMIT_EXCEEDED", 5004);
    assert!(refused.headers["retry-after"].parse::<u32>().unwrap() > 0);
    // Others are not held up.
    assert!(claim(&nodes[0], &eve, &ann).await.bundles[0].one_time_pre_key.is_some());
}

async fn takes(node: &Node, callers: &[User], of: &User) -> usize {
    let mut taken = 0;
    for caller in callers {
        let bundle = claim(node, caller, of).await.bundles.remove(0);
        assert!(bundle.signed_pre_key.is_some());
        taken += usize::from(bundle.one_time_pre_key.is_some());
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_claim_drain_nobody_and_keep_nobody_from_beginning_a_session() {
    let mut world = World::new().await;
    counting(&mut world, 1000, 1000, 5).await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let phone = Phone::new(&ann);
    phone.publish(&node, 10).await;
    phone.sibling().publish(&node, 10).await;
    let mut callers = Vec::new();
    for name in ["bob", "eve", "joe", "kim"] {
        callers.push(node.user(name).await);
    }
    assert_eq!(takes(&node, &[callers.clone(), callers.clone()].concat(), &ann).await, 5);
    // Of each device as many are left as were not to be had.
    assert_eq!(world.count("one_time_prekeys WHERE claimed_at IS NULL").await, 10);
    // Others give theirs away all the same.
    Phone::new(&callers[0]).publish(&node, 1).await;
    assert_eq!(takes(&node, &callers[1..2], &callers[0]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_node_counts_claims_for_itself_and_a_key_is_still_handed_out_once() {
    let folder = tempfile::tempdir().unwrap();
    let redis = PrivateRedis::start(folder.path()).unwrap();
    let mut world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
    counting(&mut world, 1000, 3, 1000).await;
    let nodes = [world.node().await, world.node().await];
    let (ann, bob) = (nodes[0].user("ann").await, nodes[0].user("bob").await);
    let phone = Phone::new(&ann);
    phone.publish(&nodes[0], 5).await;
    redis.kill();
    for node in &nodes {
        eventually(async || !node.server.app.bus.is_up()).await;
    }
    let mut ids = BTreeSet::new();
    for node in nodes.iter().cycle().take(6) {
        ids.extend(claim(node, &bob, &ann).await.bundles[0].one_time_pre_key.as_ref().map(|key| key.key_id));
    }
    assert_eq!(ids.len(), 5);
    for node in &nodes {
        let refused = refusal(keys(node, &bob).claim_bundles(claim_of(&[&ann.id])).await);
        assert_eq!(refused, (Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED".into()));
    }
    // Devices are registered and removed too.
    phone.sibling().publish(&nodes[1], 1).await;
}

//! Prekeys that devices publish.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::kernel::wire::timestamp;
use rialto::proto::rialto::keys::v1::{GetPreKeyCountRequest, GetPreKeyCountResponse, KemPreKey, SignedPreKey};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Phone, claim, invalid, keys, new_uuid, one_time_keys, precluded, x25519};
use crate::harness::{Node, World, refusal};

async fn count(node: &Node, phone: &Phone) -> Result<GetPreKeyCountResponse, Status> {
    let request = GetPreKeyCountRequest { device_id: phone.device_id.to_string() };
    Ok(keys(node, &phone.user).get_pre_key_count(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_prekeys_replace_each_other_and_are_handed_out_again_and_again() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let phone = Phone::new(&ann);
    assert_eq!(refusal(count(&node, &phone).await), (Code::NotFound, "RESOURCE_NOT_FOUND".into()));
    phone.register(&node).await.unwrap();
    assert_eq!(count(&node, &phone).await.unwrap(), Default::default());
    // Without prekeys too, others see the device, and can write to it by its identity key.
    let bundle = claim(&node, &bob, &ann).await.bundles.remove(0);
    assert_eq!((bundle.signed_pre_key, bundle.kem_pre_key), (None, None));

    let (first, second, kem) = (phone.signed(1), phone.signed(u32::MAX), phone.kem(3));
    let set = async |key, kem| {
        keys(&node, &ann).set_signed_pre_key(phone.set_signed(key, kem)).await.unwrap();
    };
    set(Some(first.clone()), Some(kem.clone())).await;
    // The same once more, and then only one of the two.
    set(Some(first), None).await;
    set(Some(second.clone()), None).await;
    for _ in 0..2 {
        let bundle = claim(&node, &bob, &ann).await.bundles.remove(0);
        assert_eq!((bundle.signed_pre_key, bundle.one_time_pre_key), (Some(second.clone()), None));
        assert_eq!((bundle.kem_pre_key, bundle.kem_pre_key_is_one_time), (Some(kem.clone()), false));
    }
    let counted = count(&node, &phone).await.unwrap();
    assert_eq!((counted.signed_pre_key_id, counted.kem_pre_key_id), (Some(u32::MAX), Some(3)));
    assert!(counted.signed_pre_key_set_at.unwrap().seconds <= timestamp(world.clock.now()).seconds);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prekey_that_the_device_has_not_signed_is_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let phone = Phone::new(&ann);
    phone.register(&node).await.unwrap();
    let laptop = phone.sibling();
    laptop.register(&node).await.unwrap();
    let right = phone.signed(5);
    let by_account = Phone { signing: phone.account.clone(), ..phone.clone() };
    let of_other_kind = phone.signature(b"Rialto-KemPreKey-v1\0", 5, &right.public_key);
    let of_another_device = Phone { device_id: laptop.device_id, ..phone.clone() };
    let signatures = [
        by_account.signature(b"Rialto-SignedPreKey-v1\0", 5, &right.public_key),
        of_another_device.signature(b"Rialto-SignedPreKey-v1\0", 5, &right.public_key),
        laptop.signature(b"Rialto-SignedPreKey-v1\0", 5, &right.public_key),
        phone.signature(b"Rialto-SignedPreKey-v1\0", 6, &right.public_key),
        phone.signature(b"Rialto-SignedPreKey-v1\0", 5, &x25519()),
        phone.signature(b"", 5, &right.public_key),
        of_other_kind,
        vec![0; 64],
    ];
    let set = async |key, kem| keys(&node, &ann).set_signed_pre_key(phone.set_signed(key, kem)).await;
    for signature in signatures {
        let wrong = SignedPreKey { signature, ..right.clone() };
        invalid(set(Some(wrong), None).await, &["signed_pre_key.signature"]);
    }
    for wrong in [
        SignedPreKey { public_key: vec![9; 31], ..right.clone() },
        SignedPreKey { public_key: vec![9; 33], ..right.clone() },
    ] {
        invalid(set(Some(wrong), None).await, &["signed_pre_key.public_key"]);
    }
    let short = SignedPreKey { signature: vec![9; 63], ..right.clone() };
    invalid(set(Some(short), None).await, &["signed_pre_key.signature"]);
    invalid(set(None, None).await, &["signed_pre_key"]);
    let kem = phone.kem(5);
    for length in [0, 1183, 1185, 1568] {
        let wrong = KemPreKey { public_key: vec![9; length], ..kem.clone() };
        invalid(set(None, Some(wrong)).await, &["kem_pre_key.public_key"]);
    }
    // One wrong, and the right one is not stored either.
    let wrong = KemPreKey { key_id: 6, ..kem.clone() };
    invalid(set(Some(right), Some(wrong.clone())).await, &["kem_pre_key.signature"]);
    let upload = phone.upload(one_time_keys(0..2), vec![kem, wrong]);
    invalid(keys(&node, &ann).upload_one_time_pre_keys(upload).await, &["kem_pre_keys[1].signature"]);
    assert_eq!(world.count("signed_prekeys").await + world.count("one_time_prekeys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_can_be_repeated_and_an_id_stands_for_one_key() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let phone = Phone::new(&ann);
    phone.publish(&node, 0).await;
    let first = one_time_keys(0..10);
    let kem: Vec<_> = (0..3).map(|key_id| phone.kem(key_id)).collect();
    let upload = phone.upload(first.clone(), kem);
    let answers = join_all((0..4).map(|_| {
        let (mut client, upload) = (keys(&node, &ann), upload.clone());
        async move { client.upload_one_time_pre_keys(upload).await.unwrap().into_inner() }
    }));
    for answer in answers.await {
        assert_eq!((answer.pre_keys, answer.kem_pre_keys), (10, 3));
    }

    let mut other = one_time_keys(8..12);
    other[0] = first[8].clone();
    let refused = phone.add(&node, other.clone()).await.unwrap_err();
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(
        (refused.code(), refused.get_details_error_info().unwrap().reason.as_str(), fields[0].field.as_str()),
        (Code::AlreadyExists, "RESOURCE_ALREADY_EXISTS", "pre_keys[1].key_id")
    );
    // Nothing of it was stored.
    assert_eq!(count(&node, &phone).await.unwrap().pre_keys, 10);
    other[1] = first[9].clone();
    assert_eq!(phone.add(&node, other).await.unwrap().pre_keys, 12);
    let twice = [one_time_keys(20..22), one_time_keys(21..22)].concat();
    invalid(phone.add(&node, twice).await, &["pre_keys[2].key_id"]);

    // What was handed out does not come back, though the device, which did not hear the answer, sends it again.
    let claimed = claim(&node, &bob, &ann).await.bundles.remove(0);
    let (key, kem_key) = (claimed.one_time_pre_key.unwrap(), claimed.kem_pre_key.unwrap());
    assert!(claimed.kem_pre_key_is_one_time);
    let again = keys(&node, &ann).upload_one_time_pre_keys(upload).await.unwrap().into_inner();
    assert_eq!((again.pre_keys, again.kem_pre_keys), (11, 2));
    for _ in 0..13 {
        let bundle = claim(&node, &bob, &ann).await.bundles.remove(0);
        assert!(bundle.one_time_pre_key.is_none_or(|other| other.key_id != key.key_id));
        assert!(bundle.kem_pre_key.is_none_or(|other| other.key_id != kem_key.key_id));
    }
    let counted = count(&node, &phone).await.unwrap();
    assert_eq!((counted.pre_keys, counted.kem_pre_keys), (0, 0));
    let mut reused = one_time_keys(0..1);
    reused[0].key_id = key.key_id;
    assert_eq!(refusal(phone.add(&node, reused.clone()).await).1, "RESOURCE_ALREADY_EXISTS");
    // For a month. Then its id is free.
    world.clock.advance(std::time::Duration::from_secs(31 * 24 * 3600));
    let work = node.work();
    crate::harness::eventually(async || world.count("one_time_prekeys").await == 0).await;
    work.abort();
    let phone = Phone { user: node.log_in(&ann.email, &ann.id).await, ..phone };
    assert_eq!(phone.add(&node, reused).await.unwrap().pre_keys, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_keeps_so_many_one_time_prekeys_also_when_they_come_at_once() {
    let world = World::new().await;
    let nodes = [world.node().await, world.node().await];
    let ann = nodes[0].user("ann").await;
    let phone = Phone::new(&ann);
    phone.publish(&nodes[0], 0).await;
    let too_many = phone.upload(one_time_keys(0..101), Vec::new());
    invalid(keys(&nodes[0], &ann).upload_one_time_pre_keys(too_many).await, &["pre_keys"]);
    // Five batches of 60: three fit.
    let batches =
        (0..5u32).map(|batch| phone.add(&nodes[batch as usize % 2], one_time_keys(batch * 60..batch * 60 + 60)));
    let (stored, refused): (Vec<_>, Vec<_>) = join_all(batches).await.into_iter().partition(Result::is_ok);
    assert_eq!((stored.len(), refused.len()), (3, 2));
    for refused in refused {
        let status = refused.unwrap_err();
        assert_eq!(status.get_details_error_info().unwrap().metadata["free"], "20");
        precluded(Err::<(), _>(status), "PREKEY_LIMIT_REACHED");
    }
    assert_eq!(phone.add(&nodes[1], one_time_keys(1000..1020)).await.unwrap().pre_keys, 200);
    precluded(phone.add(&nodes[1], one_time_keys(1020..1021)).await, "PREKEY_LIMIT_REACHED");
    // The other kind counts for itself; another device too.
    let kem = (0..100).map(|key_id| phone.kem(key_id)).collect();
    let counted = keys(&nodes[0], &ann).upload_one_time_pre_keys(phone.upload(Vec::new(), kem)).await.unwrap();
    assert_eq!((counted.get_ref().pre_keys, counted.get_ref().kem_pre_keys), (200, 100));
    let one_more = phone.upload(Vec::new(), vec![phone.kem(100)]);
    precluded(keys(&nodes[0], &ann).upload_one_time_pre_keys(one_more).await, "PREKEY_LIMIT_REACHED");
    phone.sibling().publish(&nodes[0], 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prekeys_are_published_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let phone = Phone::new(&ann);
    phone.register(&node).await.unwrap();
    let path = format!("/v1/keys/devices/{}", phone.device_id);
    let (signed, kem) = (phone.signed(4), phone.kem(5));
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    let signed = json!({ "keyId": 4, "publicKey": text(&signed.public_key), "signature": text(&signed.signature) });
    let kem = json!({ "keyId": 5, "publicKey": text(&kem.public_key), "signature": text(&kem.signature) });
    let body = json!({ "registrationId": 7, "signedPreKey": signed, "kemPreKey": kem });
    ann.call(&node, Method::PUT, &format!("{path}/signed-prekey"), body).await.ok();
    let keys: Vec<_> = one_time_keys(0..3)
        .iter()
        .map(|key| json!({ "keyId": key.key_id, "publicKey": text(&key.public_key) }))
        .collect();
    let body = json!({ "registrationId": 7, "preKeys": keys });
    let prekeys = format!("{path}/prekeys");
    let added = ann.post(&node, &prekeys, body.clone()).await.ok();
    assert_eq!((&added["preKeys"], &added["kemPreKeys"]), (&json!(3), &json!(0)));
    let counted = ann.get(&node, &prekeys).await.ok();
    assert_eq!(
        (&counted["preKeys"], &counted["signedPreKeyId"], &counted["kemPreKeyId"]),
        (&json!(3), &json!(4), &json!(5))
    );

    let mut wrong = body.clone();
    wrong["preKeys"][1]["publicKey"] = json!(text(&[0; 32]));
    let refused = ann.post(&node, &prekeys, wrong).await;
    refused.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(refused.fields(), ["pre_keys[1].public_key"]);
    let mut wrong = body.clone();
    wrong["preKeys"][2]["publicKey"] = json!(text(&[9; 30]));
    assert_eq!(ann.post(&node, &prekeys, wrong).await.fields(), ["pre_keys[2].public_key"]);
    let mut wrong = body.clone();
    wrong["preKeys"][0]["publicKey"] = json!(text(&x25519()));
    let refused = ann.post(&node, &prekeys, wrong).await;
    refused.refused(409, "RESOURCE_ALREADY_EXISTS", 3002);
    assert_eq!(refused.fields(), ["pre_keys[0].key_id"]);
    let mut wrong = body.clone();
    wrong["registrationId"] = json!(8);
    ann.post(&node, &prekeys, wrong).await.refused(409, "REGISTRATION_ID_MISMATCH", 3003);
    let nobodys = format!("/v1/keys/devices/{}/prekeys", new_uuid());
    ann.post(&node, &nobodys, body).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    ann.get(&node, &nobodys).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

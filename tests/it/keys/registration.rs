//! Account keys and devices.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::domains::keys::{DeviceRef, devices_of};
use rialto::kernel::wire::timestamp;
use rialto::proto::rialto::keys::v1::{RegisterDeviceRequest, RemoveDeviceRequest, SetAccountKeyRequest};
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Phone, bad_points, claim, ed25519, invalid, keys, list, new_uuid, one_time_keys, precluded, public, sign, uuid,
    x25519,
};
use crate::harness::{Node, World, eventually, refusal};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn remove(phone: &Phone) -> RemoveDeviceRequest {
    RemoveDeviceRequest { device_id: phone.device_id.to_string() }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_registered_listed_and_removed_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    assert_eq!(list(&node, &ann, None).await, Default::default());
    let phone = Phone::new(&ann);
    let device = phone.register(&node).await.unwrap();
    assert_eq!((device.device_id, device.registration_id), (phone.device_id.to_string(), 7));
    let laptop = phone.sibling();
    // The account's key needs to be named only once.
    let request = RegisterDeviceRequest { account_key: None, name: " Laptop ".into(), ..laptop.registration() };
    keys(&node, &ann).register_device(request.clone()).await.unwrap();

    let own = list(&node, &ann, None).await;
    assert_eq!(own.account_key, phone.account_key());
    assert_eq!(own.devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["Phone", "Laptop"]);
    let midnight = world.clock.now().date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    assert_eq!(own.devices[1].last_seen_at, Some(timestamp(midnight)));
    // Others see keys and signatures, and nothing else.
    let seen = list(&node, &bob, Some(&ann)).await;
    assert_eq!(seen.account_key, phone.account_key());
    let laptop_seen = &seen.devices[1];
    assert_eq!((laptop_seen.name.as_str(), laptop_seen.created_at, laptop_seen.last_seen_at), ("", None, None));
    assert_eq!(
        (&laptop_seen.identity_key, &laptop_seen.signing_key, &laptop_seen.signature),
        (&request.identity_key, &request.signing_key, &request.signature)
    );
    let mut conn = node.server.app.db.get().await.unwrap();
    let mut expected = [&phone, &laptop].map(|phone| DeviceRef {
        account_id: uuid(&ann.id),
        device_id: phone.device_id,
        registration_id: 7,
    });
    expected.sort();
    assert_eq!(devices_of(&mut conn, &[uuid(&ann.id), uuid(&bob.id)]).await.unwrap(), expected);

    keys(&node, &ann).remove_device(remove(&phone)).await.unwrap();
    let again = refusal(keys(&node, &ann).remove_device(remove(&phone)).await);
    assert_eq!(again, (Code::NotFound, "RESOURCE_NOT_FOUND".into()));
    assert_eq!(list(&node, &bob, Some(&ann)).await.devices.len(), 1);
    let audited = format!("audit_log WHERE target_kind = 'device' AND account_id = '{}'", ann.id);
    assert_eq!(world.count(&audited).await, 4);
    assert_eq!(world.count(&format!("{audited} AND target_id = '{}'", phone.device_id)).await, 3);
}

fn rest_body(request: &RegisterDeviceRequest) -> Value {
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    json!({
        "registrationId": request.registration_id, "identityKey": text(&request.identity_key),
        "signingKey": text(&request.signing_key), "signature": text(&request.signature), "name": request.name,
        "accountKey": text(request.account_key.as_deref().unwrap()),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_registered_listed_and_removed_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let phone = Phone::new(&ann);
    let path = format!("/v1/keys/devices/{}", phone.device_id);
    let body = rest_body(&phone.registration());
    let device = ann.call(&node, Method::PUT, &path, body.clone()).await.ok();
    assert_eq!((&device["registrationId"], &device["identityKey"]), (&json!(7), &body["identityKey"]));
    let own = ann.get(&node, "/v1/keys/devices").await.ok();
    assert_eq!((&own["accountKey"], &own["devices"][0]), (&body["accountKey"], &device));

    for (field, name, wrong) in [
        ("identityKey", "identity_key", json!(STANDARD.encode([9; 31]))),
        ("signingKey", "signing_key", json!(STANDARD.encode([9; 33]))),
        ("signature", "signature", json!(STANDARD.encode([9; 65]))),
        ("signature", "signature", json!(STANDARD.encode([9; 64]))),
        ("accountKey", "account_key", json!("")),
        ("registrationId", "registration_id", json!(0)),
        ("name", "name", json!("\u{200b}")),
        ("name", "name", json!("x".repeat(65))),
    ] {
        let mut body = body.clone();
        body[field] = wrong;
        let refused = ann.call(&node, Method::PUT, &path, body).await;
        refused.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(refused.fields(), [name]);
    }
    let refused = ann.call(&node, Method::PUT, "/v1/keys/devices/x", body.clone()).await;
    assert_eq!(refused.fields(), ["device_id"]);
    let mut body = body;
    body["accountKey"] = json!(STANDARD.encode(x25519()));
    ann.call(&node, Method::PUT, &path, body).await.refused(409, "ACCOUNT_KEY_MISMATCH", 3003);

    ann.delete(&node, &path).await.ok();
    ann.delete(&node, &path).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    // The account's key stays.
    let own = ann.get(&node, "/v1/keys/devices").await.ok();
    assert_eq!((own["accountKey"].as_str().unwrap().len(), &own["devices"]), (44, &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_changes_nothing_and_other_keys_need_another_registration_id() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let phone = Phone::new(&ann);
    phone.publish(&node, 3).await;
    let before = list(&node, &ann, None).await.devices;
    assert_eq!(phone.register(&node).await.unwrap(), before[0]);
    let renamed = RegisterDeviceRequest { name: "Other".into(), ..phone.registration() };
    keys(&node, &ann).register_device(renamed).await.unwrap();
    assert_eq!(list(&node, &ann, None).await.devices[0].name, "Other");
    assert!(claim(&node, &bob, &ann).await.bundles[0].one_time_pre_key.is_some());

    precluded(phone.anew(7).register(&node).await, "REGISTRATION_ID_MISMATCH");
    let anew = phone.anew(8);
    let device = anew.register(&node).await.unwrap();
    assert_eq!((device.registration_id, device.created_at), (8, before[0].created_at));
    // The private parts of its prekeys are gone.
    let bundle = claim(&node, &bob, &ann).await.bundles.remove(0);
    assert_eq!(bundle.device.unwrap().identity_key, anew.identity_key);
    assert_eq!((bundle.signed_pre_key, bundle.one_time_pre_key), (None, None));
    precluded(phone.add(&node, one_time_keys(10..11)).await, "REGISTRATION_ID_MISMATCH");
    let stale = keys(&node, &ann).set_signed_pre_key(phone.set_signed(Some(phone.signed(2)), None)).await;
    precluded(stale, "REGISTRATION_ID_MISMATCH");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_of_anything_else_is_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let phone = Phone::new(&ann);
    let (right, other) = (phone.registration(), phone.sibling().registration());
    let mut broken = right.signature.clone();
    broken[63] ^= 1;
    let of_bob = Phone { user: bob.clone(), ..phone.clone() }.registration().signature;
    let by_itself = Phone { account: Arc::clone(&phone.signing), ..phone.clone() }.registration().signature;
    let wrong = [
        RegisterDeviceRequest { signature: broken, ..right.clone() },
        RegisterDeviceRequest { signature: vec![0; 64], ..right.clone() },
        RegisterDeviceRequest { signature: other.signature.clone(), ..right.clone() },
        RegisterDeviceRequest { signature: of_bob, ..right.clone() },
        RegisterDeviceRequest { signature: by_itself, ..right.clone() },
        RegisterDeviceRequest { signature: phone.set_account_key().signature, ..right.clone() },
        RegisterDeviceRequest { device_id: new_uuid().to_string(), ..right.clone() },
        RegisterDeviceRequest { registration_id: 8, ..right.clone() },
        RegisterDeviceRequest { identity_key: other.identity_key, ..right.clone() },
        RegisterDeviceRequest { signing_key: other.signing_key, ..right.clone() },
        RegisterDeviceRequest { account_key: Some(public(&ed25519())), ..right.clone() },
    ];
    for request in wrong {
        invalid(keys(&node, &ann).register_device(request).await, &["signature"]);
    }
    let without = RegisterDeviceRequest { account_key: None, ..right.clone() };
    invalid(keys(&node, &ann).register_device(without).await, &["account_key"]);
    assert_eq!(world.count("devices").await + world.count("account_keys").await, 0);
    keys(&node, &ann).register_device(right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_low_order_or_in_another_form_are_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let good = Phone::new(&ann);
    good.publish(&node, 0).await;
    for point in bad_points() {
        // Everything else is as it should be, the signatures too.
        let phone = Phone { identity_key: point.clone(), ..good.sibling() };
        invalid(phone.register(&node).await, &["identity_key"]);
        let signature = good.signature(b"Rialto-SignedPreKey-v1\0", 9, &point);
        let mut signed = good.signed(9);
        (signed.public_key, signed.signature) = (point.clone(), signature);
        let set = good.set_signed(Some(signed), None);
        invalid(keys(&node, &ann).set_signed_pre_key(set).await, &["signed_pre_key.public_key"]);
        let mut one_time = one_time_keys(0..3);
        one_time[2].public_key = point;
        invalid(good.add(&node, one_time).await, &["pre_keys[2].public_key"]);
    }
    assert_eq!(world.count("devices").await, 1);

    // The neutral element as an account's key: this "signature" of its is one of everything, for those who don't look.
    let mut neutral = vec![0; 32];
    neutral[0] = 1;
    let forged = [neutral.clone(), vec![0; 32]].concat();
    let bob = node.user("bob").await;
    let request = RegisterDeviceRequest {
        account_key: Some(neutral.clone()),
        signature: forged.clone(),
        ..Phone::new(&bob).registration()
    };
    invalid(keys(&node, &bob).register_device(request).await, &["signature"]);
    let request = SetAccountKeyRequest { account_key: neutral, signature: forged };
    invalid(keys(&node, &bob).set_account_key(request).await, &["signature"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_at_most_twenty_devices_also_when_all_register_at_once() {
    let world = World::new().await;
    let nodes = [world.node().await, world.node().await];
    let ann = nodes[0].user("ann").await;
    let first = Phone::new(&ann);
    let phones: Vec<_> = (0..24).map(|_| first.sibling()).collect();
    let registered = join_all(phones.iter().enumerate().map(|(index, phone)| phone.register(&nodes[index % 2]))).await;
    assert_eq!(registered.iter().filter(|registered| registered.is_ok()).count(), 20);
    for refused in registered.into_iter().filter(Result::is_err) {
        precluded(refused, "DEVICE_LIMIT_REACHED");
    }
    let own = list(&nodes[0], &ann, None).await.devices;
    assert_eq!(own.len(), 20);
    // One that is there may have new keys, and one that goes makes room.
    let there = phones.iter().find(|phone| phone.device_id.to_string() == own[3].device_id).unwrap();
    there.anew(8).register(&nodes[0]).await.unwrap();
    keys(&nodes[0], &ann).remove_device(remove(there)).await.unwrap();
    first.register(&nodes[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_first_devices_with_different_account_keys_one_is_registered() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let phones: Vec<_> = (0..6).map(|_| Phone::new(&ann)).collect();
    let mut registered = join_all(phones.iter().map(|phone| phone.register(&node))).await;
    let first = registered.iter().position(Result::is_ok).unwrap();
    registered.remove(first).unwrap();
    for refused in registered {
        precluded(refused, "ACCOUNT_KEY_MISMATCH");
    }
    assert_eq!(list(&node, &ann, None).await.account_key, phones[first].account_key());
    assert_eq!(world.count("devices").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_key_needs_a_recent_proof_and_removes_all_devices() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let old = Phone::new(&ann);
    keys(&node, &ann).set_account_key(old.set_account_key()).await.unwrap();
    old.publish(&node, 2).await;
    old.sibling().register(&node).await.unwrap();

    let new = Phone::new(&ann);
    let mut wrong = new.set_account_key();
    wrong.signature = old.set_account_key().signature;
    invalid(keys(&node, &ann).set_account_key(wrong).await, &["signature"]);
    let of_bob = Phone { user: bob.clone(), ..new.clone() }.set_account_key();
    invalid(keys(&node, &ann).set_account_key(of_bob).await, &["signature"]);

    world.clock.advance(Duration::from_secs(301));
    let refused = refusal(keys(&node, &ann).set_account_key(new.set_account_key()).await);
    assert_eq!(refused, (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".into()));
    // The same one changes nothing, so it needs no proof.
    keys(&node, &ann).set_account_key(old.set_account_key()).await.unwrap();
    assert_eq!(list(&node, &bob, Some(&ann)).await.devices.len(), 2);

    ann.post(&node, "/v1/auth/reauthenticate", json!({ "password": crate::harness::PASSWORD })).await.ok();
    keys(&node, &ann).set_account_key(new.set_account_key()).await.unwrap();
    let own = list(&node, &ann, None).await;
    assert_eq!((own.account_key, own.devices), (new.account_key(), Vec::new()));
    // Without devices there is nothing that others would need the key for.
    assert_eq!(list(&node, &bob, Some(&ann)).await, Default::default());
    assert_eq!(world.count("signed_prekeys").await + world.count("one_time_prekeys").await, 0);
    precluded(old.register(&node).await, "ACCOUNT_KEY_MISMATCH");
    new.register(&node).await.unwrap();

    let body = json!({
        "accountKey": STANDARD.encode(old.account_key()),
        "signature": STANDARD.encode(sign(&old.account, &[b"something else"])),
    });
    let refused = ann.call(&node, Method::PUT, "/v1/keys/account", body).await;
    assert_eq!(refused.fields(), ["signature"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_alone_adds_no_device_but_may_say_that_one_is_in_use() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let phone = Phone::new(&ann);
    phone.register(&node).await.unwrap();
    world.clock.advance(Duration::from_secs(301));
    let needed = (Code::PermissionDenied, "REAUTHENTICATION_REQUIRED".to_owned());
    assert_eq!(refusal(phone.sibling().register(&node).await), needed);
    assert_eq!(refusal(phone.anew(8).register(&node).await), needed);
    phone.register(&node).await.unwrap();
    // A device that was removed does not come back by its old registration, which everybody has seen.
    keys(&node, &ann).remove_device(remove(&phone)).await.unwrap();
    assert_eq!(refusal(phone.register(&node).await), needed);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_nobody_elses_business_and_their_ids_are_nobodys() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let phone = Phone::new(&ann);
    phone.publish(&node, 1).await;
    let taken = Phone { user: bob.clone(), ..phone.clone() };
    let none = (Code::NotFound, "RESOURCE_NOT_FOUND".to_owned());
    let mut bobs = keys(&node, &bob);
    assert_eq!(refusal(bobs.remove_device(remove(&phone)).await), none);
    assert_eq!(refusal(taken.add(&node, one_time_keys(5..6)).await), none);
    let signed = taken.set_signed(Some(taken.signed(2)), None);
    assert_eq!(refusal(bobs.set_signed_pre_key(signed).await), none);
    // Whoever takes the id of another's device has it for themselves.
    let bobs_own = Phone { user: bob.clone(), ..phone.anew(3) };
    bobs_own.publish(&node, 1).await;
    assert_eq!(list(&node, &bob, None).await.devices[0].registration_id, 3);
    assert_eq!(list(&node, &ann, None).await.devices[0].registration_id, 7);
    let bundles = claim(&node, &bob, &ann).await.bundles;
    assert_eq!(bundles[0].device.as_ref().unwrap().identity_key, phone.identity_key);
}

async fn round(world: &World, node: &Node, gone: i64) {
    let work = node.work();
    eventually(async || world.count("devices").await == gone).await;
    work.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_not_seen_for_long_is_removed_and_one_that_is_in_use_is_not() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (registers, publishes) = (Phone::new(&ann), Phone::new(&ann));
    let publishes = Phone { account: Arc::clone(&registers.account), ..publishes };
    let lost = registers.sibling();
    for phone in [&registers, &publishes, &lost] {
        phone.publish(&node, 1).await;
    }
    world.clock.advance(DAY * 100);
    let ann = node.log_in(&ann.email, &ann.id).await;
    let [registers, publishes] = [registers, publishes].map(|phone| Phone { user: ann.clone(), ..phone });
    registers.register(&node).await.unwrap();
    publishes.add(&node, one_time_keys(7..8)).await.unwrap();
    world.clock.advance(DAY * 82);
    round(&world, &node, 2).await;
    assert_eq!(world.count(&format!("devices WHERE device_id = '{}'", lost.device_id)).await, 0);
    world.clock.advance(DAY * 100);
    round(&world, &node, 0).await;
    assert_eq!(world.count("one_time_prekeys").await, 0);
}

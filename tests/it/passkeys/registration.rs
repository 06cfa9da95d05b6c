//! Adding, naming and deleting passkeys.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use reqwest::Method;
use rialto::kernel::wire::{from_struct, to_struct};
use rialto::proto::rialto::passkeys::v1::{
    BeginRegistrationRequest, DeletePasskeyRequest, FinishRegistrationRequest, ListPasskeysRequest,
    RenamePasskeyRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use super::authenticator::{bytes, text};
use super::{Authenticator, Ceremony, fate, finish_registration, log_in, over_grpc, register, register_with, world};
use crate::harness::{Answer, Node, User, refusal};
use crate::smtp::Smtp;

/// What an authenticator does that it should not.
type Lie = fn(&mut Authenticator);

async fn passkeys(node: &Node, user: &User) -> Vec<Value> {
    let list = user.get(node, "/v1/passkeys").await.ok();
    list["passkeys"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn passkeys_are_added_listed_renamed_and_deleted_over_rest() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    assert!(passkeys(&node, &ann).await.is_empty());

    let ceremony = Ceremony::registration(&node, &ann).await;
    let options = &ceremony.options;
    assert_eq!(options["rp"], json!({ "id": "example.com", "name": "Rialto" }));
    assert_eq!((&options["user"]["name"], &options["user"]["displayName"]), (&json!("ann@example.com"), &json!("ann")));
    assert_eq!(bytes(&options["user"]["id"]), uuid::Uuid::parse_str(&ann.id).unwrap().as_bytes());
    assert_eq!(options["authenticatorSelection"]["residentKey"], "required");
    assert_eq!(options["authenticatorSelection"]["userVerification"], "required");
    assert_eq!((&options["attestation"], &options["timeout"]), (&json!("none"), &json!(300_000)));
    assert!(options["pubKeyCredParams"].as_array().unwrap().contains(&json!({ "type": "public-key", "alg": -7 })));

    let mut first = Authenticator::new();
    let added = finish_registration(&node, &ann, &ceremony, first.create(options)).await.ok();
    assert_eq!(
        (&added["passkey"]["name"], &added["passkey"]["credentialId"]),
        (&json!("Laptop"), &json!(text(&first.id)))
    );
    // The first second factor comes with backup codes.
    assert_eq!(added["backupCodes"].as_array().unwrap().len(), 10);

    let ceremony = Ceremony::registration(&node, &ann).await;
    let excluded = json!([{ "type": "public-key", "id": text(&first.id) }]);
    assert_eq!(ceremony.options["excludeCredentials"], excluded);
    let mut second = Authenticator::new();
    let added = finish_registration(&node, &ann, &ceremony, second.create(&ceremony.options)).await.ok();
    assert!(added["backupCodes"].as_array().is_none_or(Vec::is_empty), "{added}");
    assert_eq!(ann.get(&node, "/v1/twofa/status").await.ok()["passkeys"], 2);

    let list = passkeys(&node, &ann).await;
    let path = format!("/v1/passkeys/{}", list[1]["id"].as_str().unwrap());
    let renamed = ann.call(&node, Method::PATCH, &path, json!({ "name": "  Phone " })).await.ok();
    assert_eq!(renamed["name"], "Phone");
    let names: Vec<_> = passkeys(&node, &ann).await.iter().map(|passkey| passkey["name"].clone()).collect();
    assert_eq!(names, ["Laptop", "Phone"]);

    ann.delete(&node, &path).await.ok();
    ann.delete(&node, &path).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    assert_eq!(passkeys(&node, &ann).await.len(), 1);
    log_in(&node, &mut second).await.refused(401, "PASSKEY_INVALID", 1002);
    log_in(&node, &mut first).await.ok();
    let audited = format!("audit_log WHERE method LIKE '%PasskeyService%' AND account_id = '{}'", ann.id);
    // Two added, one renamed, one deleted, once not found, one login; the refused login is nobody's.
    assert_eq!(world.count(&audited).await, 6);
    let told = crate::account::kinds::told(&node, &ann, 3).await;
    assert_eq!(told, ["ADDED", "ADDED", "REMOVED"].map(|change| format!("SECURITY_CHANGE_PASSKEY_{change}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn passkeys_are_added_listed_renamed_and_deleted_over_grpc() {
    let world = world().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let mut grpc = over_grpc(&node, &ann);
    let begun = grpc.begin_registration(BeginRegistrationRequest {}).await.unwrap().into_inner();
    let mut authenticator = Authenticator::new();
    let credential = authenticator.create(&from_struct(begun.options.unwrap()));
    let finish = |credential: Value| FinishRegistrationRequest {
        ceremony_token: begun.ceremony_token.clone(),
        credential: Some(to_struct(credential)),
        name: "Key".into(),
    };
    let unfit = refusal(grpc.finish_registration(finish(json!({}))).await);
    assert_eq!(unfit, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    let added = grpc.finish_registration(finish(credential.clone())).await.unwrap().into_inner();
    assert_eq!(added.backup_codes.len(), 10);
    let again = refusal(grpc.finish_registration(finish(credential)).await);
    assert_eq!(again, (Code::FailedPrecondition, "PASSKEY_CEREMONY_VOID".into()));

    let passkey_id = added.passkey.unwrap().id;
    let rename = RenamePasskeyRequest { passkey_id: passkey_id.clone(), name: "Other".into() };
    let delete = DeletePasskeyRequest { passkey_id };
    // Nobody else's business.
    let mut others = over_grpc(&node, &bob);
    let none = (Code::NotFound, "RESOURCE_NOT_FOUND".to_owned());
    assert_eq!(refusal(others.rename_passkey(rename.clone()).await), none);
    assert_eq!(refusal(others.delete_passkey(delete.clone()).await), none);
    assert!(others.list_passkeys(ListPasskeysRequest {}).await.unwrap().into_inner().passkeys.is_empty());

    grpc.rename_passkey(rename).await.unwrap();
    let list = grpc.list_passkeys(ListPasskeysRequest {}).await.unwrap().into_inner().passkeys;
    assert_eq!(list.iter().map(|passkey| passkey.name.as_str()).collect::<Vec<_>>(), ["Other"]);
    grpc.delete_passkey(delete).await.unwrap();
    assert!(grpc.list_passkeys(ListPasskeysRequest {}).await.unwrap().into_inner().passkeys.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_alone_neither_adds_nor_deletes_a_passkey() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let (added, mut authenticator) = register(&node, &ann).await;
    let path = format!("/v1/passkeys/{}", added["passkey"]["id"].as_str().unwrap());
    world.clock.advance(Duration::from_secs(301));
    let begin = async || ann.post(&node, "/v1/passkeys/register/begin", json!({})).await;
    begin().await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);
    ann.delete(&node, &path).await.refused(403, "REAUTHENTICATION_REQUIRED", 1005);

    // The password alone is not enough for an account with a second factor. A passkey is.
    let password = ann.post(&node, "/v1/auth/reauthenticate", json!({ "password": crate::harness::PASSWORD })).await;
    password.refused(422, "VALIDATION_ERROR", 2001);
    let ceremony = Ceremony::reauthentication(&node, &ann).await;
    let listed = json!([{ "type": "public-key", "id": text(&authenticator.id) }]);
    assert_eq!(ceremony.options["allowCredentials"], listed);
    let body = ceremony.body(authenticator.get(&ceremony.options));
    let proved = ann.post(&node, "/v1/passkeys/reauthenticate/finish", body.clone()).await.ok();
    assert!(proved["validUntil"].is_string(), "{proved}");
    let again = ann.post(&node, "/v1/passkeys/reauthenticate/finish", body).await;
    again.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
    begin().await.ok();
    ann.delete(&node, &path).await.ok();
    // Who has none is not asked for somebody else's.
    let none = ann.post(&node, "/v1/passkeys/reauthenticate/begin", json!({})).await;
    none.refused(409, "TWO_FACTOR_NOT_ENABLED", 3003);
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_and_deleting_ends_the_other_sessions_on_every_node_and_mails_the_owner() {
    let mut world = world().await;
    let mut smtp = Smtp::start().await;
    world.config.mail = smtp.config();
    let (node, other) = (world.node().await, world.node().await);
    let worker = node.work();
    let ann = node.user("ann").await;
    let elsewhere = other.log_in(&ann.email, &ann.id).await;
    elsewhere.get(&other, "/v1/auth/me").await.ok();
    let new_device = smtp.next().await;
    assert!(new_device.text.contains("New login"), "{}", new_device.text);

    let (added, mut authenticator) = register(&node, &ann).await;
    let ended = async |user: &User| user.get(&other, "/v1/auth/me").await.status == 401;
    crate::harness::eventually(async || ended(&elsewhere).await).await;
    ann.get(&node, "/v1/auth/me").await.ok();
    let mail = smtp.next().await;
    assert!(mail.to == ann.email && mail.text.contains("A passkey was added") && mail.text.contains("127.0.0.1"));

    let token = log_in(&other, &mut authenticator).await.ok()["accessToken"].as_str().unwrap().to_owned();
    let elsewhere = User { token, ..ann.clone() };
    let new_device = smtp.next().await;
    assert!(new_device.text.contains("New login"), "{}", new_device.text);
    ann.delete(&node, &format!("/v1/passkeys/{}", added["passkey"]["id"].as_str().unwrap())).await.ok();
    crate::harness::eventually(async || ended(&elsewhere).await).await;
    let mail = smtp.next().await;
    assert!(mail.to == ann.email && mail.text.contains("A passkey of your account was deleted"), "{}", mail.text);
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_credential_is_refused_by_its_field() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let ceremony = Ceremony::registration(&node, &ann).await;
    let good = Authenticator::new().create(&ceremony.options);
    let with = |path: &str, value: Value| {
        let mut credential = good.clone();
        *credential.pointer_mut(path).unwrap() = value;
        credential
    };
    let mut deep = json!({});
    for _ in 0..5 {
        deep = json!({ "a": [deep] });
    }
    let unfit = [
        json!({}),
        json!({ "id": 1 }),
        with("/rawId", json!(null)),
        with("/rawId", json!("not base64url: =+/")),
        with("/response", json!([])),
        with("/response/attestationObject", json!(3.5)),
        with("/response/clientDataJSON", deep.clone()),
        with("/clientExtensionResults", json!("x")),
        with("/response/attestationObject", json!("A".repeat(70_000))),
        with("/id", json!("\u{0}".repeat(66_000))),
    ];
    for credential in unfit {
        let answer = finish_registration(&node, &ann, &ceremony, credential.clone()).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["credential"], "{credential}");
    }
    // None of these has used it up; what has the form of a credential does.
    let broken = [
        with("/response/attestationObject", json!(text(&[0x9b; 500]))),
        with("/response/attestationObject", json!(text(&[0x81; 5000]))),
        with("/response/attestationObject", json!("")),
        with("/response/clientDataJSON", json!(text(b"{}"))),
        with("/response/clientDataJSON", json!(text(b"\xff\xff"))),
    ];
    for credential in broken {
        let ceremony = Ceremony::registration(&node, &ann).await;
        let answer = finish_registration(&node, &ann, &ceremony, credential.clone()).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["credential"], "{credential}");
    }
    for name in ["", "   ", "a\nb", &"x".repeat(65)] {
        let mut body = ceremony.body(good.clone());
        body["name"] = name.into();
        let answer = ann.post(&node, "/v1/passkeys/register/finish", body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["name"], "{name:?}");
    }
    let missing = ann.post(&node, "/v1/passkeys/register/finish", json!({ "ceremonyToken": "x", "name": "x" })).await;
    missing.refused(422, "MISSING_REQUIRED_FIELD", 2003);
    assert_eq!(missing.fields(), ["credential"]);
    // As text, because building it would be too deep for the test.
    let deep =
        format!(r#"{{"ceremonyToken":"x","name":"x","credential":{}{}}}"#, r#"{"a":["#.repeat(5000), "]}".repeat(5000));
    let deep = node.http().post(node.url("/v1/passkeys/register/finish")).bearer_auth(&ann.token).body(deep);
    let deep = Answer::of(deep.header("content-type", "application/json").send().await.unwrap()).await;
    assert_eq!(fate(&deep), (400, Some("INVALID_FORMAT")), "{}", deep.body);
    finish_registration(&node, &ann, &ceremony, good).await.ok();
    assert_eq!(passkeys(&node, &ann).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_of_another_page_party_or_unverified_user_is_not_added() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let lies: [(&str, Lie); 7] = [
        ("origin", |authenticator| authenticator.origin = "https://example.com.evil.test".into()),
        ("origin", |authenticator| authenticator.origin = "http://app.example.com".into()),
        ("origin", |authenticator| authenticator.origin = "https://app.example.com:8443".into()),
        ("origin", |authenticator| authenticator.origin = "https://other.example.com".into()),
        ("relying party", |authenticator| authenticator.rp_id = "app.example.com".into()),
        ("verifying", |authenticator| authenticator.verifies_user = false),
        ("", |authenticator| authenticator.id = vec![7; 0]),
    ];
    for (what, lie) in lies {
        let mut authenticator = Authenticator::new();
        lie(&mut authenticator);
        let ceremony = Ceremony::registration(&node, &ann).await;
        let answer = finish_registration(&node, &ann, &ceremony, authenticator.create(&ceremony.options)).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["credential"]);
        assert!(answer.body["error"]["message"].as_str().unwrap().contains(what), "{}", answer.body);
        // The ceremony is over.
        let honest = Authenticator::new().create(&ceremony.options);
        finish_registration(&node, &ann, &ceremony, honest).await.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
    }
    let (one, other) = (Ceremony::registration(&node, &ann).await, Ceremony::registration(&node, &ann).await);
    let swapped = finish_registration(&node, &ann, &one, Authenticator::new().create(&other.options)).await;
    swapped.refused(422, "VALIDATION_ERROR", 2001);
    assert!(passkeys(&node, &ann).await.is_empty());
    // Another page of ours.
    let mut elsewhere = Authenticator::new();
    elsewhere.origin = "https://www.example.com".into();
    register_with(&node, &ann, elsewhere).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_finished_once_in_five_minutes_by_the_session_that_began_it() {
    let world = world().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let again = node.log_in(&ann.email, &ann.id).await;
    let ceremony = Ceremony::registration(&node, &ann).await;
    let credential = Authenticator::new().create(&ceremony.options);
    for other in [&bob, &again] {
        let refused = finish_registration(&node, other, &ceremony, credential.clone()).await;
        refused.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
        assert_eq!(refused.fields(), ["ceremony_token"]);
    }
    // It is no login.
    let login = super::finish_login(&node, &ceremony, Authenticator::new().get(&ceremony.options)).await;
    login.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
    // Nobody has used it up for its owner.
    let answers = join_all((0..6).map(|_| finish_registration(&node, &ann, &ceremony, credential.clone()))).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    assert_eq!(fates[0], (200, None));
    assert_eq!(fates[1..], [(409, Some("PASSKEY_CEREMONY_VOID")); 5]);

    let late = Ceremony::registration(&node, &ann).await;
    world.clock.advance(Duration::from_secs(300));
    let credential = Authenticator::new().create(&late.options);
    finish_registration(&node, &ann, &late, credential).await.refused(409, "PASSKEY_CEREMONY_VOID", 3003);
    assert_eq!(passkeys(&node, &ann).await.len(), 1);
    // And it is forgotten.
    rialto::domains::passkeys::jobs::delete_expired_ceremonies(&node.server.app).await.unwrap();
    assert_eq!(world.count("passkey_ceremonies").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_just_ended_adds_no_passkey() {
    let world = world().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let ceremony = Ceremony::registration(&node, &ann).await;
    // The node has not heard of it.
    world.database().await.batch_execute("UPDATE sessions SET revoked_at = now()").await.unwrap();
    let refused = finish_registration(&node, &ann, &ceremony, Authenticator::new().create(&ceremony.options)).await;
    refused.refused(401, "SESSION_REVOKED", 1004);
    assert_eq!(world.count("passkeys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_belongs_to_one_account_which_has_at_most_20() {
    let world = world().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (_, mut authenticator) = register(&node, &ann).await;
    let ceremony = Ceremony::registration(&node, &bob).await;
    let taken = finish_registration(&node, &bob, &ceremony, authenticator.create(&ceremony.options)).await;
    taken.refused(409, "RESOURCE_ALREADY_EXISTS", 3002);
    // A refusal leaves nothing behind: Bob still logs in by password alone.
    node.log_in(&bob.email, &bob.id).await;

    for _ in 1..18 {
        register(&node, &ann).await;
    }
    // Of four at once there is room for two.
    let mut tries = Vec::new();
    for _ in 0..4 {
        let ceremony = Ceremony::registration(&node, &ann).await;
        let credential = Authenticator::new().create(&ceremony.options);
        tries.push((ceremony, credential));
    }
    let tries = tries.iter().map(|(ceremony, made)| finish_registration(&node, &ann, ceremony, made.clone()));
    let answers = join_all(tries).await;
    let mut fates: Vec<_> = answers.iter().map(fate).collect();
    fates.sort();
    let full = (409, Some("PASSKEY_LIMIT_REACHED"));
    assert_eq!(fates, [(200, None), (200, None), full, full]);
    assert_eq!(world.count(&format!("passkeys WHERE account_id = '{}'", ann.id)).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_domain_there_are_no_passkeys_and_a_wrong_one_does_not_start() {
    let mut world = crate::harness::World::new().await;
    world.config.server.public_url = "http://intranet.example.com".into();
    let node = world.node().await;
    let ann = node.user("ann").await;
    let refused = ann.post(&node, "/v1/passkeys/register/begin", json!({})).await;
    refused.refused(409, "PASSKEYS_NOT_CONFIGURED", 3003);
    let login = node.rest(Method::POST, "/v1/passkeys/login/begin", None, Some(json!({}))).await;
    login.refused(409, "PASSKEYS_NOT_CONFIGURED", 3003);

    world.config.auth.passkeys.rp_id = "example.org".into();
    world.config.auth.passkeys.origins = vec![super::ORIGIN.into()];
    let started = rialto::server::Server::start(world.config.clone(), world.clock.clone()).await;
    assert!(started.is_err_and(|error| error.to_string().contains("auth.passkeys")));
}

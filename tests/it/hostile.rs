//! What somebody with bad intentions tries: at the edges of methods, and where two domains meet.

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use prost_types::FieldMask;
use reqwest::Method;
use rialto::proto::rialto::policy::v1::Role;
use rialto::proto::rialto::users::v1::{UpdateMeRequest, User};
use serde_json::{Value, json};

use crate::harness::{Node, PASSWORD, World, eventually};

const ME: &str = "/v1/users/me";

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn post(node: &Node, path: &str, body: Value) -> crate::harness::Answer {
    node.rest(Method::POST, path, None, Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_more_of_themselves_by_an_update() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let before = ann.get(&node, ME).await.ok();
    let more = json!({
        "id": "01890a5d-ac96-774b-bcce-b302099a8057", "role": "ROLE_ADMIN", "state": "ACCOUNT_STATE_DELETED",
        "email": "root@example.com", "createdAt": "2001-01-01T00:00:00Z",
    });
    ann.call(&node, Method::PATCH, ME, more.clone()).await.ok();
    let mut whole = more.clone();
    whole["displayName"] = json!("ann");
    ann.call(&node, Method::PUT, ME, whole).await.ok();
    let user = User {
        role: Role::Admin.into(),
        email: "root@example.com".into(),
        display_name: "ann".into(),
        ..User::default()
    };
    for paths in [vec!["role", "email", "state", "id", "created_at"], vec!["*"], vec!["*", "role"]] {
        let paths = paths.into_iter().map(str::to_owned).collect();
        let request = UpdateMeRequest { user: Some(user.clone()), update_mask: Some(FieldMask { paths }) };
        ann.users(&node).update_me(request).await.unwrap();
    }
    for path in ["password_hash", "token_version", "user.role", "privacy.role", "role ", "ROLE", "account.role"] {
        let request =
            UpdateMeRequest { user: Some(user.clone()), update_mask: Some(FieldMask { paths: vec![path.into()] }) };
        assert_eq!(
            ann.users(&node).update_me(request).await.unwrap_err().code(),
            tonic::Code::InvalidArgument,
            "{path}"
        );
    }
    let after = ann.get(&node, ME).await.ok();
    for field in ["id", "role", "state", "email", "createdAt", "displayName"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // A mask of many names costs no more than one of few.
    let paths = vec!["privacy".to_owned(); 100_000];
    let request = UpdateMeRequest { user: Some(user), update_mask: Some(FieldMask { paths }) };
    ann.users(&node).update_me(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_seen_or_turns_the_text_around_it_is_refused_from_the_beginning() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    for name in ["\u{200b}", " \t ", "a\nSubject: hello", "nna\u{202e}", "\u{3164}", "a\u{2028}b", "\u{1b}[31mann"] {
        let body = json!({ "email": "eve@example.com", "password": PASSWORD, "display_name": name });
        let answer = post(&node, "/v1/auth/register", body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), ["display_name"], "{name:?}");
        let answer = ann.call(&node, Method::PATCH, ME, json!({ "displayName": name })).await;
        assert_eq!((answer.status, answer.fields()), (422, vec!["user.display_name"]), "{name:?}");
    }
    let body = json!({ "email": "eve@example.com", "password": PASSWORD, "display_name": "  Eve " });
    assert_eq!(post(&node, "/v1/auth/register", body).await.ok()["displayName"], "Eve");
    for handle in ["adm1n", "r.ialt.0", "supp0rt", "\u{430}nn", "ann\u{200b}", "\u{ff41}nn", "an\u{131}"] {
        let answer = ann.call(&node, Method::PATCH, ME, json!({ "handle": handle })).await;
        assert_eq!((answer.status, answer.fields()), (422, vec!["user.handle"]), "{handle:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_one_account_however_its_letters_are_written() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann.k").await;
    let register = async |email: &str| {
        post(&node, "/v1/auth/register", json!({ "email": email, "password": PASSWORD, "display_name": "x" })).await
    };
    register("ANN.K@EXAMPLE.COM").await.refused(409, "RESOURCE_ALREADY_EXISTS", 3002);
    // The sign for kelvin becomes a k when folded; a dotted capital I two characters.
    for email in
        ["ann.\u{212a}@example.com", "ann.k@EXAMPLE.\u{130}", "ann.k@example.com\u{0}", "\u{feff}ann.k@example.com"]
    {
        let status = register(email).await.status;
        assert!(status == 422 || status == 409, "{email:?}: {status}");
    }
    let login = json!({ "email": " ANN.k@Example.com ", "password": PASSWORD });
    post(&node, "/v1/auth/login", login).await.ok();
    assert_eq!(world.count(&format!("accounts WHERE id = '{}'", ann.id)).await, 1);
    assert_eq!(world.count("accounts").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_searches_and_forged_tokens_find_nothing_that_they_should_not_and_never_fail() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let admin = world.administrator(&node, "boss").await;
    ann.call(
        &node,
        Method::PATCH,
        ME,
        json!({ "displayName": "50% _off\\ \u{202b}".trim_end_matches('\u{202b}').trim() }),
    )
    .await
    .ok();
    for (query, found) in [
        ("%", 0),
        ("_", 0),
        ("\\", 0),
        ("\\%", 0),
        ("%%%%", 0),
        ("50%", 1),
        ("0% _", 1),
        ("off\\", 1),
        ("\\\\", 0),
        ("'", 0),
        ("' OR 1=1 --", 0),
        ("@%", 0),
        ("@_", 0),
        ("\u{5d0}\u{5d1}\u{5d2}", 0),
        ("\u{1f469}\u{200d}\u{1f4bb}", 0),
        ("\u{202e}nna", 0),
        ("\u{feff}", 0),
        ("\u{130}\u{130}\u{130}", 0),
        ("\u{10ffff}", 0),
        ("$1", 0),
        ("\u{7f}\u{1}", 0),
    ] {
        let list = bob.get(&node, &format!("/v1/users?query={}", encoded(query))).await.ok();
        assert_eq!(list["users"].as_array().unwrap().len(), found, "{query:?}");
    }
    for prefix in ["%", "_", "\\", "'", "\u{10ffff}", "\u{130}", "ann@example.com' --"] {
        let list = admin.get(&node, &format!("/v1/users?emailPrefix={}", encoded(prefix))).await.ok();
        assert_eq!(list["users"], json!([]), "{prefix:?}");
    }
    let long = "x".repeat(10_000);
    for field in ["query", "pageToken", "orderBy", "emailPrefix"] {
        let answer = admin.get(&node, &format!("/v1/users?{field}={long}")).await;
        assert_eq!((answer.status, answer.fields().len()), (422, 1), "{field}");
    }
    assert!((400..500).contains(&bob.get(&node, &format!("/v1/users/by-handle/{long}")).await.status));

    // A token of another list is none of this one.
    bob.conversation(&node, &[&ann]).await;
    bob.conversation(&node, &[&ann]).await;
    for id in [&bob.id, &admin.id] {
        ann.post(&node, &format!("/v1/users/{id}/block"), json!({})).await.ok();
    }
    let (users, by_time) = ("/v1/users?".to_owned(), "/v1/users?orderBy=created_at&".to_owned());
    let lists = [users, by_time, "/v1/conversations?".into(), "/v1/roles?".into(), "/v1/users/me/blocked?".into()];
    let mut tokens = Vec::new();
    for list in &lists {
        let owner = if list.contains("blocked") {
            &ann
        } else if list.contains("conversations") {
            &bob
        } else {
            &admin
        };
        let page = owner.get(&node, &format!("{list}pageSize=1")).await.ok();
        tokens.push((list, page["nextPageToken"].as_str().unwrap().to_owned()));
    }
    for list in &lists {
        for (of, token) in &tokens {
            let answer = admin.get(&node, &format!("{list}pageSize=1&pageToken={token}")).await;
            assert_eq!(answer.status, if of == &list { 200 } else { 422 }, "{of} {list}");
        }
    }
    // One of somebody else shows no more than one's own: it says only where to begin.
    let hidden = ann.get(&node, &format!("/v1/users?pageToken={}", tokens[0].1)).await.ok();
    let names: Vec<_> = hidden["users"].as_array().unwrap().iter().map(|user| user["displayName"].clone()).collect();
    assert!(!names.contains(&json!("bob")) && !names.contains(&json!("boss")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_a_condition_is_text_and_nothing_else() {
    let world = World::new().await;
    let node = world.node().await;
    let (admin, bob) = (world.administrator(&node, "admin").await, node.user("bob").await);
    let title = "x' OR true; --";
    for title in ["open", title] {
        let body = json!({ "member_ids": [bob.id], "title": title });
        admin.post(&node, "/v1/conversations", body).await.ok();
    }
    let titled = |value: &str| {
        let deny = json!({ "permission": "conversations:read", "deny": true, "condition": "CONDITION_EQUALS", "attribute": "title", "value": value });
        json!({ "name": format!("role {value}"), "grants": [deny] })
    };
    let role = admin.post(&node, "/v1/roles", titled(title)).await.ok();
    admin.post(&node, &format!("/v1/accounts/{}/roles", bob.id), json!({ "role_id": role["id"] })).await.ok();
    let list = bob.get(&node, "/v1/conversations").await.ok();
    let titles: Vec<_> = list["conversations"].as_array().unwrap().iter().map(|one| one["title"].clone()).collect();
    assert_eq!(titles, [json!("open")]);
    assert_eq!(admin.post(&node, "/v1/roles", titled("a\u{0}b")).await.status, 422);
    assert_eq!(admin.post(&node, "/v1/roles", titled(&"x".repeat(10_000))).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_suspended_beside_it_is_not_let_in_by_a_refresh_or_a_login() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let admin = world.administrator(&one, "admin").await;
    for round in 0..5 {
        let ann = one.user(&format!("ann{round}")).await;
        let refresh = || post(&two, "/v1/auth/refresh", json!({ "refresh_token": ann.refresh }));
        let login = || post(&two, "/v1/auth/login", json!({ "email": ann.email, "password": PASSWORD }));
        let path = format!("/v1/auth/accounts/{}/suspend", ann.id);
        let suspend = admin.post(&one, &path, json!({}));
        let (suspended, refreshed, logins) = tokio::join!(suspend, refresh(), join_all((0..3).map(|_| login())));
        suspended.ok();
        for answer in logins.into_iter().chain([refreshed]).filter(|answer| answer.status == 200) {
            let token = answer.body["accessToken"].as_str().unwrap().to_owned();
            eventually(async || two.rest(Method::GET, ME, Some(&token), None).await.status == 401).await;
            let renewed = post(&two, "/v1/auth/refresh", json!({ "refresh_token": answer.body["refreshToken"] })).await;
            assert_eq!(renewed.status, 401);
        }
        let live = format!("sessions WHERE account_id = '{}' AND revoked_at IS NULL", ann.id);
        assert_eq!(world.count(&live).await, 0);
        let reset = "UPDATE accounts SET state = 'active' WHERE state = 'suspended'";
        world.database().await.batch_execute(reset).await.unwrap();
        // Nothing of before comes back with the account.
        assert_eq!(refresh().await.status, 401);
    }
}

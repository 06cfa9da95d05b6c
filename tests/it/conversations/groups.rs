//! Who is in a group, what it is called, and who may change that.

use std::time::Duration;

use serde_json::json;

use super::{add, direct, expect, patch, path, roles, set_role};
use crate::harness::{Events, Node, User, World};

async fn send(node: &Node, user: &User, conversation: &str, text: &str) -> crate::harness::Answer {
    let body = json!({ "clientMessageId": text, "text": text });
    user.post(node, &path(conversation, "/messages"), body).await
}

fn forbidden(answer: &crate::harness::Answer) {
    answer.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
}

fn role(user: &User, role: &str) -> (String, String) {
    (user.id.clone(), role.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_do_everything_administrators_all_but_owners_and_members_nothing() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob, cat) = (node.user("ann").await, node.user("bob").await, node.user("cat").await);
    let (dan, eve) = (node.user("dan").await, node.user("eve").await);
    let id = ann.conversation(&node, &[&bob, &cat]).await;
    let mut seen = Events::open(&other, &bob, &id, "", None).await;

    for answer in [
        add(&node, &bob, &id, &[&dan]).await,
        set_role(&node, &bob, &id, &bob, "OWNER").await,
        bob.delete(&node, &path(&id, &format!("/members/{}", cat.id))).await,
        patch(&bob, &node, &path(&id, ""), json!({ "title": "mine" })).await,
        bob.post(&node, &path(&id, "/join-link"), json!({})).await,
        bob.delete(&node, &path(&id, "/join-link")).await,
    ] {
        forbidden(&answer);
    }
    set_role(&node, &ann, &id, &bob, "ADMIN").await.ok();
    let changed = expect(&mut seen, "members").await;
    assert_eq!((&changed["changed"][0]["role"], &changed["changedBy"]), (&json!("MEMBER_ROLE_ADMIN"), &json!(ann.id)));

    // Whom an administrator adds is a member; adding again changes nothing.
    let added = add(&node, &bob, &id, &[&dan, &cat, &dan]).await.ok();
    assert_eq!(added["members"].as_array().unwrap().len(), 2);
    let changed = expect(&mut seen, "members").await;
    assert_eq!(changed["joined"].as_array().unwrap().len(), 1, "{changed}");
    set_role(&node, &ann, &id, &dan, "ADMIN").await.ok();
    for answer in [
        set_role(&node, &bob, &id, &cat, "ADMIN").await,
        bob.delete(&node, &path(&id, &format!("/members/{}", dan.id))).await,
        bob.delete(&node, &path(&id, &format!("/members/{}", ann.id))).await,
        patch(
            &bob,
            &node,
            &path(&id, &format!("/members/{}", ann.id)),
            json!({ "silencedUntil": "2100-01-01T00:00:00Z" }),
        )
        .await,
    ] {
        forbidden(&answer);
    }
    expect(&mut seen, "members").await;
    bob.delete(&node, &path(&id, &format!("/members/{}", cat.id))).await.ok();
    bob.delete(&node, &path(&id, &format!("/members/{}", cat.id))).await.ok();
    assert_eq!(expect(&mut seen, "members").await["left"], json!([cat.id]));
    cat.get(&node, &path(&id, "")).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    send(&node, &cat, &id, "x").await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    assert_eq!(roles(&other, &dan, &id).await, [role(&ann, "OWNER"), role(&bob, "ADMIN"), role(&dan, "ADMIN")]);

    // Strangers learn nothing.
    for answer in [
        eve.get(&node, &path(&id, "/members")).await,
        add(&node, &eve, &id, &[&eve]).await,
        set_role(&node, &eve, &id, &bob, "MEMBER").await,
        eve.post(&node, &path(&id, "/leave"), json!({})).await,
        patch(&eve, &node, &path(&id, ""), json!({ "title": "x" })).await,
        patch(&eve, &node, &path(&id, "/membership"), json!({ "pinned": true })).await,
    ] {
        answer.refused(404, "RESOURCE_NOT_FOUND", 3001);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_hears_so_and_then_no_more_and_who_comes_back_reads_everything() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut seen = Events::open(&other, &bob, &id, "", None).await;
    send(&node, &ann, &id, "before").await.ok();
    ann.delete(&node, &path(&id, &format!("/members/{}", bob.id))).await.ok();
    send(&node, &ann, &id, "secret").await.ok();
    assert_eq!(seen.text().await, "before");
    assert_eq!(expect(&mut seen, "members").await["left"], json!([bob.id]));
    let ended = seen.next().await.unwrap();
    assert_eq!((ended.name.as_str(), &ended.data["error"]["reason"]), ("error", &json!("RESOURCE_NOT_FOUND")));
    assert!(bob.get(&node, "/v1/conversations").await.ok()["conversations"].as_array().unwrap().is_empty());

    add(&other, &ann, &id, &[&bob]).await.ok();
    let read = bob.get(&node, &path(&id, "/messages")).await.ok();
    let texts: Vec<_> = read["messages"].as_array().unwrap().iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["secret", "before"]);
    // What was said before one came is not unread.
    let conversation = bob.get(&node, &path(&id, "")).await.ok();
    assert_eq!(conversation["unreadCount"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_an_owner_as_long_as_it_has_members() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, cat) = (node.user("ann").await, node.user("bob").await, node.user("cat").await);
    let id = ann.conversation(&node, &[&bob, &cat]).await;
    set_role(&node, &ann, &id, &ann, "MEMBER").await.refused(409, "RESOURCE_CONFLICT", 3003);
    set_role(&node, &ann, &id, &cat, "ADMIN").await.ok();
    ann.post(&node, &path(&id, "/leave"), json!({})).await.ok();
    assert_eq!(roles(&node, &bob, &id).await, [role(&bob, "MEMBER"), role(&cat, "OWNER")]);
    cat.post(&node, &path(&id, "/leave"), json!({})).await.ok();
    assert_eq!(roles(&node, &bob, &id).await, [role(&bob, "OWNER")]);
    bob.post(&node, &path(&id, "/leave"), json!({})).await.ok();
    bob.get(&node, &path(&id, "")).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_owners_who_step_back_at_once_leave_one() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob, cat) = (one.user("ann").await, one.user("bob").await, one.user("cat").await);
    let id = ann.conversation(&one, &[&bob, &cat]).await;
    set_role(&one, &ann, &id, &bob, "OWNER").await.ok();
    let (first, second) =
        tokio::join!(set_role(&one, &ann, &id, &ann, "MEMBER"), set_role(&two, &bob, &id, &bob, "MEMBER"),);
    assert_eq!([first.status, second.status].iter().filter(|status| **status == 200).count(), 1);
    let owners = roles(&one, &cat, &id).await.into_iter().filter(|(_, role)| role == "OWNER").count();
    assert_eq!(owners, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_have_one_conversation_of_two_and_stay_in_it() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob, cat) = (one.user("ann").await, one.user("bob").await, one.user("cat").await);
    let starts = (0..10).map(async |i| {
        let node = if i % 2 == 0 { &one } else { &two };
        let (from, to) = if i % 3 == 0 { (&ann, &bob) } else { (&bob, &ann) };
        direct(node, from, to).await.ok()["id"].clone()
    });
    let ids = futures_util::future::join_all(starts).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let id = ids[0].as_str().unwrap();
    assert_eq!((world.count("conversations").await, world.count("conversation_members").await), (1, 2));
    for answer in [
        add(&one, &ann, id, &[&cat]).await,
        ann.post(&one, &path(id, "/leave"), json!({})).await,
        ann.post(&one, &path(id, "/join-link"), json!({})).await,
        set_role(&one, &ann, id, &bob, "ADMIN").await,
        patch(&ann, &one, &path(id, ""), json!({ "title": "x" })).await,
    ] {
        answer.refused(409, "RESOURCE_CONFLICT", 3003);
    }
    direct(&one, &ann, &ann).await.refused(422, "VALIDATION_ERROR", 2001);
    let titled = json!({ "kind": "CONVERSATION_KIND_DIRECT", "memberIds": [bob.id], "title": "x" });
    assert_eq!(ann.post(&one, "/v1/conversations", titled).await.fields(), ["title"]);
    // A group of the same two is another conversation.
    assert_ne!(ann.conversation(&one, &[&bob]).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_can_be_of_oneself_alone_and_whoever_is_named_twice_is_in_it_once() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let create = async |kind: &str, members: &[&User]| {
        let members: Vec<_> = members.iter().map(|user| &user.id).collect();
        let body = json!({ "kind": format!("CONVERSATION_KIND_{kind}"), "memberIds": members });
        ann.post(&node, "/v1/conversations", body).await
    };
    for alone in [&[][..], &[&ann], &[&ann, &ann]] {
        let id = create("GROUP", alone).await.ok()["id"].as_str().unwrap().to_owned();
        assert_eq!(roles(&node, &ann, &id).await, [role(&ann, "OWNER")]);
        assert_eq!(ann.send(&node, &id, "note").await, 1);
        add(&node, &ann, &id, &[&bob]).await.ok();
        assert_eq!(bob.send(&node, &id, "thanks").await, 3);
    }
    let id = create("GROUP", &[&bob, &ann, &bob]).await.ok()["id"].as_str().unwrap().to_owned();
    assert_eq!(roles(&node, &ann, &id).await.len(), 2);
    // Of two, it is the same conversation, whoever is named how often.
    let first = create("DIRECT", &[&bob]).await.ok();
    assert_eq!(create("DIRECT", &[&bob, &ann, &bob]).await.ok()["id"], first["id"]);
    for wrong in [&[][..], &[&ann]] {
        assert_eq!(create("DIRECT", wrong).await.fields(), ["member_ids"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn title_picture_and_stay_are_changed_by_mask_and_told() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let mut seen = Events::open(&node, &bob, &id, "", None).await;
    let body = json!({ "title": "Lunch", "avatarUrl": "https://example.com/a.png", "retentionDays": 7 });
    let changed = patch(&ann, &node, &path(&id, "?update_mask=title,avatarUrl"), body).await.ok();
    assert_eq!((&changed["title"], &changed["retentionDays"]), (&json!("Lunch"), &json!(0)));
    let told = expect(&mut seen, "conversation").await;
    assert_eq!((&told["title"], &told["avatarUrl"]), (&json!("Lunch"), &json!("https://example.com/a.png")));
    assert!(told.get("membership").is_none_or(serde_json::Value::is_null), "{told}");
    for (mask, body, field) in [
        ("name", json!({ "title": "x" }), "update_mask"),
        ("title", json!({ "title": "x".repeat(201) }), "conversation.title"),
        ("title", json!({ "title": "\u{200b}\u{2060}" }), "conversation.title"),
        ("title", json!({ "title": "a\u{202e}b" }), "conversation.title"),
        ("avatarUrl", json!({ "avatarUrl": "javascript:alert(1)" }), "conversation.avatar_url"),
        ("disappearAfterSeconds", json!({ "disappearAfterSeconds": 4 }), "conversation.disappear_after_seconds"),
        ("disappearAfterSeconds", json!({ "disappearAfterSeconds": -1 }), "conversation.disappear_after_seconds"),
        ("retentionDays", json!({ "retentionDays": 36501 }), "conversation.retention_days"),
    ] {
        let answer = patch(&ann, &node, &path(&id, &format!("?update_mask={mask}")), body).await;
        assert_eq!((answer.status, answer.fields()), (422, vec![field]));
    }
    // A title can be taken away again.
    let none = patch(&ann, &node, &path(&id, "?update_mask=title"), json!({ "title": "" })).await.ok();
    assert_eq!(none["title"], "");
    // Both sides of a conversation of two say how long messages stay.
    let two = direct(&node, &ann, &bob).await.ok()["id"].as_str().unwrap().to_owned();
    let body = json!({ "disappearAfterSeconds": 60 });
    let changed = patch(&bob, &node, &path(&two, "?update_mask=disappearAfterSeconds"), body).await.ok();
    assert_eq!(changed["disappearAfterSeconds"], 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silenced_sends_nothing_for_that_time() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let until = (world.clock.now() + Duration::from_secs(60)).to_rfc3339();
    let silence = json!({ "silencedUntil": until });
    patch(&ann, &node, &path(&id, &format!("/members/{}", bob.id)), silence).await.ok();
    let refused = send(&node, &bob, &id, "1").await;
    forbidden(&refused);
    assert!(refused.headers.contains_key("retry-after"), "{:?}", refused.headers);
    forbidden(&bob.post(&node, &path(&id, "/typing"), json!({ "typing": true })).await);
    world.clock.advance(Duration::from_secs(61));
    send(&node, &bob, &id, "1").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_lets_as_many_in_as_it_says_and_as_long_as_it_is_good() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let link =
        async |body| ann.post(&node, &path(&id, "/join-link"), body).await.ok()["token"].as_str().unwrap().to_owned();
    let join = async |node: &Node, user: &User, token: &str| {
        user.post(node, "/v1/conversations:join", json!({ "token": token })).await
    };
    let void = |answer: crate::harness::Answer| answer.refused(404, "RESOURCE_NOT_FOUND", 3001);

    let mut strangers = Vec::new();
    for i in 0..6 {
        strangers.push(node.user(&format!("s{i}")).await);
    }
    let token = link(json!({ "maxUses": 3 })).await;
    assert_eq!(
        world.count(&format!("join_links WHERE token_hash = '{token}'::bytea")).await,
        0,
        "it is kept as a hash"
    );
    let joins =
        strangers.iter().enumerate().map(|(i, user)| join(if i % 2 == 0 { &node } else { &other }, user, &token));
    let joined = futures_util::future::join_all(joins).await;
    assert_eq!(joined.iter().filter(|answer| answer.status == 200).count(), 3);
    let inside = strangers.iter().zip(&joined).find(|(_, answer)| answer.status == 200).unwrap().0;
    let outside = strangers.iter().zip(&joined).find(|(_, answer)| answer.status == 404).unwrap().0;
    assert_eq!(roles(&node, &ann, &id).await.len(), 5);

    // Who is in already gets in, whatever is left of the link; a new link makes the old one void.
    let second = link(json!({})).await;
    void(join(&node, outside, &token).await);
    join(&node, inside, &second).await.ok();
    world.clock.advance(Duration::from_secs(7 * 24 * 3600 + 1));
    let [ann, bob, outside] = [
        node.log_in(&ann.email, &ann.id).await,
        node.log_in(&bob.email, &bob.id).await,
        node.log_in(&outside.email, &outside.id).await,
    ];
    void(join(&node, &outside, &second).await);
    let third = ann.post(&node, &path(&id, "/join-link"), json!({})).await.ok()["token"].as_str().unwrap().to_owned();
    ann.post(&node, &format!("/v1/users/{}/block", outside.id), json!({})).await.ok();
    void(join(&node, &outside, &third).await);
    ann.delete(&node, &format!("/v1/users/{}/block", outside.id)).await.ok();
    ann.delete(&node, &path(&id, "/join-link")).await.ok();
    void(join(&node, &outside, &third).await);
    void(join(&node, &bob, "nonsense").await);
    assert_eq!(roles(&node, &ann, &id).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_messages_from_somebody_is_not_added_by_them() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, cat) = (node.user("ann").await, node.user("bob").await, node.user("cat").await);
    let id = ann.conversation(&node, &[&bob]).await;
    cat.post(&node, &format!("/v1/users/{}/block", ann.id), json!({})).await.ok();
    let refused = add(&node, &ann, &id, &[&bob, &cat]).await;
    refused.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(refused.fields(), ["account_ids[1]"]);
    assert_eq!(roles(&node, &ann, &id).await.len(), 2);
}

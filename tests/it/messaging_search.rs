//! Messages are found by their words: by members, in what they may see, a moment after they were written.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::domains::messaging::jobs::delete_old_messages;
use rialto::proto::rialto::messaging::v1::SearchMessagesRequest;
use rialto::proto::rialto::messaging::v1::search_service_client::SearchServiceClient;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Authorized, Bearer, Node, User, World, eventually, number, refusal, text_of};

fn client(node: &Node, user: &User) -> SearchServiceClient<Authorized> {
    SearchServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

fn query(query: &str) -> SearchMessagesRequest {
    SearchMessagesRequest { query: query.into(), ..Default::default() }
}

/// The texts that somebody finds.
async fn found(node: &Node, user: &User, words: &str) -> Vec<String> {
    let page = client(node, user).search_messages(query(words)).await.unwrap().into_inner();
    page.found.into_iter().map(|found| text_of(&found.message.unwrap()).to_owned()).collect()
}

/// Waits until search has read everything.
async fn indexed(world: &World) {
    let behind = "conversations c LEFT JOIN search_progress p ON p.conversation_id = c.id \
                  WHERE c.search_pending AND NOT c.encrypted AND coalesce(p.seq, 0) < c.last_seq";
    eventually(async || world.count(behind).await == 0).await;
}

async fn sql(world: &World, query: &str) {
    world.database().await.batch_execute(query).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_found_in_all_their_forms_by_members_alone_the_newest_first() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let (one, two) = (ann.conversation(&node, &[&bob]).await, ann.conversation(&node, &[&eve]).await);
    let worker = node.work();
    ann.send(&node, &one, "We are meeting for lunch").await;
    ann.send(&node, &two, "Lunches are cancelled").await;
    ann.send(&node, &one, "No lunch").await;
    indexed(&world).await;
    assert_eq!(found(&node, &ann, "lunch").await, ["No lunch", "Lunches are cancelled", "We are meeting for lunch"]);
    assert_eq!(found(&node, &bob, "LUNCH").await, ["No lunch", "We are meeting for lunch"]);
    assert_eq!(found(&node, &eve, "lunch").await, ["Lunches are cancelled"]);
    assert_eq!(found(&node, &bob, "meet").await, ["We are meeting for lunch"]);
    // Stop words are found as they are written.
    assert_eq!(found(&node, &ann, "no").await, ["No lunch"]);
    assert_eq!(found(&node, &ann, "\"meeting for lunch\"").await, ["We are meeting for lunch"]);
    assert_eq!(found(&node, &ann, "\"lunch meeting\"").await, Vec::<String>::new());
    // A phrase does not reach from the words as they are to their other forms.
    assert_eq!(found(&node, &ann, "\"cancelled lunch\"").await, Vec::<String>::new());
    assert_eq!(found(&node, &ann, "lunch -cancelled -meeting").await, ["No lunch"]);
    assert_eq!(found(&node, &ann, "meeting or cancelled").await.len(), 2);
    assert_eq!(found(&node, &ann, "nothing of it").await, Vec::<String>::new());

    let path = format!("/v1/messages:search?query=lunch&conversation_id={one}");
    let page = ann.get(&node, &path).await.ok();
    let texts: Vec<_> = page["found"].as_array().unwrap().iter().map(|hit| hit["message"]["text"].clone()).collect();
    assert_eq!(texts, ["No lunch", "We are meeting for lunch"]);
    eve.get(&node, &path).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    // Who has left finds nothing.
    sql(&world, &format!("UPDATE conversation_members SET left_at = now() WHERE account_id = '{}'", bob.id)).await;
    assert_eq!(found(&node, &bob, "lunch").await, Vec::<String>::new());
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_looked_for_is_marked_and_markup_stays_text() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let worker = node.work();
    let text = "<img src=x onerror=alert(1)> \u{1}Tomorrow\u{2} we <b>meet</b> & eat";
    ann.send(&node, &id, text).await;
    let long = format!("{} meetings {}", "before ".repeat(200), "after ".repeat(200));
    let path = format!("/v1/conversations/{id}/messages");
    ann.post(&node, &path, json!({ "client_message_id": "long", "text": long })).await.ok();
    indexed(&world).await;
    let page = bob.get(&node, "/v1/messages:search?query=meeting").await.ok();
    let passages = |index: usize| page["found"][index]["passages"].as_array().unwrap().clone();
    let marked = |passages: &[Value]| -> Vec<String> {
        let marked = passages.iter().filter(|passage| passage["found"] == json!(true));
        marked.map(|passage| passage["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((marked(&passages(0)), marked(&passages(1))), (vec!["meetings".into()], vec!["meet".into()]));
    // Only some of a long text.
    let length: usize = passages(0).iter().map(|passage| passage["text"].as_str().unwrap().len()).sum();
    assert!(length < 300, "{page}");
    // What a client sends can't pass for a mark, and the text is whole.
    assert!(!marked(&passages(1)).contains(&"Tomorrow".to_owned()));
    assert_eq!(page["found"][1]["message"]["text"], json!(text));
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_deleted_hidden_disappears_or_is_no_longer_kept_is_no_longer_found() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let fleeting = ann.conversation(&node, &[&bob]).await;
    sql(&world, &format!("UPDATE conversations SET disappear_seconds = 60 WHERE id = '{fleeting}'")).await;
    let worker = node.work();
    for text in ["swordfish one", "swordfish two", "swordfish three"] {
        ann.send(&node, &id, text).await;
    }
    ann.send(&node, &fleeting, "swordfish for a minute").await;
    indexed(&world).await;
    assert_eq!((found(&node, &bob, "swordfish").await.len(), world.count("message_documents").await), (4, 4));

    let message = |seq: i64| format!("/v1/conversations/{id}/messages/{seq}");
    ann.call(&node, Method::PATCH, &message(1), json!({ "text": "tuna" })).await.ok();
    ann.delete(&node, &format!("{}?for_all=true", message(2))).await.ok();
    bob.delete(&node, &message(3)).await.ok();
    world.clock.advance(Duration::from_secs(61));
    // At once, although search has not read of it yet; what was edited is what it was until then.
    assert!(!found(&node, &bob, "swordfish").await.iter().any(|text| text.contains("two") || text.contains("minute")));
    eventually(async || found(&node, &bob, "swordfish").await.is_empty()).await;
    assert_eq!(found(&node, &ann, "swordfish").await, ["swordfish three"]);
    assert_eq!(found(&node, &bob, "tuna").await, ["tuna"]);
    indexed(&world).await;
    eventually(async || world.count("message_documents").await == 2).await;

    worker.abort();
    world.clock.advance(Duration::from_secs(31 * 24 * 3600));
    let ann = node.log_in(&ann.email, &ann.id).await;
    assert_eq!(found(&node, &ann, "tuna or swordfish").await, Vec::<String>::new());
    delete_old_messages(&node.server.app).await.unwrap();
    assert_eq!(world.count("message_documents").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_conversations_are_not_read() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let plain = ann.conversation(&node, &[&bob]).await;
    sql(&world, &format!("UPDATE conversations SET encrypted = true WHERE id = '{id}'")).await;
    // As if there were a text in spite of it.
    let row = format!(
        "SELECT create_message_partitions(now(), 1);
         INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text)
             VALUES ('{id}', 1, now(), gen_random_uuid(), '{}', '1', 1, 'swordfish');
         UPDATE conversations SET last_seq = 1, search_pending = true WHERE id = '{id}'",
        ann.id
    );
    sql(&world, &row).await;
    let worker = node.work();
    ann.send(&node, &plain, "swordfish too").await;
    eventually(async || world.count("message_documents").await > 0).await;
    indexed(&world).await;
    assert_eq!(found(&node, &ann, "swordfish").await, ["swordfish too"]);
    assert_eq!(world.count(&format!("message_documents WHERE conversation_id = '{id}'")).await, 0);
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_where_the_one_before_ended() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let ids = [ann.conversation(&node, &[&bob]).await, ann.conversation(&node, &[&bob]).await];
    let worker = node.work();
    for n in 0..7 {
        ann.send(&node, &ids[n % 2], &format!("fish {n}")).await;
    }
    // All at one moment.
    sql(&world, "UPDATE messages SET created_at = (SELECT max(created_at) FROM messages)").await;
    sql(&world, "UPDATE conversation_events SET created_at = now(); DELETE FROM message_documents").await;
    sql(&world, "DELETE FROM search_progress").await;
    indexed(&world).await;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = bob.get(&node, &format!("/v1/messages:search?query=fish&page_size=2&page_token={token}")).await.ok();
        let found = page["found"].as_array().unwrap();
        assert!(found.len() <= 2);
        seen.extend(found.iter().map(|hit| hit["message"]["text"].as_str().unwrap().to_owned()));
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!((seen.len(), sorted.len()), (7, 7), "{seen:?}");
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_workers_read_everything_once_while_it_is_written() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let (ann, bob) = (one.user("ann").await, one.user("bob").await);
    let workers = [one.work(), two.work(), one.work()];
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(ann.conversation(&one, &[&bob]).await);
    }
    let sends = ids.iter().flat_map(|id| (0..30).map(move |n| (id.clone(), n))).map(|(id, n)| {
        let (ann, node) = (&ann, if n % 2 == 0 { &one } else { &two });
        async move { ann.send(node, &id, &format!("herring {n}")).await }
    });
    futures_util::future::join_all(sends).await;
    let edited = |seq: i64| format!("/v1/conversations/{}/messages/{seq}", ids[0]);
    for seq in 1..=10 {
        ann.call(&two, Method::PATCH, &edited(seq), json!({ "text": "cod" })).await.ok();
    }
    indexed(&world).await;
    assert_eq!(world.count("message_documents").await, 150);
    assert_eq!(world.count("message_documents WHERE document @@ 'cod'").await, 10);
    assert_eq!(world.count("message_documents WHERE document @@ 'herring'").await, 140);
    // Nothing is looked after for ever.
    world.clock.advance(Duration::from_secs(61));
    eventually(async || world.count("conversations WHERE search_pending").await == 0).await;
    ann.send(&one, &ids[0], "and a cod").await;
    indexed(&world).await;
    assert_eq!(found(&two, &bob, "cod").await.len(), 11);
    workers.iter().for_each(|worker| worker.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_grant_leaves_out_is_not_found() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, admin) = (node.user("ann").await, node.user("bob").await, world.administrator(&node, "boss").await);
    let (hers, his) = (ann.conversation(&node, &[&bob]).await, bob.conversation(&node, &[&ann]).await);
    let worker = node.work();
    ann.send(&node, &hers, "trout of ann's").await;
    ann.send(&node, &his, "trout of bob's").await;
    indexed(&world).await;
    assert_eq!(found(&node, &ann, "trout").await.len(), 2);
    let grants = json!([{ "permission": "conversations:read", "deny": true, "condition": "CONDITION_OWN" }]);
    let role = admin.post(&node, "/v1/roles", json!({ "name": "not-own", "grants": grants })).await.ok();
    let assign = json!({ "role_id": role["id"] });
    admin.post(&node, &format!("/v1/accounts/{}/roles", ann.id), assign).await.ok();
    eventually(async || found(&node, &ann, "trout").await == ["trout of bob's"]).await;
    let path = format!("/v1/messages:search?query=trout&conversation_id={hers}");
    ann.get(&node, &path).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_name_the_field() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let long = "x".repeat(201);
    for (query, field) in [
        ("query=", "query"),
        (&format!("query={long}"), "query"),
        ("query=-word", "query"),
        ("query=%21%3F", "query"),
        ("query=x&conversation_id=x", "conversation_id"),
        ("query=x&page_size=-1", "page_size"),
        ("query=x&page_token=x", "page_token"),
    ] {
        let answer = ann.get(&node, &format!("/v1/messages:search?{query}")).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field], "{query}");
    }
    // What is no query to Postgres is words all the same.
    for odd in ["a & | ! b", "'", "\"open", "a:*", "\\", "<->"] {
        let _ = client(&node, &ann).search_messages(query(odd)).await.map_err(|status| {
            assert_eq!(status.code(), Code::InvalidArgument, "{odd}: {status}");
        });
    }
    let refused = refusal(client(&node, &ann).search_messages(query("")).await);
    assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_language_is_refused_at_the_start() {
    let mut config = rialto::kernel::config::Config::default().messaging;
    config.search_languages = vec!["german".into(), "english".into()];
    assert!(config.check().is_ok());
    config.search_languages.push("klingon".into());
    assert!(config.check().unwrap_err().message.contains("klingon"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_language_of_the_server_is_known() {
    let mut world = World::new().await;
    world.config.messaging.search_languages = vec!["english".into(), "german".into()];
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let id = ann.conversation(&node, &[&bob]).await;
    let worker = node.work();
    ann.send(&node, &id, "Die Häuser am Hafen").await;
    ann.send(&node, &id, "ships are sailing").await;
    indexed(&world).await;
    assert_eq!(found(&node, &bob, "haus").await, ["Die Häuser am Hafen"]);
    assert_eq!(found(&node, &bob, "sail ship").await, ["ships are sailing"]);
    let page = bob.get(&node, "/v1/messages:search?query=haus").await.ok();
    assert_eq!(page["found"][0]["passages"][1], json!({ "text": "Häuser", "found": true }));
    assert_eq!(number(&page["found"][0]["message"]["seq"]), 1);
    worker.abort();
}

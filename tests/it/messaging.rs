//! Conversations and messages.

use reqwest::Method;
use rialto::proto::rialto::messaging::v1::{
    CreateConversationRequest, GetConversationRequest, ListConversationsRequest, ListMessagesRequest,
};
use serde_json::json;
use tonic::Code;

use crate::harness::{Node, User, World, message as send, number, refusal, text_of};

fn list(conversation: &str) -> ListMessagesRequest {
    ListMessagesRequest { conversation_id: conversation.into(), ..Default::default() }
}

async fn two(node: &Node) -> (User, User, String) {
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let conversation = ann.conversation(node, &[&bob]).await;
    (ann, bob, conversation)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_created_listed_and_written_to_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let (mut anns, mut bobs) = (ann.messaging(&node), bob.messaging(&node));

    let request =
        CreateConversationRequest { title: "Lunch".into(), member_ids: vec![bob.id.clone()], ..Default::default() };
    let created = anns.create_conversation(request).await.unwrap().into_inner().conversation.unwrap();
    assert_eq!((created.title.as_str(), created.last_seq, created.member_ids.len()), ("Lunch", 0, 2));

    let message = anns.send_message(send(&created.id, "1", "Noon?")).await.unwrap().into_inner().message.unwrap();
    assert_eq!((message.seq, text_of(&message), &message.sender_id), (1, "Noon?", &ann.id));
    assert_eq!(message.conversation_id, created.id);

    let get = GetConversationRequest { conversation_id: created.id.clone() };
    let seen = bobs.get_conversation(get).await.unwrap().into_inner().conversation.unwrap();
    assert_eq!((seen.last_seq, &seen.created_by), (1, &ann.id));
    let listed = bobs.list_conversations(ListConversationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.conversations, [seen]);
    let messages = bobs.list_messages(list(&created.id)).await.unwrap().into_inner().messages;
    assert_eq!(messages, [message]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_created_listed_and_written_to_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;

    let path = format!("/api/conversations/{id}/messages");
    let sent = ann.post(&node, &path, json!({ "clientMessageId": "1", "text": "Hi" })).await.ok();
    let mut fields: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["clientMessageId", "conversationId", "createdAt", "id", "reactions", "senderId", "seq", "text"]
    );
    assert_eq!((number(&sent["seq"]), sent["text"].as_str()), (1, Some("Hi")));

    let listed = bob.get(&node, "/v1/conversations").await.ok();
    assert_eq!(listed["conversations"][0]["id"], json!(id));
    let got = bob.get(&node, &format!("/v1/conversations/{id}")).await.ok();
    assert_eq!((number(&got["lastSeq"]), got["memberIds"].as_array().unwrap().len()), (1, 2));
    let messages = bob.get(&node, &format!("/v1/conversations/{id}/messages")).await.ok();
    assert_eq!(messages, json!({ "messages": [sent], "nextPageToken": "" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_a_member_is_told_that_there_is_no_such_conversation() {
    let world = World::new().await;
    let node = world.node().await;
    let (_, _, id) = two(&node).await;
    let eve = node.user("eve").await;
    let mut client = eve.messaging(&node);
    let not_found = (Code::NotFound, "RESOURCE_NOT_FOUND".to_owned());
    let get = GetConversationRequest { conversation_id: id.clone() };
    assert_eq!(refusal(client.get_conversation(get).await), not_found);
    assert_eq!(refusal(client.send_message(send(&id, "1", "x")).await), not_found);
    assert_eq!(refusal(client.list_messages(list(&id)).await), not_found);
    let subscribe =
        rialto::proto::rialto::messaging::v1::SubscribeRequest { conversation_id: id.clone(), ..Default::default() };
    assert_eq!(refusal(client.subscribe(subscribe).await), not_found);
    for path in ["", "/messages", "/events"] {
        eve.get(&node, &format!("/v1/conversations/{id}{path}")).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    }
    let path = format!("/v1/conversations/{id}/messages");
    let post = eve.post(&node, &path, json!({ "client_message_id": "1", "text": "x" })).await;
    post.refused(404, "RESOURCE_NOT_FOUND", 3001);
    assert_eq!(eve.get(&node, "/v1/conversations").await.ok()["conversations"], json!([]));
    assert_eq!(world.count("messages").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_sent_again_is_the_first_message() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    let mut client = ann.messaging(&node);
    let first = client.send_message(send(&id, "same", "first")).await.unwrap().into_inner().message;
    client.send_message(send(&id, "other", "between")).await.unwrap();
    let again = client.send_message(send(&id, "same", "second")).await.unwrap().into_inner().message;
    assert_eq!(again, first);
    // The name is the sender's own.
    let bobs =
        bob.messaging(&node).send_message(send(&id, "same", "mine")).await.unwrap().into_inner().message.unwrap();
    assert_eq!((bobs.seq, text_of(&bobs)), (3, "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_sent_many_times_at_once_on_two_nodes_is_one_message() {
    let world = World::new().await;
    let (one, two_) = (world.node().await, world.node().await);
    let (ann, _, id) = two(&one).await;
    let sends = (0..40).map(|i| {
        let mut client = ann.messaging(if i % 2 == 0 { &one } else { &two_ });
        let request = send(&id, &format!("{}", i / 10), "x");
        tokio::spawn(async move { client.send_message(request).await.unwrap().into_inner().message.unwrap() })
    });
    let mut seqs: Vec<_> =
        futures_util::future::join_all(sends).await.into_iter().map(|sent| sent.unwrap().seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=4).flat_map(|seq| [seq; 10]).collect::<Vec<_>>());
    assert_eq!(world.count("messages").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_have_no_hole_whoever_writes_at_once() {
    let world = World::new().await;
    let (one, two_) = (world.node().await, world.node().await);
    let (ann, bob, id) = two(&one).await;
    let eve = one.user("eve").await;
    let sends = (0..200).map(|i| {
        let user = [&ann, &bob, &eve][i % 3];
        let mut client = user.messaging(if i % 2 == 0 { &one } else { &two_ });
        let request = send(&id, &i.to_string(), "x");
        tokio::spawn(
            async move { client.send_message(request).await.map(|sent| sent.into_inner().message.unwrap().seq) },
        )
    });
    let results = futures_util::future::join_all(sends).await;
    let mut seqs: Vec<_> = results.into_iter().filter_map(|result| result.unwrap().ok()).collect();
    seqs.sort_unstable();
    // Eve's third was refused, and took no number.
    assert_eq!(seqs, (1..=134).collect::<Vec<_>>());
    let head = ann.get(&one, &format!("/v1/conversations/{id}")).await.ok();
    assert_eq!(number(&head["lastSeq"]), 134);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_paged_newest_first_and_from_a_number_on_oldest_first() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, _, id) = two(&node).await;
    for i in 1..=7 {
        ann.send(&node, &id, &i.to_string()).await;
    }
    for (query, expected) in [("", vec![7, 6, 5, 4, 3, 2, 1]), ("&after_seq=2", vec![3, 4, 5, 6, 7])] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/conversations/{id}/messages?page_size=3{query}&page_token={token}");
            let page = ann.get(&node, &path).await.ok();
            let messages = page["messages"].as_array().unwrap();
            assert!(messages.len() <= 3);
            seen.extend(messages.iter().map(|message| number(&message["seq"])));
            token = page["nextPageToken"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_long_messages_ends_before_it_is_too_large_for_an_answer() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, _, id) = two(&node).await;
    let whale = "🐳".repeat(10_000);
    let mut client = ann.messaging(&node);
    for i in 0..110 {
        client.send_message(send(&id, &i.to_string(), &whale)).await.unwrap();
    }
    let (mut seen, mut token) = (0, String::new());
    loop {
        let path = format!("/v1/conversations/{id}/messages?page_size=200&page_token={token}");
        let page = ann.get(&node, &path).await.ok();
        seen += page["messages"].as_array().unwrap().len();
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
        let request = ListMessagesRequest { page_size: 200, page_token: token.clone(), ..list(&id) };
        client.list_messages(request).await.unwrap();
    }
    assert_eq!(seen, 110);
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_paged_by_activity() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(ann.conversation(&node, &[&bob]).await);
    }
    ann.send(&node, &ids[0], "back on top").await;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = ann.get(&node, &format!("/v1/conversations?pageSize=2&pageToken={token}")).await.ok();
        let page_ids = page["conversations"].as_array().unwrap().iter();
        seen.extend(page_ids.map(|conversation| conversation["id"].as_str().unwrap().to_owned()));
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [0, 4, 3, 2, 1].map(|index: usize| ids[index].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_the_field_and_write_nothing() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    let messages = format!("/v1/conversations/{id}/messages");
    let long = "x".repeat(10_001);
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let attached = |name: &str| {
        let attachments = json!([{ "fileId": nobody }, { "fileId": nobody, "name": name }]);
        json!({ "client_message_id": "1", "text": "x", "details": { "attachments": attachments } })
    };
    for (path, body, field) in [
        ("/v1/conversations", json!({ "kind": "CONVERSATION_KIND_DIRECT" }), "member_ids"),
        ("/v1/conversations", json!({ "title": "\u{2060} ", "member_ids": [bob.id] }), "title"),
        (&messages, attached("\u{200b}"), "details.attachments[1].name"),
        (&messages, attached("photo\u{202e}gpj.exe"), "details.attachments[1].name"),
        ("/v1/conversations", json!({ "member_ids": ["x"] }), "member_ids[0]"),
        ("/v1/conversations", json!({ "member_ids": [bob.id, nobody] }), "member_ids[1]"),
        ("/v1/conversations", json!({ "title": "x".repeat(201), "member_ids": [bob.id] }), "title"),
        (&messages, json!({ "client_message_id": "1" }), "content"),
        (&messages, json!({ "client_message_id": "1", "text": long }), "text"),
        (&messages, json!({ "client_message_id": "1", "text": "a\u{0}" }), "text"),
        (&messages, json!({ "text": "x" }), "client_message_id"),
        ("/v1/conversations/x/messages", json!({ "client_message_id": "1", "text": "x" }), "conversation_id"),
    ] {
        let answer = ann.post(&node, path, body).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field]);
    }
    for (query, field) in [("page_token=x", "page_token"), ("page_size=-1", "page_size"), ("after_seq=-1", "after_seq")]
    {
        let answer = ann.get(&node, &format!("{messages}?{query}")).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field]);
    }
    for micros in [i64::MIN, -300_000_000_000_000_000, -1, i64::MAX] {
        use base64::Engine;
        let key = [&[1, 1], &micros.to_be_bytes()[..], &[0; 16]].concat();
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key);
        let answer = ann.get(&node, &format!("/v1/conversations?page_token={token}")).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
    }
    for query in ["page_size=x", "unknown=1", "after_seq=1e99"] {
        ann.get(&node, &format!("{messages}?{query}")).await.refused(400, "INVALID_FORMAT", 2004);
    }
    let refused = refusal(ann.messaging(&node).send_message(send(&id, "1", "")).await);
    assert_eq!(refused, (Code::InvalidArgument, "VALIDATION_ERROR".into()));
    assert_eq!((world.count("messages").await, world.count("conversations").await), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn text_comes_back_as_it_was_sent() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, id) = two(&node).await;
    for (index, text) in ["\"\\/\u{8}\u{1f}\u{7f}", "𝒳 👩‍👩‍👧 é e\u{301}", "<script>&", "\u{2028}\r\n\t"].iter().enumerate()
    {
        let path = format!("/v1/conversations/{id}/messages");
        ann.post(&node, &path, json!({ "client_message_id": index.to_string(), "text": text })).await.ok();
        let newest = bob.get(&node, &format!("{path}?page_size=1")).await.ok();
        assert_eq!(newest["messages"][0]["text"].as_str(), Some(*text));
        let request = ListMessagesRequest { page_size: 1, ..list(&id) };
        let newest = bob.messaging(&node).list_messages(request).await.unwrap().into_inner();
        assert_eq!(text_of(&newest.messages[0]), *text);
    }
    let answer = node.rest(
        Method::POST,
        "/v1/conversations",
        Some(&ann.token),
        Some(json!({"title": null, "member_ids": [bob.id]})),
    );
    answer.await.ok();
}

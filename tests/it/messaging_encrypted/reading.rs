//! What devices get of ciphertext, and what their account is told of them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_account_gets_what_is_for_its_devices_as_it_was_sent_however_it_reads() {
    let world = World::new().await;
    let (node, other_node) = (world.node().await, world.node().await);
    let pair = Pair::new(&node).await;
    let (ann, bob, id) = (&pair.ann[0].user, &pair.bob[0].user, &pair.id);
    let subscribe = SubscribeRequest { conversation_id: id.clone(), ..Default::default() };
    let mut live = bob.messaging(&other_node).subscribe(subscribe).await.unwrap().into_inner();
    let mut sse = Events::open(&node, ann, id, &format!("?device_id={}", pair.ann[1].device_id), None).await;

    let sent = pair.send(&node, "1").await;
    assert_eq!((sent.seq, &sent.content), (1, &None), "who sent it has it");
    let bobs = for_devices(&[&pair.bob[0], &pair.bob[1]]);
    let Some(subscribe_response::Event::Message(heard)) = soon(live.message()).await.unwrap().unwrap().event else {
        panic!("no message")
    };
    assert_eq!(opened(&heard), bobs);
    let heard = sse.next().await.unwrap().data;
    let envelopes = heard["message"]["encrypted"]["envelopes"].as_array().unwrap();
    assert_eq!(envelopes.len(), 1);
    assert_eq!(envelopes[0]["deviceId"], json!(pair.ann[1].device_id));
    assert_eq!(heard["message"]["encrypted"]["senderDeviceId"], json!(pair.ann[0].device_id));

    let list = |device_id: Option<&Phone>| ListMessagesRequest {
        conversation_id: id.clone(),
        device_id: device_id.map(|phone| phone.device_id.to_string()),
        ..Default::default()
    };
    let listed = async |user: &User, of: Option<&Phone>| {
        user.messaging(&node).list_messages(list(of)).await.unwrap().into_inner().messages.remove(0)
    };
    assert_eq!(opened(&listed(bob, None).await), bobs);
    assert_eq!(opened(&listed(ann, None).await), for_devices(&[&pair.ann[1]]));
    assert_eq!(opened(&listed(bob, Some(&pair.bob[1])).await), for_devices(&[&pair.bob[1]]));
    assert_eq!(opened(&listed(bob, Some(&pair.ann[1])).await), BTreeMap::new(), "somebody else's");
    let get = GetConversationRequest { conversation_id: id.clone() };
    let conversation = bob.messaging(&node).get_conversation(get).await.unwrap().into_inner().conversation.unwrap();
    assert_eq!(opened(&conversation.last_message.unwrap()), bobs);
    let path = format!("/v1/conversations/{id}/messages/1?device_id={}", pair.bob[0].device_id);
    let got = bob.get(&node, &path).await.ok();
    assert_eq!(got["encrypted"]["envelopes"].as_array().unwrap().len(), 1);
    assert_eq!(got["encrypted"]["envelopes"][0]["type"], json!("ENVELOPE_TYPE_RATCHET_MESSAGE"));
    assert!(got.get("text").is_none());
    // What comes out of Postgres is the same.
    let subscribe = SubscribeRequest { conversation_id: id.clone(), after_seq: Some(0), ..Default::default() };
    let mut missed = bob.messaging(&world.node().await).subscribe(subscribe).await.unwrap().into_inner();
    let Some(subscribe_response::Event::Message(read)) = soon(missed.message()).await.unwrap().unwrap().event else {
        panic!("no message")
    };
    assert_eq!(opened(&read), bobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn ciphertext_that_was_deleted_or_has_disappeared_is_gone() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let (ann, bob) = (&pair.ann[0].user, &pair.bob[0].user);
    pair.send(&node, "1").await;
    let path = format!("/v1/conversations/{}", pair.id);
    ann.delete(&node, &format!("{path}/messages/1?for_all=true")).await.ok();
    assert_eq!(world.count("messages WHERE ciphertext IS NOT NULL").await, 0);
    let read = bob.get(&node, &format!("{path}/messages/1")).await.ok();
    assert!(read.get("encrypted").is_none() && read["deletedAt"].is_string(), "{read}");

    ann.call(&node, Method::PATCH, &path, json!({ "disappearAfterSeconds": 60 })).await.ok();
    let sent = pair.send(&node, "2").await;
    let last = format!("{path}/messages/{}", sent.seq);
    assert!(bob.get(&node, &last).await.ok()["encrypted"].is_object());
    world.clock.advance(std::time::Duration::from_secs(61));
    assert!(bob.get(&node, &last).await.ok().get("encrypted").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_ciphertext_comes_with_the_key_of_each_device() {
    let world = World::new().await;
    let node = world.node().await;
    let pair = Pair::new(&node).await;
    let mut shared = content(&pair.ann[0], &pair.others());
    shared.shared_ciphertext = vec![7; 65536];
    pair.ann[0].user.messaging(&node).send_message(sending(&pair.id, "1", shared)).await.unwrap();
    let request = ListMessagesRequest {
        conversation_id: pair.id.clone(),
        device_id: Some(pair.bob[1].device_id.to_string()),
        ..Default::default()
    };
    let listed = pair.bob[0].user.messaging(&node).list_messages(request).await.unwrap().into_inner().messages;
    assert_eq!(opened(&listed[0]), for_devices(&[&pair.bob[1]]));
    let Some(message::Content::Encrypted(content)) = &listed[0].content else { panic!("no ciphertext") };
    assert_eq!(content.shared_ciphertext, vec![7; 65536]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ciphertexts_are_read_some_at_a_time_and_all_of_them() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let bob = node.user("bob").await;
    let id = create(&node, &ann, &[&bob], "CONVERSATION_KIND_GROUP").await;
    let sender = Phone::new(&ann);
    sender.register(&node).await.unwrap();
    let first = Phone::new(&bob);
    let phones: Vec<_> = (0..15).map(|_| first.sibling()).collect();
    for phone in &phones {
        phone.register(&node).await.unwrap();
    }
    let content = EncryptedContent {
        sender_device_id: sender.device_id.to_string(),
        envelopes: phones.iter().map(|phone| envelope(phone, &[1; 65536])).collect(),
        shared_ciphertext: Vec::new(),
    };
    // 10 MB: more than is read at a time, and more than a topic keeps.
    for i in 1..=10 {
        let request = sending(&id, &i.to_string(), content.clone());
        ann.messaging(&node).send_message(request).await.unwrap();
    }
    let (mut seen, mut token, mut pages) = (0, String::new(), 0);
    loop {
        let path = format!("/v1/conversations/{id}/messages?page_size=200&page_token={token}");
        let page = bob.get(&node, &path).await.ok();
        for message in page["messages"].as_array().unwrap() {
            assert_eq!(message["encrypted"]["envelopes"].as_array().unwrap().len(), 15);
            seen += 1;
        }
        pages += 1;
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert!(seen == 10 && pages > 1, "{seen} {pages}");
    let request = SubscribeRequest { conversation_id: id.clone(), after_seq: Some(0), ..Default::default() };
    let mut stream = bob.messaging(&node).subscribe(request).await.unwrap().into_inner();
    for seq in 1..=10 {
        assert_eq!(soon(stream.message()).await.unwrap().unwrap().seq, seq);
    }
    let conversation = bob.get(&node, &format!("/v1/conversations/{id}")).await.ok();
    assert_eq!(number(&conversation["lastSeq"]), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_told_of_its_devices_that_come_and_go() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let mut stream = Stream::open(&node, &ann, Some(0)).await;
    let phone = Phone::new(&ann);
    let mut told = async || match stream.next().await.1 {
        Event::DeviceAdded(added) => ("added", added.device_id, added.registration_id),
        Event::DeviceRemoved(removed) => ("removed", removed.device_id, 0),
        other => panic!("{other:?}"),
    };
    let id = phone.device_id.to_string();
    phone.register(&node).await.unwrap();
    assert_eq!(told().await, ("added", id.clone(), 7));
    // Once more with the same keys is no news; with others it is.
    phone.register(&node).await.unwrap();
    let anew = phone.anew(8);
    anew.register(&node).await.unwrap();
    assert_eq!(told().await, ("added", id.clone(), 8));
    keys(&node, &ann).remove_device(RemoveDeviceRequest { device_id: id.clone() }).await.unwrap();
    assert_eq!(told().await, ("removed", id.clone(), 0));

    phone.register(&node).await.unwrap();
    assert_eq!(told().await, ("added", id.clone(), 7));
    let key: SetAccountKeyRequest = Phone::new(&ann).set_account_key();
    keys(&node, &ann).set_account_key(key).await.unwrap();
    assert_eq!(told().await, ("removed", id.clone(), 0));

    let other = Phone::new(&node.user("bob").await);
    let mut bobs = Stream::open(&node, &other.user, Some(0)).await;
    other.register(&node).await.unwrap();
    assert!(matches!(bobs.next().await.1, Event::DeviceAdded(_)));
    world.clock.advance(std::time::Duration::from_secs(200 * 86_400));
    assert_eq!(rialto::domains::keys::jobs::delete_stale_devices(&node.server.app).await.unwrap(), 1);
    assert!(matches!(bobs.next().await.1, Event::DeviceRemoved(_)));
}

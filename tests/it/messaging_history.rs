//! Reading what was said on different days, each of which has partitions of its own, and some of which are quiet.

use rialto::proto::rialto::messaging::v1::subscribe_response::Event;
use serde_json::{Value, json};

use crate::harness::{Node, User, World, number, soon, text_of};
use crate::live::subscribe;
use crate::messaging_retention::{days_later, edit, sql, truncated_at};

/// The numbers and texts of a list's pages, one after the other.
async fn pages(node: &Node, user: &User, path: &str) -> Vec<(i64, String)> {
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = user.get(node, &format!("{path}&page_token={token}")).await.ok();
        for message in page["messages"].as_array().unwrap() {
            seen.push((number(&message["seq"]), message["text"].as_str().unwrap().to_owned()));
        }
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return seen;
        }
    }
}

/// The titles of conversations, page by page.
async fn titles(node: &Node, user: &User, size: usize) -> Vec<String> {
    let (mut titles, mut token) = (Vec::new(), String::new());
    loop {
        let page = user.get(node, &format!("/v1/conversations?page_size={size}&page_token={token}")).await.ok();
        let title = |conversation: &Value| conversation["title"].as_str().unwrap().to_owned();
        titles.extend(page["conversations"].as_array().unwrap().iter().map(title));
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return titles;
        }
    }
}

async fn group(node: &Node, user: &User, other: &User, title: &str) -> String {
    let body = json!({ "title": title, "memberIds": [other.id] });
    user.post(node, "/v1/conversations", body).await.ok()["id"].as_str().unwrap().to_owned()
}

/// Some days of a conversation, with nothing on most of them, a first message that was edited days later, and days on which
/// there was no message but something else. Numbers 1 to 15, of which the messages are what this returns.
async fn chat(world: &World, node: &Node, ann: &mut User, bob: &mut User) -> (String, Vec<(i64, String)>) {
    let id = ann.conversation(node, &[bob]).await;
    let mut sent = Vec::new();
    for (quiet, count) in [(0, 3), (1, 1), (2, 0), (5, 4), (1, 0), (7, 2)] {
        days_later(world, node, quiet, &mut [&mut *ann, &mut *bob]).await;
        for text in 0..count {
            let text = format!("{quiet}-{text}");
            sent.push((bob.send(node, &id, &text).await, text));
        }
        if count < 4 {
            edit(node, bob, &id, 1, &quiet.to_string()).await;
        }
    }
    sent[0].1 = "7".into();
    (id, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_days_are_listed_from_both_ends_and_from_the_middle() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let (id, mut sent) = chat(&world, &node, &mut ann, &mut bob).await;
    assert_eq!(sent.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3, 5, 8, 9, 10, 11, 13, 14]);
    // One that ann has deleted for herself is there for bob alone.
    let hidden = sent.remove(3);
    ann.delete(&node, &format!("/v1/conversations/{id}/messages/{}", hidden.0)).await.ok();
    for size in [1, 2, 3, 50] {
        let list = format!("/v1/conversations/{id}/messages?page_size={size}");
        let newest: Vec<_> = sent.iter().rev().cloned().collect();
        assert_eq!(pages(&node, &ann, &list).await, newest);
        for after in 0..=15 {
            let rest: Vec<_> = sent.iter().filter(|(seq, _)| *seq > after).cloned().collect();
            assert_eq!(pages(&node, &ann, &format!("{list}&after_seq={after}")).await, rest, "after {after}");
        }
    }
    for (seq, text) in &sent {
        let message = ann.get(&node, &format!("/v1/conversations/{id}/messages/{seq}")).await.ok();
        assert_eq!(message["text"], json!(text));
    }
    for gone in [hidden.0, 4, 15, 16] {
        ann.get(&node, &format!("/v1/conversations/{id}/messages/{gone}")).await.refused(
            404,
            "RESOURCE_NOT_FOUND",
            3001,
        );
    }
    // A conversation that keeps them for less is cut at the same place from either side.
    sql(&world, "UPDATE conversations SET retention_days = 10").await;
    let kept: Vec<_> = sent.iter().filter(|(seq, _)| *seq > 7).cloned().collect();
    for query in ["page_size=2&after_seq=0", "page_size=2"] {
        let mut listed = pages(&node, &ann, &format!("/v1/conversations/{id}/messages?{query}")).await;
        listed.sort_unstable();
        assert_eq!(listed, kept);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_after_days_gets_exactly_what_was_missed() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let (id, sent) = chat(&world, &node, &mut ann, &mut bob).await;
    // One that has heard nothing of it: everything comes from the database.
    let other = world.node().await;
    for after in 0..15 {
        let mut stream = subscribe(&other, &ann, &id, Some(after)).await;
        for seq in after + 1..=15 {
            let event = soon(stream.message()).await.unwrap().unwrap();
            assert_eq!(event.seq, seq);
            let text = sent.iter().find(|(of, _)| *of == seq).map(|(_, text)| text.as_str());
            match event.event {
                Some(Event::Message(message)) => assert_eq!(Some(text_of(&message)), text),
                Some(Event::Edited(message)) => assert_eq!((text_of(&message), text), ("7", None)),
                event => panic!("{event:?}"),
            }
        }
    }
    sql(&world, "UPDATE conversations SET retention_days = 10").await;
    assert_eq!(truncated_at(&other, &ann, &id, 6).await, 8);
    assert_eq!(soon(subscribe(&other, &ann, &id, Some(7)).await.message()).await.unwrap().unwrap().seq, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_messages_are_counted_from_wherever_one_has_read_to() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let (id, sent) = chat(&world, &node, &mut ann, &mut bob).await;
    for read in 0..=15 {
        let body = json!({ "readSeq": read.to_string() });
        let receipt = ann.post(&node, &format!("/v1/conversations/{id}/receipt"), body).await.ok();
        let unread = sent.iter().filter(|(seq, _)| *seq > read).count();
        assert_eq!(number(&receipt["unreadCount"]), i64::try_from(unread).unwrap(), "read to {read}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_messages_of_a_page_are_of_different_days() {
    let world = World::new().await;
    let node = world.node().await;
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let mut ids = Vec::new();
    for title in ["too old", "hidden", "quiet", "disappeared", "edited", "deleted", "empty", "new"] {
        let id = group(&node, &ann, &bob, title).await;
        if title == "disappeared" {
            sql(&world, &format!("UPDATE conversations SET disappear_seconds = 60 WHERE id = '{id}'")).await;
        }
        if title != "empty" {
            bob.send(&node, &id, "before").await;
            bob.send(&node, &id, title).await;
        }
        ids.push(id);
        days_later(&world, &node, 4, &mut [&mut ann, &mut bob]).await;
    }
    ann.delete(&node, &format!("/v1/conversations/{}/messages/2", ids[1])).await.ok();
    edit(&node, &bob, &ids[4], 2, "as it is now").await;
    bob.delete(&node, &format!("/v1/conversations/{}/messages/2?for_all=true", ids[5])).await.ok();
    let listed = ann.get(&node, "/v1/conversations").await.ok();
    let last = |conversation: &Value| {
        let (title, message) = (&conversation["title"], &conversation["lastMessage"]);
        let text = message["text"].as_str().map(str::to_owned);
        (title.as_str().unwrap().to_owned(), text, message["deletedAt"].is_string())
    };
    let listed: Vec<_> = listed["conversations"].as_array().unwrap().iter().map(last).collect();
    let shown = |title: &str, text: Option<&str>, deleted| (title.to_owned(), text.map(str::to_owned), deleted);
    let expected = [
        shown("new", Some("new"), false),
        shown("empty", None, false),
        shown("deleted", Some(""), true),
        shown("edited", Some("as it is now"), false),
        shown("disappeared", None, false),
        shown("quiet", Some("quiet"), false),
        shown("hidden", None, false),
        shown("too old", None, false),
    ];
    assert_eq!(listed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_that_were_active_at_the_same_time_are_listed_once_each() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let mut expected = Vec::new();
    for index in 0..7 {
        let title = format!("{index}");
        expected.push((group(&node, &ann, &bob, &title).await, title));
    }
    sql(&world, "UPDATE conversations SET active_at = now()").await;
    expected.sort_unstable();
    let expected: Vec<_> = expected.into_iter().rev().map(|(_, title)| title).collect();
    for size in [1, 2, 3, 7] {
        assert_eq!(titles(&node, &ann, size).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_meanwhile_doubles_and_loses_nothing_in_pages() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (mut ann, mut bob) = (node.user("ann").await, node.user("bob").await);
    let busy = group(&node, &ann, &bob, "busy").await;
    let mut quiet = Vec::new();
    for index in 0..6 {
        let title = format!("quiet {index}");
        group(&node, &ann, &bob, &title).await;
        bob.send(&node, &busy, &title).await;
        quiet.push(title);
        days_later(&world, &node, 1, &mut [&mut ann, &mut bob]).await;
    }
    quiet.reverse();
    let list = format!("/v1/conversations/{busy}/messages?page_size=2");
    let sending = async {
        for index in 0..40 {
            bob.send(&other, &busy, &index.to_string()).await;
        }
    };
    let reading = async {
        for _ in 0..5 {
            let numbers: Vec<_> = pages(&node, &ann, &list).await.into_iter().map(|(seq, _)| seq).collect();
            let newest = numbers[0];
            assert_eq!(numbers, (1..=newest).rev().collect::<Vec<_>>());
            let numbers = pages(&node, &ann, &format!("{list}&after_seq=0")).await;
            let numbers: Vec<_> = numbers.into_iter().map(|(seq, _)| seq).collect();
            assert!(numbers.len() as i64 >= newest, "{numbers:?}");
            assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
            let mut listed = titles(&node, &ann, 2).await;
            listed.retain(|title| title != "busy");
            assert_eq!(listed, quiet);
        }
    };
    futures_util::join!(sending, reading);
}

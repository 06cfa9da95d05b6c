//! What the options of the codec and of the builder change about the JSON that comes out.

mod support;

use rialto_gateway::codec::{Codec, indent};
use serde_json::{Value, json};
use support::{encode, library, library_with, ok, pool, request};

const KINDS: &str = "test.kinds.Kinds";

fn print(configure: impl FnOnce(Codec) -> Codec, json: &str) -> String {
    let pool = pool(&["kinds.proto"]);
    let codec = configure(Codec::new(&pool));
    let id = codec.message(KINDS).expect("message");
    let wire = codec.json_to_wire(id, json.as_bytes()).expect("valid");
    let mut out = Vec::new();
    codec.wire_to_json(id, &wire, &mut out).expect("printable");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn proto_names_are_printed_and_both_are_read() {
    let json = r#"{"fInt32":1,"f_bool":true,"mInt32":{"1":"a"},"fMessage":{"aliasName":2},"wAny":{"@type":"x/test.kinds.Kinds","fInt32":3}}"#;
    assert_eq!(
        print(|c| c.use_proto_names(true), json),
        r#"{"f_int32":1,"f_bool":true,"f_message":{"renamed":2},"m_int32":{"1":"a"},"w_any":{"@type":"x/test.kinds.Kinds","f_int32":3}}"#
    );
    assert_eq!(print(|c| c.use_proto_names(true).use_proto_names(false), r#"{"f_int32":1}"#), r#"{"fInt32":1}"#);
    // Paths of a field mask are not members.
    assert_eq!(print(|c| c.use_proto_names(true), r#"{"wMask":"fooBar"}"#), r#"{"w_mask":"fooBar"}"#);
}

#[test]
fn enum_numbers_are_printed_and_both_are_read() {
    let json = r#"{"fEnum":"COLOR_BLUE","rEnum":["COLOR_CRIMSON",0,9],"mBool":{"true":"COLOR_RED"},"cNull":null,"wValue":null}"#;
    assert_eq!(
        print(|c| c.enum_numbers(true), json),
        r#"{"fEnum":-2,"rEnum":[1,0,9],"mBool":{"true":1},"cNull":null,"wValue":null}"#
    );
    let always = print(|c| c.enum_numbers(true).always_print_fields(true), "{}");
    assert!(always.contains(r#""fEnum":0,"#), "{always}");
}

#[test]
fn pretty_json_has_a_line_for_each_member_and_element() {
    let json = r#"{"fString":"{\"a\":[1,2]}\\","rInt32":[1,2],"rString":["]",","],"mString":{"k":{},"{":{"fBool":true}},"wStruct":{"a":[],"b":{},"c":[{"d":null}]},"wAny":{"@type":"x/google.protobuf.Duration","value":"1s"}}"#;
    let pretty = print(|c| c.pretty(true), json);
    assert_eq!(
        pretty,
        r#"{
  "fString": "{\"a\":[1,2]}\\",
  "rInt32": [
    1,
    2
  ],
  "rString": [
    "]",
    ","
  ],
  "mString": {
    "k": {},
    "{": {
      "fBool": true
    }
  },
  "wStruct": {
    "a": [],
    "b": {},
    "c": [
      {
        "d": null
      }
    ]
  },
  "wAny": {
    "@type": "x/google.protobuf.Duration",
    "value": "1s"
  }
}"#
    );
    let value: Value = serde_json::from_str(&pretty).expect("JSON");
    assert_eq!(pretty, serde_json::to_string_pretty(&value).expect("JSON"));
    assert_eq!(print(|c| c.pretty(true), "{}"), "{}");
}

#[test]
fn indenting_what_is_not_json_does_no_harm() {
    for text in ["", "}", "]]]]", "{", "[[", "\"", "\"\\", "\"abc", "{\"a\":", "\u{feff}{}", ",,::"] {
        indent(text.as_bytes(), &mut Vec::new());
    }
}

#[tokio::test]
async fn the_gateway_prints_as_it_is_built() {
    let book = r#"{"id":"7","edition":"2","authors":["a"]}"#;
    let compact = library(|b| b).call("PUT", "/v1/books/7", r#"{"edition":2,"authors":["a"]}"#).await;
    assert_eq!(compact.text(), book);
    let pretty = library(|b| b.pretty(true)).call("PUT", "/v1/books/7", r#"{"edition":2,"authors":["a"]}"#).await;
    let lines = "{\n  \"id\": \"7\",\n  \"edition\": \"2\",\n  \"authors\": [\n    \"a\"\n  ]\n}";
    assert_eq!((pretty.text(), pretty.header("content-length")), (lines, lines.len().to_string().as_str()));
    let names = library(|b| b.use_proto_names(true).enum_numbers(true));
    let answer = names.get("/v1/search/x?page_size=3&order=ORDER_TITLE").await;
    assert_eq!(answer.text(), r#"{"place":"x","page_size":3,"order":1}"#);
}

#[tokio::test]
async fn messages_of_a_stream_stay_one_line_each() {
    let pool = pool(&["library.proto"]);
    let message = encode(&pool, "test.library.WatchResponse", json!({ "book": { "title": "t", "authors": ["a"] } }));
    let f = library_with(|b| b.pretty(true), move |_| Ok(ok([message.clone()])));
    for (accept, line) in [
        ("application/x-ndjson", "{\"result\":{\"book\":{\"title\":\"t\",\"authors\":[\"a\"]}}}\n"),
        ("text/event-stream", "data: {\"book\":{\"title\":\"t\",\"authors\":[\"a\"]}}\n"),
    ] {
        let mut request = request("GET", "/v1/watch/t", "");
        request.headers_mut().insert("accept", accept.parse().expect("header"));
        let answer = f.send(request).await;
        assert!(answer.text().contains(line), "{}", answer.text());
    }
}

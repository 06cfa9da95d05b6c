//! The OpenAPI document.

mod support;

use rialto_gateway::openapi::{Info, async_document, document};
use serde_json::{Value, json};

fn library() -> Value {
    let info = Info { title: "Library".into(), version: "1".into(), ..Info::default() };
    document(&support::pool(&["library.proto"]), &info, |method, operation| {
        operation["x-method"] = method.full_name().into();
    })
}

#[test]
fn every_route_is_an_operation_with_its_parts() {
    let doc = library();
    assert_eq!((doc["openapi"].as_str(), doc["info"]["title"].as_str()), (Some("3.1.1"), Some("Library")));
    let get = &doc["paths"]["/v1/books/{bookId}"]["get"];
    assert_eq!(get["operationId"], "Library_GetBook");
    assert_eq!(get["summary"], "Gets a book");
    assert_eq!(get["description"], "Gets a book. It may be lent.");
    assert_eq!(get["tags"], json!(["Library"]));
    assert_eq!(get["x-method"], "test.library.Library.GetBook");
    let parameters: Vec<_> =
        get["parameters"].as_array().expect("parameters").iter().map(|p| (&p["name"], &p["in"])).collect();
    assert_eq!(
        parameters,
        [
            (&json!("bookId"), &json!("path")),
            (&json!("shelf.name"), &json!("query")),
            (&json!("view"), &json!("query"))
        ]
    );
    // The same shape with another name of the parameter is the same path.
    let put = &doc["paths"]["/v1/books/{bookId}"]["put"];
    assert_eq!(put["parameters"][0]["name"], "bookId");
    let body = &put["requestBody"]["content"]["application/json"]["schema"];
    assert!(body["properties"]["id"].is_null() && body["properties"]["title"].is_object());
    let watch = &doc["paths"]["/v1/watch/{topic}"]["get"]["responses"];
    assert!(watch["200"]["content"]["text/event-stream"].is_object());
    assert_eq!(watch["default"]["$ref"], "#/components/responses/Error");
    assert!(doc["paths"]["/v1/files/shelves/{name}/{name_2}"]["get"].is_object());
    let book = &doc["components"]["schemas"]["test.library.Book"];
    assert_eq!(book["description"], "A book.");
    assert_eq!(book["properties"]["title"]["description"], "What stands on its back.");
    assert_eq!(doc["tags"][0], json!({ "name": "Library", "description": "Lends books." }));
}

#[test]
fn every_reference_leads_somewhere_and_ids_are_unique() {
    let doc = library();
    references_lead_somewhere(&doc);
    references_lead_somewhere(&described());
    let paths = doc["paths"].as_object().expect("paths");
    let mut ids: Vec<_> = paths
        .values()
        .flat_map(|p| p.as_object().expect("item"))
        .filter_map(|(verb, operation)| (verb != "x-additional-operations").then_some(operation))
        .map(|o| o["operationId"].to_string())
        .collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

fn references_lead_somewhere(doc: &Value) {
    let mut references = Vec::new();
    collect(doc, &mut references);
    assert!(references.len() > 10);
    for reference in references {
        assert!(doc.pointer(reference.strip_prefix('#').expect("local")).is_some(), "{reference}");
    }
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|v| collect(v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, into)),
        _ => {}
    }
}

fn described() -> Value {
    document(&support::pool(&["described.proto"]), &Info::default(), |_, _| {})
}

#[test]
fn queries_have_nested_repeated_and_map_parameters_with_their_constraints() {
    let doc = library();
    let parameters = doc["paths"]["/v1/search/{place}"]["get"]["parameters"].as_array().expect("parameters");
    let named = |name: &str| parameters.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(named("place")["schema"], json!({ "type": "string", "minLength": 1 }));
    assert_eq!(named("ids")["schema"]["items"]["type"], "integer");
    assert_eq!(named("years.from")["schema"]["minimum"], 0);
    assert_eq!((&named("weights")["style"], &named("weights")["explode"]), (&json!("deepObject"), &json!(true)));
    assert_eq!(named("limit")["schema"]["type"], "integer");
    assert_eq!(named("author")["description"], "Excludes `publisher`.");
    assert!(parameters.iter().all(|p| p["name"] != "years"));

    let doc = described();
    let find = &doc["paths"]["/v1/find/{name}"]["get"]["parameters"];
    assert_eq!(find[0]["schema"], json!({ "type": "string", "minLength": 2, "maxLength": 4 }));
    let watch = &doc["paths"]["/v1/watch/{name}"]["get"]["parameters"];
    let resume = watch.as_array().expect("parameters").iter().find(|p| p["in"] == "header").expect("a header");
    assert_eq!((&resume["name"], &resume["schema"]["format"]), (&json!("Last-Event-ID"), &json!("uint64")));
    let patch = &doc["paths"]["/v1/things/{thing.id}"]["patch"]["parameters"];
    assert_eq!(patch[1]["name"], "updateMask");
    assert_eq!(patch[1]["description"], "Without it, the fields that the body sets.");
}

#[test]
fn files_and_streams_have_their_media_types() {
    let doc = described();
    let keys = |value: &Value| value.as_object().expect("object").keys().cloned().collect::<Vec<_>>();
    let files = &doc["paths"]["/v1/files/{name}"];
    assert_eq!(keys(&files["get"]["responses"]), ["200", "206", "304", "default"]);
    assert_eq!(files["get"]["responses"]["200"]["content"], json!({ "*/*": {} }));
    assert_eq!(keys(&files["put"]["requestBody"]["content"]), ["*/*"]);
    assert_eq!(keys(&doc["paths"]["/v1/files"]["post"]["requestBody"]["content"]), ["*/*", "multipart/form-data"]);
    let watch = &doc["paths"]["/v1/watch/{name}"]["get"]["responses"]["200"]["content"];
    assert_eq!(keys(watch), ["text/event-stream", "application/x-ndjson", "application/json"]);
    let event = &watch["text/event-stream"]["schema"]["oneOf"][0]["properties"];
    assert_eq!(event["event"]["enum"], json!(["text", "thing"]));
    assert_eq!(event["data"]["contentSchema"]["$ref"], "#/components/schemas/test.described.Choice");
    // An array has no word for an error: it breaks off.
    let items = &watch["application/json"]["schema"]["items"];
    assert_eq!(items, &json!({ "$ref": "#/components/schemas/test.described.Choice" }));
    let error = &doc["components"]["responses"]["Error"]["content"];
    assert_eq!(keys(error), ["application/json", "application/problem+json"]);
    // A stream that only a WebSocket has.
    assert!(keys(&doc["paths"]).iter().all(|path| !path.starts_with("/v1/talk")));
}

#[test]
fn methods_that_openapi_lacks_stand_beside_the_others_and_old_ones_are_deprecated() {
    let doc = described();
    let (old, any) = (&doc["paths"]["/v1/old"], &doc["paths"]["/v1/old/any"]);
    assert_eq!(old["post"]["deprecated"], true);
    assert_eq!(old["x-additional-operations"]["PURGE"]["operationId"], "Described_Old_3");
    assert_eq!(any["x-additional-operations"]["*"]["operationId"], "Described_Old_2");
}

#[test]
fn routes_that_openapi_cannot_tell_apart_are_all_there() {
    let rule = |pattern: &str| format!("option (google.api.http) = {{ {pattern} }};");
    let [multi, single] = [r#"get: "/v1/f/{path=**}""#, r#"get: "/v1/f/{name}""#].map(rule);
    for (first, second) in [(&multi, &single), (&single, &multi)] {
        let name = |rule: &String| if *rule == multi { "Multi" } else { "Single" };
        let (one, two) = (name(first), name(second));
        let doc = text_document(
            &format!(
                r#"message In {{ string name = 1; string path = 2; }}
                service S {{ rpc {one}(In) returns (In) {{ {first} }} rpc {two}(In) returns (In) {{ {second} }} }}"#
            ),
            &Info::default(),
        );
        // The one that the gateway prefers for what fits both.
        let item = &doc["paths"].as_object().expect("paths").values().next().expect("a path");
        assert_eq!(
            (doc["paths"].as_object().expect("paths").len(), &item["get"]["operationId"]),
            (1, &json!("S_Single"))
        );
        let other = &item["x-additional-operations"]["GET /v1/f/{path=**}"];
        assert_eq!(other["operationId"], "S_Multi", "{item}");
    }
}

#[test]
fn services_that_are_not_chosen_leave_no_trace() {
    let text = r#"message In { string a = 1; } message Secret { string a = 1; }
        service S { rpc A(In) returns (In) { option (google.api.http) = { get: "/x/{a}" }; } }
        service Hidden {
          rpc A(Secret) returns (Secret) { option (google.api.http) = {
            get: "/hidden" additional_bindings { custom { kind: "PURGE" path: "/hidden" } }
            additional_bindings { custom { kind: "PURGE" path: "/x/{a}" } }
          }; }
          rpc W(Secret) returns (stream Secret) { option (google.api.http) = { get: "/watch" }; }
        }"#;
    let info = Info { services: Some(vec!["t.S".into()]), ..Info::default() };
    let doc = text_document(text, &info);
    let keys = |value: &Value| value.as_object().expect("object").keys().cloned().collect::<Vec<_>>();
    assert_eq!((keys(&doc["paths"]), keys(&doc["paths"]["/x/{a}"])), (vec!["/x/{a}".into()], vec!["get".into()]));
    assert_eq!(doc["tags"], json!([{ "name": "S" }]));
    assert!(!doc.to_string().contains("Secret"), "{doc}");
    let doc = async_document(&text_pool(text), &info, |_, _| {});
    assert_eq!(doc["channels"], json!({}));
}

fn text_pool(text: &str) -> rialto_gateway::prost_reflect::DescriptorPool {
    let text = format!(r#"syntax = "proto3"; package t; import "google/api/annotations.proto"; {text}"#);
    let set = support::compile_text(&text);
    rialto_gateway::prost_reflect::DescriptorPool::decode(set.as_slice()).expect("descriptors")
}

fn text_document(text: &str, info: &Info) -> Value {
    document(&text_pool(text), info, |_, _| {})
}

#[test]
fn every_stream_is_a_channel_of_the_asyncapi_document() {
    let info = Info { servers: vec!["https://example.com/base".into()], ..Info::default() };
    let doc = async_document(&support::pool(&["described.proto"]), &info, |method, operation| {
        operation["x-method"] = method.full_name().into();
    });
    assert_eq!(doc["asyncapi"], "3.0.0");
    let server = json!({ "host": "example.com", "pathname": "/base", "protocol": "https" });
    assert_eq!(doc["servers"]["server1"], server);
    let channels: Vec<_> = doc["channels"].as_object().expect("channels").keys().collect();
    assert_eq!(channels, ["Described_Watch", "Described_Talk"]);

    let watch = &doc["operations"]["Described_Watch"];
    assert_eq!((&watch["action"], &watch["bindings"]["http"]["method"]), (&json!("send"), &json!("GET")));
    assert_eq!(watch["bindings"]["http"]["query"]["properties"]["after"]["format"], "uint64");

    let talk = &doc["channels"]["Described_Talk"];
    assert_eq!((&talk["address"], &talk["parameters"]["name"]), (&json!("/v1/talk/{name}"), &json!({})));
    assert_eq!(talk["messages"]["request"]["payload"]["$ref"], "#/components/schemas/test.described.Name");
    assert_eq!(talk["messages"]["response"]["payload"]["$ref"], "#/components/schemas/test.described.Choice");
    let receive = &doc["operations"]["Described_Talk_receive"];
    assert_eq!((&receive["action"], &receive["summary"]), (&json!("receive"), &json!("Talks")));
    assert_eq!(receive["messages"], json!([{ "$ref": "#/channels/Described_Talk/messages/request" }]));
    assert_eq!(doc["operations"]["Described_Talk_send"]["x-method"], "test.described.Described.Talk");
    references_lead_somewhere(&doc);
}

#[test]
fn bodies_that_are_bytes_or_streams_are_told_as_such() {
    let info = Info { title: "Files".into(), version: "1".into(), ..Info::default() };
    let doc = document(&support::pool(&["files.proto"]), &info, |_, _| {});
    let content = |path: &str, verb: &str| doc["paths"][path][verb]["requestBody"]["content"].clone();
    let post = content("/v1/folders/{folder}/files", "post");
    assert_eq!((&post["*/*"], post.get("multipart/form-data").is_some()), (&json!({}), true));
    assert_eq!(content("/v1/stored/{name}", "put"), json!({ "*/*": {} }));
    let rows = content("/v1/tables/{table}/rows", "post");
    let row = json!({ "anyOf": [{ "$ref": "#/components/schemas/test.files.Row.Input" }, { "type": "null" }] });
    assert_eq!(rows["application/json"]["schema"], json!({ "type": "array", "items": row }));
    assert_eq!(rows["application/x-ndjson"]["schema"], row);
    for path in ["/v1/files/{name}", "/v1/files/{name}:download", "/v1/parts/{name}"] {
        assert_eq!(doc["paths"][path]["get"]["responses"]["200"]["content"], json!({ "*/*": {} }), "{path}");
    }
}

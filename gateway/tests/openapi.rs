//! The OpenAPI document.

mod support;

use rialto_gateway::openapi::{Info, document};
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
    let mut references = Vec::new();
    collect(&doc, &mut references);
    assert!(references.len() > 10);
    for reference in references {
        assert!(doc.pointer(reference.strip_prefix('#').expect("local")).is_some(), "{reference}");
    }
    let paths = doc["paths"].as_object().expect("paths");
    let mut ids: Vec<_> = paths
        .values()
        .flat_map(|p| p.as_object().expect("item").values())
        .map(|o| o["operationId"].to_string())
        .collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
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

#[test]
fn bodies_that_are_bytes_or_streams_are_told_as_such() {
    let info = Info { title: "Files".into(), version: "1".into(), ..Info::default() };
    let doc = document(&support::pool(&["files.proto"]), &info, |_, _| {});
    let content = |path: &str, verb: &str| doc["paths"][path][verb]["requestBody"]["content"].clone();
    let bytes = json!({ "contentMediaType": "application/octet-stream" });
    let put = content("/v1/folders/{folder}/files", "post");
    assert_eq!(put["*/*"]["schema"], bytes);
    assert_eq!(put["multipart/form-data"]["schema"]["properties"]["file"], bytes);
    assert_eq!(content("/v1/stored/{name}", "put"), json!({ "*/*": { "schema": bytes } }));
    let rows = content("/v1/tables/{table}/rows", "post");
    let row = json!({ "$ref": "#/components/schemas/test.files.Row" });
    assert_eq!(rows["application/json"]["schema"], json!({ "type": "array", "items": row }));
    assert_eq!(rows["application/x-ndjson"]["schema"], row);
    for path in ["/v1/files/{name}", "/v1/files/{name}:download", "/v1/parts/{name}"] {
        assert_eq!(doc["paths"][path]["get"]["responses"]["200"]["content"]["*/*"]["schema"], bytes, "{path}");
    }
}

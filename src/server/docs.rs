//! The API page: the OpenAPI document as plain HTML, without scripts.

use std::fmt::Write;

use serde_json::Value;

/// What the page may load: its own style.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content='width=device-width'><title>Rialto API</title><style>\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
code{font:14px ui-monospace,monospace}h2{margin-top:2.5rem;border-bottom:1px solid #ddd}\
details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}summary{cursor:pointer}\
.verb{display:inline-block;min-width:4rem;font-weight:600}.access{float:right;color:#666;font-size:14px}\
table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0;vertical-align:top}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}h2,details{border-color:#444}.access{color:#999}}\
</style><h1>Rialto API</h1><p>REST on this port, under <code>/v1</code>, <code>/api/v1</code> and <code>/api</code>. \
The same methods as gRPC, gRPC-Web and Connect on the same port. <a href=/openapi.json>OpenAPI document</a>.</p>";

/// The page.
pub fn page(document: &Value) -> String {
    let mut html = HEAD.to_owned();
    let mut tag = "";
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (verb, operation) in operations.as_object().into_iter().flatten() {
            let this_tag = operation["tags"][0].as_str().unwrap_or_default();
            if this_tag != tag {
                tag = this_tag;
                let _ = write!(html, "<h2>{}</h2>", escape(tag));
            }
            write_operation(&mut html, path, verb, operation, document);
        }
    }
    html
}

fn write_operation(html: &mut String, path: &str, verb: &str, operation: &Value, document: &Value) {
    let access = match (operation["x-permission"].as_str(), operation.get("security")) {
        (Some(permission), _) => permission,
        (None, Some(_)) => "any account",
        (None, None) => "public",
    };
    let text = |key: &str| operation[key].as_str().map(escape);
    // Writing to a string does not fail.
    let _ = write!(
        html,
        "<details><summary><span class=verb>{}</span><code>{}</code><span class=access>{}</span></summary>\
         <p>{}</p><p>gRPC: <code>{}</code></p>",
        verb.to_uppercase(),
        escape(path),
        escape(access),
        text("description").or(text("summary")).unwrap_or_default(),
        text("x-grpc-method").unwrap_or_default(),
    );
    let mut rows = String::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        write_row(&mut rows, parameter["name"].as_str(), parameter["in"].as_str(), parameter["description"].as_str());
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    for (name, property) in resolve(schema, document)["properties"].as_object().into_iter().flatten() {
        write_row(&mut rows, Some(name), Some("body"), property["description"].as_str());
    }
    let _ = write!(html, "<table>{rows}</table></details>");
}

fn write_row(rows: &mut String, name: Option<&str>, place: Option<&str>, description: Option<&str>) {
    let [name, place, description] = [name, place, description].map(|text| escape(text.unwrap_or_default()));
    let _ = write!(rows, "<tr><td><code>{name}</code><td>{place}<td>{description}");
}

/// The schema behind a reference into the document.
fn resolve<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

//! Request bodies and responses.

use prost_reflect::{Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};

use super::schema::{Schemas, reference};
use super::types::Form;
use crate::event::ENDS;
use crate::route::rule::Rule;
use crate::route::template::Template;

fn is_http_body(m: &MessageDescriptor) -> bool {
    m.full_name() == "google.api.HttpBody"
}

/// The message that a field of this name, or the whole message (`*` or nothing), holds.
fn part(m: &MessageDescriptor, field: &str) -> Option<MessageDescriptor> {
    match field {
        "" | "*" => Some(m.clone()),
        field => m.get_field_by_name(field).filter(|f| !f.is_list())?.kind().as_message().cloned(),
    }
}

/// Is the body whatever the client sends, as `google.api.HttpBody`?
pub(super) fn is_file_body(method: &MethodDescriptor, rule: &Rule) -> bool {
    !rule.body.is_empty() && part(&method.input(), &rule.body).is_some_and(|m| is_http_body(&m))
}

/// The whole request without what the path holds, or one field of it.
pub(super) fn request(
    schemas: &mut Schemas,
    method: &MethodDescriptor,
    rule: &Rule,
    template: &Template,
) -> Option<Value> {
    let input = method.input();
    if is_file_body(method, rule) {
        // Bytes have no schema: OpenAPI 3.1.1, section 4.8.14.3.
        let mut content = json!({ "*/*": {} });
        if method.is_client_streaming() {
            content["multipart/form-data"] = json!({ "schema": {
                "type": "object",
                "description": "One file or several, one after the other.",
                "additionalProperties": { "type": "string", "contentMediaType": "application/octet-stream" },
            } });
        }
        return Some(json!({ "content": content, "required": true }));
    }
    let bound: Vec<String> = template.variables.iter().map(|v| v.field.clone()).collect();
    let (schema, required) = match rule.body.as_str() {
        "" => return None,
        "*" => {
            let whole = schemas.object(&input, Form::Body, &bound);
            let required = demands(&whole);
            (if bound.is_empty() { schemas.message(&input, Form::Body) } else { whole }, required)
        }
        name => {
            let field = input.get_field_by_name(name)?;
            let prefix = format!("{name}.");
            let inner: Vec<String> = bound.iter().filter_map(|p| p.strip_prefix(&prefix).map(str::to_owned)).collect();
            let required = schemas.rules.of(&field).is_some_and(|rules| rules.require(&field));
            match field.kind() {
                Kind::Message(m) if !inner.is_empty() => (schemas.object(&m, Form::Body, &inner), required),
                _ => (schemas.field(&field, Form::Body), required),
            }
        }
    };
    if method.is_client_streaming() {
        let content = json!({
            "application/json": { "schema": { "type": "array", "items": schema } },
            "application/x-ndjson": { "schema": schema },
        });
        return Some(json!({ "content": content, "required": false }));
    }
    // No body at all is a body that sets nothing.
    Some(json!({ "content": { "application/json": { "schema": schema } }, "required": required }))
}

/// Is an empty object refused?
fn demands(schema: &Value) -> bool {
    let choices = || schema.get("oneOf").into_iter().chain(schema.get("allOf")).flat_map(Value::as_array).flatten();
    schema.get("required").is_some()
        || (schema.get("oneOf").is_some() && !choices().any(|c| c.get("not").is_some()))
        || choices().filter_map(|c| c.get("oneOf")?.as_array()).any(|all| !all.iter().any(|c| c.get("not").is_some()))
}

/// What is answered: one message, a file, or a stream of messages; else an error.
pub(super) fn responses(schemas: &mut Schemas, method: &MethodDescriptor, rule: &Rule) -> Value {
    let output = method.output();
    let mut responses = json!({});
    if part(&output, &rule.response_body).is_some_and(|m| is_http_body(&m)) {
        responses["200"] = json!({ "description": "The file.", "content": { "*/*": {} } });
        if rule.method == Some(http::Method::GET) {
            responses["206"] =
                json!({ "description": "The part of the file that `Range` asks for.", "content": { "*/*": {} } });
            responses["304"] = json!({ "description": "The client has this file already (`If-None-Match`)." });
        }
    } else {
        let schema = answer(schemas, method, rule);
        responses["200"] = match method.is_server_streaming() {
            true => json!({ "description": "A stream of messages.", "content": streams(method, schema) }),
            false => json!({ "description": "Success.", "content": { "application/json": { "schema": schema } } }),
        };
    }
    responses["default"] = json!({ "$ref": "#/components/responses/Error" });
    responses
}

/// The schema of one message as it is answered.
pub(super) fn answer(schemas: &mut Schemas, method: &MethodDescriptor, rule: &Rule) -> Value {
    let output = method.output();
    match output.get_field_by_name(&rule.response_body) {
        Some(field) => schemas.field(&field, Form::Answer),
        None => schemas.message(&output, Form::Answer),
    }
}

/// The ways to stream. An array whose call fails breaks off. OpenAPI 3.1 has no word for the items of a stream; tools take the schema for that of an item.
fn streams(method: &MethodDescriptor, schema: Value) -> Value {
    json!({
        "text/event-stream": { "schema": event(method, &schema) },
        "application/x-ndjson": { "schema": {
            "description": "A line.",
            "oneOf": [
                { "type": "object", "required": ["result"], "properties": { "result": schema } },
                reference("Error"),
            ],
        } },
        "application/json": { "schema": { "type": "array", "items": schema } },
    })
}

/// An event as its parts.
fn event(method: &MethodDescriptor, schema: &Value) -> Value {
    let data =
        |schema: &Value| json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": schema });
    let end = |name: &str, schema: &Value| {
        let properties = json!({ "event": { "const": name }, "data": data(schema) });
        json!({ "type": "object", "required": ["event", "data"], "properties": properties })
    };
    let mut message = json!({ "id": { "type": "string" }, "data": data(schema) });
    let cases = cases(method);
    if !cases.is_empty() {
        message["event"] = json!({ "enum": cases });
    }
    let not_an_end = json!({ "properties": { "event": { "enum": ENDS } }, "required": ["event"] });
    json!({
        "description": "A server-sent event (WHATWG HTML, section 9.2). Its data is the JSON of one message; \
            `end` or `error` comes last.",
        "oneOf": [
            { "type": "object", "required": ["data"], "properties": message, "not": not_an_end },
            end("end", &json!({ "type": "object" })),
            end("error", &reference("Error")),
        ],
    })
}

/// What `event:` may be: the members of the response's only oneof, unless they could be taken for the end of a stream.
fn cases(method: &MethodDescriptor) -> Vec<String> {
    let output = method.output();
    let mut oneofs = output.oneofs().filter(|o| !o.is_synthetic());
    match (oneofs.next(), oneofs.next()) {
        (Some(one), None) if one.fields().all(|f| !ENDS.contains(&f.json_name())) => {
            one.fields().map(|f| f.json_name().to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

//! Request bodies and responses.

use prost_reflect::{Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};

use super::schema::{Schemas, reference};
use super::types::Form;
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

/// The ways to stream. OpenAPI 3.1 has no word for the items of a stream: `x-itemSchema` is `itemSchema` of 3.2.
fn streams(method: &MethodDescriptor, schema: Value) -> Value {
    let text = |media_type: &str, what: &str| {
        json!({
            "type": "string", "contentMediaType": media_type, "description": what,
        })
    };
    json!({
        "text/event-stream": {
            "schema": text("text/event-stream", "Server-sent events (WHATWG HTML, section 9.2). The data of each is the \
                JSON of one message; `event: end` or `event: error` comes last."),
            "x-itemSchema": event(method, &schema),
        },
        "application/x-ndjson": {
            "schema": text("application/x-ndjson", "A JSON document on each line; an error comes last."),
            "x-itemSchema": { "oneOf": [
                { "type": "object", "required": ["result"], "properties": { "result": schema } },
                reference("Error"),
            ] },
        },
        "application/json": {
            "schema": { "type": "array", "items": { "anyOf": [schema, reference("Error")] } },
        },
    })
}

/// An event as its parts.
fn event(method: &MethodDescriptor, schema: &Value) -> Value {
    let kind = |event: Value, data: &Value| {
        json!({
            "type": "object",
            "required": ["data"],
            "properties": {
                "id": { "type": "string" },
                "event": event,
                "data": { "type": "string", "contentMediaType": "application/json", "contentSchema": data },
            },
        })
    };
    let cases = cases(method);
    let case = if cases.is_empty() { json!({ "const": "message" }) } else { json!({ "enum": cases }) };
    json!({ "oneOf": [
        kind(case, schema),
        kind(json!({ "const": "end" }), &json!({ "type": "object" })),
        kind(json!({ "const": "error" }), &reference("Error")),
    ] })
}

/// What `event:` may be: the members of the response's only oneof.
fn cases(method: &MethodDescriptor) -> Vec<String> {
    let output = method.output();
    let mut oneofs = output.oneofs().filter(|o| !o.is_synthetic());
    match (oneofs.next(), oneofs.next()) {
        (Some(one), None) => one.fields().map(|f| f.json_name().to_owned()).collect(),
        _ => Vec::new(),
    }
}

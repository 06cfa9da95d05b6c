//! The AsyncAPI document: what streams, over server-sent events and WebSockets.

use std::collections::HashSet;

use http::Uri;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use super::schema::{self, Schemas, reference};
use super::types::Form;
use super::{Info, about, described, error, media, object, path, query, services, unique};
use crate::route::rule::Options;
use crate::route::template::Template;

const WEB_SOCKET: &str = "A WebSocket (RFC 6455). The subprotocol decides what the frames hold, one message each: \
    `rialto.json.v1` JSON as text, `rialto.proto.v1` protobuf as binary. The access token goes in the `Authorization` \
    header, in a cookie where the server takes one, or, from browsers, as one more subprotocol `bearer.<token>`; never in the URL.";

const EVENTS: &str = "Server-sent events (WHATWG HTML, section 9.2), for `Accept: text/event-stream`. `event: end` or \
    `event: error` comes last.";

/// The AsyncAPI document of every method of a pool that streams: its server-sent events, and its WebSocket
/// (`rialto.gateway.v1.web_socket`). `customize` may change each operation.
///
/// Schemas and names are those of [`super::document`].
pub fn async_document(
    pool: &DescriptorPool,
    info: &Info,
    mut customize: impl FnMut(&MethodDescriptor, &mut Value),
) -> Value {
    let mut writer = Writer {
        options: Options::new(pool),
        schemas: Schemas::new(pool, info),
        channels: Map::new(),
        operations: Map::new(),
        ids: HashSet::new(),
    };
    for method in services(pool, info).flat_map(|service| service.methods().collect::<Vec<_>>()) {
        writer.events(&method, &mut customize);
        writer.web_socket(&method, &mut customize);
    }
    let mut schemas = writer.schemas.finish();
    schemas.extend(error::schemas());
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": described(json!({ "title": info.title, "version": info.version }), &info.description),
        "defaultContentType": "application/json",
        "channels": writer.channels,
        "operations": writer.operations,
        "components": { "schemas": object(schemas) },
    });
    if let (false, Some(root)) = (info.servers.is_empty(), document.as_object_mut()) {
        root.insert("servers".into(), servers(&info.servers));
    }
    schema::settle(&mut document);
    document
}

fn servers(urls: &[String]) -> Value {
    let parsed = urls.iter().filter_map(|url| url.parse::<Uri>().ok());
    let server = |(i, url): (usize, Uri)| {
        let host = url.authority()?.as_str();
        let server = json!({ "host": host, "pathname": url.path(), "protocol": url.scheme_str()? });
        Some((format!("server{}", i + 1), server))
    };
    Value::Object(parsed.enumerate().filter_map(server).collect())
}

struct Writer {
    options: Options,
    schemas: Schemas,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    ids: HashSet<String>,
}

impl Writer {
    fn events(&mut self, method: &MethodDescriptor, customize: &mut impl FnMut(&MethodDescriptor, &mut Value)) {
        if method.is_client_streaming() || !method.is_server_streaming() {
            return;
        }
        for rule in self.options.rules(method).unwrap_or_default() {
            let Ok(template) = Template::parse(&rule.path) else { continue };
            let id = unique(&mut self.ids, method);
            let payload = media::answer(&mut self.schemas, method, &rule);
            let messages = json!({
                "message": { "name": method.output().name(), "payload": payload },
                "end": { "name": "end", "summary": "The stream has ended.", "payload": { "type": "object" } },
                "error": { "name": "error", "summary": "The stream has failed.", "payload": reference("Error") },
            });
            let channel = self.channel(&template, &method.input(), messages, EVENTS);
            self.channels.insert(id.clone(), channel);
            let mut http =
                json!({ "method": rule.method.map_or("GET".to_owned(), |m| m.to_string()), "bindingVersion": "0.3.0" });
            if rule.body != "*" {
                http["query"] = self.query(&template, &method.input(), &rule.body);
            }
            let mut operation = self.operation(method, "send", &id, &["message", "end", "error"]);
            operation["bindings"] = json!({ "http": http });
            customize(method, &mut operation);
            self.operations.insert(id, operation);
        }
    }

    fn web_socket(&mut self, method: &MethodDescriptor, customize: &mut impl FnMut(&MethodDescriptor, &mut Value)) {
        let Some(rule) = self.options.web_socket(method) else { return };
        let Ok(template) = Template::parse(&rule.path) else { return };
        let id = unique(&mut self.ids, method);
        let (input, output) = (method.input(), method.output());
        let messages = json!({
            "request": { "name": input.name(), "payload": self.schemas.message(&input, Form::Body) },
            "response": { "name": output.name(), "payload": self.schemas.message(&output, Form::Answer) },
        });
        let mut channel = self.channel(&template, &input, messages, WEB_SOCKET);
        let protocols = json!({ "type": "object", "properties": { "Sec-WebSocket-Protocol": {
            "type": "string", "examples": ["rialto.json.v1", "rialto.json.v1, bearer.<token>", "rialto.proto.v1"],
        } } });
        let query = self.query(&template, &input, "");
        channel["bindings"] =
            json!({ "ws": { "method": "GET", "query": query, "headers": protocols, "bindingVersion": "0.1.0" } });
        self.channels.insert(id.clone(), channel);
        // The document is the server's: it receives requests.
        for (action, message) in [("receive", "request"), ("send", "response")] {
            let mut operation = self.operation(method, action, &id, &[message]);
            customize(method, &mut operation);
            self.operations.insert(format!("{id}_{action}"), operation);
        }
    }

    fn channel(&mut self, template: &Template, input: &MessageDescriptor, messages: Value, text: &str) -> Value {
        let names = path::names(template, input);
        let address = path::text(template, &names);
        let mut channel = json!({ "address": address, "description": text, "messages": messages });
        let parameters: Map<String, Value> = path::parameters(template, input, &mut self.schemas)
            .into_iter()
            .zip(names)
            .map(|(parameter, name)| {
                let text = parameter.get("description").and_then(Value::as_str).unwrap_or_default();
                (name, described(json!({}), text))
            })
            .collect();
        if !parameters.is_empty() {
            channel["parameters"] = parameters.into();
        }
        channel
    }

    /// The query as one object, which is how bindings have it.
    fn query(&mut self, template: &Template, input: &MessageDescriptor, body: &str) -> Value {
        let mut bound: Vec<String> = template.variables.iter().map(|v| v.field.clone()).collect();
        bound.extend((!body.is_empty()).then(|| body.to_owned()));
        let parameters = query::parameters(&mut self.schemas, input, bound, false);
        let name = |p: &Value| p.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let required: Vec<String> = parameters.iter().filter(|p| p.get("required").is_some()).map(name).collect();
        let properties: Map<String, Value> = parameters
            .into_iter()
            .map(|mut p| {
                let text = p.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
                (name(&p), described(p["schema"].take(), &text))
            })
            .collect();
        let mut query = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            query["required"] = required.into();
        }
        query
    }

    fn operation(&self, method: &MethodDescriptor, action: &str, channel: &str, messages: &[&str]) -> Value {
        let mut operation = about(method, &self.schemas);
        if operation.remove("deprecated").is_some() {
            operation.insert("x-deprecated".into(), true.into());
        }
        let of = |message: &&str| json!({ "$ref": format!("#/channels/{channel}/messages/{message}") });
        operation.insert("action".into(), action.into());
        operation.insert("channel".into(), json!({ "$ref": format!("#/channels/{channel}") }));
        operation.insert("messages".into(), messages.iter().map(of).collect());
        operation.insert("tags".into(), json!([{ "name": method.parent_service().name() }]));
        Value::Object(operation)
    }
}

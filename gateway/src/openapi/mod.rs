//! An OpenAPI 3.1 document (<https://spec.openapis.org/oas/v3.1.1>) from the same descriptors as the routes.

mod comments;
mod path;
mod schema;

use std::collections::{BTreeMap, HashSet};

use http::Method;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use crate::http_body;
use crate::route::rule::{Options, Rule};
use crate::route::template::Template;
use comments::Comments;
use path::Paths;
use schema::Schemas;

/// What the descriptors don't say about the API.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// Its name.
    pub title: String,
    /// Its version.
    pub version: String,
    /// What it is for, as CommonMark.
    pub description: String,
    /// Base URLs.
    pub servers: Vec<String>,
}

/// The document of all routes of a pool. `customize` may change each operation, say to add security requirements.
///
/// Rules that [`crate::Builder::build`] refuses are left out.
pub fn document(pool: &DescriptorPool, info: &Info, mut customize: impl FnMut(&MethodDescriptor, &mut Value)) -> Value {
    let mut writer = Writer {
        options: Options::new(pool),
        comments: Comments::new(pool),
        schemas: Schemas::default(),
        paths: Paths::default(),
        operation_ids: HashSet::new(),
    };
    let mut tags = Vec::new();
    for service in pool.services() {
        let before = writer.operation_ids.len();
        for method in service.methods() {
            writer.method(&method, &mut customize);
        }
        if writer.operation_ids.len() > before {
            let file = service.parent_file();
            tags.push(described(json!({ "name": service.name() }), writer.comments.get(file.name(), service.path())));
        }
    }
    let schemas = writer.schemas.finish(&writer.comments);
    let mut document = json!({
        "openapi": "3.1.1",
        "info": described(json!({ "title": info.title, "version": info.version }), &info.description),
        "tags": tags,
        "paths": writer.paths.finish(),
        "components": { "schemas": schemas, "responses": { "Error": {
            "description": "The request failed.",
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
        } } },
    });
    if let (false, Some(root)) = (info.servers.is_empty(), document.as_object_mut()) {
        let servers: Vec<Value> = info.servers.iter().map(|url| json!({ "url": url })).collect();
        root.insert("servers".into(), servers.into());
    }
    document
}

/// Adds a description if there is one.
fn described(mut value: Value, text: &str) -> Value {
    if let (false, Some(object)) = (text.is_empty(), value.as_object_mut()) {
        object.insert("description".into(), text.into());
    }
    value
}

struct Writer {
    options: Options,
    comments: Comments,
    schemas: Schemas,
    paths: Paths,
    operation_ids: HashSet<String>,
}

impl Writer {
    fn method(&mut self, method: &MethodDescriptor, customize: &mut impl FnMut(&MethodDescriptor, &mut Value)) {
        for rule in self.options.rules(method).unwrap_or_default() {
            let (Ok(template), Some(verb)) = (Template::parse(&rule.path), rule.method.as_ref().and_then(verb)) else {
                continue;
            };
            let mut operation = self.operation(method, &rule, &template);
            customize(method, &mut operation);
            self.paths.insert(&template, method.input(), verb, operation);
        }
    }

    fn operation(&mut self, method: &MethodDescriptor, rule: &Rule, template: &Template) -> Value {
        let service = method.parent_service();
        let mut operation = Map::new();
        let mut id = format!("{}_{}", service.name(), method.name());
        let mut n = 1;
        while !self.operation_ids.insert(id.clone()) {
            n += 1;
            id = format!("{}_{}_{n}", service.name(), method.name());
        }
        operation.insert("operationId".into(), id.into());
        operation.insert("tags".into(), json!([service.name()]));
        let file = service.parent_file();
        let (summary, description) = comments::split(self.comments.get(file.name(), method.path()));
        for (key, text) in [("summary", summary), ("description", description)] {
            if !text.is_empty() {
                operation.insert(key.into(), text.into());
            }
        }
        if method.options().get_field_by_name("deprecated").and_then(|v| v.as_bool()) == Some(true) {
            operation.insert("deprecated".into(), true.into());
        }
        let mut parameters = path::parameters(template, &method.input(), &mut self.schemas, &self.comments);
        if rule.body != "*" {
            let bound: Vec<String> = template.variables.iter().map(|v| v.field.clone()).collect();
            let mut query =
                QueryWriter { writer: self, bound, body: &rule.body, stack: Vec::new(), out: &mut parameters };
            query.fields(&method.input(), "", "");
        }
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        if let Some(body) = self.request_body(method, rule, template) {
            let content = match (is_raw(&method.input(), &rule.body), method.is_client_streaming()) {
                (true, true) => {
                    let file = if rule.body == "*" { "file" } else { rule.body.as_str() };
                    let form = json!({ "type": "object", "properties": { file: bytes() } });
                    json!({ "*/*": { "schema": bytes() }, "multipart/form-data": { "schema": form } })
                }
                (true, false) => json!({ "*/*": { "schema": bytes() } }),
                (false, true) => json!({
                    "application/json": { "schema": { "type": "array", "items": body } },
                    "application/x-ndjson": { "schema": body },
                }),
                (false, false) => json!({ "application/json": { "schema": body } }),
            };
            operation.insert("requestBody".into(), json!({ "content": content }));
        }
        operation.insert("responses".into(), self.responses(method, rule));
        Value::Object(operation)
    }

    /// The whole request without what the path holds, or one field of it.
    fn request_body(&mut self, method: &MethodDescriptor, rule: &Rule, template: &Template) -> Option<Value> {
        let input = method.input();
        match rule.body.as_str() {
            "" => None,
            "*" if template.variables.is_empty() => Some(self.schemas.message(&input)),
            "*" => {
                let bound = |name: &str| template.variables.iter().any(|v| v.field == name);
                Some(self.schemas.object(&input, &self.comments, |f| !bound(f.name()) && !bound(f.json_name())))
            }
            field => input.get_field_by_name(field).map(|f| self.schemas.field(&f)),
        }
    }

    fn responses(&mut self, method: &MethodDescriptor, rule: &Rule) -> Value {
        let output = method.output();
        if is_raw(&output, &rule.response_body) {
            return json!({
                "200": { "description": "Success.", "content": { "*/*": { "schema": bytes() } } },
                "default": { "$ref": "#/components/responses/Error" },
            });
        }
        let schema = match output.get_field_by_name(&rule.response_body) {
            Some(field) => self.schemas.field(&field),
            None => self.schemas.message(&output),
        };
        let (description, content) = if method.is_server_streaming() {
            let line = json!({ "oneOf": [
                { "type": "object", "required": ["result"], "properties": { "result": schema } },
                { "$ref": "#/components/schemas/Error" },
            ] });
            let events = json!({
                "type": "string",
                "description": "Server-sent events. The data of each is the JSON of one message; \
                    `event: end` or `event: error` comes last.",
            });
            let content =
                json!({ "text/event-stream": { "schema": events }, "application/x-ndjson": { "schema": line } });
            ("A stream of messages.", content)
        } else {
            ("Success.", json!({ "application/json": { "schema": schema } }))
        };
        json!({
            "200": { "description": description, "content": content },
            "default": { "$ref": "#/components/responses/Error" },
        })
    }
}

/// Is the message, or this field of it, a `google.api.HttpBody`?
fn is_raw(message: &MessageDescriptor, field: &str) -> bool {
    match message.get_field_by_name(field) {
        Some(field) => field.kind().as_message().is_some_and(|m| m.full_name() == http_body::NAME),
        None => message.full_name() == http_body::NAME,
    }
}

/// OpenAPI 3.1, "Considerations for file uploads": bytes of any kind.
fn bytes() -> Value {
    json!({ "contentMediaType": "application/octet-stream" })
}

/// The member of a path item; methods that OpenAPI 3.1 has no member for are left out.
fn verb(method: &Method) -> Option<&'static str> {
    match *method {
        Method::GET => Some("get"),
        Method::PUT => Some("put"),
        Method::POST => Some("post"),
        Method::DELETE => Some("delete"),
        Method::OPTIONS => Some("options"),
        Method::HEAD => Some("head"),
        Method::PATCH => Some("patch"),
        Method::TRACE => Some("trace"),
        _ => None,
    }
}

/// Collects the query parameters of a request: its leaves that neither path nor body hold.
struct QueryWriter<'w> {
    writer: &'w mut Writer,
    bound: Vec<String>,
    body: &'w str,
    /// Messages on the way, so that recursion ends.
    stack: Vec<String>,
    out: &'w mut Vec<Value>,
}

impl QueryWriter<'_> {
    fn fields(&mut self, message: &MessageDescriptor, names: &str, json_names: &str) {
        const DEEPEST: usize = 4;
        if self.stack.len() >= DEEPEST || self.stack.iter().any(|m| m == message.full_name()) {
            return;
        }
        self.stack.push(message.full_name().to_owned());
        for field in message.fields() {
            let name = format!("{names}{}", field.name());
            let json_name = format!("{json_names}{}", field.json_name());
            if self.bound.contains(&name) || self.bound.contains(&json_name) || self.body == name || field.is_map() {
                continue;
            }
            let kind = field.kind();
            match kind.as_message().filter(|m| !schema::is_text(m)) {
                Some(inner) if !field.is_list() => {
                    self.fields(inner, &format!("{name}."), &format!("{json_name}."));
                }
                Some(_) => {}
                None => {
                    let parameter = json!({
                        "name": json_name, "in": "query", "schema": self.writer.schemas.field(&field),
                    });
                    let text = self.writer.comments.get(field.parent_file().name(), field.path());
                    self.out.push(described(parameter, text));
                }
            }
        }
        self.stack.pop();
    }
}

/// Keyed and ordered.
type Sorted = BTreeMap<String, Value>;

fn object(sorted: Sorted) -> Value {
    Value::Object(sorted.into_iter().collect())
}

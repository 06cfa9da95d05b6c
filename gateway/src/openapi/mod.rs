//! An OpenAPI 3.1 document (<https://spec.openapis.org/oas/v3.1.1>) and an AsyncAPI 3.0 document
//! (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>) from the same descriptors as the routes.

mod comments;
mod error;
mod events;
mod media;
mod path;
mod query;
mod rules;
mod schema;
mod types;

use std::collections::{BTreeMap, HashSet};

use http::Method;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use serde_json::{Map, Value, json};

use crate::route::rule::{Options, Rule};
use crate::route::template::{Segment, Template};
pub use events::async_document;
use path::Paths;
use schema::Schemas;
use types::Form;

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
    /// Only these services, by full name, as [`crate::Builder::services`] was told. `None`: all of them.
    pub services: Option<Vec<String>>,
    /// As [`crate::Builder::always_print_fields`] was told: then responses have all fields without presence.
    pub always_print_fields: bool,
    /// A pattern that every text of a request has to match, for services that check more than their rules say.
    pub text_pattern: Option<String>,
}

/// The OpenAPI document of all routes of a pool. `customize` may change each operation, say to add security
/// requirements.
///
/// Comments become descriptions, and `buf.validate` rules the constraints of requests. Methods of custom kinds that
/// OpenAPI 3.1 has no member for stand under `x-additional-operations` of their path, as OpenAPI 3.2 has it. So do, under
/// their rule, routes that it can't tell from another: `GET /v1/{name=**}` beside `GET /v1/{id}`. Rules that
/// [`crate::Builder::build`] refuses are left out.
pub fn document(pool: &DescriptorPool, info: &Info, mut customize: impl FnMut(&MethodDescriptor, &mut Value)) -> Value {
    let mut writer = Writer {
        options: Options::new(pool),
        schemas: Schemas::new(pool, info),
        routes: Vec::new(),
        operation_ids: HashSet::new(),
    };
    let mut tags = Vec::new();
    for service in services(pool, info) {
        let before = writer.operation_ids.len();
        for method in service.methods() {
            writer.method(&method, &mut customize);
        }
        if writer.operation_ids.len() > before {
            let text = writer.schemas.comments.get(service.parent_file().name(), service.path());
            tags.push(described(json!({ "name": service.name() }), text));
        }
    }
    writer.routes.sort_by_key(|(template, ..)| template.segments.last() == Some(&Segment::Multi));
    let mut paths = Paths::default();
    for (template, method, rule, operation) in writer.routes {
        paths.insert(&template, &method.input(), &rule, operation);
    }
    let mut schemas = writer.schemas.finish();
    schemas.extend(error::schemas());
    let mut document = json!({
        "openapi": "3.1.1",
        "info": described(json!({ "title": info.title, "version": info.version }), &info.description),
        "tags": tags,
        "paths": paths.finish(),
        "components": { "schemas": object(schemas), "responses": { "Error": error::response() } },
    });
    if let (false, Some(root)) = (info.servers.is_empty(), document.as_object_mut()) {
        let servers: Vec<Value> = info.servers.iter().map(|url| json!({ "url": url })).collect();
        root.insert("servers".into(), servers.into());
    }
    schema::settle(&mut document);
    document
}

/// The services that a document is about.
fn services(pool: &DescriptorPool, info: &Info) -> impl Iterator<Item = ServiceDescriptor> {
    let chosen = |name: &str| info.services.as_ref().is_none_or(|chosen| chosen.iter().any(|one| one == name));
    pool.services().filter(move |service| chosen(service.full_name()))
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
    schemas: Schemas,
    routes: Vec<(Template, MethodDescriptor, Rule, Value)>,
    operation_ids: HashSet<String>,
}

impl Writer {
    fn method(&mut self, method: &MethodDescriptor, customize: &mut impl FnMut(&MethodDescriptor, &mut Value)) {
        for rule in self.options.rules(method).unwrap_or_default() {
            let Ok(template) = Template::parse(&rule.path) else { continue };
            let mut operation = self.operation(method, &rule, &template);
            customize(method, &mut operation);
            self.routes.push((template, method.clone(), rule, operation));
        }
    }

    fn operation(&mut self, method: &MethodDescriptor, rule: &Rule, template: &Template) -> Value {
        let mut operation = about(method, &self.schemas);
        let id = unique(&mut self.operation_ids, method);
        operation.insert("operationId".into(), id.into());
        operation.insert("tags".into(), json!([method.parent_service().name()]));
        let mut parameters = path::parameters(template, &method.input(), &mut self.schemas);
        if rule.body != "*" {
            let mut bound: Vec<String> = template.variables.iter().map(|v| v.field.clone()).collect();
            bound.extend((!rule.body.is_empty()).then(|| rule.body.clone()));
            let fills_mask = rule.method == Some(Method::PATCH) && !rule.body.is_empty();
            parameters.extend(query::parameters(&mut self.schemas, &method.input(), bound, fills_mask));
        }
        let resume = self.options.event_stream(method).map(|events| events.resume_field);
        if let Some(field) = resume.and_then(|field| path::field(&method.input(), &field)) {
            let mut schema = self.schemas.field(&field, Form::Text);
            schema.as_object_mut().and_then(|schema| schema.remove("description"));
            parameters.push(json!({
                "name": "Last-Event-ID", "in": "header", "schema": schema,
                "description":
                    format!("The `id` of the last event that the client has; replaces `{}`.", field.json_name()),
            }));
        }
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        if let Some(body) = media::request(&mut self.schemas, method, rule, template) {
            operation.insert("requestBody".into(), body);
        }
        operation.insert("responses".into(), media::responses(&mut self.schemas, method, rule));
        Value::Object(operation)
    }
}

/// Summary, description, and whether the method is deprecated.
fn about(method: &MethodDescriptor, schemas: &Schemas) -> Map<String, Value> {
    let service = method.parent_service();
    let (summary, description) = comments::split(schemas.comments.get(service.parent_file().name(), method.path()));
    let mut about = Map::new();
    for (key, text) in [("summary", summary), ("description", description)] {
        if !text.is_empty() {
            about.insert(key.into(), text.into());
        }
    }
    if schema::is_deprecated(&method.options()) || schema::is_deprecated(&service.options()) {
        about.insert("deprecated".into(), true.into());
    }
    about
}

/// `Service_Method`, numbered where that is taken.
fn unique(taken: &mut HashSet<String>, method: &MethodDescriptor) -> String {
    let base = format!("{}_{}", method.parent_service().name(), method.name());
    let mut id = base.clone();
    let mut n = 1;
    while !taken.insert(id.clone()) {
        n += 1;
        id = format!("{base}_{n}");
    }
    id
}

/// Keyed and ordered.
type Sorted = BTreeMap<String, Value>;

fn object(sorted: Sorted) -> Value {
    Value::Object(sorted.into_iter().collect())
}

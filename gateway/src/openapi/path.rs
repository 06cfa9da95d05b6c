//! Path templates as OpenAPI paths.

use std::collections::BTreeMap;

use http::Method;
use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::schema::Schemas;
use super::types::Form;
use super::{Sorted, described, object};
use crate::route::rule::Rule;
use crate::route::template::{Segment, Template};

/// The paths of the document. OpenAPI takes two paths that differ only in the names of their parameters for one, so
/// the names of the first route count for all of its shape.
#[derive(Default)]
pub(super) struct Paths {
    items: Sorted,
    by_shape: BTreeMap<String, Vec<String>>,
}

impl Paths {
    /// Of two routes that OpenAPI can't tell apart, because one ends in `**` where the other has `*`, the former is to
    /// be inserted last: it gets what the other does not take.
    pub fn insert(&mut self, template: &Template, input: &MessageDescriptor, rule: &Rule, mut operation: Value) {
        let own = names(template, input);
        let chosen = self.by_shape.entry(text(template, &[])).or_insert_with(|| own.clone());
        if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
            for parameter in parameters.iter_mut().filter(|p| p.get("in") == Some(&json!("path"))) {
                let position = own.iter().position(|n| parameter.get("name") == Some(&json!(n)));
                if let (Some(name), Some(p)) = (position.and_then(|i| chosen.get(i)), parameter.as_object_mut()) {
                    p.insert("name".into(), name.as_str().into());
                }
            }
        }
        let item = self.items.entry(text(template, chosen)).or_insert_with(|| Value::Object(Map::new()));
        let Some(item) = item.as_object_mut() else { return };
        let method = rule.method.as_ref();
        let (member, name) = (method.and_then(verb), method.map_or("*", Method::as_str));
        if let Some(member) = member.filter(|member| !item.contains_key(*member)) {
            item.insert(member.into(), operation);
            return;
        }
        let more = item.entry("x-additional-operations").or_insert_with(|| json!({}));
        let Some(more) = more.as_object_mut() else { return };
        let is_taken = member.is_some() || more.contains_key(name);
        more.insert(if is_taken { rule.describe() } else { name.to_owned() }, operation);
    }

    pub fn finish(self) -> Value {
        object(self.items)
    }
}

/// The member of a path item, for the methods that OpenAPI 3.1 has one for.
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

/// The path with these parameter names; `{}` where there are none.
pub(super) fn text(template: &Template, names: &[String]) -> String {
    let mut path = String::new();
    let mut names = names.iter();
    for segment in &template.segments {
        path.push('/');
        match segment {
            Segment::Literal(literal) => path.push_str(literal),
            _ => path.extend(["{", names.next().map_or("", String::as_str), "}"]),
        }
    }
    if let Some(verb) = &template.verb {
        path.extend([":", verb]);
    }
    path
}

/// A name for every wildcard: that of its variable, numbered where a variable has several.
pub(super) fn names(template: &Template, input: &MessageDescriptor) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (i, segment) in template.segments.iter().enumerate() {
        if matches!(segment, Segment::Literal(_)) {
            continue;
        }
        let variable = template.variables.iter().find(|v| (v.start..v.end).contains(&i));
        let base = variable.map_or_else(|| "wildcard".to_owned(), |v| json_path(input, &v.field));
        let mut name = base.clone();
        let mut n = 1;
        while names.contains(&name) {
            n += 1;
            name = format!("{base}_{n}");
        }
        names.push(name);
    }
    names
}

/// The path parameters of a template.
pub(super) fn parameters(template: &Template, input: &MessageDescriptor, schemas: &mut Schemas) -> Vec<Value> {
    let wildcards = template.segments.iter().enumerate().filter(|(_, s)| !matches!(s, Segment::Literal(_)));
    let mut parameters = Vec::new();
    for (name, (i, segment)) in names(template, input).into_iter().zip(wildcards) {
        let variable = template.variables.iter().find(|v| (v.start..v.end).contains(&i));
        let field = variable.and_then(|v| field(input, &v.field));
        // Only a variable of one wildcard and nothing else has the value of the field.
        let whole = variable.is_some_and(|v| v.end - v.start == 1);
        let mut schema = match &field {
            Some(f) if whole => schemas.field(f, Form::Text),
            _ => json!({ "type": "string" }),
        };
        let mut text = field.as_ref().map_or("", |f| schemas.comment(f)).to_owned();
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("description");
            if *segment == Segment::Multi {
                text = format!("{text}\n\nThe rest of the path, which may have slashes.").trim().to_owned();
            } else if schema.get("type") == Some(&json!("string")) {
                // An empty segment is another path.
                let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or_default();
                schema.insert("minLength".into(), least.max(1).into());
            }
        }
        parameters.push(described(json!({ "name": name, "in": "path", "required": true, "schema": schema }), &text));
    }
    parameters
}

/// The field at a dotted path.
pub(super) fn field(root: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    let mut message = Some(root.clone());
    let mut found = None;
    for part in path.split('.') {
        let here = message.take()?;
        let f = here.get_field_by_name(part).or_else(|| here.get_field_by_json_name(part))?;
        message = f.kind().as_message().cloned();
        found = Some(f);
    }
    found
}

fn json_path(root: &MessageDescriptor, path: &str) -> String {
    let mut message = Some(root.clone());
    let mut parts = Vec::new();
    for part in path.split('.') {
        let f = message.take().and_then(|m| m.get_field_by_name(part));
        parts.push(f.as_ref().map_or(part.to_owned(), |f| f.json_name().to_owned()));
        message = f.and_then(|f| f.kind().as_message().cloned());
    }
    parts.join(".")
}

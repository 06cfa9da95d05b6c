//! Messages as JSON Schema (2020-12, as OpenAPI 3.1 has it), in their ProtoJSON form.
//!
//! The schema of a request takes what the server takes: numbers in quotes, enums by number, `null` for what is not set,
//! and nothing that is unknown. Names in snake_case, which parsers must take too, are not described. The schema of a
//! response is what the server prints, and open: a newer server may add fields.

use std::collections::HashSet;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;
use super::rules::{FieldRules, Rules, note};
use super::types::{self, Form};
use super::{Info, Sorted, described};

/// Marks the name of a request's schema until it is known whether responses have one of that name.
const INPUT: &str = ".Input";

/// Collects what is referred to.
pub(super) struct Schemas {
    pub comments: Comments,
    pub rules: Rules,
    always_print: bool,
    text_pattern: Option<String>,
    wanted: Vec<Wanted>,
    known: HashSet<String>,
}

enum Wanted {
    Message(MessageDescriptor, Form),
    Enum(EnumDescriptor),
}

impl Schemas {
    pub fn new(pool: &DescriptorPool, info: &Info) -> Self {
        Self {
            comments: Comments::new(pool),
            rules: Rules::new(pool),
            always_print: info.always_print_fields,
            text_pattern: info.text_pattern.clone(),
            wanted: Vec::new(),
            known: HashSet::new(),
        }
    }

    /// The comment of a field.
    pub fn comment(&self, f: &FieldDescriptor) -> &str {
        self.comments.get(f.parent_file().name(), f.path())
    }

    /// A reference to a message, or its schema if it is a well-known type.
    pub fn message(&mut self, m: &MessageDescriptor, form: Form) -> Value {
        if let Some(schema) = types::well_known(m, form) {
            return schema;
        }
        let name = format!("{}{}", m.full_name(), if form == Form::Body { INPUT } else { "" });
        if self.known.insert(name.clone()) {
            self.wanted.push(Wanted::Message(m.clone(), form));
        }
        reference(&name)
    }

    fn kind(&mut self, kind: &Kind, form: Form, rules: Option<&FieldRules>) -> Value {
        let mut schema = match kind {
            Kind::Message(m) => self.message(m, form),
            Kind::Enum(e) if e.full_name() == "google.protobuf.NullValue" => types::null(form),
            Kind::Enum(e) => {
                if self.known.insert(e.full_name().to_owned()) {
                    self.wanted.push(Wanted::Enum(e.clone()));
                }
                reference(e.full_name())
            }
            scalar => types::scalar(scalar, form).unwrap_or_default(),
        };
        let Some(object) = schema.as_object_mut() else { return schema };
        if form == Form::Answer {
            return schema;
        }
        if let Some(rules) = rules {
            rules.apply(kind, form, object);
        }
        if let (Kind::String, Some(pattern)) = (kind, &self.text_pattern) {
            // The formats that have a pattern are narrower.
            object.entry("pattern").or_insert_with(|| pattern.as_str().into());
        }
        schema
    }

    /// The value of a field, with what the contract says of it. Rules count in requests only: nobody checks responses.
    pub fn field(&mut self, f: &FieldDescriptor, form: Form) -> Value {
        let rules = self.rules.of(f).filter(|_| form != Form::Answer);
        let mut schema = self.bare_field(f, form, rules.as_ref());
        if form == Form::Body && !rules.as_ref().is_some_and(|rules| rules.require(f)) {
            schema = types::nullable(schema);
        }
        let mut text = self.comment(f).to_owned();
        if let Some(oneof) = real_oneof(f) {
            let others = oneof.fields().filter(|o| o.number() != f.number());
            let others: Vec<String> = others.map(|o| format!("`{}`", o.json_name())).collect();
            if !others.is_empty() {
                text = format!("{text}\n\nExcludes {}.", others.join(", ")).trim().to_owned();
            }
        }
        if let (false, Some(object)) = (text.is_empty(), schema.as_object_mut()) {
            let more = object.remove("description");
            note(object, &text);
            more.as_ref().and_then(Value::as_str).into_iter().for_each(|more| note(object, more));
        }
        if let (true, Some(object)) = (is_deprecated(&f.options()), schema.as_object_mut()) {
            object.insert("deprecated".into(), true.into());
        }
        schema
    }

    fn bare_field(&mut self, f: &FieldDescriptor, form: Form, rules: Option<&FieldRules>) -> Value {
        let kind = f.kind();
        let inner = |name: &str| rules.and_then(|rules| rules.inner(name));
        let mut schema = match kind.as_message() {
            Some(entry) if f.is_map() => {
                let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
                let values = self.kind(&value, form, inner("values").as_ref());
                let mut schema = json!({ "type": "object", "additionalProperties": values });
                let mut names = types::map_key(&key).unwrap_or_else(|| json!({}));
                if let (Some(rules), Some(names)) = (inner("keys"), names.as_object_mut()) {
                    rules.apply(&key, Form::Text, names);
                }
                if names.as_object().is_some_and(|names| !names.is_empty()) {
                    schema["propertyNames"] = names;
                }
                schema
            }
            _ if f.is_list() => json!({ "type": "array", "items": self.kind(&kind, form, inner("items").as_ref()) }),
            _ => return self.kind(&kind, form, rules),
        };
        if let (Some(rules), Some(object)) = (rules, schema.as_object_mut()) {
            rules.apply(&kind, form, object);
        }
        schema
    }

    /// The object of a message without the fields that something else sets: dotted paths of proto names.
    pub fn object(&mut self, m: &MessageDescriptor, form: Form, without: &[String]) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for f in m.fields() {
            if without.iter().any(|path| path == f.name()) {
                continue;
            }
            let prefix = format!("{}.", f.name());
            let inner: Vec<String> =
                without.iter().filter_map(|p| p.strip_prefix(&prefix).map(str::to_owned)).collect();
            let schema = match f.kind() {
                Kind::Message(message) if !inner.is_empty() => types::nullable(self.object(&message, form, &inner)),
                _ => self.field(&f, form),
            };
            let always = match form {
                Form::Answer => self.always_print && !f.supports_presence(),
                _ => self.rules.of(&f).is_some_and(|rules| rules.require(&f)),
            };
            if always {
                required.push(Value::from(f.json_name()));
            }
            properties.insert(f.json_name().to_owned(), schema);
        }
        let mut schema = Map::from_iter([("type".to_owned(), "object".into())]);
        let mut choices: Vec<Value> = m.oneofs().filter_map(|o| self.choice(&o, form, &properties)).collect();
        schema.insert("properties".into(), properties.into());
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        match (choices.len(), choices.pop()) {
            (1, Some(choice)) => drop(schema.insert("oneOf".into(), choice)),
            (_, Some(last)) => {
                let all = choices.into_iter().chain([last]).map(|c| json!({ "oneOf": c })).collect::<Value>();
                schema.insert("allOf".into(), all);
            }
            _ => {}
        }
        if m.extension_ranges().len() > 0 {
            // Extensions are named in brackets.
            schema.insert("patternProperties".into(), json!({ r"^\[": {} }));
        }
        if form == Form::Body {
            schema.insert("additionalProperties".into(), false.into());
        }
        described(Value::Object(schema), self.comments.get(m.parent_file().name(), m.path()))
    }

    /// One alternative for each member that may be set, and one for none of them. In a request, `null` sets nothing.
    fn choice(&self, oneof: &OneofDescriptor, form: Form, properties: &Map<String, Value>) -> Option<Value> {
        if oneof.is_synthetic() {
            return None;
        }
        let members: Vec<FieldDescriptor> = oneof.fields().filter(|f| properties.contains_key(f.json_name())).collect();
        let required = form == Form::Body && self.rules.requires(oneof) && members.len() == oneof.fields().len();
        if members.len() < 2 && !required {
            return None;
        }
        let set = |f: &FieldDescriptor| match form == Form::Body && !takes_null(f) {
            true => {
                json!({ "required": [f.json_name()], "properties": { f.json_name(): { "not": { "type": "null" } } } })
            }
            false => json!({ "required": [f.json_name()] }),
        };
        let mut choices: Vec<Value> = members.iter().map(set).collect();
        if !required {
            let any = json!({ "not": { "anyOf": choices } });
            choices.push(any);
        }
        Some(choices.into())
    }

    /// The schemas of everything that was referred to.
    pub fn finish(&mut self) -> Sorted {
        let mut schemas = Sorted::new();
        while let Some(wanted) = self.wanted.pop() {
            match wanted {
                Wanted::Message(m, form) => {
                    let name = format!("{}{}", m.full_name(), if form == Form::Body { INPUT } else { "" });
                    let schema = self.object(&m, form, &[]);
                    schemas.insert(name, schema);
                }
                Wanted::Enum(e) => {
                    schemas.insert(e.full_name().to_owned(), self.enumeration(&e));
                }
            }
        }
        schemas
    }

    /// Parsers take the number as well, and printers fall back to it for a value that is newer than they are.
    fn enumeration(&self, e: &EnumDescriptor) -> Value {
        let file = e.parent_file();
        let names: Vec<Value> = e.values().map(|v| v.name().into()).collect();
        let values = e.values().map(|v| {
            let comment = self.comments.get(file.name(), v.path()).replace('\n', " ");
            format!("- `{}` ({}){}{comment}", v.name(), v.number(), if comment.is_empty() { "" } else { ": " })
        });
        let text = format!("{}\n\n{}", self.comments.get(file.name(), e.path()), values.collect::<Vec<_>>().join("\n"));
        let schema = json!({ "anyOf": [{ "type": "string", "enum": names }, { "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX }] });
        described(schema, text.trim())
    }
}

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

pub(super) fn is_deprecated(options: &prost_reflect::DynamicMessage) -> bool {
    options.get_field_by_name("deprecated").and_then(|v| v.as_bool()) == Some(true)
}

pub(super) fn real_oneof(f: &FieldDescriptor) -> Option<OneofDescriptor> {
    f.containing_oneof().filter(|o| !o.is_synthetic())
}

/// Is `null` a value of this field, and not its absence?
fn takes_null(f: &FieldDescriptor) -> bool {
    match f.kind() {
        Kind::Message(m) => m.full_name() == "google.protobuf.Value",
        Kind::Enum(e) => e.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// Takes the mark off the names of request schemas, where no response has a schema of that name.
pub(super) fn settle(document: &mut Value) {
    let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else { return };
    let taken: HashSet<String> = schemas.keys().filter(|name| !name.ends_with(INPUT)).cloned().collect();
    let rename = |name: &str| match name.strip_suffix(INPUT) {
        Some(plain) if !taken.contains(plain) => plain.to_owned(),
        _ => name.to_owned(),
    };
    let sorted: Sorted = std::mem::take(schemas).into_iter().map(|(name, schema)| (rename(&name), schema)).collect();
    schemas.extend(sorted);
    rename_references(document, &rename);
}

fn rename_references(value: &mut Value, rename: &impl Fn(&str) -> String) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member.as_str().filter(|_| key == "$ref").and_then(|r| r.rsplit_once('/')) {
                    Some((place, name)) => *member = format!("{place}/{}", rename(name)).into(),
                    None => rename_references(member, rename),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, rename)),
        _ => {}
    }
}

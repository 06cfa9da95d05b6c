//! Messages as JSON Schema (2020-12, as OpenAPI 3.1 has it), in their ProtoJSON form.

use std::collections::HashMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;
use super::{Sorted, described, object};

/// Collects what is referred to.
#[derive(Default)]
pub(super) struct Schemas {
    wanted: Vec<Wanted>,
    known: HashMap<String, ()>,
}

enum Wanted {
    Message(MessageDescriptor),
    Enum(EnumDescriptor),
}

/// Has this message a text form that fits a query parameter?
pub(super) fn is_text(m: &MessageDescriptor) -> bool {
    matches!(m.full_name(), "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask")
        || m.full_name()
            .strip_prefix("google.protobuf.")
            .is_some_and(|n| n.ends_with("Value") && n != "Value" && n != "ListValue")
}

impl Schemas {
    /// A reference to a message, or its schema if it is a well-known type.
    pub fn message(&mut self, m: &MessageDescriptor) -> Value {
        if let Some(schema) = well_known(m) {
            return schema;
        }
        if self.known.insert(m.full_name().to_owned(), ()).is_none() {
            self.wanted.push(Wanted::Message(m.clone()));
        }
        json!({ "$ref": format!("#/components/schemas/{}", m.full_name()) })
    }

    pub fn field(&mut self, f: &FieldDescriptor) -> Value {
        let kind = f.kind();
        if let (true, Some(entry)) = (f.is_map(), kind.as_message()) {
            let value = self.kind(&entry.map_entry_value_field().kind());
            return json!({ "type": "object", "additionalProperties": value });
        }
        let one = self.kind(&kind);
        if f.is_list() { json!({ "type": "array", "items": one }) } else { one }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "string", "format": "int64" }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Message(m) => self.message(m),
            Kind::Enum(e) if e.full_name() == "google.protobuf.NullValue" => json!({ "type": "null" }),
            Kind::Enum(e) => {
                if self.known.insert(e.full_name().to_owned(), ()).is_none() {
                    self.wanted.push(Wanted::Enum(e.clone()));
                }
                json!({ "$ref": format!("#/components/schemas/{}", e.full_name()) })
            }
        }
    }

    /// An object of the chosen fields of a message.
    pub fn object(
        &mut self,
        m: &MessageDescriptor,
        comments: &Comments,
        chosen: impl Fn(&FieldDescriptor) -> bool,
    ) -> Value {
        if let Some(schema) = well_known(m) {
            return schema;
        }
        let file = m.parent_file();
        let mut properties = Map::new();
        for f in m.fields().filter(|f| chosen(f)) {
            let mut text = comments.get(file.name(), f.path()).to_owned();
            if let Some(oneof) = f.containing_oneof().filter(|o| !o.is_synthetic()) {
                let others: Vec<String> = oneof
                    .fields()
                    .filter(|o| o.number() != f.number())
                    .map(|o| format!("`{}`", o.json_name()))
                    .collect();
                if !others.is_empty() {
                    text = format!("{text}\n\nExcludes {}.", others.join(", ")).trim().to_owned();
                }
            }
            properties.insert(f.json_name().to_owned(), described(self.field(&f), &text));
        }
        described(json!({ "type": "object", "properties": properties }), comments.get(file.name(), m.path()))
    }

    /// The schemas of everything that was referred to, and of the error body.
    pub fn finish(mut self, comments: &Comments) -> Value {
        let mut schemas = Sorted::new();
        schemas.insert("Error".into(), error());
        while let Some(wanted) = self.wanted.pop() {
            match wanted {
                Wanted::Message(m) => {
                    let schema = self.object(&m, comments, |_| true);
                    schemas.insert(m.full_name().to_owned(), schema);
                }
                Wanted::Enum(e) => {
                    let names: Vec<String> = e.values().map(|v| v.name().to_owned()).collect();
                    let file = e.parent_file();
                    let schema = json!({ "type": "string", "enum": names });
                    schemas.insert(e.full_name().to_owned(), described(schema, comments.get(file.name(), e.path())));
                }
            }
        }
        object(schemas)
    }
}

fn well_known(m: &MessageDescriptor) -> Option<Value> {
    let name = m.full_name().strip_prefix("google.protobuf.")?;
    Some(match name {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" => json!({ "type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$" }),
        "FieldMask" => json!({ "type": "string" }),
        "Struct" => json!({ "type": "object" }),
        "Value" => json!({}),
        "ListValue" => json!({ "type": "array", "items": {} }),
        "Any" => json!({ "type": "object", "properties": { "@type": { "type": "string" } } }),
        "DoubleValue" | "FloatValue" => json!({ "type": ["number", "null"] }),
        "Int64Value" => json!({ "type": ["string", "null"], "format": "int64" }),
        "UInt64Value" => json!({ "type": ["string", "null"], "format": "uint64" }),
        "Int32Value" => json!({ "type": ["integer", "null"], "format": "int32" }),
        "UInt32Value" => json!({ "type": ["integer", "null"], "minimum": 0 }),
        "BoolValue" => json!({ "type": ["boolean", "null"] }),
        "StringValue" => json!({ "type": ["string", "null"] }),
        "BytesValue" => json!({ "type": ["string", "null"], "contentEncoding": "base64" }),
        "Empty" => json!({ "type": "object" }),
        _ => return None,
    })
}

/// The body of every failure, as [`crate::ErrorRenderer`] writes it.
fn error() -> Value {
    let text = json!({ "type": "string" });
    json!({ "type": "object", "required": ["error"], "properties": { "error": {
        "type": "object",
        "required": ["code", "status", "reason", "message"],
        "properties": {
            "code": { "type": "integer", "description": "The HTTP status." },
            "status": { "type": "string", "description": "The name of the gRPC code." },
            "reason": { "type": "string", "description": "What went wrong, for programs." },
            "legacyCode": { "type": "integer", "description": "The number that older clients know." },
            "message": { "type": "string", "description": "What went wrong, for people." },
            "details": { "type": "array", "items": {
                "type": "object", "required": ["@type"], "properties": { "@type": text },
            } },
            "requestId": text,
        },
    } } })
}

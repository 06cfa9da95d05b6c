//! The query parameters of a request: its leaves that neither path nor body hold.

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde_json::{Value, json};

use super::described;
use super::schema::{Schemas, real_oneof};
use super::types::{self, Form};

/// Messages inside messages are followed so deep. The gateway takes a hundred levels, which would make a long list.
const DEEPEST: usize = 4;

/// `bound`: dotted paths of what path and body hold. `fills_mask`: an update mask that is left out is made of the body.
pub(super) fn parameters(
    schemas: &mut Schemas,
    input: &MessageDescriptor,
    bound: Vec<String>,
    fills_mask: bool,
) -> Vec<Value> {
    let mut query = Query { schemas, bound, fills_mask, stack: Vec::new(), out: Vec::new() };
    query.fields(input, "", "");
    query.out
}

struct Query<'s> {
    schemas: &'s mut Schemas,
    bound: Vec<String>,
    fills_mask: bool,
    /// Messages on the way, so that recursion ends.
    stack: Vec<String>,
    out: Vec<Value>,
}

impl Query<'_> {
    fn fields(&mut self, message: &MessageDescriptor, names: &str, json_names: &str) {
        if self.stack.len() >= DEEPEST || self.stack.iter().any(|m| m == message.full_name()) {
            return;
        }
        self.stack.push(message.full_name().to_owned());
        for field in message.fields() {
            let name = format!("{names}{}", field.name());
            let json_name = format!("{json_names}{}", field.json_name());
            if self.bound.contains(&name) || self.bound.contains(&json_name) {
                continue;
            }
            // Another member of the oneof is bound: this one would be refused.
            let rival = |f: FieldDescriptor| {
                let is_bound = |bound: &String| {
                    *bound == format!("{names}{}", f.name()) || *bound == format!("{json_names}{}", f.json_name())
                };
                f.number() != field.number() && self.bound.iter().any(is_bound)
            };
            if real_oneof(&field).is_some_and(|oneof| oneof.fields().any(rival)) {
                continue;
            }
            match field.kind().as_message().filter(|m| !types::is_text(m)) {
                Some(entry) if field.is_map() => {
                    let value = entry.map_entry_value_field().kind();
                    if value.as_message().is_none_or(types::is_text) {
                        self.parameter(&field, json_name, true);
                    }
                }
                Some(inner) if !field.is_list() => self.fields(inner, &format!("{name}."), &format!("{json_name}.")),
                Some(_) => {}
                None => self.parameter(&field, json_name, false),
            }
        }
        self.stack.pop();
    }

    fn parameter(&mut self, field: &FieldDescriptor, name: String, map: bool) {
        // Of a message that is not there, nothing is checked.
        let required = self.stack.len() == 1 && self.schemas.rules.of(field).is_some_and(|rules| rules.require(field));
        let is_mask = self.fills_mask && name == "updateMask";
        let mut schema = self.schemas.field(field, Form::Text);
        let object = schema.as_object_mut();
        let mut text = object
            .and_then(|o| o.remove("description"))
            .and_then(|t| t.as_str().map(str::to_owned))
            .unwrap_or_default();
        if is_mask {
            text = format!("{text}\n\nWithout it, the fields that the body sets.").trim().to_owned();
        }
        let mut parameter = json!({ "name": name, "in": "query" });
        if required {
            parameter["required"] = true.into();
        }
        if map {
            // `name[key]=value`
            parameter["style"] = "deepObject".into();
            parameter["explode"] = true.into();
        }
        if schema.get("deprecated").is_some() {
            parameter["deprecated"] = true.into();
        }
        parameter["schema"] = schema;
        self.out.push(described(parameter, &text));
    }
}

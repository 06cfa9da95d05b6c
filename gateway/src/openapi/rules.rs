//! Validation that a contract declares with `buf.validate` (<https://buf.build/bufbuild/protovalidate>, a published
//! interface), as constraints of JSON Schema. Rules are found by name, so any declaration of the interface will do.

use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, OneofDescriptor};
use prost_reflect::{EnumDescriptor, Value as Set};
use serde_json::{Map, Value, json};

use super::types::{Form, digits};

/// The address syntax of the HTML standard ("valid e-mail address"), which is what the rule means.
const EMAIL: &str = r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$";
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// The extensions, where the pool has them.
pub(super) struct Rules {
    field: Option<ExtensionDescriptor>,
    oneof: Option<ExtensionDescriptor>,
}

/// The rules of one field, or of the items, keys or values of one.
pub(super) struct FieldRules(DynamicMessage);

impl Rules {
    pub fn new(pool: &DescriptorPool) -> Self {
        Self {
            field: pool.get_extension_by_name("buf.validate.field"),
            oneof: pool.get_extension_by_name("buf.validate.oneof"),
        }
    }

    /// `None` where nothing is checked.
    pub fn of(&self, f: &FieldDescriptor) -> Option<FieldRules> {
        let (extension, options) = (self.field.as_ref()?, f.options());
        let rules = options.has_extension(extension).then(|| options.get_extension(extension).into_owned())?;
        let rules = FieldRules(rules.as_message()?.clone());
        // IGNORE_ALWAYS
        (rules.ignore() != 3).then_some(rules)
    }

    /// Must one member be set?
    pub fn requires(&self, oneof: &OneofDescriptor) -> bool {
        let Some(extension) = &self.oneof else { return false };
        let options = oneof.options();
        let rules = options.get_extension(extension);
        rules.as_message().is_some_and(|rules| flag(rules, "required"))
    }
}

fn flag(rules: &DynamicMessage, name: &str) -> bool {
    rules.get_field_by_name(name).and_then(|v| v.as_bool()) == Some(true)
}

impl FieldRules {
    fn ignore(&self) -> i32 {
        self.0.get_field_by_name("ignore").and_then(|v| v.as_enum_number()).unwrap_or_default()
    }

    /// The rules for the field's type, under the name of the type.
    fn typed(&self) -> Option<(String, DynamicMessage)> {
        let mut set = self.0.fields().filter(|(f, _)| f.containing_oneof().is_some());
        set.find_map(|(f, value)| Some((f.name().to_owned(), value.as_message()?.clone())))
    }

    /// Rules inside these: `items` of a list, `keys` and `values` of a map.
    pub fn inner(&self, name: &str) -> Option<FieldRules> {
        let (_, typed) = self.typed()?;
        typed.has_field_by_name(name).then(|| typed.get_field_by_name(name)?.as_message().cloned().map(FieldRules))?
    }

    /// Would the request be refused without the field? A field without presence reads as its zero value then.
    pub fn require(&self, f: &FieldDescriptor) -> bool {
        if flag(&self.0, "required") {
            return true;
        }
        // IGNORE_IF_ZERO_VALUE
        if f.supports_presence() || self.ignore() == 1 {
            return false;
        }
        let Some((_, typed)) = self.typed() else { return false };
        let inverted = is_inverted(&typed);
        typed.fields().any(|(rule, value)| !(inverted && is_bound(rule.name())) && refuses_zero(rule.name(), value))
    }

    /// Adds the constraints. What JSON Schema can't say is named in the description.
    pub fn apply(&self, kind: &Kind, form: Form, schema: &mut Map<String, Value>) {
        let Some((name, typed)) = self.typed() else { return };
        let mut unsaid: Vec<String> = Vec::new();
        let inverted = is_inverted(&typed);
        for (rule, value) in typed.fields() {
            let said = match name.as_str() {
                _ if inverted && is_bound(rule.name()) => false,
                "string" => string(rule.name(), value, schema),
                "bytes" => bytes(rule.name(), value, schema),
                "repeated" | "map" => container(rule.name(), value, schema),
                "enum" => enumeration(rule.name(), value, kind, schema),
                "bool" => value.as_bool().is_some_and(|v| add(schema, "const", v.into())),
                "float" | "double" => number(rule.name(), value, form, schema),
                name if name.ends_with("32") || name.ends_with("64") => number(rule.name(), value, form, schema),
                _ => false,
            };
            if !said {
                unsaid.push(format!("`{name}.{}`", rule.name()));
            }
        }
        unsaid.extend(self.0.has_field_by_name("cel").then(|| "`cel`".to_owned()));
        if !unsaid.is_empty() {
            note(schema, &format!("Also checked, beyond this schema: {}.", unsaid.join(", ")));
        }
    }
}

fn is_bound(rule: &str) -> bool {
    matches!(rule, "gt" | "gte" | "lt" | "lte")
}

/// A lower bound above the upper one asks for what is outside of both.
fn is_inverted(typed: &DynamicMessage) -> bool {
    let bound = |names: [&str; 2]| {
        let name = names.into_iter().find(|name| typed.has_field_by_name(name))?;
        json_of(typed.get_field_by_name(name)?.as_ref())?.as_f64()
    };
    matches!((bound(["gt", "gte"]), bound(["lt", "lte"])), (Some(least), Some(most)) if least > most)
}

fn add(schema: &mut Map<String, Value>, key: &str, value: Value) -> bool {
    schema.insert(key.to_owned(), value);
    true
}

/// A pattern beside one that is there already.
fn add_pattern(schema: &mut Map<String, Value>, pattern: String) -> bool {
    if !schema.contains_key("pattern") {
        return add(schema, "pattern", pattern.into());
    }
    let all = schema.entry("allOf").or_insert_with(|| json!([]));
    all.as_array_mut().map(|all| all.push(json!({ "pattern": pattern }))).is_some()
}

/// Adds to the description.
pub(super) fn note(schema: &mut Map<String, Value>, text: &str) {
    let before = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let text = if before.is_empty() { text.to_owned() } else { format!("{before}\n\n{text}") };
    schema.insert("description".into(), text.into());
}

fn json_of(value: &Set) -> Option<Value> {
    Some(match value {
        Set::Bool(v) => (*v).into(),
        Set::I32(v) | Set::EnumNumber(v) => (*v).into(),
        Set::I64(v) => (*v).into(),
        Set::U32(v) => (*v).into(),
        Set::U64(v) => (*v).into(),
        Set::F32(v) => (*v).into(),
        Set::F64(v) => (*v).into(),
        Set::String(v) => v.as_str().into(),
        Set::List(list) => list.iter().map(json_of).collect::<Option<Vec<_>>>()?.into(),
        _ => return None,
    })
}

/// Does the rule refuse what an unset field reads as: an empty text or list, zero, false?
fn refuses_zero(rule: &str, value: &Set) -> bool {
    let Some(value) = json_of(value) else { return false };
    let is_zero = |v: &Value| *v == "" || *v == false || v.as_f64() == Some(0.0);
    let list = value.as_array();
    let number = value.as_f64();
    match rule {
        "len" | "len_bytes" | "min_len" | "min_bytes" | "min_items" | "min_pairs" | "gte" => number > Some(0.0),
        "gt" => number >= Some(0.0),
        "lt" => number.is_some_and(|n| n <= 0.0),
        "lte" => number.is_some_and(|n| n < 0.0),
        "prefix" | "suffix" | "contains" | "const" => !is_zero(&value),
        "in" => list.is_some_and(|l| !l.iter().any(is_zero)),
        "not_in" => list.is_some_and(|l| l.iter().any(is_zero)),
        // The formats: none of them has an empty text, but a URI reference.
        _ => value == true && !matches!(rule, "unique" | "defined_only" | "finite" | "uri_ref" | "strict"),
    }
}

fn string(rule: &str, value: &Set, schema: &mut Map<String, Value>) -> bool {
    let Some(value) = json_of(value) else { return false };
    let text = value.as_str().unwrap_or_default();
    match (rule, value.as_u64()) {
        ("len", Some(n)) => add(schema, "minLength", n.into()) && add(schema, "maxLength", n.into()),
        ("min_len", Some(n)) => add(schema, "minLength", n.into()),
        ("max_len", Some(n)) => add(schema, "maxLength", n.into()),
        // A character has one to four bytes, so these are necessary and not sufficient.
        ("min_bytes" | "max_bytes" | "len_bytes", Some(n)) => {
            if rule != "max_bytes" {
                add(schema, "minLength", n.div_ceil(4).into());
            }
            if rule != "min_bytes" {
                add(schema, "maxLength", n.into());
            }
            let what = match rule {
                "min_bytes" => "At least",
                "max_bytes" => "At most",
                _ => "Exactly",
            };
            note(schema, &format!("{what} {n} bytes of UTF-8."));
            true
        }
        ("const", _) => add(schema, "const", value),
        ("in", _) => add(schema, "enum", value),
        ("not_in", _) => add(schema, "not", json!({ "enum": value })),
        ("pattern", _) => add_pattern(schema, text.to_owned()),
        ("prefix", _) => add_pattern(schema, format!("^{}", escape(text))),
        ("suffix", _) => add_pattern(schema, format!("{}$", escape(text))),
        ("contains", _) => add_pattern(schema, escape(text)),
        // Not `format: email`, which is RFC 5321: the HTML standard takes more on purpose, such as `.a@b`.
        ("email", _) if value == true => add_pattern(schema, EMAIL.into()),
        ("uuid", _) if value == true => add(schema, "format", "uuid".into()) && add_pattern(schema, UUID.into()),
        ("tuuid", _) if value == true => add_pattern(schema, "^[0-9a-fA-F]{32}$".into()),
        ("hostname" | "ipv4" | "ipv6" | "uri", _) if value == true => add(schema, "format", rule.into()),
        ("uri_ref", _) if value == true => add(schema, "format", "uri-reference".into()),
        ("ip", _) if value == true => add(schema, "anyOf", json!([{ "format": "ipv4" }, { "format": "ipv6" }])),
        _ => value == false,
    }
}

/// Text that a pattern takes literally.
fn escape(text: &str) -> String {
    let special = |c: char| r"\^$.|?*+()[]{}/".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Lengths of bytes as lengths of their base64, which may be padded or not.
fn bytes(rule: &str, value: &Set, schema: &mut Map<String, Value>) -> bool {
    let Some(n) = value.as_u64() else { return false };
    let (unpadded, padded) = ((n * 4).div_ceil(3), n.div_ceil(3) * 4);
    match rule {
        "len" => add(schema, "minLength", unpadded.into()) && add(schema, "maxLength", padded.into()),
        "min_len" => add(schema, "minLength", unpadded.into()),
        "max_len" => add(schema, "maxLength", padded.into()),
        _ => false,
    }
}

fn container(rule: &str, value: &Set, schema: &mut Map<String, Value>) -> bool {
    let key = match rule {
        "min_items" => "minItems",
        "max_items" => "maxItems",
        "unique" => "uniqueItems",
        "min_pairs" => "minProperties",
        "max_pairs" => "maxProperties",
        // Where they stand, they say themselves.
        "items" | "keys" | "values" => return true,
        _ => return false,
    };
    json_of(value).is_some_and(|value| add(schema, key, value))
}

/// Values of an enum are known by name and by number.
fn enumeration(rule: &str, value: &Set, kind: &Kind, schema: &mut Map<String, Value>) -> bool {
    let Kind::Enum(e) = kind else { return false };
    let numbers: Vec<i32> = match value {
        Set::List(list) => list.iter().filter_map(Set::as_i32).collect(),
        one => one.as_i32().into_iter().collect(),
    };
    match rule {
        "const" | "in" => add(schema, "enum", both(e, |n| numbers.contains(&n))),
        "not_in" => add(schema, "not", json!({ "enum": both(e, |n| numbers.contains(&n)) })),
        "defined_only" if value.as_bool() == Some(true) => add(schema, "enum", both(e, |_| true)),
        _ => value.as_bool() == Some(false),
    }
}

fn both(e: &EnumDescriptor, chosen: impl Fn(i32) -> bool) -> Value {
    let values = e.values().filter(|v| chosen(v.number()));
    values.flat_map(|v| [Value::from(v.name()), v.number().into()]).collect()
}

fn number(rule: &str, value: &Set, form: Form, schema: &mut Map<String, Value>) -> bool {
    let Some(value) = json_of(value) else { return false };
    // Integers in a body may be quoted.
    let either = |v: &Value| match form {
        Form::Body if !v.is_f64() => vec![v.clone(), v.to_string().into()],
        _ => vec![v.clone()],
    };
    let listed = || value.as_array().into_iter().flatten().flat_map(either).collect::<Value>();
    match rule {
        "const" => add(schema, "enum", either(&value).into()),
        "in" => add(schema, "enum", listed()),
        "not_in" => add(schema, "not", json!({ "enum": listed() })),
        "gte" | "gt" => {
            if value.as_f64() >= Some(0.0)
                && let Some(format) = schema.get("format").and_then(Value::as_str)
                && schema.contains_key("pattern")
            {
                let pattern = digits(format, false);
                add(schema, "pattern", pattern.into());
            }
            bound(schema, if rule == "gt" { ["exclusiveMinimum", "minimum"] } else { ["minimum"; 2] }, value)
        }
        "lt" => bound(schema, ["exclusiveMaximum", "maximum"], value),
        "lte" => bound(schema, ["maximum"; 2], value),
        _ => value == false,
    }
}

/// Sets a bound in place of that of the type, in every branch that holds numbers.
fn bound(schema: &mut Map<String, Value>, [key, instead_of]: [&str; 2], value: Value) -> bool {
    schema.remove(instead_of);
    add(schema, key, value)
}

//! Validation as the contract declares it with `buf.validate`, and debug prints that leave secrets out.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use heck::ToSnakeCase;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};

/// Rust source: `impl Validate` for every message of our packages and `impl Debug` for those with secrets.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let mut source = String::new();
    for message in our_messages(pool) {
        validator(&mut source, pool, &message)
            .with_context(|| format!("the validation rules of {}", message.full_name()))?;
        if has_secrets(pool, &message)? {
            redacted_debug(&mut source, pool, &message)?;
        }
    }
    Ok(source)
}

/// Full names of the messages that have a field marked secret.
pub fn messages_with_secrets(pool: &DescriptorPool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for message in our_messages(pool) {
        if has_secrets(pool, &message)? {
            names.push(message.full_name().to_owned());
        }
    }
    Ok(names)
}

fn our_messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> {
    pool.all_messages().filter(|message| message.package_name().starts_with("rialto.") && !message.is_map_entry())
}

fn validator(source: &mut String, pool: &DescriptorPool, message: &MessageDescriptor) -> Result<()> {
    let mut body = String::new();
    for field in message.fields().filter(|field| real_oneof(field).is_none()) {
        let access = format!("self.{}", rust_field(&field));
        field_checks(&mut body, pool, &field, &access).with_context(|| field.name().to_owned())?;
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        oneof_checks(&mut body, pool, message, &oneof).with_context(|| oneof.name().to_owned())?;
    }
    let out = if body.is_empty() { "_out" } else { "out" };
    writeln!(source, "impl Validate for {} {{", rust_type(message))?;
    writeln!(source, "    fn validate(&self, {out}: &mut Violations) {{\n{body}    }}\n}}")?;
    Ok(())
}

/// Checks of a field that is not in a oneof. `access` is the Rust expression of the field.
fn field_checks(body: &mut String, pool: &DescriptorPool, field: &FieldDescriptor, access: &str) -> Result<()> {
    let rules = rules(pool, field)?;
    let name = field.name();
    if field.is_map() {
        ensure!(
            rules.is_none() && is_map_of_text(field),
            "rules of maps, and maps of anything but text, are not implemented: add them to build/validators.rs"
        );
        writeln!(
            body,
            "        for (key, value) in &{access} {{ \
                 out.no_nul(Field({name:?}), key); out.no_nul(Field({name:?}), value); }}"
        )?;
        return Ok(());
    }
    if field.is_list() {
        list_checks(body, field, access, rules.as_ref())?;
    } else if let Kind::Message(inner) = field.kind() {
        for (rule, value) in rules.iter().flat_map(DynamicMessage::fields) {
            match (rule.name(), value.as_bool()) {
                ("required", Some(true)) => writeln!(body, "        out.required({name:?}, {access}.is_some());")?,
                (other, _) => bail!("the rule {other} of a message is not enforced: add it to build/validators.rs"),
            }
        }
        if is_ours(&inner) {
            writeln!(body, "        if let Some(value) = &{access} {{ out.nested({name:?}, value); }}")?;
        }
    } else {
        let checks = value_checks(field, rules.as_ref(), name_argument(field, None).as_str())?;
        let (by_ref, copied) = (format!("&{access}"), access.to_owned());
        let expression = if matches!(field.kind(), Kind::String | Kind::Bytes) { by_ref } else { copied };
        match (checks.is_empty(), field.supports_presence()) {
            (true, _) => {}
            (false, true) => writeln!(body, "        if let Some(value) = {expression} {{ {checks} }}")?,
            (false, false) => writeln!(body, "        {{ let value = {expression}; {checks} }}")?,
        }
    }
    Ok(())
}

fn list_checks(body: &mut String, field: &FieldDescriptor, access: &str, rules: Option<&DynamicMessage>) -> Result<()> {
    let name = field.name();
    let mut items = None;
    if let Some(rules) = rules {
        let repeated = typed_rules(rules, "repeated")?;
        for (rule, value) in repeated.fields() {
            match rule.name() {
                "min_items" => writeln!(body, "        out.min_items({name:?}, {access}.len(), {});", number(value)?)?,
                "max_items" => writeln!(body, "        out.max_items({name:?}, {access}.len(), {});", number(value)?)?,
                "items" => items = value.as_message().cloned(),
                other => bail!("the rule repeated.{other} is not enforced: add it to build/validators.rs"),
            }
        }
    }
    match field.kind() {
        Kind::Message(inner) if is_ours(&inner) => {
            ensure!(items.is_none(), "rules of repeated messages are not implemented: add them to build/validators.rs");
            writeln!(
                body,
                "        for (index, value) in {access}.iter().enumerate() {{ out.nested_item({name:?}, index, value); }}"
            )?;
        }
        _ => {
            let checks = value_checks(field, items.as_ref(), name_argument(field, Some("index")).as_str())?;
            if !checks.is_empty() {
                writeln!(body, "        for (index, value) in {access}.iter().enumerate() {{ {checks} }}")?;
            }
        }
    }
    Ok(())
}

fn oneof_checks(
    body: &mut String,
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    oneof: &OneofDescriptor,
) -> Result<()> {
    let extension = pool.get_extension_by_name("buf.validate.oneof").context("validate.proto is missing")?;
    let options = oneof.options();
    let options = options.get_extension(&extension);
    let options = options.as_message().context("is not a message")?;
    for (rule, value) in options.fields() {
        match (rule.name(), value.as_bool()) {
            ("required", Some(required)) => {
                if required {
                    writeln!(body, "        out.required_one({:?}, self.{}.is_some());", oneof.name(), oneof.name())?;
                }
            }
            (other, _) => bail!("the rule oneof.{other} is not enforced: add it to build/validators.rs"),
        }
    }

    let module = rust_type(message);
    let (parent, name) = module.rsplit_once("::").context("a message without a package")?;
    let enumeration = format!("{parent}::{}::{}", name.to_snake_case(), camel(oneof.name()));
    let mut arms = String::new();
    for field in oneof.fields() {
        let rules = rules(pool, &field)?;
        let checks = match field.kind() {
            Kind::Message(inner) if is_ours(&inner) => {
                ensure!(
                    rules.is_none(),
                    "rules of message fields are not implemented: add them to build/validators.rs"
                );
                format!("out.nested({:?}, value);", field.name())
            }
            Kind::Message(_) => String::new(),
            Kind::String | Kind::Bytes => value_checks(&field, rules.as_ref(), &name_argument(&field, None))?,
            _ => value_checks(&field, rules.as_ref(), &name_argument(&field, None))?.replace("value", "*value"),
        };
        if !checks.is_empty() {
            write!(arms, "Some({enumeration}::{}(value)) => {{ {checks} }} ", camel(field.name()))?;
        }
    }
    if !arms.is_empty() {
        writeln!(body, "        match &self.{} {{ {arms} _ => {{}} }}", oneof.name())?;
    }
    Ok(())
}

/// Checks of one scalar that stands in the variable `value`.
fn value_checks(field: &FieldDescriptor, rules: Option<&DynamicMessage>, name: &str) -> Result<String> {
    let mut checks = String::new();
    let kind = match field.kind() {
        Kind::String => {
            // Postgres text can't hold U+0000, and no text needs it.
            write!(checks, "out.no_nul({name}, value); ")?;
            "string"
        }
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Bytes => "bytes",
        Kind::Enum(_) => "enum",
        _ => {
            ensure!(rules.is_none(), "rules of this type are not implemented: add them to build/validators.rs");
            return Ok(checks);
        }
    };
    let Some(rules) = rules else { return Ok(checks) };
    for (rule, value) in typed_rules(rules, kind)?.fields() {
        let check = match (kind, rule.name()) {
            ("string", "min_len" | "max_len" | "max_bytes") => {
                format!("out.{}({name}, value, {}); ", rule.name(), number(value)?)
            }
            ("string", "email" | "uuid") if value.as_bool() == Some(true) => {
                format!("out.{}({name}, value); ", rule.name())
            }
            ("bytes", "len") => format!("out.len({name}, value, {}); ", number(value)?),
            ("bytes", "min_len" | "max_len") => {
                format!("out.{}_bytes({name}, value, {}); ", rule.name(), number(value)?)
            }
            ("int32" | "int64" | "uint32", rule @ ("gte" | "lte")) => {
                format!("out.{rule}({name}, i64::from(value), {}); ", number(value)?)
            }
            ("enum", "defined_only") if value.as_bool() == Some(true) => {
                format!("out.defined_only({name}, {}::try_from(value).is_ok()); ", enum_type(field)?)
            }
            (_, other) => bail!("the rule {kind}.{other} is not enforced: add it to build/validators.rs"),
        };
        checks += &check;
    }
    Ok(checks)
}

/// The rules of a field, when it has any.
fn rules(pool: &DescriptorPool, field: &FieldDescriptor) -> Result<Option<DynamicMessage>> {
    let extension = pool.get_extension_by_name("buf.validate.field").context("validate.proto is missing")?;
    let options = field.options();
    Ok(options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned()).flatten())
}

/// The rules for one type out of `FieldRules`; rules for another type are a mistake in the contract.
fn typed_rules(rules: &DynamicMessage, kind: &str) -> Result<DynamicMessage> {
    let mut found = None;
    for (rule, value) in rules.fields() {
        ensure!(rule.name() == kind, "rules for {} on a field of type {kind}", rule.name());
        found = value.as_message().cloned();
    }
    found.with_context(|| format!("no rules for {kind}"))
}

fn number(value: &prost_reflect::Value) -> Result<i64> {
    let unsigned = value.as_u64().or(value.as_u32().map(u64::from)).map(i64::try_from).transpose()?;
    unsigned.or(value.as_i64()).or(value.as_i32().map(i64::from)).context("a limit that is not a number")
}

fn name_argument(field: &FieldDescriptor, index: Option<&str>) -> String {
    match index {
        Some(index) => format!("Item({:?}, {index})", field.name()),
        None => format!("Field({:?})", field.name()),
    }
}

fn redacted_debug(source: &mut String, pool: &DescriptorPool, message: &MessageDescriptor) -> Result<()> {
    writeln!(source, "impl std::fmt::Debug for {} {{", rust_type(message))?;
    writeln!(source, "    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{")?;
    write!(source, "        f.debug_struct({:?})", message.name())?;
    ensure!(message.oneofs().all(|oneof| oneof.is_synthetic()), "{}: secrets beside a oneof", message.full_name());
    for field in message.fields() {
        let (name, value) = (field.name(), rust_field(&field));
        if is_secret(pool, &field)? {
            write!(source, ".field({name:?}, &format_args!(\"[redacted]\"))")?;
        } else {
            write!(source, ".field({name:?}, &self.{value})")?;
        }
    }
    writeln!(source, ".finish()\n    }}\n}}")?;
    Ok(())
}

fn has_secrets(pool: &DescriptorPool, message: &MessageDescriptor) -> Result<bool> {
    for field in message.fields() {
        if is_secret(pool, &field)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_secret(pool: &DescriptorPool, field: &FieldDescriptor) -> Result<bool> {
    let extension = pool.get_extension_by_name("rialto.policy.v1.secret").context("policy.proto is missing")?;
    Ok(field.options().get_extension(&extension).as_bool() == Some(true))
}

fn real_oneof(field: &FieldDescriptor) -> Option<OneofDescriptor> {
    field.containing_oneof().filter(|oneof| !oneof.is_synthetic() && field.cardinality() != Cardinality::Repeated)
}

fn is_map_of_text(field: &FieldDescriptor) -> bool {
    let Kind::Message(entry) = field.kind() else { return false };
    entry.fields().all(|side| matches!(side.kind(), Kind::String))
}

fn is_ours(message: &MessageDescriptor) -> bool {
    message.package_name().starts_with("rialto.")
}

/// `rialto.auth.v1.Account` → `crate::proto::rialto::auth::v1::Account`; a nested message lives in its parent's module.
fn rust_type(message: &MessageDescriptor) -> String {
    let parent = match message.parent_message() {
        Some(parent) => {
            let path = rust_type(&parent);
            let (module, name) = path.rsplit_once("::").unwrap_or(("crate", &path));
            format!("{module}::{}", name.to_snake_case())
        }
        None => format!("crate::proto::{}", message.package_name().replace('.', "::")),
    };
    format!("{parent}::{}", camel(message.name()))
}

/// `rialto.policy.v1.Role` → `crate::proto::rialto::policy::v1::Role`.
fn enum_type(field: &FieldDescriptor) -> Result<String> {
    let Kind::Enum(inner) = field.kind() else { bail!("{} is no enum", field.full_name()) };
    ensure!(
        inner.parent_message().is_none(),
        "rules of nested enums are not implemented: add them to build/validators.rs"
    );
    Ok(format!("crate::proto::{}::{}", inner.package_name().replace('.', "::"), camel(inner.name())))
}

fn rust_field(field: &FieldDescriptor) -> String {
    match field.name() {
        keyword @ ("type" | "match" | "ref" | "move" | "use" | "in" | "where" | "for") => format!("r#{keyword}"),
        name => name.to_owned(),
    }
}

fn camel(name: &str) -> String {
    heck::ToUpperCamelCase::to_upper_camel_case(name)
}

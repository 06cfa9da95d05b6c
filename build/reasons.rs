//! The table of error reasons: what `rialto.error.v1.info` says of each.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use prost_reflect::DescriptorPool;

/// Rust source of `REASONS`, sorted by the enum's number.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let reasons = pool.get_enum_by_name("rialto.error.v1.Reason").context("reason.proto is missing")?;
    let extension = pool.get_extension_by_name("rialto.error.v1.info").context("reason.proto lacks its option")?;
    let mut values: Vec<_> = reasons.values().filter(|value| value.number() != 0).collect();
    values.sort_by_key(|value| value.number());

    let mut source = String::from("static REASONS: &[ReasonInfo] = &[\n");
    for value in values {
        let options = value.options();
        let info = options.get_extension(&extension);
        let info = info.as_message().context("is not a message")?;
        let number = |field: &str| info.get_field_by_name(field).and_then(|value| value.as_i32()).unwrap_or_default();
        let (grpc_code, http_status, legacy_code) = (number("grpc_code"), number("http_status"), number("legacy_code"));
        ensure!((1..=16).contains(&grpc_code), "{} has no gRPC code", value.name());
        ensure!((400..600).contains(&http_status), "{} has no HTTP status", value.name());
        ensure!(legacy_code > 0, "{} has no code for older clients", value.name());
        let name = value.name().strip_prefix("REASON_").context("a reason without its prefix")?;
        writeln!(
            source,
            "    ReasonInfo {{ number: {}, name: {name:?}, grpc_code: {grpc_code}, http_status: {http_status}, legacy_code: {legacy_code} }},",
            value.number()
        )?;
    }
    source += "];\n";
    Ok(source)
}

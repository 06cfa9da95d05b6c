//! Between Rust's types and protobuf's, where every domain needs it.

use chrono::{DateTime, Utc};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::kernel::error::Error;

/// A time.
pub fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default() }
}

/// A time of a request, in microseconds, which Postgres keeps. Not one beyond the years 1 to 9999: protobuf calls it no valid
/// time, and JSON has no form for it.
pub fn time(field: &str, at: Timestamp) -> Result<DateTime<Utc>, Error> {
    let nanos = u32::try_from(at.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    nanos
        .and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos / 1000 * 1000))
        .filter(|time| (-62_135_596_800..253_402_300_800).contains(&time.timestamp()))
        .ok_or_else(|| Error::invalid_field(field, "is not a time"))
}

/// An id that the contract has validated already.
pub fn id(field: &str, value: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(value).map_err(|_| Error::invalid_field(field, "must be a UUID"))
}

/// The ids of a list, whose field is named with the place of the one that is none.
pub fn ids(field: &str, values: &[String]) -> Result<Vec<Uuid>, Error> {
    values.iter().enumerate().map(|(index, value)| id(&format!("{field}[{index}]"), value)).collect()
}

/// The fields of a JSON object; none of anything else.
pub fn to_struct(json: Json) -> Struct {
    match json {
        Json::Object(fields) => {
            Struct { fields: fields.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
        }
        _ => Struct::default(),
    }
}

fn to_value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(to_value).collect() }),
        Json::Object(_) => Kind::StructValue(to_struct(json)),
    };
    Value { kind: Some(kind) }
}

/// A JSON object. It is as deep as prost lets a message be.
pub fn from_struct(fields: Struct) -> Json {
    Json::Object(fields.fields.into_iter().map(|(name, value)| (name, from_value(value))).collect())
}

fn from_value(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        // A whole number is one again: JSON knows no difference, serde does.
        #[allow(clippy::cast_possible_truncation, reason = "checked")]
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9e15 => Json::from(value as i64),
        // Neither infinite nor a number is no JSON.
        Some(Kind::NumberValue(value)) => Json::from(value),
        Some(Kind::StringValue(value)) => Json::String(value),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(from_value).collect()),
        Some(Kind::StructValue(fields)) => from_struct(fields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_what_protobuf_calls_one() {
        let at = |seconds, nanos| time("at", Timestamp { seconds, nanos }).map(timestamp).ok();
        assert_eq!(at(1, 1_999), Some(Timestamp { seconds: 1, nanos: 1_000 }));
        for (seconds, nanos) in [(-62_135_596_800, 0), (253_402_300_799, 999_999_000)] {
            assert_eq!(at(seconds, nanos), Some(Timestamp { seconds, nanos }));
        }
        for (seconds, nanos) in
            [(-62_135_596_801, 0), (253_402_300_800, 0), (i64::MIN, 0), (i64::MAX, 0), (59, -1), (59, 1_000_000_000)]
        {
            assert_eq!(at(seconds, nanos), None);
        }
    }

    #[test]
    fn json_comes_back_from_a_struct_as_it_was() {
        let json = serde_json::json!({ "a": [1, -7, 0.5, "x", null, true, { "b": {} }], "timeout": 300_000 });
        assert_eq!(from_struct(to_struct(json.clone())), json);
        let nan = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
        assert_eq!(from_value(nan), Json::Null);
        assert_eq!(to_struct(Json::from(1)), Struct::default());
    }
}

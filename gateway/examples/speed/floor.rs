//! The floor: the structs that somebody would write by hand for these messages, by serde_json.
//!
//! What is a string in JSON and needs no arithmetic stays one (timestamp, base64): less work than the gateway has, which
//! validates and converts them. 64-bit integers are parsed, because a program computes with them.

use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    id: String,
    title: String,
    #[serde(with = "text")]
    revision: i64,
    quantity: i32,
    active: bool,
    score: f64,
    kind: Kind,
    tags: Vec<String>,
    counts: Vec<Text>,
    created_at: String,
    digest: String,
    owner: Owner,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Owner {
    name: String,
    level: i32,
}

#[derive(Deserialize, Serialize)]
enum Kind {
    #[serde(rename = "KIND_UNSPECIFIED")]
    Unspecified,
    #[serde(rename = "KIND_FIRST")]
    First,
    #[serde(rename = "KIND_SECOND")]
    Second,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ItemList {
    items: Vec<Item>,
}

#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct Text(#[serde(with = "text")] i64);

/// A 64-bit integer as a JSON string, without allocating.
mod text {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    struct Digits;

    impl Visitor<'_> for Digits {
        type Value = i64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an int64 as a string")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
            text.parse().map_err(E::custom)
        }
    }

    pub fn serialize<S: Serializer>(value: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(itoa::Buffer::new().format(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        from.deserialize_str(Digits)
    }
}

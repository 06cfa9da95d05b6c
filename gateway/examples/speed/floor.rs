//! The floor under the codec: the structs that somebody would write by hand for these messages, by serde_json, with the
//! same JSON text in and out. 64-bit integers are strings there and numbers here, because a program computes with them.

use serde::{Deserialize, Serialize};

/// An order. Its times are `String`s, or what a program can compute with.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order<Time> {
    id: String,
    #[serde(with = "digits")]
    number: i64,
    title: String,
    state: State,
    quantity: i32,
    price: f64,
    paid: bool,
    tags: Vec<String>,
    item_numbers: Vec<Digits>,
    created_at: Time,
    updated_at: Time,
    buyer: Buyer,
}

/// Many of them.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct List<Time> {
    orders: Vec<Order<Time>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Buyer {
    name: String,
    level: i32,
}

#[derive(Deserialize, Serialize)]
enum State {
    #[serde(rename = "STATE_UNSPECIFIED")]
    Unspecified,
    #[serde(rename = "STATE_PLACED")]
    Placed,
    #[serde(rename = "STATE_SHIPPED")]
    Shipped,
}

#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct Digits(#[serde(with = "digits")] i64);

/// A 64-bit integer as a JSON string, without allocating.
mod digits {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    struct Int64;

    impl Visitor<'_> for Int64 {
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
        from.deserialize_str(Int64)
    }
}

//! The schemas of the OpenAPI document, by a validator of JSON Schema.

mod support;

use std::sync::LazyLock;

use jsonschema::Validator;
use prost_reflect::DescriptorPool;
use rialto_gateway::codec::Codec;
use rialto_gateway::openapi::{Info, document};
use serde_json::{Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| support::pool(&["described.proto"]));
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let info = Info { always_print_fields: true, ..Info::default() };
    document(&POOL, &info, |_, _| {})
});

/// The validator of a component.
fn component(name: &str) -> Validator {
    validator(json!({ "$ref": format!("#/components/schemas/{name}") }))
}

fn validator(mut schema: Value) -> Validator {
    schema["components"] = DOCUMENT["components"].clone();
    jsonschema::draft202012::options().build(&schema).expect("a schema")
}

/// Requests that name one field, or a few.
const REQUESTS: &[&str] = &[
    r#"{}"#,
    r#"{"unknown":1}"#,
    r#"{"fInt32":1}"#,
    r#"{"fInt32":"1"}"#,
    r#"{"fInt32":"-7"}"#,
    r#"{"fInt32":"x"}"#,
    r#"{"fInt32":"01"}"#,
    r#"{"fInt32":1.0}"#,
    r#"{"fInt32":1.5}"#,
    r#"{"fInt32":2147483648}"#,
    r#"{"fInt32":true}"#,
    r#"{"fInt32":null}"#,
    r#"{"fUint32":-1}"#,
    r#"{"fUint32":"-1"}"#,
    r#"{"fInt64":"9223372036854775807"}"#,
    r#"{"fInt64":9223372036854775807}"#,
    r#"{"fInt64":9223372036854775808}"#,
    r#"{"fUint64":"18446744073709551615"}"#,
    r#"{"fUint64":"-1"}"#,
    r#"{"fDouble":1.5}"#,
    r#"{"fDouble":"1.5e3"}"#,
    r#"{"fDouble":"NaN"}"#,
    r#"{"fDouble":"-Infinity"}"#,
    r#"{"fDouble":"nan"}"#,
    r#"{"fDouble":""}"#,
    r#"{"fBool":true}"#,
    r#"{"fBool":"true"}"#,
    r#"{"fBool":0}"#,
    r#"{"fString":1}"#,
    r#"{"fString":""}"#,
    r#"{"fBytes":"AQID"}"#,
    r#"{"fBytes":"AQI="}"#,
    r#"{"fBytes":"AQI"}"#,
    r#"{"fBytes":"_-8"}"#,
    r#"{"fBytes":"/+8="}"#,
    r#"{"fBytes":"_+8"}"#,
    r#"{"fBytes":"A"}"#,
    r#"{"fBytes":"a b="}"#,
    r#"{"fEnum":"COLOR_CRIMSON"}"#,
    r#"{"fEnum":-2}"#,
    r#"{"fEnum":77}"#,
    r#"{"fEnum":"COLOR_NONE"}"#,
    r#"{"fMessage":{"fMessage":{"fInt32":1}}}"#,
    r#"{"fMessage":{"fMessage":{"f":1}}}"#,
    r#"{"fMessage":null}"#,
    r#"{"fMessage":[]}"#,
    r#"{"fNull":null}"#,
    r#"{"oInt32":null,"oString":"x"}"#,
    r#"{"rInt32":[1,"2"]}"#,
    r#"{"rInt32":[null]}"#,
    r#"{"rInt32":null}"#,
    r#"{"rInt32":1}"#,
    r#"{"rMessage":[{},{"fBool":true}]}"#,
    r#"{"mInt32":{"-1":"x"}}"#,
    r#"{"mInt32":{"x":"x"}}"#,
    r#"{"mInt32":{"1":null}}"#,
    r#"{"mInt64":{"9223372036854775807":"1"}}"#,
    r#"{"mUint32":{"-1":1}}"#,
    r#"{"mBool":{"true":"COLOR_RED"}}"#,
    r#"{"mBool":{"True":"COLOR_RED"}}"#,
    r#"{"mValue":{"a":null,"b":[1]}}"#,
    r#"{"cInt32":1}"#,
    r#"{"cInt32":1,"cString":"x"}"#,
    r#"{"cInt32":1,"cString":null}"#,
    r#"{"cInt32":null,"cString":null}"#,
    r#"{"cInt32":1,"cNull":null}"#,
    r#"{"cNull":null}"#,
    r#"{"wTimestamp":"2024-02-29T00:00:00Z"}"#,
    r#"{"wTimestamp":"2024-02-29T00:00:00.123456789+02:00"}"#,
    r#"{"wTimestamp":"2024-02-29t00:00:00z"}"#,
    r#"{"wTimestamp":"2024-02-29 00:00:00Z"}"#,
    r#"{"wTimestamp":"2024-02-29T00:00:00"}"#,
    r#"{"wTimestamp":1}"#,
    r#"{"wDuration":"-1.5s"}"#,
    r#"{"wDuration":"1.5"}"#,
    r#"{"wDuration":"1.s"}"#,
    r#"{"wMask":"aB.c,d"}"#,
    r#"{"wMask":""}"#,
    r#"{"wMask":"a_b"}"#,
    r#"{"wMask":"a,"}"#,
    r#"{"wStruct":{"a":[null,1,"x"]}}"#,
    r#"{"wStruct":[]}"#,
    r#"{"wValue":null}"#,
    r#"{"wValue":[{}]}"#,
    r#"{"wList":[1]}"#,
    r#"{"wList":{}}"#,
    r#"{"wAny":{"@type":"type.googleapis.com/test.kinds.Kinds","fInt32":1}}"#,
    r#"{"wAny":{}}"#,
    r#"{"wAny":{"fInt32":1}}"#,
    r#"{"wEmpty":{}}"#,
    r#"{"wEmpty":{"a":1}}"#,
    r#"{"wInt64":"5","wInt32":5,"wString":"x","wBool":true}"#,
    r#"{"wInt64":null}"#,
    r#"{"wString":5}"#,
    r#"{"aliasName":1}"#,
    r#"[]"#,
    r#"null"#,
];

#[test]
fn a_validator_takes_what_the_parser_takes_and_what_the_printer_prints() {
    let codec = Codec::new(&POOL).always_print_fields(true);
    let kinds = codec.message("test.kinds.Kinds").expect("message");
    // Both directions have the message, so the request's has a name of its own.
    let (input, output) = (component("test.kinds.Kinds.Input"), component("test.kinds.Kinds"));
    for text in REQUESTS {
        let wire = codec.json_to_wire(kinds, text.as_bytes());
        let request: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(input.is_valid(&request), wire.is_ok(), "{text}: {:?}", wire.err());
        let Ok(wire) = wire else { continue };
        let mut printed = Vec::new();
        codec.wire_to_json(kinds, &wire, &mut printed).expect("prints");
        let printed: Value = serde_json::from_slice(&printed).expect("JSON");
        if let Err(error) = output.validate(&printed) {
            panic!("{text} is printed as {printed}: {error} at {}", error.instance_path());
        }
    }
}

#[test]
fn a_response_has_what_is_always_printed() {
    let answer = component("test.described.Answer");
    assert!(answer.is_valid(&json!({ "count": "1", "text": "", "lines": [], "newer": 1 })));
    assert!(!answer.is_valid(&json!({ "count": "1", "text": "" })));
    assert!(!answer.is_valid(&json!({ "count": 1, "text": "", "lines": [] })));
}

#[test]
fn rules_are_constraints_of_requests() {
    let checked = component("test.described.Checked");
    let with = |key: &str, value: Value| {
        let mut request = json!({ "name": "abc" });
        request[key] = value;
        request
    };
    assert!(!checked.is_valid(&json!({})), "an empty name is too short");
    for (key, taken) in [
        ("name", json!("äöüß")),
        ("address", json!("a@b.c")),
        ("address", json!(null)),
        ("id", json!("01890A5D-ac96-774b-bcce-b302099a8057")),
        ("id", json!(null)),
        ("size", json!(9)),
        ("size", json!("9")),
        ("total", json!("-5")),
        ("odd", json!("3")),
        ("odd", json!(null)),
        ("outside", json!(11)),
        ("ratio", json!(0.5)),
        ("key", json!("AQID")),
        ("color", json!("COLOR_RED")),
        ("color", json!(1)),
        ("tags", json!(["a", "b"])),
        ("scores", json!({ "abc": 1 })),
        ("anything", json!("x")),
    ] {
        let request = with(key, taken);
        checked.validate(&request).unwrap_or_else(|error| panic!("{request}: {error}"));
    }
    for (key, refused) in [
        ("name", json!("äöüßx")),
        ("name", json!(null)),
        ("address", json!("a")),
        ("address", json!("a@bcdefghijklmnopqrstuvw")),
        ("id", json!("x")),
        ("code", json!("a")),
        ("code", json!("AB")),
        ("size", json!(10)),
        ("size", json!("-1")),
        ("total", json!(6)),
        ("odd", json!(2)),
        ("ratio", json!(0)),
        ("key", json!("AQIDBA==")),
        ("color", json!(77)),
        ("color", json!("COLOR_BLUE")),
        ("color", json!(-2)),
        ("tags", json!(["a", "b", "c"])),
        ("tags", json!(["a", "a"])),
        ("tags", json!([""])),
        ("scores", json!({ "abcd": 1 })),
        ("scores", json!({ "a": 0 })),
        ("scores", json!({ "a": 1, "b": 1, "c": 1 })),
    ] {
        let request = with(key, refused);
        assert!(!checked.is_valid(&request), "{request}");
    }
    let outside = &DOCUMENT["components"]["schemas"]["test.described.Checked"]["properties"]["outside"];
    assert_eq!(outside["description"], "Also checked, beyond this schema: `int32.lt`, `int32.gt`.");
}

#[test]
fn a_oneof_that_is_required_has_exactly_one_member() {
    let choice = component("test.described.Choice.Input");
    for (request, valid) in [
        (json!({ "text": "" }), true),
        (json!({ "thing": {}, "text": null }), true),
        (json!({}), false),
        (json!({ "text": null }), false),
        (json!({ "text": "", "thing": {} }), false),
    ] {
        assert_eq!(choice.is_valid(&request), valid, "{request}");
    }
}

#[test]
fn a_body_is_without_what_the_path_holds() {
    let body = &DOCUMENT["paths"]["/v1/things/{thing.id}"]["patch"]["requestBody"];
    assert_eq!(body["required"], true);
    let schema = &body["content"]["application/json"]["schema"];
    assert!(validator(schema.clone()).is_valid(&json!({ "title": "x" })));
    assert!(!validator(schema.clone()).is_valid(&json!({ "id": "x" })));
    assert_eq!(schema["properties"]["title"]["deprecated"], true);
}

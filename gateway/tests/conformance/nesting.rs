//! Deep nesting: 25 levels are ordinary, 200 are refused, and what is read can be printed.

use super::Subject;

/// `{"FIELD": OPEN…INNER…CLOSE}`, nested so many times.
fn nested(field: &str, open: &str, inner: &str, close: &str, times: usize) -> String {
    format!("{{\"{field}\":{}{inner}{}}}", open.repeat(times), close.repeat(times))
}

#[test]
fn well_known_json_nests_25_levels_but_not_200() {
    let subject = Subject::new("three");
    let any = r#"{"@type":"type.googleapis.com/google.protobuf.Any","value":"#;
    let duration = r#"{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s"}"#;
    for (field, open, inner, close) in [
        ("optionalStruct", r#"{"n":"#, r#"{"value":1}"#, "}"),
        ("optionalValue", r#"{"n":"#, r#"{"value":1}"#, "}"),
        ("optionalValue", "[", "1", "]"),
        ("optionalAny", any, duration, "}"),
        ("recursiveMessage", r#"{"recursiveMessage":"#, "{}", "}"),
    ] {
        let json = nested(field, open, inner, close, 25);
        let wire = subject.strict.json_to_wire(subject.id, json.as_bytes()).unwrap_or_else(|e| panic!("{field}: {e}"));
        assert_eq!(subject.print(&wire).as_deref(), Ok(json.as_str()), "{field}");
        assert!(subject.decode(&wire).is_ok(), "{field}");
        let json = nested(field, open, inner, close, 200);
        let error = subject.strict.json_to_wire(subject.id, json.as_bytes()).expect_err(field).to_string();
        assert!(error.ends_with("nested too deeply"), "{error}");
    }
}

#[test]
fn whatever_nesting_is_read_is_printed() {
    let subject = Subject::new("three");
    for (field, open, inner, close) in [
        ("optionalStruct", r#"{"n":"#, r#"{"value":1}"#, "}"),
        ("optionalValue", "[", "1", "]"),
        ("optionalValue", r#"{"n":["#, "1", "]}"),
        ("recursiveMessage", r#"{"recursiveMessage":"#, "{}", "}"),
        ("recursiveMessage", r#"{"recursiveMessage":"#, r#"{"optionalTimestamp":"1970-01-01T00:00:00Z"}"#, "}"),
        ("recursiveMessage", r#"{"recursiveMessage":"#, r#"{"mapInt32Int32":{"1":1}}"#, "}"),
        ("mapStringNestedMessage", r#"{"":{"corecursive":{"mapStringNestedMessage":"#, r#"{"":{}}"#, "}}}"),
        ("optionalAny", r#"{"@type":"type.googleapis.com/google.protobuf.Any","value":"#, "{}", "}"),
    ] {
        let deepest = (1..=120).rev().find_map(|times| {
            let json = nested(field, open, inner, close, times);
            subject.strict.json_to_wire(subject.id, json.as_bytes()).ok().map(|wire| (json, wire))
        });
        let (json, wire) = deepest.expect("some depth is read");
        assert_eq!(subject.print(&wire).as_deref(), Ok(json.as_str()), "{field}");
    }
}

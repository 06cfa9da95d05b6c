//! The bodies of failures, as [`crate::ErrorRenderer`] writes them.

use serde_json::{Map, Value, json};

use super::schema::reference;

/// Their schemas, by name.
pub(super) fn schemas() -> Vec<(String, Value)> {
    let details = DETAILS.map(|(name, fields)| {
        let mut properties = Map::new();
        properties.insert("@type".into(), json!({ "const": format!("type.googleapis.com/google.rpc.{name}") }));
        properties.extend(fields.iter().map(|(field, form)| ((*field).to_owned(), form.schema())));
        let required: Vec<Value> = properties.keys().cloned().map(Value::from).collect();
        json!({ "title": name, "type": "object", "required": required, "properties": properties })
    });
    let error = json!({
        "type": "object",
        "description": "Why a request failed.",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["code", "status", "reason", "message", "details"],
            "properties": members("code", "message"),
        } },
    });
    let mut problem = members("status", "detail");
    problem.extend([
        ("type".to_owned(), json!({ "type": "string", "format": "uri-reference", "examples": ["about:blank"] })),
        ("title".to_owned(), json!({ "type": "string", "description": "The reason phrase of the HTTP status." })),
    ]);
    let problem = json!({
        "type": "object",
        "description": "The same as RFC 9457 has it, for clients that accept `application/problem+json`.",
        "required": ["type", "title", "status", "detail", "grpcStatus", "reason", "details"],
        "properties": problem,
    });
    vec![
        ("Error".into(), error),
        ("ErrorDetail".into(), json!({ "description": "google/rpc/error_details.proto.", "oneOf": details })),
        ("Problem".into(), problem),
    ]
}

/// The members that both bodies have; two of them under names of their own.
fn members(code: &str, message: &str) -> Map<String, Value> {
    const CODES: [&str; 16] = [
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let grpc = if code == "status" { "grpcStatus" } else { "status" };
    Map::from_iter([
        (
            code.to_owned(),
            json!({ "type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status." }),
        ),
        (grpc.to_owned(), json!({ "type": "string", "enum": CODES, "description": "The gRPC code." })),
        ("reason".to_owned(), json!({ "type": "string", "description": "What went wrong, for programs." })),
        ("legacyCode".to_owned(), json!({ "type": "integer", "description": "The number that older clients know." })),
        (message.to_owned(), json!({ "type": "string", "description": "What went wrong, for people." })),
        ("details".to_owned(), json!({ "type": "array", "items": reference("ErrorDetail") })),
        ("requestId".to_owned(), json!({ "type": "string", "description": "Finds the request in the server's log." })),
    ])
}

/// The response of a failure.
pub(super) fn response() -> Value {
    json!({
        "description": "The request failed.",
        "headers": { "Retry-After": {
            "description": "Seconds after which to try again, where that makes sense.",
            "schema": { "type": "integer", "minimum": 1 },
        } },
        "content": {
            "application/json": { "schema": reference("Error") },
            "application/problem+json": { "schema": reference("Problem") },
        },
    })
}

enum Member {
    Text,
    Duration,
    Texts,
    /// Objects of texts.
    List(&'static [&'static str]),
}

/// The details that are shown, and their members.
const DETAILS: [(&str, &[(&str, Member)]); 8] = [
    ("ErrorInfo", &[("reason", Member::Text), ("domain", Member::Text), ("metadata", Member::Texts)]),
    ("RetryInfo", &[("retryDelay", Member::Duration)]),
    ("BadRequest", &[("fieldViolations", Member::List(&["field", "description", "reason"]))]),
    ("QuotaFailure", &[("violations", Member::List(&["subject", "description"]))]),
    ("PreconditionFailure", &[("violations", Member::List(&["type", "subject", "description"]))]),
    (
        "ResourceInfo",
        &[
            ("resourceType", Member::Text),
            ("resourceName", Member::Text),
            ("owner", Member::Text),
            ("description", Member::Text),
        ],
    ),
    ("Help", &[("links", Member::List(&["description", "url"]))]),
    ("LocalizedMessage", &[("locale", Member::Text), ("message", Member::Text)]),
];

impl Member {
    fn schema(&self) -> Value {
        let text = json!({ "type": "string" });
        match self {
            Self::Text => text,
            Self::Duration => json!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,9})?s$" }),
            Self::Texts => json!({ "type": "object", "additionalProperties": text }),
            Self::List(names) => {
                let properties: Map<String, Value> =
                    names.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
                // The reason of a violation is shown only where there is one.
                let required: Vec<&str> = names.iter().copied().filter(|name| *name != "reason").collect();
                json!({ "type": "array", "items": { "type": "object", "required": required, "properties": properties } })
            }
        }
    }
}

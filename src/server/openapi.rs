//! The OpenAPI and AsyncAPI documents: what the gateway makes of the contract, and what policy and reasons add.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Context;
use http::StatusCode;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use rialto_gateway::openapi::{self, Info};
use serde_json::{Map, Value, json};

use crate::domains::auth::{ACCESS, CSRF_TOKEN, REFRESH};
use crate::kernel::error::{Reason, ReasonInfo};
use crate::kernel::policy::{self, Access, PERMISSIONS, Rule};
use crate::kernel::rates::Rate;
use crate::proto;

const ABOUT: &str =
    "REST over the same port as gRPC and gRPC-Web. Every path below `/v1` is also there below `/api/v1` \
    and `/api`, for older clients.

Send the access token of a login as `Authorization: Bearer …`, or log in with `cookie: true` in a browser: then the \
    tokens are in cookies, and calls that change something carry the CSRF token as `x-csrf-token`. Requests are strict: an unknown field is an error. \
    JSON is ProtoJSON: 64-bit integers are strings in responses. `x-request-timeout` (seconds) bounds a call. \
    Streams are server-sent events; [/asyncapi.json](/asyncapi.json) describes them as AsyncAPI.

Whatever fails has the same body. Programs branch on `reason`, never on `message`; `legacyCode` is for clients of the \
    older REST backends.";

/// The document of the whole contract (OpenAPI 3.1).
pub fn document() -> anyhow::Result<Value> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS)?;
    let mut info = info();
    info.servers = vec!["/".into()];
    // Closed at first: the list is long.
    let reasons = table(&pool)?;
    info.description = format!("{ABOUT}\n\n<details><summary>Every reason</summary>\n\n{reasons}\n</details>");
    let mut document = openapi::document(&pool, &info, add_policy);
    let license = env!("CARGO_PKG_LICENSE");
    document["info"]["license"] = json!({ "name": license, "identifier": license });
    let components = document["components"].as_object_mut().context("a document without components")?;
    components.insert("securitySchemes".into(), security_schemes());
    components.insert("headers".into(), headers());
    if let Some(responses) = components.get_mut("responses").and_then(Value::as_object_mut) {
        add_responses(responses);
    }
    Ok(document)
}

/// The document of all streams (AsyncAPI 3.0).
pub fn async_document() -> anyhow::Result<Value> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS)?;
    let mut info = info();
    info.description = "The streams of the server. /openapi.json describes the rest.".into();
    let mut document = openapi::async_document(&pool, &info, |method, operation| {
        let Some(rule) = rule_of(method) else { return };
        if rule.access != Access::Public {
            let schemes =
                ["bearer", "cookie"].map(|name| json!({ "$ref": format!("#/components/securitySchemes/{name}") }));
            operation["security"] = json!(schemes);
        }
        add_names(rule, operation);
    });
    document["components"]["securitySchemes"] = async_security_schemes();
    Ok(document)
}

fn info() -> Info {
    Info {
        title: "Rialto".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        always_print_fields: true,
        // `build/validators.rs` lets no text hold U+0000.
        text_pattern: Some(r"^[^\u0000]*$".into()),
        ..Info::default()
    }
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "The `accessToken` of a login (`POST /v1/auth/login`).",
        },
        "cookie": {
            "type": "apiKey", "in": "cookie", "name": ACCESS,
            "description": "The cookie of a login with `cookie: true`, of pages of the server's own origin and of those \
                that `server.cors_origins` names. An `authorization` header goes before it.",
        },
        "refreshCookie": {
            "type": "apiKey", "in": "cookie", "name": REFRESH,
            "description": "The cookie that the same login sets for Refresh.",
        },
        "csrfToken": {
            "type": "apiKey", "in": "header", "name": CSRF_TOKEN.as_str(),
            "description": "The `csrfToken` of a login or of `GET /v1/auth/csrf`.",
        },
    })
}

/// By which credentials a method can be called: any one of these. What a cookie lets in changes something only with the CSRF
/// token.
fn security(rule: &Rule) -> Value {
    match rule.path {
        "/rialto.auth.v1.AuthService/Refresh" => json!([{}, { "refreshCookie": [], "csrfToken": [] }]),
        "/rialto.auth.v1.AuthService/GetCsrfToken" => json!([{}, { "cookie": [] }, { "refreshCookie": [] }]),
        _ if rule.access == Access::Public => json!([]),
        _ if rule.read_only => json!([{ "bearer": [] }, { "cookie": [] }]),
        _ => json!([{ "bearer": [] }, { "cookie": [], "csrfToken": [] }]),
    }
}

/// The same as AsyncAPI calls them. A WebSocket takes the CSRF token as a subprotocol.
fn async_security_schemes() -> Value {
    let mut schemes = security_schemes();
    schemes["cookie"]["type"] = "httpApiKey".into();
    let description = "The cookie of a login with `cookie: true`. A WebSocket that is not for reading alone offers the \
        subprotocol `csrf.<csrfToken>` besides.";
    schemes["cookie"]["description"] = description.into();
    json!({ "bearer": schemes["bearer"], "cookie": schemes["cookie"] })
}

fn rule_of(method: &MethodDescriptor) -> Option<&'static Rule> {
    policy::rule(&format!("/{}/{}", method.parent_service().full_name(), method.name()))
}

fn add_names(rule: &Rule, operation: &mut Value) {
    if let Access::Permission(permission) = rule.access {
        operation["x-permission"] = json!(permission);
    }
    operation["x-grpc-method"] = json!(rule.path.trim_start_matches('/'));
}

fn add_policy(method: &MethodDescriptor, operation: &mut Value) {
    let Some(rule) = rule_of(method) else { return };
    operation["security"] = security(rule);
    add_names(rule, operation);
    if let Access::Permission(name) = rule.access
        && let Some(permission) = PERMISSIONS.iter().find(|permission| permission.name == name)
    {
        let text = operation["description"].as_str().or(operation["summary"].as_str()).unwrap_or_default();
        let more = format!("Needs the permission `{name}`: {}", permission.description);
        operation["description"] = format!("{}\n\n{more}", text.trim()).trim().into();
    }
    if rule.idempotency_key {
        let parameter = json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "A call that is repeated with the same key within a day gets the first answer and has no \
                further effect; the answer has `idempotency-replayed: true` then.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$" },
        });
        match operation["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(parameter),
            None => operation["parameters"] = json!([parameter]),
        }
    }
    add_headers(rule, &mut operation["responses"]["200"]);
    add_errors(rule, operation);
}

fn add_headers(rule: &Rule, response: &mut Value) {
    let mut names = vec!["x-request-id", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
    if rule.idempotency_key {
        names.push("idempotency-replayed");
    }
    let reference = |name: &str| (name.to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
    response["headers"] = names.into_iter().map(reference).collect::<Map<_, _>>().into();
}

fn headers() -> Value {
    let header = |text: &str, schema: Value| json!({ "description": text, "schema": schema });
    let count = || json!({ "type": "integer", "minimum": 0 });
    json!({
        "x-request-id": header("Finds the request in the server's log; the client's own, if it sent one.",
            json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" })),
        "ratelimit-limit": header("Calls that may be made in a row.", count()),
        "ratelimit-remaining": header("How many of them are left.", count()),
        "ratelimit-reset": header("Seconds until all of them are there again.", count()),
        "idempotency-replayed": header("`true` where the answer is that of an earlier call.", json!({ "const": "true" })),
    })
}

/// The reasons that a call of the method may be refused for, by HTTP status. What a service refuses for reasons of its
/// own can't be read out of the contract, beyond the usual ones; `default` is there for it.
fn add_errors(rule: &Rule, operation: &mut Value) {
    let has_input = operation.get("parameters").is_some() || operation.get("requestBody").is_some();
    let mut reasons = vec![
        Reason::InvalidFormat,
        Reason::NotAcceptable,
        Reason::RateLimitExceeded,
        Reason::Internal,
        Reason::ServiceUnavailable,
        Reason::ConnectionError,
        Reason::Timeout,
    ];
    if has_input {
        reasons.extend([Reason::ValidationError, Reason::InvalidInput]);
    }
    if operation.get("requestBody").is_some() {
        reasons.extend([Reason::PayloadTooLarge, Reason::UnsupportedMediaType]);
    }
    match rule.access {
        Access::Public if rule.rate == Rate::Authentication => {
            reasons.extend([
                Reason::InvalidCredentials,
                Reason::AccountNotActive,
                Reason::AccountLocked,
                Reason::OriginNotAllowed,
            ]);
        }
        Access::Public => reasons.extend([
            Reason::Unauthorized,
            Reason::TokenInvalid,
            Reason::SessionRevoked,
            Reason::AccountNotActive,
            Reason::OriginNotAllowed,
            Reason::CsrfTokenInvalid,
        ]),
        _ => reasons.extend([
            Reason::Unauthorized,
            Reason::TokenExpired,
            Reason::TokenInvalid,
            Reason::SessionRevoked,
            Reason::AccountNotActive,
            Reason::OriginNotAllowed,
            Reason::CsrfTokenInvalid,
        ]),
    }
    if let Access::Permission(_) = rule.access {
        reasons.push(Reason::InsufficientPermissions);
        if has_input {
            reasons.push(Reason::ResourceNotFound);
        }
    }
    if !rule.read_only && !rule.streaming {
        reasons.extend([Reason::ResourceAlreadyExists, Reason::ResourceConflict, Reason::TransactionFailed]);
    }
    if rule.idempotency_key {
        reasons.push(Reason::IdempotencyKeyReused);
    }
    let mut by_status: BTreeMap<u16, Vec<&ReasonInfo>> = BTreeMap::new();
    for info in reasons.into_iter().map(Reason::info) {
        by_status.entry(info.http_status).or_default().push(info);
    }
    for (status, infos) in by_status {
        let list: Vec<String> = infos.iter().map(|info| format!("`{}` ({})", info.name, info.legacy_code)).collect();
        operation["responses"][status.to_string()] = json!({
            "$ref": format!("#/components/responses/{}", response_name(status)),
            "description": format!("{}.", list.join(", ")),
        });
    }
}

/// `TooManyRequests`
fn response_name(status: u16) -> String {
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    phrase.map_or_else(|| format!("Status{status}"), |phrase| phrase.replace([' ', '-', '\''], ""))
}

/// A response for each status that a reason has, as the gateway renders every failure.
fn add_responses(responses: &mut Map<String, Value>) {
    let Some(mut error) = responses.remove("Error") else { return };
    error["headers"]["x-request-id"] = json!({ "$ref": "#/components/headers/x-request-id" });
    let infos = Reason::all();
    let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for info in infos {
        by_status.entry(info.http_status).or_default().push(format!("`{}` ({})", info.name, info.legacy_code));
    }
    // A path that is described is not asked with another method.
    by_status.remove(&405);
    for (status, names) in by_status {
        let mut response = error.clone();
        response["description"] = format!("{}.", names.join(", ")).into();
        match status {
            401 => {
                response["headers"]["WWW-Authenticate"] =
                    json!({ "description": "`Bearer` (RFC 6750).", "schema": { "const": "Bearer" } });
            }
            429 => {
                for name in ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
                    response["headers"][name] = json!({ "$ref": format!("#/components/headers/{name}") });
                }
            }
            _ => {}
        }
        responses.insert(response_name(status), response);
    }
    responses.insert("Error".into(), error);
}

/// Every reason, as Markdown.
fn table(pool: &DescriptorPool) -> anyhow::Result<String> {
    let reasons = pool.get_enum_by_name("rialto.error.v1.Reason").context("reason.proto is missing")?;
    let file = reasons.parent_file();
    let locations = file.file_descriptor_proto().source_code_info.as_ref().map(|info| info.location.as_slice());
    let mut table = String::from("| reason | HTTP | legacyCode | |\n|---|---|---|---|\n");
    for value in reasons.values() {
        let Some(info) = value.name().strip_prefix("REASON_").and_then(ReasonInfo::by_name) else { continue };
        let location = locations.unwrap_or_default().iter().find(|location| location.path == value.path());
        let text = location.map(|location| location.leading_comments().trim().replace('\n', "")).unwrap_or_default();
        writeln!(table, "| `{}` | {} | {} | {text} |", info.name, info.http_status, info.legacy_code)?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_says_who_may_call_it_and_what_it_answers() -> anyhow::Result<()> {
        let document = document()?;
        let create = &document["paths"]["/v1/conversations"]["post"];
        assert_eq!(create["x-permission"], "conversations:create");
        assert_eq!(create["security"], json!([{ "bearer": [] }, { "cookie": [], "csrfToken": [] }]));
        let me = &document["paths"]["/v1/auth/me"]["get"];
        assert_eq!(me["security"], json!([{ "bearer": [] }, { "cookie": [] }]));
        let schemes = &document["components"]["securitySchemes"];
        assert_eq!(
            (&schemes["cookie"]["in"], &schemes["cookie"]["name"]),
            (&json!("cookie"), &json!("__Host-rialto-access"))
        );
        assert_eq!(
            (&schemes["csrfToken"]["in"], &schemes["csrfToken"]["name"]),
            (&json!("header"), &json!("x-csrf-token"))
        );
        assert!(create["parameters"].as_array().is_some_and(|all| all.iter().any(|p| p["name"] == "Idempotency-Key")));
        let conflict = create["responses"]["409"]["description"].as_str().unwrap_or_default();
        assert!(conflict.contains("`IDEMPOTENCY_KEY_REUSED` (3003)"), "{conflict}");
        let login = &document["paths"]["/v1/auth/login"]["post"];
        assert!(login["security"] == json!([]) && login["responses"]["429"].is_object());
        for reason in Reason::all() {
            assert!(document["info"]["description"].as_str().is_some_and(|text| text.contains(reason.name)));
        }
        Ok(())
    }

    #[test]
    fn the_rules_of_the_contract_are_those_of_the_schemas() -> anyhow::Result<()> {
        let schemas = document()?["components"]["schemas"].take();
        let register = &schemas["rialto.auth.v1.RegisterRequest"];
        assert_eq!(register["required"], json!(["email", "password", "displayName"]));
        assert_eq!(register["additionalProperties"], false);
        assert_eq!(register["properties"]["password"]["minLength"], 8);
        assert_eq!(register["properties"]["email"]["maxLength"], 254);
        let create = &schemas["rialto.messaging.v1.CreateConversationRequest"]["properties"];
        assert_eq!(
            (&create["memberIds"]["maxItems"], &create["memberIds"]["items"]["format"]),
            (&json!(255), &json!("uuid"))
        );
        assert_eq!(create["title"]["type"], json!(["string", "null"]));
        Ok(())
    }

    #[test]
    fn streams_are_channels_with_the_same_schemas() -> anyhow::Result<()> {
        let document = async_document()?;
        let events = &document["channels"]["MessagingService_Subscribe"];
        assert_eq!(events["address"], "/v1/conversations/{conversationId}/events");
        let operation = &document["operations"]["MessagingService_Subscribe"];
        assert_eq!((&operation["action"], &operation["x-permission"]), (&json!("send"), &json!("conversations:read")));
        assert!(document["components"]["schemas"]["rialto.messaging.v1.SubscribeResponse"].is_object());
        Ok(())
    }
}

//! Details of `google/rpc/error_details.proto` as JSON.

use serde_json::{Map, Value, json};
use tonic_types::ErrorDetail;

/// One detail, or nothing if it is not for clients.
pub(crate) fn json(detail: &ErrorDetail) -> Option<Value> {
    let (name, mut fields) = match detail {
        ErrorDetail::ErrorInfo(d) => {
            let mut metadata: Vec<_> = d.metadata.iter().collect();
            metadata.sort();
            let metadata: Map<String, Value> =
                metadata.into_iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
            ("ErrorInfo", json!({ "reason": d.reason, "domain": d.domain, "metadata": metadata }))
        }
        ErrorDetail::RetryInfo(d) => {
            let mut text = Vec::new();
            let delay = d.retry_delay.unwrap_or_default();
            let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
            crate::codec::write_duration(&mut text, seconds, delay.subsec_nanos() as i32).ok()?;
            ("RetryInfo", json!({ "retryDelay": String::from_utf8(text).ok()? }))
        }
        ErrorDetail::BadRequest(d) => {
            let violation = |v: &tonic_types::FieldViolation| {
                let mut shown = json!({ "field": v.field, "description": v.description });
                if let (false, Some(shown)) = (v.reason.is_empty(), shown.as_object_mut()) {
                    shown.insert("reason".into(), v.reason.as_str().into());
                }
                shown
            };
            let violations: Vec<Value> = d.field_violations.iter().map(violation).collect();
            ("BadRequest", json!({ "fieldViolations": violations }))
        }
        ErrorDetail::QuotaFailure(d) => {
            let violation =
                |v: &tonic_types::QuotaViolation| json!({ "subject": v.subject, "description": v.description });
            ("QuotaFailure", json!({ "violations": d.violations.iter().map(violation).collect::<Vec<_>>() }))
        }
        ErrorDetail::PreconditionFailure(d) => {
            let violation = |v: &tonic_types::PreconditionViolation| json!({ "type": v.r#type, "subject": v.subject, "description": v.description });
            ("PreconditionFailure", json!({ "violations": d.violations.iter().map(violation).collect::<Vec<_>>() }))
        }
        ErrorDetail::ResourceInfo(d) => (
            "ResourceInfo",
            json!({
                "resourceType": d.resource_type,
                "resourceName": d.resource_name,
                "owner": d.owner,
                "description": d.description,
            }),
        ),
        ErrorDetail::Help(d) => {
            let link = |l: &tonic_types::HelpLink| json!({ "description": l.description, "url": l.url });
            ("Help", json!({ "links": d.links.iter().map(link).collect::<Vec<_>>() }))
        }
        ErrorDetail::LocalizedMessage(d) => ("LocalizedMessage", json!({ "locale": d.locale, "message": d.message })),
        // DebugInfo and RequestInfo are the operator's; what is unknown is better not shown.
        _ => return None,
    };
    let mut shown = Map::new();
    shown.insert("@type".into(), format!("type.googleapis.com/google.rpc.{name}").into());
    shown.append(fields.as_object_mut()?);
    Some(Value::Object(shown))
}

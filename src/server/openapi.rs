//! The OpenAPI document: what the gateway makes of the contract, and what the policy adds.

use prost_reflect::{DescriptorPool, MethodDescriptor};
use rialto_gateway::openapi::{self, Info};
use serde_json::{Value, json};

use crate::kernel::policy::{self, Access};
use crate::proto;

/// The document of the whole contract (OpenAPI 3.1).
pub fn document() -> anyhow::Result<Value> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS)?;
    let info = Info { title: "Rialto".into(), version: env!("CARGO_PKG_VERSION").into(), ..Info::default() };
    let mut document = openapi::document(&pool, &info, add_policy);
    document["components"]["securitySchemes"] =
        json!({ "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } });
    Ok(document)
}

fn add_policy(method: &MethodDescriptor, operation: &mut Value) {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let Some(rule) = policy::rule(&path) else { return };
    if rule.access != Access::Public {
        operation["security"] = json!([{ "bearer": [] }]);
    }
    if let Access::Permission(permission) = rule.access {
        operation["x-permission"] = json!(permission);
    }
    operation["x-grpc-method"] = json!(path.trim_start_matches('/'));
}

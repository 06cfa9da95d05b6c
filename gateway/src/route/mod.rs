//! From `google.api.http` annotations to routes.

pub(crate) mod plan;
pub(crate) mod router;
pub(crate) mod rule;
pub(crate) mod template;

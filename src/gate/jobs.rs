//! Background work of the gate.

pub use super::idempotency::delete_old as delete_old_idempotency_keys;

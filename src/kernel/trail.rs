//! What a call did to what, as its method notes it on the way. The gate puts it into the audit log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tonic::Code;
use uuid::Uuid;

/// What a call acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An account.
    Account(Uuid),
    /// A role.
    Role(Uuid),
    /// A session.
    Session(Uuid),
    /// A device with keys for end-to-end encryption.
    Device(Uuid),
}

impl Target {
    /// Its kind, as the audit log has it, and its id.
    pub fn parts(self) -> (&'static str, Uuid) {
        match self {
            Self::Account(id) => ("account", id),
            Self::Role(id) => ("role", id),
            Self::Session(id) => ("session", id),
            Self::Device(id) => ("device", id),
        }
    }
}

/// What was done to one target.
#[derive(Clone, Debug)]
pub struct Deed {
    /// To what.
    pub target: Target,
    /// What mattered of it before; `None` where it was not there, or where nothing is noted.
    pub before: Option<Value>,
    /// What matters of it now.
    pub after: Option<Value>,
    /// How it ended, where that is not how the call ended.
    pub code: Option<Code>,
}

/// The notes of one call. Cheap to clone; a call that is not audited keeps none.
#[derive(Clone, Debug, Default)]
pub struct Trail(Option<Arc<Mutex<Vec<Deed>>>>);

impl Trail {
    /// One that keeps what is noted.
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    /// Notes what the call is about to act on, whatever comes of it.
    pub fn about(&self, target: Target) {
        if let Some(mut deeds) = self.deeds() {
            deeds.push(Deed { target, before: None, after: None, code: None });
        }
    }

    /// Notes what became of what was named last. No secrets: whoever reads the audit log sees it.
    pub fn changed(&self, before: Option<Value>, after: Option<Value>) {
        if let Some(deed) = self.deeds().as_mut().and_then(|deeds| deeds.last_mut()) {
            (deed.before, deed.after) = (before, after);
        }
    }

    /// Notes that what was named last failed, though the call does not.
    pub fn failed(&self, code: Code) {
        if let Some(deed) = self.deeds().as_mut().and_then(|deeds| deeds.last_mut()) {
            deed.code = Some(code);
        }
    }

    /// What was noted.
    pub fn take(&self) -> Vec<Deed> {
        self.deeds().map(|mut deeds| std::mem::take(&mut *deeds)).unwrap_or_default()
    }

    fn deeds(&self) -> Option<MutexGuard<'_, Vec<Deed>>> {
        self.0.as_ref().map(|deeds| deeds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

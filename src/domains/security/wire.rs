//! Between rows and the contract.

use uuid::Uuid;

use super::model;
use crate::kernel::config::Severity;
use crate::kernel::rates;
use crate::kernel::security::{Kind, kind_by_name};
use crate::kernel::wire::timestamp;
use crate::proto::rialto::security::v1::{self as proto, AlertState, Subject, subject};

/// What nobody in particular is called.
const EVERYONE: &str = "everyone";
/// The states of alerts.
const STATES: [(AlertState, &str); 3] = [
    (AlertState::Open, model::OPEN),
    (AlertState::Acknowledged, model::ACKNOWLEDGED),
    (AlertState::Resolved, model::RESOLVED),
];

/// A subject as it is stored.
pub fn stored_subject(subject: Option<rates::Subject>) -> String {
    match subject {
        None => EVERYONE.into(),
        Some(rates::Subject::Account(id)) => of_account(id),
        Some(rates::Subject::Named(hash)) => format!("email:{:032x}", u128::from_be_bytes(hash)),
        Some(rates::Subject::Address(address)) => of_address(&address.to_string()),
    }
}

/// An account, as a subject is stored.
pub fn of_account(id: Uuid) -> String {
    format!("account:{id}")
}

/// An address, as a subject is stored.
pub fn of_address(address: &str) -> String {
    format!("address:{address}")
}

/// A state as it is stored; `None` for any.
pub fn stored_state(state: AlertState) -> Option<&'static str> {
    STATES.iter().find(|(known, _)| *known == state).map(|(_, name)| *name)
}

/// The severity of this number.
pub fn severity(number: i16) -> Option<Severity> {
    [Severity::Low, Severity::Medium, Severity::High, Severity::Critical].into_iter().find(|s| *s as i16 == number)
}

fn subject(stored: &str) -> Subject {
    let subject = match stored.split_once(':') {
        Some(("account", id)) => Some(subject::Subject::AccountId(id.into())),
        Some(("email", hash)) => Some(subject::Subject::EmailHash(hash.into())),
        Some(("address", address)) => Some(subject::Subject::Address(address.into())),
        _ => None,
    };
    Subject { subject }
}

fn kind(stored: &str) -> i32 {
    let kind: Kind = kind_by_name(stored);
    kind.into()
}

fn id(id: Option<Uuid>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

impl From<&model::Event> for proto::Event {
    fn from(event: &model::Event) -> Self {
        Self {
            id: event.id.to_string(),
            kind: kind(&event.kind),
            subject: Some(subject(&event.subject)),
            address: event.address.clone(),
            at: Some(timestamp(event.at)),
            last_at: Some(timestamp(event.last_at)),
            count: event.count,
            user_agent: event.user_agent.clone(),
            method: event.method.clone(),
            detail: event.detail.clone(),
            actor_id: id(event.actor_id),
        }
    }
}

impl From<&model::Alert> for proto::Alert {
    fn from(alert: &model::Alert) -> Self {
        let state = STATES.iter().find(|(_, name)| *name == alert.state).map_or(AlertState::Unspecified, |(s, _)| *s);
        Self {
            id: alert.id.to_string(),
            kind: kind(&alert.kind),
            subject: Some(subject(&alert.subject)),
            severity: alert.severity.into(),
            state: state.into(),
            count: alert.count,
            first_seen_at: Some(timestamp(alert.first_seen_at)),
            last_seen_at: Some(timestamp(alert.last_seen_at)),
            acknowledged_by: id(alert.acknowledged_by),
            acknowledged_at: alert.acknowledged_at.map(timestamp),
            resolved_by: id(alert.resolved_by),
            resolved_at: alert.resolved_at.map(timestamp),
            note: alert.note.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_comes_back_as_it_was_stored() {
        let stored = |subject_: Option<rates::Subject>| subject(&stored_subject(subject_)).subject;
        let id = Uuid::from_u128(7);
        assert_eq!(stored(None), None);
        assert_eq!(stored(Some(rates::Subject::Account(id))), Some(subject::Subject::AccountId(id.to_string())));
        let hash = stored(Some(rates::Subject::Named([1; 16])));
        assert_eq!(hash, Some(subject::Subject::EmailHash("01".repeat(16))));
        let address = stored(Some(rates::Subject::Address("2001:db8::".parse().unwrap())));
        assert_eq!(address, Some(subject::Subject::Address("2001:db8::".into())));
    }

    #[test]
    fn severities_have_the_numbers_of_the_contract() {
        for number in 1..=4 {
            let name = severity(number).unwrap().name().to_uppercase();
            assert_eq!(proto::Severity::try_from(i32::from(number)).unwrap().as_str_name(), format!("SEVERITY_{name}"));
        }
        assert_eq!(severity(0), None);
    }
}

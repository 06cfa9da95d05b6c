//! Enforces the `buf.validate` rules of the contract. `build/validators.rs` writes the implementations of [`Validate`]
//! out of these checks.

use crate::kernel::error::{Error, Reason, Violation};

/// A message that knows its rules.
pub trait Validate {
    /// Adds what is wrong.
    fn validate(&self, out: &mut Violations);
}

/// What was found wrong so far, and where the check is.
#[derive(Default)]
pub struct Violations {
    path: Vec<Segment>,
    found: Vec<Violation>,
    /// How many of them are fields that are missing.
    missing: usize,
}

/// A step of a field's path.
#[derive(Clone, Copy)]
pub enum Segment {
    /// A field.
    Field(&'static str),
    /// An item of a repeated field.
    Item(&'static str, usize),
}
use Segment::{Field, Item};

/// Enough for a person to mend the request; a hostile one does not get an answer larger than itself.
const MAX_VIOLATIONS: usize = 20;

impl Violations {
    /// The error, when something was found.
    pub fn into_result(self) -> Result<(), Error> {
        if self.found.is_empty() {
            return Ok(());
        }
        let nothing_else = self.missing == self.found.len();
        let mut error = Error::invalid(self.found);
        if nothing_else {
            error.reason = Reason::MissingRequiredField;
        }
        Err(error)
    }

    fn nested(&mut self, field: &'static str, value: &impl Validate) {
        self.at(Field(field), value);
    }

    fn nested_item(&mut self, field: &'static str, index: usize, value: &impl Validate) {
        self.at(Item(field, index), value);
    }

    fn at(&mut self, segment: Segment, value: &impl Validate) {
        self.path.push(segment);
        value.validate(self);
        self.path.pop();
    }

    fn check(&mut self, segment: Segment, holds: bool, description: impl FnOnce() -> String) {
        if holds || self.found.len() >= MAX_VIOLATIONS {
            return;
        }
        let mut field = String::new();
        for segment in self.path.iter().chain([&segment]) {
            if !field.is_empty() {
                field.push('.');
            }
            match segment {
                Field(name) => field.push_str(name),
                Item(name, index) => field.push_str(&format!("{name}[{index}]")),
            }
        }
        self.found.push(Violation { field, description: description() });
    }

    fn required(&mut self, field: &'static str, is_set: bool) {
        let found = self.found.len();
        self.check(Field(field), is_set, || "must be set".into());
        self.missing += self.found.len() - found;
    }

    fn required_one(&mut self, oneof: &'static str, is_set: bool) {
        self.check(Field(oneof), is_set, || "one of its fields must be set".into());
    }

    fn min_items(&mut self, field: &'static str, items: usize, min: usize) {
        self.check(Field(field), items >= min, || match min {
            1 => "must not be empty".into(),
            _ => format!("must have at least {min} items"),
        });
    }

    fn max_items(&mut self, field: &'static str, items: usize, max: usize) {
        self.check(Field(field), items <= max, || format!("must have at most {max} items"));
    }

    fn no_nul(&mut self, at: Segment, value: &str) {
        self.check(at, !value.contains('\0'), || "must not contain U+0000".into());
    }

    fn min_len(&mut self, at: Segment, value: &str, min: usize) {
        let holds = value.len() >= min && value.chars().take(min).count() >= min;
        self.check(at, holds, || match min {
            1 => "must not be empty".into(),
            _ => format!("must have at least {min} characters"),
        });
    }

    fn max_len(&mut self, at: Segment, value: &str, max: usize) {
        let holds = value.len() <= max || value.chars().take(max + 1).count() <= max;
        self.check(at, holds, || format!("must have at most {max} characters"));
    }

    fn max_bytes(&mut self, at: Segment, value: &str, max: usize) {
        self.check(at, value.len() <= max, || format!("must have at most {max} bytes"));
    }

    fn len(&mut self, at: Segment, value: &[u8], len: usize) {
        self.check(at, value.len() == len, || format!("must have exactly {len} bytes"));
    }

    fn min_len_bytes(&mut self, at: Segment, value: &[u8], min: usize) {
        self.check(at, value.len() >= min, || match min {
            1 => "must not be empty".into(),
            _ => format!("must have at least {min} bytes"),
        });
    }

    fn max_len_bytes(&mut self, at: Segment, value: &[u8], max: usize) {
        self.check(at, value.len() <= max, || format!("must have at most {max} bytes"));
    }

    fn email(&mut self, at: Segment, value: &str) {
        self.check(at, is_email(value), || "must be an e-mail address".into());
    }

    fn uuid(&mut self, at: Segment, value: &str) {
        // Only the form with hyphens: one thing has one name.
        let holds = value.len() == 36 && uuid::Uuid::try_parse(value).is_ok();
        self.check(at, holds, || "must be a UUID".into());
    }

    fn defined_only(&mut self, at: Segment, is_defined: bool) {
        self.check(at, is_defined, || "must be one of the values of its enum".into());
    }

    fn gte(&mut self, at: Segment, value: i64, min: i64) {
        self.check(at, value >= min, || format!("must be at least {min}"));
    }

    fn lte(&mut self, at: Segment, value: i64, max: i64) {
        self.check(at, value <= max, || format!("must be at most {max}"));
    }
}

/// The address syntax of the HTML standard ("valid e-mail address"), which is what `buf.validate` means.
fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.rsplit_once('@') else { return false };
    let local_char = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !local.is_empty() && local.chars().all(local_char) && domain.split('.').all(label)
}

mod generated {
    #![allow(clippy::all, reason = "generated")]

    use super::Segment::{Field, Item};
    use super::{Validate, Violations};

    include!(concat!(env!("OUT_DIR"), "/validators.rs"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rialto::auth::v1::RegisterRequest;
    use crate::proto::rialto::messaging::v1::{
        ConnectRequest, CreateConversationRequest, ScheduleMessageRequest, SendMessageRequest, SubscribeRequest,
        connect_request, send_message_request,
    };

    fn reason(message: &impl Validate) -> Reason {
        let mut violations = Violations::default();
        message.validate(&mut violations);
        violations.into_result().unwrap_err().reason
    }

    fn faults(message: &impl Validate) -> Vec<String> {
        let mut violations = Violations::default();
        message.validate(&mut violations);
        violations.found.into_iter().map(|found| format!("{} {}", found.field, found.description)).collect()
    }

    #[test]
    fn every_fault_of_a_message_is_named() {
        let request = RegisterRequest { email: "a@".into(), password: "short".into(), display_name: "a\0b".into() };
        assert_eq!(
            faults(&request),
            [
                "email must be an e-mail address",
                "password must have at least 8 characters",
                "display_name must not contain U+0000"
            ]
        );
    }

    #[test]
    fn items_and_nested_messages_are_named_by_their_path() {
        let request = CreateConversationRequest { member_ids: vec!["x".into()], ..Default::default() };
        assert_eq!(faults(&request), ["member_ids[0] must be a UUID"]);

        let send = SendMessageRequest {
            conversation_id: "x".into(),
            client_message_id: "1".into(),
            content: Some(send_message_request::Content::Text("t".into())),
            ..Default::default()
        };
        let command = Some(connect_request::Command::Send(send));
        assert_eq!(faults(&ConnectRequest { command_id: 1, command }), ["send.conversation_id must be a UUID"]);
        assert_eq!(faults(&ConnectRequest::default()), ["command one of its fields must be set"]);
    }

    #[test]
    fn a_message_that_is_needed_is_missed() {
        let request = ScheduleMessageRequest {
            conversation_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            text: "t".into(),
            ..Default::default()
        };
        assert_eq!(faults(&request), ["send_at must be set"]);
        assert_eq!(reason(&request), Reason::MissingRequiredField);
        assert_eq!(reason(&ScheduleMessageRequest { text: String::new(), ..request.clone() }), Reason::ValidationError);
        assert!(faults(&ScheduleMessageRequest { send_at: Some(Default::default()), ..request }).is_empty());
    }

    #[test]
    fn lengths_count_characters_and_optional_fields_are_checked_when_set() {
        let eight =
            RegisterRequest { email: "a@b.c".into(), password: "ääääääää".into(), display_name: "x".into() };
        assert!(faults(&eight).is_empty());
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".to_owned();
        assert!(faults(&SubscribeRequest { conversation_id: id.clone(), ..Default::default() }).is_empty());
        let negative = SubscribeRequest { conversation_id: id, after_seq: Some(-1), ..Default::default() };
        assert_eq!(faults(&negative), ["after_seq must be at least 0"]);
    }

    #[test]
    fn a_debug_print_leaves_secrets_out() {
        let request = RegisterRequest { email: "a@b.c".into(), password: "hunter22".into(), ..Default::default() };
        let printed = format!("{request:?}");
        assert!(printed.contains("a@b.c") && !printed.contains("hunter22"), "{printed}");
    }
}

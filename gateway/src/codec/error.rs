//! What the codec refuses, with the JSON path at which it does.

use std::fmt;

use thiserror::Error;

use super::wire::WireError;

/// Why a value cannot be transcoded.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// The text is not JSON (RFC 8259).
    #[error("malformed JSON at byte {offset}: expected {expected}")]
    Syntax {
        /// Position in the text.
        offset: usize,
        /// What would have been right there.
        expected: &'static str,
    },
    /// The bytes are not UTF-8.
    #[error("not valid UTF-8")]
    Utf8,
    /// A value of the wrong type or form.
    #[error("expected {expected}, got {got}")]
    Expected {
        /// The type in the contract.
        expected: &'static str,
        /// The beginning of what was there.
        got: String,
    },
    /// The value does not fit its type.
    #[error("out of range for {kind}: {got}")]
    OutOfRange {
        /// The type in the contract.
        kind: &'static str,
        /// The beginning of what was there.
        got: String,
    },
    /// The message has no such field.
    #[error("unknown field")]
    UnknownField,
    /// The method takes no such query parameter.
    #[error("unknown query parameter")]
    UnknownParameter,
    /// The enum has no such value.
    #[error("unknown value {got} of enum {name}")]
    UnknownEnumValue {
        /// Full name of the enum.
        name: String,
        /// What was given.
        got: String,
    },
    /// The descriptors lack the type named by an `Any`.
    #[error("unknown type \"{0}\"")]
    UnknownType(String),
    /// A field or key appears twice.
    #[error("given more than once")]
    Duplicate,
    /// Two members of one oneof are set.
    #[error("another member of oneof \"{0}\" is already set")]
    OneofConflict(String),
    /// The field is also set by a part of the request that takes precedence (path, then body, then query).
    #[error("already given in another part of the request")]
    Bound,
    /// More than 100 levels.
    #[error("nested too deeply")]
    TooDeep,
    /// The message holds a value that has no JSON form.
    #[error("{0} has no JSON form")]
    Unprintable(&'static str),
    /// The protobuf bytes are malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A [`Problem`] and where it is.
#[derive(Clone, PartialEq)]
pub struct CodecError(Box<Located>);

#[derive(Clone, PartialEq)]
struct Located {
    problem: Problem,
    /// Innermost first: pushed while the error travels outwards, so that success pays nothing.
    path: Vec<Step>,
}

#[derive(Clone, PartialEq)]
enum Step {
    Name(String),
    Index(usize),
    Key(String),
}

pub(crate) type Result<T, E = CodecError> = std::result::Result<T, E>;

impl CodecError {
    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// Where, as in `items[3].price`; empty for the whole value.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in self.0.path.iter().rev() {
            match step {
                Step::Name(name) if path.is_empty() => path.push_str(name),
                Step::Name(name) => path.extend([".", name]),
                Step::Index(i) => path.push_str(&format!("[{i}]")),
                Step::Key(key) => path.push_str(&format!("[{key:?}]")),
            }
        }
        path
    }

    #[cold]
    pub(crate) fn at_field(mut self, name: &str) -> Self {
        self.0.path.push(Step::Name(clip(name)));
        self
    }

    #[cold]
    pub(crate) fn at_index(mut self, index: usize) -> Self {
        self.0.path.push(Step::Index(index));
        self
    }

    #[cold]
    pub(crate) fn at_key(mut self, key: &str) -> Self {
        self.0.path.push(Step::Key(clip(key)));
        self
    }
}

impl<P: Into<Problem>> From<P> for CodecError {
    #[cold]
    fn from(problem: P) -> Self {
        Self(Box::new(Located { problem: problem.into(), path: Vec::new() }))
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        if path.is_empty() { self.0.problem.fmt(f) } else { write!(f, "{path}: {}", self.0.problem) }
    }
}

impl fmt::Debug for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodecError({self})")
    }
}

impl std::error::Error for CodecError {}

/// The beginning of a client's text: enough to recognise, too little to flood a log.
pub(crate) fn clip(text: &str) -> String {
    const LIMIT: usize = 40;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl Problem {
    pub(crate) fn expected(expected: &'static str, got: &str) -> Self {
        Problem::Expected { expected, got: clip(got) }
    }

    pub(crate) fn out_of_range(kind: &'static str, got: &str) -> Self {
        Problem::OutOfRange { kind, got: clip(got) }
    }
}

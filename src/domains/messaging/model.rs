//! Rows and SQL of conversations, members and messages.

mod batch;
mod conversation;
pub mod event;
mod link;
mod message;
pub mod partitions;
mod reaction;
mod reading;
mod recipients;
pub mod retention;
mod scheduled;
pub mod search;
mod unread;

pub use batch::{Content, Encrypted, NewMessage, silenced, unavailable};
pub use conversation::{ADMIN, Conversation, DIRECT, GROUP, MEMBER, Member, OWNER, Place, Visible};
pub use link::JoinLink;
pub use message::{Ciphertext, From, Message, View};
pub use reaction::Reaction;
pub use scheduled::ScheduledMessage;
pub use unread::unread;

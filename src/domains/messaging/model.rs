//! Rows and SQL of conversations, members and messages.

mod batch;
mod conversation;
mod message;

pub use batch::NewMessage;
pub use conversation::{Conversation, Visible};
pub use message::Message;

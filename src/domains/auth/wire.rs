//! Between rows and the contract.

use super::model;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::auth::v1::Account;

impl From<&model::Account> for Account {
    fn from(account: &model::Account) -> Self {
        Self {
            id: account.id.to_string(),
            email: account.email.clone(),
            display_name: account.display_name.clone(),
            role: account.role().into(),
            created_at: Some(timestamp(account.created_at)),
        }
    }
}

//! Between rows and the contract.

use super::model::{Blocked, Profile};
use crate::domains::auth;
use crate::kernel::policy;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::auth::v1::AccountState;
use crate::proto::rialto::policy::v1::Role;
use crate::proto::rialto::users::v1::{Audience, BlockedUser, PrivacySettings, ProfileVisibility, PublicProfile, User};

impl Profile {
    /// As the caller may see it: everything, or what others see.
    pub fn to_user(&self, private: bool) -> User {
        let public = User {
            id: self.id.to_string(),
            handle: self.handle.clone().unwrap_or_default(),
            display_name: self.display_name.clone(),
            bio: self.bio.clone(),
            avatar_url: self.avatar_url.clone(),
            created_at: Some(timestamp(self.created_at)),
            ..Default::default()
        };
        if !private {
            return public;
        }
        User {
            locale: self.locale.clone(),
            time_zone: self.time_zone.clone(),
            privacy: Some(PrivacySettings {
                profile_visibility: visibility(&self.visibility).into(),
                messages_from: audience(&self.messages_from).into(),
                presence_to: audience(&self.presence_to).into(),
            }),
            email: self.email.clone(),
            role: policy::role_by_name(&self.role).into(),
            state: auth::state_by_name(&self.state).into(),
            etag: self.etag(),
            ..public
        }
    }
}

impl From<Profile> for PublicProfile {
    fn from(profile: Profile) -> Self {
        Self {
            handle: profile.handle.unwrap_or_default(),
            display_name: profile.display_name,
            bio: profile.bio,
            avatar_url: profile.avatar_url,
        }
    }
}

impl From<&Blocked> for BlockedUser {
    fn from(blocked: &Blocked) -> Self {
        Self {
            user_id: blocked.id.to_string(),
            blocked_at: Some(timestamp(blocked.created_at)),
            handle: blocked.handle.clone().unwrap_or_default(),
            display_name: blocked.display_name.clone().unwrap_or_default(),
            avatar_url: blocked.avatar_url.clone().unwrap_or_default(),
        }
    }
}

fn visibility(stored: &str) -> ProfileVisibility {
    match stored {
        "everyone" => ProfileVisibility::Everyone,
        "members" => ProfileVisibility::Members,
        _ => ProfileVisibility::Nobody,
    }
}

/// How a visibility is stored. Not set is the default.
pub fn stored_visibility(number: i32) -> Result<&'static str, &'static str> {
    match ProfileVisibility::try_from(number) {
        Ok(ProfileVisibility::Everyone) => Ok("everyone"),
        Ok(ProfileVisibility::Unspecified | ProfileVisibility::Members) => Ok("members"),
        Ok(ProfileVisibility::Nobody) => Ok("nobody"),
        Err(_) => Err("is not a visibility"),
    }
}

fn audience(stored: &str) -> Audience {
    match stored {
        "everyone" => Audience::Everyone,
        "contacts" => Audience::Contacts,
        _ => Audience::Nobody,
    }
}

/// How an audience is stored. Not set is the default.
pub fn stored_audience(number: i32) -> Result<&'static str, &'static str> {
    match Audience::try_from(number) {
        Ok(Audience::Unspecified | Audience::Everyone) => Ok("everyone"),
        Ok(Audience::Contacts) => Ok("contacts"),
        Ok(Audience::Nobody) => Ok("nobody"),
        Err(_) => Err("is not an audience"),
    }
}

/// How a role is stored; `None` for not set.
pub fn stored_role(number: i32) -> Result<Option<&'static str>, &'static str> {
    match Role::try_from(number) {
        Ok(Role::Unspecified) => Ok(None),
        Ok(role) => Ok(Some(policy::role_name(role))),
        Err(_) => Err("is not a role"),
    }
}

/// How a state is stored; `None` for not set.
pub fn stored_state(number: i32) -> Result<Option<String>, &'static str> {
    match AccountState::try_from(number) {
        Ok(AccountState::Unspecified) => Ok(None),
        Ok(state) => Ok(Some(auth::state_name(state))),
        Err(_) => Err("is not a state"),
    }
}

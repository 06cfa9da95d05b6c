//! The relying party, and what it says of what authenticators make.

use std::time::Duration;

use webauthn_rs::prelude::{Url, Webauthn, WebauthnBuilder, WebauthnError};

use crate::kernel::config::Config;
use crate::kernel::error::{Error, Reason};

/// How long a ceremony waits for its authenticator.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// As configured. Made for each call: it is nothing but the configuration and a hash.
pub fn relying_party(config: &Config) -> Result<Webauthn, Error> {
    let party = config.relying_party().map_err(|problem| Error::new(Reason::Internal, problem))?;
    let unset = || Error::new(Reason::PasskeysNotConfigured, "the server has no domain that passkeys could belong to");
    let party = party.ok_or_else(unset)?;
    let page = party.origins.iter().find(|origin| origin.domain().is_some()).ok_or_else(unset)?;
    let failed = |error| Error::internal("auth.passkeys", error);
    let builder = WebauthnBuilder::new(&party.id, page).map_err(failed)?;
    let others = party.origins.iter().filter(|origin| *origin != page);
    others
        .fold(builder, |builder, origin: &Url| builder.append_allowed_origin(origin))
        .rp_name(&config.two_factor.issuer)
        // Whatever runs on one's own machine: the port of a page that is being developed says nothing.
        .allow_any_port(party.id == "localhost")
        .timeout(PATIENCE)
        .build()
        .map_err(failed)
}

/// What is wrong with what an authenticator made, for people.
pub fn fault(error: &WebauthnError) -> &'static str {
    match error {
        WebauthnError::InvalidRPOrigin | WebauthnError::CredentialCrossOrigin => "was made on a page of another origin",
        WebauthnError::InvalidRPIDHash => "belongs to another relying party",
        WebauthnError::MismatchedChallenge => "answers another challenge",
        WebauthnError::InvalidClientDataType => "was made for something else",
        WebauthnError::UserNotPresent | WebauthnError::UserNotVerified => "was made without verifying its user",
        _ => "is not known, or is not valid",
    }
}

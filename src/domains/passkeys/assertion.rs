//! What an authenticator signs to prove its user (WebAuthn Level 3, section 7.2).

use prost_types::Struct;
use uuid::Uuid;
use webauthn_rs::prelude::{
    DiscoverableAuthentication, Passkey as Credential, PublicKeyCredential, Webauthn, WebauthnError,
};

use super::model::{Ceremony, Passkey, Purpose};
use super::relying_party::{PATIENCE, fault, relying_party};
use super::wire;
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::security::{Event, Kind};
use crate::kernel::wire::to_struct;

/// A challenge, and what an authenticator has made of it.
pub struct Assertion {
    webauthn: Webauthn,
    state: DiscoverableAuthentication,
    credential: PublicKeyCredential,
}

/// What goes to the authenticator, and the token that finds its challenge again.
pub struct Begun {
    pub options: Struct,
    pub token: String,
}

impl Assertion {
    /// Makes a challenge, for these passkeys of an account, or, when there are none, for whichever the authenticator knows.
    pub async fn begin(app: &App, conn: &mut Conn, purpose: Purpose<'_>, of: &[Passkey]) -> Result<Begun, Error> {
        let webauthn = relying_party(&app.config)?;
        let begun = webauthn.start_discoverable_authentication();
        let (challenge, state) = begun.map_err(|error| Error::internal("a WebAuthn challenge", error))?;
        let mut options = wire::json(&challenge.public_key)?;
        // The state holds no passkey: the answer is compared with the passkey as it is then.
        options["allowCredentials"] = of.iter().map(wire::descriptor).collect();
        let token = remember(app, conn, purpose, wire::json(&state)?).await?;
        Ok(Begun { options: to_struct(options), token })
    }

    /// Takes the challenge that a token finds, so that it is answered once, whatever comes of it.
    pub async fn take(app: &App, purpose: Purpose<'_>, token: &str, credential: Option<Struct>) -> Result<Self, Error> {
        let webauthn = relying_party(&app.config)?;
        let credential = wire::credential(credential, "AuthenticationResponseJSON")?;
        let mut conn = app.db.get().await?;
        let state = wire::stored(Ceremony::take(&mut conn, token, &purpose, app.clock.now()).await?)?;
        Ok(Self { webauthn, state, credential })
    }

    /// Whose passkey it claims to be.
    pub fn account_id(&self) -> Result<Uuid, Error> {
        let identified = self.webauthn.identify_discoverable_authentication(&self.credential);
        identified.map(|(account_id, _)| account_id).map_err(|error| refused(&error))
    }

    /// Refuses it unless a passkey of this account has signed it, whose user the authenticator has verified. To be called in a
    /// transaction.
    pub async fn spend(self, app: &App, conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        let of_another = |user: &[u8]| user != account_id.as_bytes();
        if self.credential.get_user_unique_id().is_some_and(of_another) {
            return Err(refused(&WebauthnError::InvalidUserUniqueId));
        }
        let row = Passkey::lock(conn, account_id, self.credential.get_credential_id()).await?;
        let row = row.ok_or_else(|| refused(&WebauthnError::CredentialNotFound))?;
        let mut passkey: Credential = wire::stored(row.credential)?;
        let finished = self.webauthn.finish_discoverable_authentication_v2(&self.credential, self.state, &passkey);
        let result = finished.map_err(|error| {
            if matches!(error, WebauthnError::CredentialPossibleCompromise) {
                tracing::warn!(account = %account_id, passkey = %row.id, "the counter of a passkey went backwards");
                app.security.record(Event::about(Kind::PasskeyAnomaly, account_id));
            }
            refused(&error)
        })?;
        passkey.update_credential(&result);
        Passkey::used(conn, row.id, &wire::json(&passkey)?, app.clock.now()).await
    }
}

/// Keeps the state of a ceremony; returns its token.
pub async fn remember(
    app: &App,
    conn: &mut Conn,
    purpose: Purpose<'_>,
    state: serde_json::Value,
) -> Result<String, Error> {
    let token = app.rng.token()?;
    Ceremony::new(&token, &purpose, state, app.clock.now() + PATIENCE).insert(conn).await?;
    Ok(token)
}

fn refused(error: &WebauthnError) -> Error {
    let refused = match error {
        WebauthnError::CredentialPossibleCompromise => {
            let message = "the passkey's signature counter went backwards: there may be a copy of it";
            Error::new(Reason::PasskeyCounterInvalid, message)
        }
        error => Error::new(Reason::PasskeyInvalid, format!("the passkey {}", fault(error))),
    };
    refused.at_field("credential")
}

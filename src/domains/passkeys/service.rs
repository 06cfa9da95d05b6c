//! `rialto.passkeys.v1.PasskeyService`.

use std::sync::Arc;

use diesel_async::AsyncConnection;
use tonic::{Request, Response, Status};
use webauthn_rs::prelude::{Passkey as Credential, PasskeyRegistration, RegisterPublicKeyCredential, WebauthnError};

use super::assertion::{Assertion, Begun, remember};
use super::model::{Ceremony, Passkey, Purpose};
use super::relying_party::{fault, relying_party};
use super::wire;
use crate::domains::auth::{self, AuthService, Browser, Client, Sessions};
use crate::domains::two_factor;
use crate::kernel::account_events::Announcement;
use crate::kernel::app::App;
use crate::kernel::caller::{ActingAccount, Caller};
use crate::kernel::error::{Error, Reason};
use crate::kernel::wire::{id, timestamp, to_struct};
use crate::proto::rialto::account::v1::SecurityChange;
use crate::proto::rialto::passkeys::v1::passkey_service_server::PasskeyService as Contract;
use crate::proto::rialto::passkeys::v1::{
    BeginLoginRequest, BeginLoginResponse, BeginReauthenticationRequest, BeginReauthenticationResponse,
    BeginRegistrationRequest, BeginRegistrationResponse, BeginSecondFactorRequest, BeginSecondFactorResponse,
    DeletePasskeyRequest, DeletePasskeyResponse, FinishLoginRequest, FinishLoginResponse,
    FinishReauthenticationRequest, FinishReauthenticationResponse, FinishRegistrationRequest,
    FinishRegistrationResponse, ListPasskeysRequest, ListPasskeysResponse, RenamePasskeyRequest, RenamePasskeyResponse,
};

/// An account has so many.
const MOST: i64 = 20;
/// The longest name that an authenticator gives a credential (WebAuthn Level 3, section 4), in bytes.
const CREDENTIAL_ID_BYTES: usize = 1023;

/// The service.
pub struct PasskeyService {
    app: App,
    auth: Arc<AuthService>,
    sessions: Arc<Sessions>,
}

impl PasskeyService {
    /// The service. Refuses a relying party that does not fit together; says when there is none.
    pub fn new(app: App, auth: Arc<AuthService>, sessions: Arc<Sessions>) -> Result<Self, Error> {
        match relying_party(&app.config) {
            Err(error) if error.reason == Reason::PasskeysNotConfigured => {
                tracing::warn!(
                    "there are no passkeys: set auth.passkeys.rp_id, or server.public_url to https:// and a domain"
                );
            }
            result => drop(result?),
        }
        Ok(Self { app, auth, sessions })
    }

    /// The options of a registration, and the token of its ceremony.
    async fn begin_registration(&self, caller: &Caller) -> Result<Begun, Error> {
        self.sessions.require_recent_authentication(caller).await?;
        let webauthn = relying_party(&self.app.config)?;
        let account = self.sessions.account(caller).await?;
        let mut conn = self.app.db.get().await?;
        let known =
            Passkey::of(&mut conn, account.id).await?.into_iter().map(|passkey| passkey.credential_id).collect();
        let begun = webauthn.start_passkey_registration(account.id, &account.email, &account.display_name, Some(known));
        let (challenge, state) = begun.map_err(|error| Error::internal("a WebAuthn challenge", error))?;
        let mut options = wire::json(&challenge.public_key)?;
        // A passkey that only the server's list finds could not log in without an e-mail address.
        if let Some(selection) = options.get_mut("authenticatorSelection") {
            selection["residentKey"] = "required".into();
            selection["requireResidentKey"] = true.into();
        }
        let purpose = Purpose::Registration(caller.session_id);
        let token = remember(&self.app, &mut conn, purpose, wire::json(&state)?).await?;
        Ok(Begun { options: to_struct(options), token })
    }

    /// The passkey that an authenticator made, and new backup codes if it is the account's first second factor.
    async fn register(
        &self,
        caller: &Caller,
        client: &Client,
        request: FinishRegistrationRequest,
    ) -> Result<(Passkey, Vec<String>), Error> {
        let name = wire::name(&request.name)?.to_owned();
        let made: RegisterPublicKeyCredential = wire::credential(request.credential, "RegistrationResponseJSON")?;
        let (webauthn, now) = (relying_party(&self.app.config)?, self.app.clock.now());
        let mut conn = self.app.db.get().await?;
        let purpose = Purpose::Registration(caller.session_id);
        let state: PasskeyRegistration =
            wire::stored(Ceremony::take(&mut conn, &request.ceremony_token, &purpose, now).await?)?;
        let credential = webauthn.finish_passkey_registration(&made, &state).map_err(|error| unfit(&error))?;
        let row = self.row(caller, name, &credential)?;
        let (backup_codes, told) = conn
            .transaction(async |conn| {
                let had = auth::lock_second_factor(conn, caller.account_id).await?;
                // A passkey outlives the session. Whoever has just reset the password has ended it.
                auth::require_live_session(conn, caller, now).await?;
                if Passkey::count(conn, caller.account_id).await? >= MOST {
                    return Err(Error::new(
                        Reason::PasskeyLimitReached,
                        format!("an account has at most {MOST} passkeys"),
                    ));
                }
                if !row.insert(conn).await? {
                    let message = "this passkey belongs to an account already";
                    return Err(Error::new(Reason::ResourceAlreadyExists, message).at_field("credential"));
                }
                auth::jobs::notice(&self.app, caller.account_id, client.notice(auth::jobs::Notice::PasskeyAdded, now))?
                    .enqueue(conn)
                    .await?;
                let backup_codes = if had {
                    Vec::new()
                } else {
                    two_factor::new_backup_codes(&self.app, conn, caller.account_id, now).await?
                };
                let (keep, change) = (Some(caller.session_id), SecurityChange::PasskeyAdded);
                Ok((backup_codes, auth::set_two_factor(conn, caller.account_id, true, keep, change, now).await?))
            })
            .await?;
        drop(conn);
        self.changed(caller, told).await;
        Ok((row, backup_codes))
    }

    fn row(&self, caller: &Caller, name: String, credential: &Credential) -> Result<Passkey, Error> {
        let credential_id: &[u8] = credential.cred_id();
        if !(1..=CREDENTIAL_ID_BYTES).contains(&credential_id.len()) {
            return Err(Error::invalid_field("credential", "must have an id of 1 to 1023 bytes"));
        }
        let now = self.app.clock.now();
        Ok(Passkey {
            id: self.app.rng.id(now)?,
            account_id: caller.account_id,
            credential_id: credential_id.to_vec(),
            name,
            credential: wire::json(credential)?,
            created_at: now,
            last_used_at: None,
        })
    }

    async fn delete(&self, caller: &Caller, client: &Client, passkey_id: &str) -> Result<(), Error> {
        let passkey_id = id("passkey_id", passkey_id)?;
        self.sessions.require_recent_authentication(caller).await?;
        let (mut conn, now) = (self.app.db.get().await?, self.app.clock.now());
        let deleted = conn.transaction(async |conn| {
            auth::lock_second_factor(conn, caller.account_id).await?;
            if !Passkey::delete(conn, caller.account_id, passkey_id).await? {
                return Err(Error::not_found("passkey"));
            }
            let left = Passkey::count(conn, caller.account_id).await? > 0;
            let left = left || two_factor::has_authenticator(conn, caller.account_id).await?;
            if !left {
                two_factor::delete_backup_codes(conn, caller.account_id).await?;
            }
            auth::jobs::notice(&self.app, caller.account_id, client.notice(auth::jobs::Notice::PasskeyRemoved, now))?
                .enqueue(conn)
                .await?;
            let (keep, change) = (Some(caller.session_id), SecurityChange::PasskeyRemoved);
            auth::set_two_factor(conn, caller.account_id, left, keep, change, now).await
        });
        let told = deleted.await?;
        drop(conn);
        self.changed(caller, told).await;
        Ok(())
    }

    /// Tells the account and the other nodes of a change that was committed, and the worker of its mail.
    async fn changed(&self, caller: &Caller, told: Announcement) {
        self.app.account_events.announce(told).await;
        self.sessions.changed(caller.account_id).await;
        crate::kernel::jobs::wake(&self.app).await;
    }
}

fn unfit(error: &WebauthnError) -> Error {
    Error::invalid_field("credential", fault(error))
}

#[tonic::async_trait]
impl Contract for PasskeyService {
    async fn begin_registration(
        &self,
        request: Request<BeginRegistrationRequest>,
    ) -> Result<Response<BeginRegistrationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let begun = self.begin_registration(&caller).await?;
        Ok(Response::new(BeginRegistrationResponse { options: Some(begun.options), ceremony_token: begun.token }))
    }

    async fn finish_registration(
        &self,
        request: Request<FinishRegistrationRequest>,
    ) -> Result<Response<FinishRegistrationResponse>, Status> {
        let (caller, client) = (Caller::of(request.extensions())?, Client::of(&request));
        let (passkey, backup_codes) = self.register(&caller, &client, request.into_inner()).await?;
        Ok(Response::new(FinishRegistrationResponse { passkey: Some((&passkey).into()), backup_codes }))
    }

    async fn list_passkeys(
        &self,
        request: Request<ListPasskeysRequest>,
    ) -> Result<Response<ListPasskeysResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await?;
        let passkeys = Passkey::of(&mut conn, caller.account_id).await?;
        Ok(Response::new(ListPasskeysResponse { passkeys: passkeys.iter().map(Into::into).collect() }))
    }

    async fn rename_passkey(
        &self,
        request: Request<RenamePasskeyRequest>,
    ) -> Result<Response<RenamePasskeyResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let (passkey_id, name) = (id("passkey_id", &request.passkey_id)?, wire::name(&request.name)?);
        let mut conn = self.app.db.get().await?;
        let renamed = Passkey::rename(&mut conn, caller.account_id, passkey_id, name).await?;
        let passkey = renamed.ok_or_else(|| Error::not_found("passkey"))?;
        Ok(Response::new(RenamePasskeyResponse { passkey: Some((&passkey).into()) }))
    }

    async fn delete_passkey(
        &self,
        request: Request<DeletePasskeyRequest>,
    ) -> Result<Response<DeletePasskeyResponse>, Status> {
        let (caller, client) = (Caller::of(request.extensions())?, Client::of(&request));
        self.delete(&caller, &client, &request.get_ref().passkey_id).await?;
        Ok(Response::new(DeletePasskeyResponse {}))
    }

    async fn begin_login(&self, request: Request<BeginLoginRequest>) -> Result<Response<BeginLoginResponse>, Status> {
        let client = Client::of(&request).fingerprint(self.app.config.server.ipv6_prefix);
        let mut conn = self.app.db.get().await?;
        let begun = Assertion::begin(&self.app, &mut conn, Purpose::Login(&client), &[]).await?;
        Ok(Response::new(BeginLoginResponse { options: Some(begun.options), ceremony_token: begun.token }))
    }

    async fn finish_login(
        &self,
        request: Request<FinishLoginRequest>,
    ) -> Result<Response<FinishLoginResponse>, Status> {
        let client = Client::of(&request);
        let browser = Browser::wanted(request.extensions(), request.get_ref().cookie)?;
        let browser = browser.as_deref();
        let request = request.into_inner();
        let fingerprint = client.fingerprint(self.app.config.server.ipv6_prefix);
        let purpose = Purpose::Login(&fingerprint);
        let assertion = Assertion::take(&self.app, purpose, &request.ceremony_token, request.credential).await?;
        let device_token = auth::device_token(request.device_token, browser);
        let opened = self.auth.log_in_by_passkey(assertion, &device_token, client).await?;
        let (handed, device_token) = self.auth.hand_out_login(opened.tokens, opened.device_token, browser).await?;
        Ok(ActingAccount(opened.account_id).on(FinishLoginResponse {
            access_token: handed.access_token,
            refresh_token: handed.refresh_token,
            expires_in: handed.expires_in,
            token_type: handed.token_type,
            device_token,
            csrf_token: handed.csrf_token,
        }))
    }

    async fn begin_second_factor(
        &self,
        request: Request<BeginSecondFactorRequest>,
    ) -> Result<Response<BeginSecondFactorResponse>, Status> {
        let client = Client::of(&request);
        let challenge = request.into_inner().challenge_token;
        let account_id = auth::challenged_account(&self.app, &challenge, &client).await?;
        let mut conn = self.app.db.get().await?;
        let passkeys = own(Passkey::of(&mut conn, account_id).await?)?;
        let begun = Assertion::begin(&self.app, &mut conn, Purpose::SecondFactor(&challenge), &passkeys).await?;
        Ok(Response::new(BeginSecondFactorResponse { options: Some(begun.options), ceremony_token: begun.token }))
    }

    async fn begin_reauthentication(
        &self,
        request: Request<BeginReauthenticationRequest>,
    ) -> Result<Response<BeginReauthenticationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await?;
        let passkeys = own(Passkey::of(&mut conn, caller.account_id).await?)?;
        let purpose = Purpose::Reauthentication(caller.session_id);
        let begun = Assertion::begin(&self.app, &mut conn, purpose, &passkeys).await?;
        Ok(Response::new(BeginReauthenticationResponse { options: Some(begun.options), ceremony_token: begun.token }))
    }

    async fn finish_reauthentication(
        &self,
        request: Request<FinishReauthenticationRequest>,
    ) -> Result<Response<FinishReauthenticationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let purpose = Purpose::Reauthentication(caller.session_id);
        let assertion = Assertion::take(&self.app, purpose, &request.ceremony_token, request.credential).await?;
        let mut conn = self.app.db.get().await?;
        let valid_until = conn
            .transaction(async |conn| {
                assertion.spend(&self.app, conn, caller.account_id).await?;
                auth::reauthenticated(conn, &caller, self.app.clock.now()).await
            })
            .await?;
        Ok(Response::new(FinishReauthenticationResponse { valid_until: Some(timestamp(valid_until)) }))
    }
}

/// The passkeys of an account that has some.
fn own(passkeys: Vec<Passkey>) -> Result<Vec<Passkey>, Error> {
    // With none, the authenticator would be asked for whichever it knows.
    if passkeys.is_empty() {
        return Err(Error::new(Reason::TwoFactorNotEnabled, "the account has no passkey"));
    }
    Ok(passkeys)
}

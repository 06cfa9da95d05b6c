//! Access tokens: JWTs (RFC 7519) signed with Ed25519 (RFC 8037), checked as RFC 8725 asks: one algorithm, an explicit
//! type, issuer and audience, and a key that the token's `kid` names.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::csrf::CsrfKeys;
use crate::kernel::config;
use crate::kernel::error::{Error, Reason};

/// `typ` of access tokens (RFC 9068, section 2.1).
const TYPE: &str = "at+jwt";

/// The keys of this installation.
pub struct Keys {
    signing: EncodingKey,
    header: Header,
    verifying: HashMap<String, DecodingKey>,
    /// The public halves as a JSON Web Key Set (RFC 7517), for others to verify our tokens.
    pub jwks: serde_json::Value,
    /// What CSRF tokens are made with.
    pub(super) csrf: CsrfKeys,
    validation: Validation,
    issuer: String,
    audience: String,
    lifetime_seconds: u32,
}

/// What an access token says.
#[derive(Clone, Copy, Debug)]
pub struct AccessToken {
    /// The account.
    pub account_id: Uuid,
    /// The session.
    pub session_id: Uuid,
    /// The account's token version when the token was made.
    pub version: i32,
    /// When it expires, in seconds since 1970.
    pub expires_at: i64,
}

/// The claims of RFC 7519, section 4.1, the session (`sid`, OpenID Connect Front-Channel Logout) and our version.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    sid: Uuid,
    ver: i32,
    iat: i64,
    exp: i64,
}

impl Keys {
    /// The configured keys.
    pub fn new(config: &config::Auth) -> Result<Self, Error> {
        let bad = |what: String| Error::new(Reason::Internal, what);
        let first = config.signing_keys.first().ok_or_else(|| bad("auth.signing_keys is empty".into()))?;
        let mut verifying = HashMap::new();
        let mut jwks = Vec::new();
        let mut seeds = Vec::new();
        for key in &config.signing_keys {
            let seed = key.seed_bytes().map_err(|problem| bad(format!("auth.signing_keys {:?}: {problem}", key.id)))?;
            let public = public_key(&seed)?;
            seeds.push(seed);
            let x = URL_SAFE_NO_PAD.encode(&public);
            jwks.push(serde_json::json!({
                "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id, "x": x,
            }));
            if verifying.insert(key.id.clone(), DecodingKey::from_ed_der(&public)).is_some() {
                return Err(bad(format!("auth.signing_keys has two keys {:?}", key.id)));
            }
        }
        let seed = first.seed_bytes().map_err(|problem| bad(problem.into()))?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.into());
        header.kid = Some(first.id.clone());
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // Checked by the caller, on the kernel's clock and without leeway: the clocks are our own.
        validation.validate_exp = false;
        Ok(Self {
            signing: EncodingKey::from_ed_der(&pkcs8(&seed)),
            header,
            verifying,
            jwks: serde_json::json!({ "keys": jwks }),
            csrf: CsrfKeys::derive(&seeds)?,
            validation,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            lifetime_seconds: config.access_token_seconds,
        })
    }

    /// A new access token, and for how many seconds it is good.
    pub fn issue(
        &self,
        account_id: Uuid,
        session_id: Uuid,
        version: i32,
        now: DateTime<Utc>,
    ) -> Result<(String, u32), Error> {
        let iat = now.timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: account_id,
            sid: session_id,
            ver: version,
            iat,
            exp: iat + i64::from(self.lifetime_seconds),
        };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.signing)
            .map_err(|error| Error::internal("signing a token", error))?;
        Ok((token, self.lifetime_seconds))
    }

    /// What a token says, if it is one of ours. Does not look at the time.
    pub fn verify(&self, token: &str) -> Result<AccessToken, Error> {
        let invalid = || Error::new(Reason::TokenInvalid, "the access token is not valid");
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(invalid());
        }
        let key = header.kid.and_then(|kid| self.verifying.get(&kid)).ok_or_else(invalid)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &self.validation).map_err(|_| invalid())?.claims;
        Ok(AccessToken { account_id: claims.sub, session_id: claims.sid, version: claims.ver, expires_at: claims.exp })
    }
}

/// An Ed25519 seed as PKCS #8 (RFC 8410, section 7), which is how jsonwebtoken wants it.
fn pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    const PREFIX: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    [PREFIX.as_slice(), seed].concat()
}

fn public_key(seed: &[u8; 32]) -> Result<Vec<u8>, Error> {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| Error::internal("an Ed25519 seed", error))?;
    Ok(pair.public_key().as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::config::SigningKey;
    use crate::kernel::secret::Secret;

    fn config(ids: &[&str]) -> config::Auth {
        use base64::engine::general_purpose::STANDARD;
        let key = |id: &&str| {
            let mut seed: [u8; 32] = std::array::from_fn(|i| (i as u8).wrapping_mul(7).wrapping_add(131));
            seed[0] = id.as_bytes()[0];
            SigningKey { id: (*id).into(), seed: Secret::new(STANDARD.encode(seed)) }
        };
        config::Auth { signing_keys: ids.iter().map(key).collect(), ..Default::default() }
    }

    fn issue(keys: &Keys) -> String {
        keys.issue(Uuid::from_u128(1), Uuid::from_u128(2), 3, DateTime::UNIX_EPOCH).unwrap().0
    }

    #[test]
    fn a_token_says_who_and_which_session_and_a_rotated_key_still_verifies() {
        let token = issue(&Keys::new(&config(&["a"])).unwrap());
        let said = Keys::new(&config(&["b", "a"])).unwrap().verify(&token).unwrap();
        assert_eq!((said.account_id, said.session_id, said.version), (Uuid::from_u128(1), Uuid::from_u128(2), 3));
        assert_eq!(said.expires_at, 900);
        assert!(Keys::new(&config(&["b"])).unwrap().verify(&token).is_err());
    }

    #[test]
    fn tokens_of_another_issuer_audience_type_algorithm_or_key_are_refused() {
        let ours = Keys::new(&config(&["a"])).unwrap();
        let refused = |change: fn(&mut config::Auth)| {
            let mut other = config(&["a"]);
            change(&mut other);
            assert!(ours.verify(&issue(&Keys::new(&other).unwrap())).is_err());
        };
        refused(|other| other.issuer = "another".into());
        refused(|other| other.audience = "another".into());
        refused(|other| other.signing_keys[0] = config(&["b"]).signing_keys[0].clone());

        let mut wrong_type = Keys::new(&config(&["a"])).unwrap();
        wrong_type.header.typ = Some("JWT".into());
        assert!(ours.verify(&issue(&wrong_type)).is_err());

        let token = issue(&ours);
        let (_, rest) = token.split_once('.').unwrap();
        for header in [r#"{"alg":"none","typ":"at+jwt","kid":"a"}"#, r#"{"alg":"HS256","typ":"at+jwt","kid":"a"}"#] {
            assert!(ours.verify(&format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))).is_err());
        }
        assert!(ours.verify("").is_err() && ours.verify("a.b.c").is_err());
    }
}

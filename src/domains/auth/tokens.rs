//! Access tokens: JWTs (RFC 7519) signed with Ed25519 (RFC 8037), checked as RFC 8725 asks: one algorithm, an explicit
//! type, issuer and audience, and a key that the token's `kid` names. A header that says anything else is not ours.

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
/// The one algorithm, as headers call it (RFC 8037, section 3.1).
const ALGORITHM: &str = "EdDSA";
/// Longer than any of ours. What is longer is refused unread.
const MAX_BYTES: usize = 4096;

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
    /// When it begins to count, in seconds since 1970.
    pub not_before: i64,
    /// When it expires, in seconds since 1970.
    pub expires_at: i64,
}

/// The header of our tokens. Whoever sends more, such as a key (`jwk`, `jku`, `x5u`, `x5c`) or something to be understood
/// (`crit`), has not got it from us (RFC 8725, sections 3.1 and 3.10).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoseHeader {
    typ: String,
    alg: String,
    kid: String,
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
    /// Ours have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
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
        // Times are checked by the caller, on the kernel's clock.
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
            nbf: None,
            exp: iat + i64::from(self.lifetime_seconds),
        };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.signing)
            .map_err(|error| Error::internal("signing a token", error))?;
        Ok((token, self.lifetime_seconds))
    }

    /// What a token says, if it is one of ours. Does not look at the time.
    pub fn verify(&self, token: &str) -> Result<AccessToken, Error> {
        self.read(token).ok_or_else(|| Error::new(Reason::TokenInvalid, "the access token is not valid"))
    }

    fn read(&self, token: &str) -> Option<AccessToken> {
        let header = token.split('.').next().filter(|_| token.len() <= MAX_BYTES)?;
        let header: JoseHeader = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != ALGORITHM || header.typ != TYPE {
            return None;
        }
        let key = self.verifying.get(&header.kid)?;
        let Claims { sub, sid, ver, iat, nbf, exp, .. } =
            jsonwebtoken::decode(token, key, &self.validation).ok()?.claims;
        // No token is good from before 1970, for no time or for longer than can be configured.
        let lifetime = exp.checked_sub(iat).filter(|_| iat >= 0)?;
        if lifetime == 0 || u32::try_from(lifetime).is_err() {
            return None;
        }
        let not_before = nbf.map_or(iat, |nbf| nbf.max(iat));
        Some(AccessToken { account_id: sub, session_id: sid, version: ver, not_before, expires_at: exp })
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

    #[test]
    fn keys_and_signatures_are_those_of_rfc_8037_and_its_token_is_not_ours() {
        // Appendices A.1, A.2 and A.4.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let seed: [u8; 32] = seed.try_into().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(public_key(&seed).unwrap()), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signing = EncodingKey::from_ed_der(&pkcs8(&seed));
        let signed = jsonwebtoken::crypto::sign(message.as_bytes(), &signing, Algorithm::EdDSA).unwrap();
        assert_eq!(signed, signature);
        let config = config(&["a"]);
        assert!(Keys::new(&config).unwrap().verify(&format!("{message}.{signature}")).is_err());
    }

    #[test]
    fn the_example_tokens_of_rfc_7519_are_not_ours() {
        let keys = Keys::new(&config(&["a"])).unwrap();
        let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        // Section 3.1, with HMAC, and section 6.1, without a signature.
        let hmac = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert!(keys.verify(&format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{claims}.{hmac}")).is_err());
        assert!(keys.verify(&format!("eyJhbGciOiJub25lIn0.{claims}.")).is_err());
    }
}

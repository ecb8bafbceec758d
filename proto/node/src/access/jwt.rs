//! JSON Web Tokens (RFC 7519) with claims of what may be done:
//!
//! ```json
//! {"exp":1800000000,"action":"play","vhost":"__defaultVhost__","app":"live","stream":"river"}
//! ```
//!
//! All of these have to be there; `*` stands for any. A key is used with the one algorithm that belongs to it: what a
//! token says of its own algorithm only has to be the same (RFC 8725, 3.1).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use weir_media::StreamName;

use super::{Action, Refusal};
use crate::config::{Jwt, JwtAlgorithm, JwtKey};

/// Bytes of a set of keys.
pub const JWKS_MAX: usize = 256 * 1024;

/// Keys of one set that are used; more are passed over.
const KEYS_MAX: usize = 64;

/// Bytes of a token.
const TOKEN_MAX: usize = 8 * 1024;

/// Bytes of a file of a key.
const FILE_MAX: usize = 64 * 1024;

/// Why a key or a set of keys is not used.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// Its file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is longer than any key.
    #[error("longer than {0} bytes")]
    Long(usize),
    /// It is none of that algorithm.
    #[error("{what}: {source}")]
    Key {
        /// Its file or id.
        what: String,
        /// Why.
        source: jsonwebtoken::errors::Error,
    },
    /// It is no JSON Web Key Set.
    #[error("no JSON Web Key Set: {0}")]
    Set(#[from] serde_json::Error),
    /// None of its keys is of use.
    #[error("the set has no key of RS256, ES256 or EdDSA")]
    Empty,
}

/// The keys of one vhost: those of the configuration, and the newest set that was fetched.
#[derive(Default)]
pub struct Keys {
    own: Vec<Key>,
    fetched: Vec<Key>,
}

/// Shows nothing: shared secrets are among them.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("own", &self.own.len()).field("fetched", &self.fetched.len()).finish()
    }
}

struct Key {
    kid: String,
    alg: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    nbf: Option<f64>,
    action: String,
    vhost: String,
    app: String,
    stream: String,
}

impl Keys {
    /// Reads the keys that the configuration lists, with their files.
    ///
    /// # Errors
    /// A file cannot be read, or holds another kind of key.
    pub fn load(keys: &[JwtKey]) -> Result<Self, JwtError> {
        let own: Result<Vec<Key>, JwtError> = keys.iter().map(read).collect();
        Ok(Self { own: own?, fetched: Vec::new() })
    }

    /// Takes over a set of public keys in the place of the last one, and says how many are used. Shared secrets are not:
    /// a set is for everybody to read.
    ///
    /// # Errors
    /// It is none, and the last one stays.
    pub fn fetched(&mut self, set: &[u8]) -> Result<usize, JwtError> {
        if set.len() > JWKS_MAX {
            return Err(JwtError::Long(JWKS_MAX));
        }
        let set: JwkSet = serde_json::from_slice(set)?;
        let keys: Vec<Key> = set.keys.iter().filter_map(public).take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err(JwtError::Empty);
        }
        self.fetched = keys;
        Ok(self.fetched.len())
    }

    pub(super) fn verify(
        &self,
        rules: &Jwt,
        token: &str,
        action: Action,
        name: &StreamName,
        now: u64,
    ) -> Result<(), Refusal> {
        if token.len() > TOKEN_MAX {
            return Err(Refusal::Token);
        }
        let header = decode_header(token).map_err(|_| Refusal::Token)?;
        let mut all = self.own.iter().chain(&self.fetched);
        let key = match header.kid {
            Some(kid) => all.find(|key| key.kid == kid).ok_or(Refusal::UnknownKey)?,
            // Which one it is by may be left out where there is no choice.
            None => match (all.next(), all.next()) {
                (Some(only), None) => only,
                (None, _) => return Err(Refusal::UnknownKey),
                (Some(_), Some(_)) => return Err(Refusal::Token),
            },
        };
        let mut validation = Validation::new(key.alg);
        // Looked at below, with the time that is given.
        validation.validate_exp = false;
        if !rules.issuer.is_empty() {
            validation.set_issuer(&[&rules.issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if !rules.audience.is_empty() {
            validation.set_audience(&[&rules.audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let claims = decode::<Claims>(token, &key.key, &validation).map_err(|_| Refusal::Token)?.claims;
        if claims.is_good(rules.leeway.as_secs_f64(), now) && claims.grants(action, name) {
            Ok(())
        } else {
            Err(Refusal::Token)
        }
    }
}

impl Claims {
    #[expect(clippy::cast_precision_loss, reason = "times stay exact up to 2^53")]
    fn is_good(&self, leeway: f64, now: u64) -> bool {
        let now = now as f64;
        now < self.exp + leeway && self.nbf.is_none_or(|from| from <= now + leeway)
    }

    fn grants(&self, action: Action, name: &StreamName) -> bool {
        let is = |claim: &str, wanted: &str| claim == "*" || claim == wanted;
        is(&self.action, action.as_str())
            && is(&self.vhost, &name.vhost)
            && is(&self.app, &name.app)
            && is(&self.stream, &name.stream)
    }
}

fn read(key: &JwtKey) -> Result<Key, JwtError> {
    let pem = || {
        let read = std::fs::read(&key.file).map_err(|source| JwtError::Read { path: key.file.clone(), source })?;
        if read.len() > FILE_MAX { Err(JwtError::Long(FILE_MAX)) } else { Ok(read) }
    };
    let wrong = |source| JwtError::Key { what: key.file.clone(), source };
    let secret = || DecodingKey::from_secret(key.secret.reveal().as_bytes());
    let (alg, decoding) = match key.alg {
        JwtAlgorithm::Hs256 => (Algorithm::HS256, secret()),
        JwtAlgorithm::Hs384 => (Algorithm::HS384, secret()),
        JwtAlgorithm::Hs512 => (Algorithm::HS512, secret()),
        JwtAlgorithm::Rs256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(&pem()?).map_err(wrong)?),
        JwtAlgorithm::Es256 => (Algorithm::ES256, DecodingKey::from_ec_pem(&pem()?).map_err(wrong)?),
        JwtAlgorithm::EdDsa => (Algorithm::EdDSA, DecodingKey::from_ed_pem(&pem()?).map_err(wrong)?),
    };
    Ok(Key { kid: key.kid.clone(), alg, key: decoding })
}

/// A public key of a set, if it is for signatures of an algorithm that is taken.
fn public(jwk: &Jwk) -> Option<Key> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let alg = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    // One that is meant for another algorithm of its kind is not for ours.
    let meant = jwk.common.key_algorithm.is_none_or(|named| named == alg.into());
    let key = DecodingKey::from_jwk(jwk).ok()?;
    meant.then(|| Key { kid: jwk.common.key_id.clone().unwrap_or_default(), alg, key })
}

//! Tokens of an authorization server: JSON web tokens signed RS256 or ES256 with a key that the operator named. What a
//! token says of its own key (`jwk`, `x5c`, `jku`) is never believed.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use corten_types::{Context, Error, Result};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls::pki_types::pem::{self, SectionKind};
use serde::Deserialize;

use super::super::config::{Action, Token};
use super::quoted;
use crate::der::{self, PublicKey};

/// Largest key file, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 1024 * 1024;
/// Longest token, bytes.
const TOKEN_LENGTH_MAX: usize = 16 * 1024;
/// How far the clocks may be apart, seconds.
const CLOCK_SKEW_SECONDS: i64 = 60;

/// What verifies tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    realm: String,
    service: String,
    issuer: String,
    keys: Vec<PublicKey>,
}

/// What a token proves.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) user: Option<String>,
    pub(super) grants: Grants,
}

/// What a token allows.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants(Vec<Grant>);

#[derive(Debug, Clone, Deserialize)]
struct Grant {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Grants {
    pub(super) fn allow(&self, repository: &str, action: Action) -> bool {
        self.0.iter().any(|grant| {
            grant.kind == "repository"
                && grant.name == repository
                && grant.actions.iter().any(|word| word == "*" || word == action.as_str())
        })
    }

    pub(super) fn allow_catalog(&self) -> bool {
        self.0.iter().any(|grant| {
            grant.kind == "registry" && grant.name == "catalog" && grant.actions.iter().any(|word| word == "*")
        })
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Body {
    iss: String,
    #[serde(default)]
    sub: Option<String>,
    aud: Audience,
    /// RFC 7519 allows fractions.
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    access: Option<Vec<Grant>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Why a token is not believed; the client learns that it is not, no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    Algorithm,
    Signature,
    Issuer,
    Audience,
    Time,
}

impl Tokens {
    pub(super) fn load(config: &Token) -> Result<Self> {
        let mut keys = Vec::new();
        for path in &config.keys {
            keys.extend(read_keys(path).context(|| format!("cannot read the token keys of `{}`", path.display()))?);
        }
        if keys.is_empty() {
            return Err(Error::invalid("`auth.token` names no key that tokens could be verified with"));
        }
        Ok(Self { realm: config.realm.clone(), service: config.service.clone(), issuer: config.issuer.clone(), keys })
    }

    /// What the token proves at the time `now` (seconds since 1970).
    pub(super) fn verify(&self, token: &str, now: i64) -> Result<Claims, Refusal> {
        let malformed = |_| Refusal::Malformed;
        if token.len() > TOKEN_LENGTH_MAX {
            return Err(Refusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, body) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Refusal::Malformed)?;
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(malformed)?;
        self.check_signature(&header.alg, signed.as_bytes(), &signature)?;
        // Nothing of the body is looked at before this line.
        let body = URL_SAFE_NO_PAD.decode(body).map_err(malformed)?;
        let body: Body = serde_json::from_slice(&body).map_err(|_| Refusal::Malformed)?;
        self.check_body(&body, now)?;
        Ok(Claims { user: body.sub.filter(|user| !user.is_empty()), grants: Grants(body.access.unwrap_or_default()) })
    }

    fn check_signature(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        if !matches!(algorithm, "RS256" | "ES256") {
            return Err(Refusal::Algorithm);
        }
        // The key decides the algorithm; a token cannot choose to have an RSA key read as something else.
        let verified = self.keys.iter().any(|key| match key {
            PublicKey::Rsa { modulus, exponent } if algorithm == "RS256" => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }
            PublicKey::P256(point) if algorithm == "ES256" => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
            _ => false,
        });
        if verified { Ok(()) } else { Err(Refusal::Signature) }
    }

    fn check_body(&self, body: &Body, now: i64) -> Result<(), Refusal> {
        if body.iss != self.issuer {
            return Err(Refusal::Issuer);
        }
        let for_us = match &body.aud {
            Audience::One(audience) => *audience == self.service,
            Audience::Several(audiences) => audiences.contains(&self.service),
        };
        if !for_us {
            return Err(Refusal::Audience);
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a double for ages")]
        let (now, skew) = (now as f64, CLOCK_SKEW_SECONDS as f64);
        // Written so that a NaN is refused.
        let is_valid = body.exp > now - skew && body.nbf.is_none_or(|start| start <= now + skew);
        if is_valid { Ok(()) } else { Err(Refusal::Time) }
    }

    pub(super) fn challenge(&self, scopes: &str, error: Option<&str>) -> String {
        let mut text = format!("Bearer realm=\"{}\",service=\"{}\"", quoted(&self.realm), quoted(&self.service));
        if !scopes.is_empty() {
            text.push_str(&format!(",scope=\"{}\"", quoted(scopes)));
        }
        if let Some(error) = error {
            text.push_str(&format!(",error=\"{error}\""));
        }
        text
    }
}

/// Every public key of a PEM file: certificates and `PUBLIC KEY`s.
fn read_keys(path: &Path) -> Result<Vec<PublicKey>> {
    let bytes = corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX)?;
    let mut rest = bytes.as_slice();
    let mut keys = Vec::new();
    while let Some((kind, der)) =
        pem::from_buf(&mut rest).map_err(|error| Error::invalid(format!("it is not PEM: {error:?}")))?
    {
        let key = match kind {
            SectionKind::Certificate => der::of_certificate(&der),
            SectionKind::PublicKey => der::of_public_key(&der),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err(Error::invalid("it has a private key, which the registry must not know"));
            }
            _ => continue,
        };
        keys.push(key.ok_or_else(|| {
            Error::invalid("it has a key that is neither RSA nor on the curve P-256")
                .hint("tokens are signed RS256 or ES256")
        })?);
    }
    if keys.is_empty() {
        return Err(Error::invalid("it has neither a certificate nor a public key"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000_000;

    struct Server {
        tokens: Tokens,
        pair: rcgen::KeyPair,
    }

    impl Server {
        fn new() -> Self {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key.pem");
            std::fs::write(&path, pair.public_key_pem()).unwrap();
            let tokens = Tokens::load(&Token {
                realm: "https://auth.example/token".to_owned(),
                service: "registry".to_owned(),
                issuer: "auth".to_owned(),
                keys: vec![path],
            });
            Self { tokens: tokens.unwrap(), pair }
        }

        fn token(&self, header: &str, body: &str) -> String {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
            let random = ring::rand::SystemRandom::new();
            let pair = signature::EcdsaKeyPair::from_pkcs8(
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                self.pair.serialized_der(),
                &random,
            );
            let signature = pair.unwrap().sign(&random, signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }

        fn refusal(&self, token: &str) -> Refusal {
            self.tokens.verify(token, NOW).unwrap_err()
        }
    }

    fn body(change: &str) -> String {
        let plain = format!(
            r#"{{"iss":"auth","sub":"alice","aud":"registry","exp":{},"nbf":{},"access":[{{"type":"repository","name":"a/b","actions":["pull"]}}]}}"#,
            NOW + 100,
            NOW - 100
        );
        match change.split_once("=>") {
            Some((from, to)) => plain.replace(from, to),
            None => plain,
        }
    }

    const ES256: &str = r#"{"alg":"ES256","typ":"JWT"}"#;

    #[test]
    fn a_token_gives_what_it_says_and_no_more() {
        let server = Server::new();
        let claims = server.tokens.verify(&server.token(ES256, &body("")), NOW).unwrap();
        assert_eq!(claims.user.as_deref(), Some("alice"));
        assert!(claims.grants.allow("a/b", Action::Pull));
        assert!(!claims.grants.allow("a/b", Action::Push));
        assert!(!claims.grants.allow("a", Action::Pull) && !claims.grants.allow_catalog());
        let several = server.token(ES256, &body("\"registry\",=>[\"x\",\"registry\"],"));
        server.tokens.verify(&several, NOW).unwrap();
    }

    #[test]
    fn forged_and_stale_tokens_are_refused() {
        let server = Server::new();
        let good = server.token(ES256, &body(""));
        let refused = |body_change: &str| server.refusal(&server.token(ES256, &body(body_change)));
        assert_eq!(refused("\"iss\":\"auth\"=>\"iss\":\"evil\""), Refusal::Issuer);
        assert_eq!(refused("\"registry\",=>\"other\","), Refusal::Audience);
        assert_eq!(refused(&format!("{}=>{}", NOW + 100, NOW - 61)), Refusal::Time);
        assert_eq!(refused(&format!("{}=>{}", NOW - 100, NOW + 61)), Refusal::Time);
        assert_eq!(refused("\"exp\"=>\"xp\""), Refusal::Malformed);
        // Another key.
        assert_eq!(server.refusal(&Server::new().token(ES256, &body(""))), Refusal::Signature);
        // No signature, or an algorithm that the key is not for.
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), signed.split_once('.').unwrap().1);
        assert_eq!(server.refusal(&unsigned), Refusal::Algorithm);
        assert_eq!(server.refusal(&server.token(r#"{"alg":"HS256"}"#, &body(""))), Refusal::Algorithm);
        assert_eq!(server.refusal(&server.token(r#"{"alg":"RS256"}"#, &body(""))), Refusal::Signature);
        assert_eq!(server.refusal(&server.token(r#"{"alg":"ES256","crit":["x"]}"#, &body(""))), Refusal::Malformed);
        // Other words under the same signature.
        let other = format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(ES256), URL_SAFE_NO_PAD.encode(body("a/b=>c")));
        assert_eq!(server.refusal(&other), Refusal::Signature);
        for text in ["", ".", "..", "a.b.c", &format!("{good}x"), &"a".repeat(TOKEN_LENGTH_MAX + 1)] {
            assert!(server.tokens.verify(text, NOW).is_err());
        }
    }

    #[test]
    fn a_private_key_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(&path, pair.serialize_pem()).unwrap();
        assert!(read_keys(&path).unwrap_err().message().contains("private key"));
        std::fs::write(&path, "nothing").unwrap();
        assert!(read_keys(&path).unwrap_err().message().contains("neither"));
    }

    #[test]
    fn the_challenge_leads_to_a_token() {
        let server = Server::new();
        assert_eq!(
            server.tokens.challenge("repository:a:pull", Some("invalid_token")),
            "Bearer realm=\"https://auth.example/token\",service=\"registry\",scope=\"repository:a:pull\",error=\"invalid_token\""
        );
    }
}

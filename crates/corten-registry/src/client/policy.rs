//! What must be signed, and by whom: cosign's signatures, checked before anything of an image is fetched.
//!
//! ```toml
//! [[rule]]
//! prefix = "registry.example/team"      # HOST[:PORT][/PATH]; the longest that fits counts; "" fits all
//! require = "signed"                    # or "nothing", or "never": no pull at all
//! keys = ["/etc/corten/keys/team.pub"]  # PEM, ECDSA P-256; one good signature of one of them is enough
//! ```
//! Without a rule that fits, nothing is required.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use corten_types::image_spec::{Descriptor, Document};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;

use super::session::Session;

/// Largest signed payload, bytes; most signatures that are tried; largest policy or key, bytes.
const PAYLOAD_SIZE_BYTES_MAX: u64 = 64 * 1024;
const SIGNATURES_MAX: usize = 64;
const FILE_SIZE_BYTES_MAX: u64 = 1024 * 1024;
/// The layer type of a signature's payload, and the annotation that holds the signature.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// An elliptic-curve key on P-256 as SubjectPublicKeyInfo starts; the point follows.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_SIZE: usize = 65;

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    prefix: String,
    requirement: Requirement,
    /// The points of the keys, with their files' names.
    keys: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Requirement {
    Signed,
    Nothing,
    Never,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<RuleTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    prefix: String,
    require: Requirement,
    #[serde(default)]
    keys: Vec<PathBuf>,
}

/// What cosign signs.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Policy {
    /// Reads a policy and its keys; `name` is for messages, `base` what relative paths start from.
    pub fn parse(text: &str, name: &str, base: &std::path::Path) -> Result<Self> {
        let wrong = |why: String| Error::invalid(format!("cannot read the policy `{name}`: {why}"));
        let file: File = toml::from_str(text).map_err(|error| wrong(error.message().to_owned()))?;
        let mut rules = Vec::new();
        for table in file.rule {
            if table.require == Requirement::Signed && table.keys.is_empty() {
                return Err(wrong(format!("the rule for `{}` asks for signatures and names no key", table.prefix)));
            }
            let mut keys = Vec::new();
            for path in table.keys {
                let path = base.join(path);
                let key = corten_fs::root::read_ambient(&path, FILE_SIZE_BYTES_MAX)
                    .and_then(|pem| point(&pem))
                    .context(|| format!("cannot use the key `{}` of the policy `{name}`", path.display()))?;
                keys.push((path.display().to_string(), key));
            }
            let prefix = table.prefix.trim_end_matches('/').to_owned();
            rules.push(Rule { prefix, requirement: table.require, keys });
        }
        rules.sort_by_key(|rule: &Rule| std::cmp::Reverse(rule.prefix.len()));
        Ok(Self { rules })
    }

    fn rule(&self, reference: &Reference) -> Option<&Rule> {
        let repository = reference.repository();
        let fits = |rule: &&Rule| {
            rule.prefix.is_empty()
                || repository.strip_prefix(&rule.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.rules.iter().find(fits)
    }

    /// Refuses what must be signed and is not.
    pub(crate) fn check(&self, session: &Session<'_>, reference: &Reference, digest: &Digest) -> Result<()> {
        let Some(rule) = self.rule(reference) else { return Ok(()) };
        let name = reference.familiar();
        match rule.requirement {
            Requirement::Nothing => return Ok(()),
            Requirement::Never => {
                let message = format!("the policy refuses every image of `{}`: `{name}`", rule.prefix);
                return Err(Error::new(ErrorKind::Denied, message));
            }
            Requirement::Signed => {}
        }
        let mut why = Vec::new();
        for signature in signatures(session, digest)? {
            match signature.verify(session, rule, reference, digest) {
                Ok(()) => return Ok(()),
                Err(error) => why.push(error),
            }
        }
        let (message, cause) = match why.into_iter().next() {
            None => (format!("image `{name}` is not signed"), None),
            Some(error) => (format!("image `{name}` has no signature that counts"), Some(error)),
        };
        let error = Error::new(ErrorKind::Denied, message);
        let error = match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        let keys: Vec<&str> = rule.keys.iter().map(|(name, _)| name.as_str()).collect();
        Err(error.hint(format!("the policy wants `{}` signed by {}", rule.prefix, keys.join(" or "))))
    }
}

/// A signature and where its payload lies.
struct Signature {
    payload: Descriptor,
    signature: String,
}

impl Signature {
    fn verify(&self, session: &Session<'_>, rule: &Rule, reference: &Reference, digest: &Digest) -> Result<()> {
        let refused = |why: String| Err(Error::new(ErrorKind::Denied, why));
        let signature = BASE64_STANDARD
            .decode(&self.signature)
            .map_err(|_| Error::new(ErrorKind::Denied, "the signature is not base64"))?;
        let payload = session.small_blob(&self.payload, PAYLOAD_SIZE_BYTES_MAX, "signed payload")?;
        let good = |(_, key): &&(String, Vec<u8>)| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&payload, &signature).is_ok()
        };
        if rule.keys.iter().find(good).is_none() {
            return refused("no key of the policy made the signature".into());
        }
        // Only now are the payload's words somebody's.
        let payload: Payload = serde_json::from_slice(&payload)
            .map_err(|_| Error::new(ErrorKind::Denied, "the signed payload is not cosign's"))?;
        let critical = payload.critical;
        if critical.kind != "cosign container image signature" {
            return refused(format!("the signature is of a `{}`", super::url::shown(&critical.kind)));
        }
        if Digest::parse(&critical.image.digest).ok().as_ref() != Some(digest) {
            return refused(format!(
                "the signature is of another image: {}",
                super::url::shown(&critical.image.digest)
            ));
        }
        let signed = Reference::parse_name(&critical.identity.reference);
        if !signed.is_ok_and(|signed| signed.repository() == reference.repository()) {
            let signed = super::url::shown(&critical.identity.reference);
            return refused(format!("the signature is for `{signed}`, not for `{}`", reference.repository()));
        }
        Ok(())
    }
}

/// Every signature of an image: under cosign's tag, and among its referrers.
fn signatures(session: &Session<'_>, digest: &Digest) -> Result<Vec<Signature>> {
    let tag = format!("{}-{}.sig", digest.algorithm().as_str(), digest.hex());
    let mut documents = Vec::new();
    match session.manifest(&tag) {
        Ok(fetched) => documents.push(fetched),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.context("cannot look for signatures")),
    }
    let referrers = session.referrers(digest, None).context(|| "cannot look for signatures")?;
    for descriptor in referrers.into_iter().take(SIGNATURES_MAX) {
        if descriptor.artifact_type.as_deref().is_some_and(|kind| kind.contains("cosign")) {
            documents.push(session.manifest(&descriptor.digest.to_string())?);
        }
    }
    let mut found = Vec::new();
    for document in documents {
        let Ok(Document::Manifest(manifest)) = Document::parse(&document.bytes, Some(&document.media_type)) else {
            continue;
        };
        for layer in manifest.layers {
            if layer.media_type == PAYLOAD_TYPE
                && let Some(signature) = layer.annotations.get(SIGNATURE).cloned()
                && found.len() < SIGNATURES_MAX
            {
                found.push(Signature { payload: layer, signature });
            }
        }
    }
    Ok(found)
}

/// The point of an ECDSA P-256 key in PEM.
fn point(pem: &[u8]) -> Result<Vec<u8>> {
    let wrong =
        || Error::invalid("it is no ECDSA P-256 public key in PEM form").hint("`cosign generate-key-pair` makes one");
    let text = std::str::from_utf8(pem).map_err(|_| wrong())?;
    let body =
        text.split_once("-----BEGIN PUBLIC KEY-----").and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"));
    let (body, _) = body.ok_or_else(wrong)?;
    let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    let der = BASE64_STANDARD.decode(body).map_err(|_| wrong())?;
    let point = der.strip_prefix(&SPKI_P256).filter(|point| point.len() == POINT_SIZE).ok_or_else(wrong)?;
    Ok(point.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_policy_names_keys_and_the_longest_prefix_counts() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("k.pub"), KEY).unwrap();
        let text = "[[rule]]\nprefix=''\nrequire='never'\n[[rule]]\nprefix='r.example/a/'\nrequire='signed'\nkeys=['k.pub']\n\
            [[rule]]\nprefix='r.example'\nrequire='nothing'";
        let policy = Policy::parse(text, "policy.toml", directory.path()).unwrap();
        let requirement = |name: &str| policy.rule(&Reference::parse(name).unwrap()).unwrap().requirement;
        assert_eq!(requirement("r.example/a/b"), Requirement::Signed);
        assert_eq!(requirement("r.example/ab"), Requirement::Nothing);
        assert_eq!(requirement("app"), Requirement::Never);
        for wrong in ["[[rule]]\nprefix='a'\nrequire='signed'", "[[rule]]\nprefix='a'\nrequire='maybe'", "x=1"] {
            let error = Policy::parse(wrong, "policy.toml", directory.path()).unwrap_err();
            assert!(error.one_line().starts_with("cannot read the policy `policy.toml`"), "{error:?}");
        }
        std::fs::write(directory.path().join("k.pub"), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")
            .unwrap();
        assert!(
            Policy::parse(text, "policy.toml", directory.path()).unwrap_err().one_line().contains("no ECDSA P-256")
        );
    }
}

//! Who asks, and what they may do.

mod htpasswd;
mod policy;
mod token;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corten_types::Result;
use hyper::{HeaderMap, header};

use super::config::{Action, Config};
use super::failure::{Code, Failure};
use super::route::Name;
use htpasswd::Passwords;
use policy::Policy;
pub(crate) use policy::matches;
use token::{Grants, Tokens};

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need<'a> {
    /// To be somebody.
    Known,
    /// The list of repositories; each is asked for again by itself.
    Catalog,
    /// To do something in a repository.
    Repository(&'a Name, Action),
}

/// Who asks, once that is proven.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// The user's name; none: anonymous.
    pub(crate) user: Option<String>,
    /// What a token allows.
    grants: Option<Grants>,
}

/// How identities are proven.
#[derive(Debug)]
enum Proof {
    /// Not at all: everybody is anonymous and may do everything.
    None,
    Passwords(Box<Passwords>),
    Tokens(Tokens),
}

/// The gate that every request passes.
#[derive(Debug)]
pub(crate) struct Gate {
    proof: Proof,
    policy: Policy,
    realm: String,
}

impl Gate {
    /// Reads password files and keys.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let proof = match (&config.auth.htpasswd, &config.auth.token) {
            (Some(path), _) => Proof::Passwords(Box::new(Passwords::load(path)?)),
            (None, Some(token)) => Proof::Tokens(Tokens::load(token)?),
            (None, None) => Proof::None,
        };
        let realm = config.auth.realm.clone().unwrap_or_else(|| "Corten registry".to_owned());
        Ok(Self { proof, policy: Policy::new(&config.rights), realm })
    }

    /// Who asks. A proof that fails is an error, also where no proof is needed.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Failure> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Identity::default()) };
        let value = value.to_str().map_err(|_| self.challenge(&[], None))?;
        let (scheme, proof) = value.split_once(' ').unwrap_or((value, ""));
        match &self.proof {
            Proof::None => Ok(Identity::default()),
            Proof::Passwords(passwords) if scheme.eq_ignore_ascii_case("basic") => {
                let (user, password) = basic(proof.trim()).ok_or_else(|| self.challenge(&[], None))?;
                if passwords.verify(&user, &password).await? {
                    Ok(Identity { user: Some(user), grants: None })
                } else {
                    Err(self.challenge(&[], None))
                }
            }
            Proof::Tokens(tokens) if scheme.eq_ignore_ascii_case("bearer") => {
                let claims = tokens.verify(proof.trim(), now_seconds());
                let claims = claims.map_err(|_| self.challenge(&[], Some("invalid_token")))?;
                Ok(Identity { user: claims.user, grants: Some(claims.grants) })
            }
            _ => Err(self.challenge(&[], None)),
        }
    }

    /// Refuses what the identity may not do: 401 where a (better) proof could help, else 403.
    pub(crate) fn check(&self, identity: &Identity, needs: &[Need<'_>]) -> Result<(), Failure> {
        let Some(refused) = needs.iter().find(|need| !self.allows(identity, **need)) else { return Ok(()) };
        match (&self.proof, identity.user.is_some() || identity.grants.is_some()) {
            (Proof::Tokens(_), true) => Err(self.challenge(needs, Some("insufficient_scope"))),
            (_, false) => Err(self.challenge(needs, None)),
            (_, true) => Err(Failure::new(Code::Denied).detail(describe(*refused))),
        }
    }

    /// Whether the identity may do it.
    pub(crate) fn allows(&self, identity: &Identity, need: Need<'_>) -> bool {
        match (&self.proof, need) {
            (Proof::None, _) => true,
            (Proof::Passwords(_), Need::Known) => identity.user.is_some(),
            (Proof::Tokens(_), Need::Known) => identity.grants.is_some(),
            (Proof::Passwords(_), Need::Catalog) => identity.user.is_some() || self.policy.names_anybody_anonymous(),
            (Proof::Passwords(_), Need::Repository(name, action)) => {
                self.policy.allows(identity.user.as_deref(), name.as_str(), action)
            }
            (Proof::Tokens(_), Need::Catalog) => identity.grants.as_ref().is_some_and(Grants::allow_catalog),
            (Proof::Tokens(_), Need::Repository(name, action)) => {
                identity.grants.as_ref().is_some_and(|grants| grants.allow(name.as_str(), action))
            }
        }
    }

    /// Whether the catalog shows a repository: whoever has a token for the catalog sees all of it.
    pub(crate) fn shows(&self, identity: &Identity, name: &Name) -> bool {
        match &self.proof {
            Proof::Tokens(_) => true,
            _ => self.allows(identity, Need::Repository(name, Action::Pull)),
        }
    }

    /// 401, and how to do better.
    fn challenge(&self, needs: &[Need<'_>], error: Option<&str>) -> Failure {
        let challenge = match &self.proof {
            Proof::Tokens(tokens) => tokens.challenge(&scopes(needs), error),
            _ => format!("Basic realm=\"{}\"", quoted(&self.realm)),
        };
        let failure = Failure::new(Code::Unauthorized).header(header::WWW_AUTHENTICATE, &challenge);
        match needs.first() {
            Some(need) => failure.detail(describe(*need)),
            None => failure,
        }
    }
}

fn describe(need: Need<'_>) -> serde_json::Value {
    match need {
        Need::Known => serde_json::Value::Null,
        Need::Catalog => serde_json::json!([{"Type": "registry", "Class": "", "Name": "catalog", "Action": "*"}]),
        Need::Repository(name, action) => {
            serde_json::json!([{"Type": "repository", "Class": "", "Name": name.as_str(), "Action": action.as_str()}])
        }
    }
}

/// The scopes of a token that would do, one for each repository.
fn scopes(needs: &[Need<'_>]) -> String {
    let mut repositories: Vec<(String, Vec<&str>)> = Vec::new();
    for need in needs {
        let (resource, action) = match need {
            Need::Known => continue,
            Need::Catalog => ("registry:catalog".to_owned(), "*"),
            Need::Repository(name, action) => (format!("repository:{}", name.as_str()), action.as_str()),
        };
        match repositories.iter_mut().find(|(known, _)| *known == resource) {
            Some((_, actions)) if actions.contains(&action) => {}
            Some((_, actions)) => actions.push(action),
            None => repositories.push((resource, vec![action])),
        }
    }
    let scopes: Vec<String> =
        repositories.into_iter().map(|(resource, actions)| format!("{resource}:{}", actions.join(","))).collect();
    scopes.join(" ")
}

/// The content of a quoted string in a header.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').filter(|c| !matches!(c, '"' | '\\')).collect()
}

/// User and password of basic authentication.
fn basic(text: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn now_seconds() -> i64 {
    corten_types::time::now().0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn scopes_name_every_repository_once() {
        let (a, b) = (name("a"), name("team/b"));
        let needs = [
            Need::Repository(&a, Action::Pull),
            Need::Repository(&a, Action::Push),
            Need::Repository(&b, Action::Pull),
            Need::Known,
        ];
        assert_eq!(scopes(&needs), "repository:a:pull,push repository:team/b:pull");
        assert_eq!(scopes(&[Need::Catalog]), "registry:catalog:*");
    }

    #[test]
    fn basic_credentials() {
        let encode = |text: &str| STANDARD.encode(text);
        assert_eq!(basic(&encode("a:b:c")), Some(("a".into(), "b:c".into())));
        assert_eq!(basic(&encode("ab")), None);
        assert_eq!(basic("!"), None);
        assert_eq!(quoted("a\"b\\c\r\nd"), "abcd");
    }
}

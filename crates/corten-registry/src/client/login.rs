//! Logging in: a user name and a password are tried, and kept only where the registry takes them.

use corten_types::{Context, Error, ErrorKind, Reference, Result};

use super::Client;
use super::credentials::{Kept, Login};
use super::secret::Secret;
use super::session::{Access, Session};
use super::transport::{Call, Method};
use super::url::Url;

impl Client {
    /// Tries a login at `host` (`HOST[:PORT]`) and keeps it. Where the registry gives something to renew tokens with, that
    /// is kept in place of the password.
    pub fn login(&self, host: &str, user: &str, password: Secret<String>) -> Result<Kept> {
        let login = Login::Password { user: user.to_owned(), password };
        let kept = self.try_login(host, login).context(|| format!("cannot log in at `{host}`"))?;
        self.options().credentials.keep(host, &kept)
    }

    fn try_login(&self, host: &str, login: Login) -> Result<Login> {
        let some = Reference::parse(&format!("{host}/x"))
            .map_err(|_| Error::invalid(format!("`{host}` is not a registry's `HOST[:PORT]`")))?;
        let mut endpoint = self.options().registries.registry(&some);
        endpoint.repository.clear();
        let mut session = Session::open(self, endpoint, Access::Registry)?;
        session.offline = true;
        let ping = || Call::new(Method::Get, Url { origin: session.origin.clone(), path: "/v2/".into() });
        let answer = self.transport.send(&ping())?;
        match answer.status {
            // It lets everybody in; what is kept may still be asked for by a repository.
            200 => return Ok(login),
            401 => {}
            _ => return Err(answer.into_error("this is no registry")),
        }
        let proof = session.prove_with(&answer, Some(&login)).map_err(unauthorized)?;
        let mut call = ping();
        call.authorization = Some(proof.header);
        let answer = self.transport.send(&call)?;
        match answer.status {
            200 => Ok(proof.refresh.map_or(login, Login::IdentityToken)),
            _ => Err(unauthorized(answer.into_error("the registry does not take the login"))),
        }
    }
}

/// Docker's words; a hint to log in would not help.
fn unauthorized(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Denied if error.message().starts_with("registry `") => error,
        ErrorKind::Denied => {
            let chain = error.chain();
            Error::from_parts(ErrorKind::Denied, None, chain, Vec::new()).context("incorrect username or password")
        }
        _ => error,
    }
}

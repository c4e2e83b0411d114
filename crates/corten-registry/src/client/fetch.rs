//! A file by its URL: what `import` takes from the web. No login goes along.

use std::io::Read;

use corten_types::{Context, Error, ErrorKind, Result};

use super::Client;
use super::transport::{Call, Method, Trust};
use super::url::{Scheme, Url, shown};

/// Most redirects.
const REDIRECTS_MAX: usize = 8;

impl Client {
    /// The content of a URL that the user named, as it comes. A redirect leads to no address that only this machine can
    /// reach, and from https to nothing else.
    pub fn fetch(&self, url: &str) -> Result<Box<dyn Read + Send>> {
        self.fetched(url).context(|| format!("cannot fetch `{}`", shown(url)))
    }

    fn fetched(&self, url: &str) -> Result<Box<dyn Read + Send>> {
        let named = Url::parse(url)?;
        let mut call = Call::new(Method::Get, named.clone());
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.transport.send(&call)?;
            match answer.status {
                200 => return Ok(Box::new(answer.body.into_reader())),
                301 | 302 | 303 | 307 | 308 => {
                    let Some(location) = answer.header("location") else {
                        return Err(Error::invalid("the server redirects to nowhere"));
                    };
                    call.url = call.url.join(location)?;
                    if named.origin.scheme == Scheme::Https && call.url.origin.scheme == Scheme::Http {
                        let message = format!("the server redirects to `{}`, in the clear", call.url.origin);
                        return Err(Error::new(ErrorKind::Denied, message));
                    }
                    if call.url.origin != named.origin {
                        call.trust = Trust::Foreign(named.origin.host.clone());
                    }
                }
                404 | 410 => return Err(Error::new(ErrorKind::NotFound, "the server has no such file")),
                _ => return Err(answer.into_error("cannot fetch it")),
            }
        }
        Err(Error::new(ErrorKind::Exhausted, format!("the server redirects more than {REDIRECTS_MAX} times")))
    }
}

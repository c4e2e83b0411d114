//! Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as curl and Go read them.

use std::net::IpAddr;

use corten_types::{Error, Result};

use super::url::{Origin, Scheme};

/// The proxies of the environment.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts without one, separated by commas.
    pub none: Option<String>,
}

impl Proxies {
    /// The proxy for `origin`.
    pub(crate) fn choose(&self, origin: &Origin) -> Result<Option<ureq::Proxy>> {
        let url = match origin.scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        let Some(url) = url.as_deref().filter(|url| !url.is_empty()) else { return Ok(None) };
        // Go's rule: this machine is never asked for through a proxy.
        if origin.is_local() || self.is_exempt(origin) {
            return Ok(None);
        }
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let proxy = if whole.starts_with("http://") || whole.starts_with("https://") {
            ureq::Proxy::new(&whole).ok()
        } else {
            None
        };
        proxy.map(Some).ok_or_else(|| {
            // The URL may hold a password.
            let variable = if origin.scheme == Scheme::Https { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            Error::invalid(format!("the proxy that `{variable}` names cannot be used"))
                .hint(format!("it reads `http://[USER:PASSWORD@]HOST:PORT`; `{variable}=` goes without"))
        })
    }

    fn is_exempt(&self, origin: &Origin) -> bool {
        let Some(list) = &self.none else { return false };
        list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| matches(entry, origin))
    }
}

fn matches(entry: &str, origin: &Origin) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Some((network, bits)), Some(address)) = (entry.split_once('/'), origin.address()) {
        return in_network(address, network, bits).unwrap_or(false);
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, Some(port)),
        _ => (entry, None),
    };
    if port.is_some_and(|port| port.parse() != Ok(origin.port)) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).trim_start_matches("*.").to_ascii_lowercase();
    let bare = name.trim_start_matches('.');
    let whole = !name.starts_with('.') && origin.host == bare;
    whole || (origin.address().is_none() && origin.host.strip_suffix(bare).is_some_and(|rest| rest.ends_with('.')))
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    Some(match (address, network.parse().ok()?) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(address) & mask == u128::from(network) & mask
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exempt_as_go_reads_the_list() {
        let proxies = |none: &str| Proxies {
            http: Some("proxy:3128".into()),
            https: Some("http://user:pw@proxy:3128".into()),
            none: Some(none.into()),
        };
        for (none, host, goes_through) in [
            ("", "r.example", true),
            ("", "localhost:5000", false),
            ("", "127.0.0.2:5000", false),
            ("*", "r.example", false),
            ("example", "r.example", false),
            (".example", "r.example", false),
            (".example", "example", true),
            ("*.example", "r.example", false),
            ("xample", "r.example", true),
            ("r.example:5000", "r.example:5000", false),
            ("r.example:5001", "r.example:5000", true),
            ("10.0.0.0/8", "10.1.2.3", false),
            ("10.0.0.0/8", "11.1.2.3", true),
            ("fd00::/8", "[fd01::1]:5000", false),
            ("a, r.example ", "r.example", false),
        ] {
            let origin = Origin::new(Scheme::Https, host).unwrap();
            assert_eq!(proxies(none).choose(&origin).unwrap().is_some(), goes_through, "{none:?} {host}");
        }
    }

    #[test]
    fn a_wrong_proxy_is_named_by_its_variable_alone() {
        let proxies = Proxies { https: Some("socks9://u:secret@x".into()), ..Proxies::default() };
        let error = proxies.choose(&Origin::new(Scheme::Https, "r.example").unwrap()).unwrap_err();
        assert!(error.message().contains("HTTPS_PROXY") && !error.report().contains("secret"), "{error:?}");
    }
}

//! Proxies: who is reached through one, and what it learns.

use corten_registry::client::{Client, Options, Proxies};
use corten_testkit::wire::Proxy;
use corten_testkit::{Authority, Registry};
use corten_types::Error;

use crate::support::{hosts, image, logged_in, pull, store, text};

/// A registry behind a proxy: only the proxy knows where `registry.test` is.
struct Behind {
    registry: Registry,
    directory: tempfile::TempDir,
    host: String,
}

fn behind() -> Behind {
    let authority = Authority::new();
    let registry = Registry::start_tls(authority.server(&["registry.test"]).server(None));
    registry.add_image("app", "1", &image(200_000));
    let directory = tempfile::tempdir().unwrap();
    let host = format!("registry.test:{}", registry.port());
    corten_testkit::authority::trust(&directory.path().join("certs.d"), &host, authority.pem());
    Behind { registry, directory, host }
}

impl Behind {
    fn options(&self, proxies: Proxies, known: &[&str]) -> Options {
        let certificates = vec![self.directory.path().join("certs.d")];
        Options { certificate_directories: certificates, proxies, ..hosts(self.directory.path(), known) }
    }

    fn try_pull(&self, options: Options) -> Result<(), Error> {
        let (_directory, store) = store();
        pull(&Client::new(options), &store, &format!("{}/app:1", self.host)).map(drop)
    }
}

fn through(proxy: &Proxy, none: &str) -> Proxies {
    let url = format!("http://us:p%40ss@{}", proxy.host());
    Proxies { http: None, https: Some(url), none: (!none.is_empty()).then(|| none.to_owned()) }
}

#[test]
fn a_registry_is_reached_through_the_proxy_which_learns_its_name_and_nothing_else() {
    let behind = behind();
    let proxy = Proxy::start(&format!("127.0.0.1:{}", behind.registry.port()), None);
    behind.registry.hook(|request, _| {
        let known = request.header("authorization").is_some_and(|value| value.starts_with("Basic bWU6"));
        let refusal = corten_testkit::registry::Reply::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
        (!known).then_some(refusal)
    });
    let (_files, me) = logged_in(&behind.host, "me", "hush");
    let credentials = me.options().credentials.clone();
    let options = Options { credentials, ..behind.options(through(&proxy, ""), &[]) };
    behind.try_pull(options).unwrap();
    let heads = proxy.heads();
    assert!(!heads.is_empty() && heads.iter().all(|head| head.starts_with(&format!("CONNECT {} ", behind.host))));
    // us:p@ss, and nothing of the registry's login.
    assert!(heads.iter().all(|head| head.contains("Proxy-Authorization: Basic dXM6cEBzcw==")), "{heads:?}");
    assert!(heads.iter().all(|head| !head.contains("bWU6")), "{heads:?}");
    assert!(behind.registry.requests().iter().all(|request| request.header("proxy-authorization").is_none()));
}

#[test]
fn no_proxy_is_asked_for_what_is_exempt() {
    let behind = behind();
    let proxy = Proxy::start(&format!("127.0.0.1:{}", behind.registry.port()), None);
    for none in ["registry.test", ".test", "*"] {
        behind.try_pull(behind.options(through(&proxy, none), &["registry.test"])).unwrap();
    }
    assert!(proxy.heads().is_empty());
    // Another name's exemption is none.
    behind.try_pull(behind.options(through(&proxy, "other.test"), &[])).unwrap();
    assert!(!proxy.heads().is_empty());
}

#[test]
fn a_proxy_that_refuses_is_named_without_its_password() {
    let behind = behind();
    let proxy = Proxy::start("127.0.0.1:1", Some("407 Proxy Authentication Required"));
    let said = text(&behind.try_pull(behind.options(through(&proxy, ""), &[])).unwrap_err());
    assert!(said.contains("the proxy refused") && said.contains("407"), "{said}");
    assert!(!said.contains("p@ss") && !said.contains("p%40ss"), "{said}");
    assert!(behind.registry.requests().is_empty());
}

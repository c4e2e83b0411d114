//! Whom the client believes over TLS, and what it says where it does not.
//!
//! The registries are on loopback under names that the client's own table of hosts has: a name is verified, where docker's
//! rule leaves `localhost` and 127.0.0.0/8 unverified.

use std::path::Path;

use corten_registry::client::{Client, Options, Registries};
use corten_testkit::authority::Pair;
use corten_testkit::{Authority, Registry};
use corten_types::{Error, ErrorKind};

use crate::support::{hosts, image, options, pull, push, store, text};

const HOST: &str = "registry.test";

/// A registry that shows `pair`, and what it is called.
fn registry(pair: &Pair, clients: Option<&Authority>) -> (Registry, String) {
    let registry = Registry::start_tls(pair.server(clients));
    registry.add_image("app", "1", &image(200_000));
    let host = format!("{HOST}:{}", registry.port());
    (registry, host)
}

/// A client whose `certs.d` is in `directory`.
fn client_in(directory: &Path) -> Client {
    Client::new(options_in(directory))
}

fn options_in(directory: &Path) -> Options {
    Options { certificate_directories: vec![directory.join("certs.d")], ..hosts(directory, &[HOST]) }
}

fn try_pull(client: &Client, host: &str) -> Result<(), Error> {
    let (_directory, store) = store();
    pull(client, &store, &format!("{host}/app:1")).map(drop)
}

fn trust(directory: &Path, host: &str, certificate: &str) {
    corten_testkit::authority::trust(&directory.join("certs.d"), host, certificate);
}

#[test]
fn an_unknown_authority_is_refused_and_believed_once_it_lies_where_the_hint_says() {
    let authority = Authority::new();
    let (registry, host) = registry(&authority.server(&[HOST]), None);
    let directory = tempfile::tempdir().unwrap();
    let error = try_pull(&client_in(directory.path()), &host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let place = directory.path().join("certs.d").join(&host).join("ca.crt");
    let said = text(&error);
    assert!(said.contains("an authority that is not known here"), "{said}");
    assert!(said.contains(&place.display().to_string()), "{said}");
    assert!(registry.requests().is_empty(), "nothing was asked before");
    trust(directory.path(), &host, authority.pem());
    let client = client_in(directory.path());
    try_pull(&client, &host).unwrap();
    let (_directory, store) = store();
    pull(&client, &store, &format!("{host}/app:1")).unwrap();
    push(&client, &store, &format!("{host}/app:1"), &format!("{host}/copy:2")).unwrap();
    assert_eq!(registry.manifest("copy", "2"), registry.manifest("app", "1"));
    // What is believed for one registry is believed for that one alone.
    let (_other, elsewhere) = self::registry(&authority.server(&[HOST]), None);
    assert!(text(&try_pull(&client, &elsewhere).unwrap_err()).contains("not known here"));
}

#[test]
fn an_expired_or_foreign_certificate_is_named_as_such() {
    let authority = Authority::new();
    let cases = [
        (authority.expired(&[HOST]), "its certificate has expired"),
        (authority.server(&["other.test"]), "its certificate is not for `registry.test`, it is for"),
    ];
    for (pair, words) in cases {
        let (_registry, host) = registry(&pair, None);
        let directory = tempfile::tempdir().unwrap();
        trust(directory.path(), &host, authority.pem());
        let said = text(&try_pull(&client_in(directory.path()), &host).unwrap_err());
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_certificate_that_is_its_own_authority_is_believed_where_it_is_named_and_still_holds() {
    // As docker's manual makes one: `openssl req -x509`.
    let pair = Authority::self_signed(&[HOST], false);
    let (_registry, host) = registry(&pair, None);
    let directory = tempfile::tempdir().unwrap();
    assert!(try_pull(&client_in(directory.path()), &host).is_err());
    trust(directory.path(), &host, &pair.certificate);
    try_pull(&client_in(directory.path()), &host).unwrap();
    for (pair, words) in [
        (Authority::self_signed(&[HOST], true), "has expired"),
        (Authority::self_signed(&["other.test"], false), "is not for `registry.test`"),
    ] {
        let (_registry, host) = registry(&pair, None);
        trust(directory.path(), &host, &pair.certificate);
        let said = text(&try_pull(&client_in(directory.path()), &host).unwrap_err());
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_client_certificate_is_shown_where_the_registry_asks_for_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (registry, host) = registry(&authority.server(&[HOST]), Some(&clients));
    let directory = tempfile::tempdir().unwrap();
    trust(directory.path(), &host, authority.pem());
    let said = text(&try_pull(&client_in(directory.path()), &host).unwrap_err());
    assert!(said.contains("client certificate") && said.contains("`client.cert` with `client.key`"), "{said}");
    let folder = directory.path().join("certs.d").join(&host);
    clients.client("me").write(&folder, "client", "cert");
    try_pull(&client_in(directory.path()), &host).unwrap();
    assert!(!registry.requests().is_empty());
    // Somebody else's certificate does not do; a key of another certificate is said to be one.
    Authority::new().client("me").write(&folder, "client", "cert");
    assert!(try_pull(&client_in(directory.path()), &host).is_err());
    clients.client("me").write(&folder, "other", "cert");
    std::fs::copy(folder.join("other.key"), folder.join("client.key")).unwrap();
    std::fs::remove_file(folder.join("other.key")).unwrap();
    std::fs::remove_file(folder.join("other.cert")).unwrap();
    let said = text(&try_pull(&client_in(directory.path()), &host).unwrap_err());
    assert!(said.contains("do not belong together"), "{said}");
}

#[test]
fn unverified_is_only_what_was_said_to_be() {
    let (_registry, host) = registry(&Authority::new().server(&["other.test"]), None);
    let plain = Registry::start();
    plain.add_image("app", "1", &image(1000));
    let in_the_clear = format!("{HOST}:{}", plain.port());
    let directory = tempfile::tempdir().unwrap();
    let with = |registries: Registries| Client::new(Options { registries, ..options_in(directory.path()) });
    // Nothing said: neither an unknown certificate nor plain http.
    assert!(try_pull(&with(Registries::default()), &host).is_err());
    let said = text(&try_pull(&with(Registries::default()), &in_the_clear).unwrap_err());
    assert!(said.contains("it does not speak TLS") && said.contains("insecure = true"), "{said}");
    assert!(plain.count("GET") + plain.count("HEAD") == 0);
    // `--tls-verify=false`
    let mut all = Registries::default();
    all.allow_insecure();
    try_pull(&with(all.clone()), &host).unwrap();
    try_pull(&with(all), &in_the_clear).unwrap();
    // registries.conf: the one that is named, no other.
    let mut one = Registries::default();
    one.add(&format!("[[registry]]\nlocation='{in_the_clear}'\ninsecure=true"), "registries.conf", true).unwrap();
    try_pull(&with(one.clone()), &in_the_clear).unwrap();
    assert!(try_pull(&with(one), &host).is_err());
    // docker's rule: this machine.
    try_pull(&with(Registries::default()), &host.replace(HOST, "localhost")).unwrap();
    try_pull(&Client::new(options()), &host.replace(HOST, "127.0.0.1")).unwrap();
}

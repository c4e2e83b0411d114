//! Who may do what: passwords, tokens, rights, TLS.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use corten_testkit::authority::Pair;

use crate::server_support::{Answer, Running, sha256};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A server with the users alice and ci, whose passwords are `secret`.
fn with_passwords(config: &str) -> (tempfile::TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&users, format!("alice:{hash}\nci:{hash}\n")).unwrap();
    let server = Running::start(directory.path(), &format!("auth.htpasswd = {users:?}\n{config}"));
    (directory, server)
}

fn ask(server: &Running, method: &str, path: &str, login: Option<(&str, &str)>) -> Answer {
    let request = server.request(method, path).body("");
    match login {
        Some((user, password)) => request.header("Authorization", basic(user, password)).send(),
        None => request.send(),
    }
}

#[test]
fn nobody_does_anything_without_the_right_password() {
    let (_directory, server) = with_passwords("");
    for login in [None, Some(("alice", "wrong")), Some(("alice", "")), Some(("bob", "secret")), Some(("", ""))] {
        for (method, path) in [
            ("GET", "/v2/"),
            ("GET", "/v2/_catalog"),
            ("GET", "/metrics"),
            ("GET", "/v2/app/tags/list"),
            ("POST", "/v2/app/blobs/uploads/"),
            ("DELETE", "/v2/app/manifests/1"),
        ] {
            let answer = ask(&server, method, path, login);
            assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{login:?} {method} {path}");
            assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"Corten registry\""));
        }
    }
    for junk in ["Basic", "Basic !!!", "Basic YWJj", "Bearer x", "Digest a=b"] {
        assert_eq!(server.request("GET", "/v2/").header("Authorization", junk).send().status, 401, "{junk}");
    }
    let alice = Some(("alice", "secret"));
    assert_eq!(ask(&server, "GET", "/v2/", alice).status, 200);
    assert_eq!(ask(&server, "POST", "/v2/app/blobs/uploads/", alice).status, 202);
    let metrics = ask(&server, "GET", "/metrics", alice);
    assert!(String::from_utf8(metrics.body).unwrap().contains("corten_registry_refused_logins_total"));
}

#[test]
fn rights_are_by_user_repository_and_action() {
    let rights = r#"
        [[rights]]
        users = ["anonymous"]
        repositories = ["public/**"]
        actions = ["pull"]
        [[rights]]
        users = ["alice"]
        repositories = ["**"]
        actions = ["pull", "push", "delete"]
        [[rights]]
        users = ["ci"]
        repositories = ["team/*"]
        actions = ["pull", "push"]"#;
    let (_directory, server) = with_passwords(rights);
    let alice = basic("alice", "secret");
    for repository in ["public/app", "team/app", "private/app"] {
        for content in ["{}", "layer"] {
            let path = format!("/v2/{repository}/blobs/uploads/?digest={}", sha256(content.as_bytes()));
            assert_eq!(server.request("POST", &path).header("Authorization", &alice).body(content).send().status, 201);
        }
        let manifest = crate::server_support::artifact(&[(&sha256(b"layer"), 5)], None);
        let put = server.request("PUT", &format!("/v2/{repository}/manifests/1")).header("Authorization", &alice);
        assert_eq!(put.body(manifest).send().status, 201);
    }
    let (ci, alice) = (Some(("ci", "secret")), Some(("alice", "secret")));
    for (login, method, path, status) in [
        (None, "GET", "/v2/public/app/tags/list", 200),
        (None, "POST", "/v2/public/app/blobs/uploads/", 401),
        (None, "GET", "/v2/team/app/tags/list", 401),
        (ci, "GET", "/v2/public/app/tags/list", 200),
        (ci, "POST", "/v2/public/app/blobs/uploads/", 403),
        (ci, "POST", "/v2/team/app/blobs/uploads/", 202),
        (ci, "DELETE", "/v2/team/app/manifests/1", 403),
        (ci, "GET", "/v2/private/app/tags/list", 403),
        (ci, "GET", "/v2/private/nothing/tags/list", 403),
        (alice, "DELETE", "/v2/team/app/manifests/1", 202),
    ] {
        assert_eq!(ask(&server, method, path, login).status, status, "{login:?} {method} {path}");
    }
    assert_eq!(ask(&server, "GET", "/v2/private/app/tags/list", ci).code(), "DENIED");
    // A blob is mounted only from where one may read it.
    let layer = sha256(b"layer");
    let mount = |from: &str| format!("/v2/team/new/blobs/uploads/?mount={layer}&from={from}");
    assert_eq!(ask(&server, "POST", &mount("private/app"), ci).status, 202);
    assert_eq!(ask(&server, "POST", &mount("public/app"), ci).status, 201);
    // The catalog has what one may read.
    let catalog = |login| ask(&server, "GET", "/v2/_catalog", login).json()["repositories"].clone();
    assert_eq!(catalog(None), serde_json::json!(["public/app"]));
    assert_eq!(catalog(ci), serde_json::json!(["public/app", "team/app", "team/new"]));
}

/// A server that believes the tokens of a key, and the key.
fn with_tokens() -> (tempfile::TempDir, Running, rcgen::KeyPair) {
    let directory = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["auth".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let keys = directory.path().join("keys.pem");
    std::fs::write(&keys, certificate.pem()).unwrap();
    let token = format!(
        "auth.token = {{ realm = \"http://auth.test/token\", service = \"reg\", issuer = \"auth\", keys = [{keys:?}] }}"
    );
    let server = Running::start(directory.path(), &token);
    (directory, server, pair)
}

fn token(pair: &rcgen::KeyPair, header: &str, access: &str, expires: i64) -> String {
    let body = format!(r#"{{"iss":"auth","sub":"ci","aud":"reg","exp":{expires},"access":{access}}}"#);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
    let random = ring::rand::SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der(), &random).unwrap();
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

#[test]
fn a_token_opens_what_it_names_and_a_forged_one_nothing() {
    let (_directory, server, pair) = with_tokens();
    let now = corten_types::time::now().0;
    let es256 = r#"{"alg":"ES256","typ":"JWT"}"#;
    let access = r#"[{"type":"repository","name":"app","actions":["pull","push"]}]"#;
    let good = token(&pair, es256, access, now + 300);
    let ask = |method: &str, path: &str, token: &str| {
        server.request(method, path).header("Authorization", token).body("").send()
    };
    let asked = server.get("/v2/app/tags/list");
    assert_eq!(asked.status, 401);
    let challenge = "Bearer realm=\"http://auth.test/token\",service=\"reg\",scope=\"repository:app:pull\"";
    assert_eq!(asked.header("www-authenticate"), Some(challenge));
    let push = server.request("POST", "/v2/app/blobs/uploads/").body("").send();
    assert!(push.header("www-authenticate").unwrap().ends_with("scope=\"repository:app:pull,push\""));
    assert_eq!(ask("GET", "/v2/", &good).status, 200);
    assert_eq!(ask("POST", "/v2/app/blobs/uploads/", &good).status, 202);
    let elsewhere = ask("GET", "/v2/other/tags/list", &good);
    assert_eq!(elsewhere.status, 401);
    assert!(elsewhere.header("www-authenticate").unwrap().ends_with("error=\"insufficient_scope\""));
    assert_eq!(ask("DELETE", "/v2/app/manifests/1", &good).status, 401);
    assert_eq!(ask("GET", "/v2/_catalog", &good).status, 401);
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let body = signed.split_once('.').unwrap().1;
    for (what, forged) in [
        ("another key", token(&other, es256, access, now + 300)),
        ("expired", token(&pair, es256, access, now - 300)),
        ("alg none", format!("Bearer {}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#))),
        ("HMAC with the public key", token(&pair, r#"{"alg":"HS256"}"#, access, now + 300)),
        ("its own key inside", token(&other, r#"{"alg":"ES256","jwk":{"kty":"EC"}}"#, access, now + 300)),
        ("other words", format!("{}.{signature}", signed.replace(body, &URL_SAFE_NO_PAD.encode("{}")))),
        ("a password", basic("ci", "secret")),
        ("nothing", "Bearer ".to_owned()),
    ] {
        let refused = ask("POST", "/v2/app/blobs/uploads/", &forged);
        assert_eq!((refused.status, refused.code().as_str()), (401, "UNAUTHORIZED"), "{what}");
    }
}

#[test]
fn a_socket_in_the_file_system_is_its_owner_s() {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reg.sock");
    let config = format!("listen = [\"unix:{}\"]\nname = \"reg.test\"", path.display());
    let options = || corten_registry::server::Options {
        config: corten_registry::server::Config::parse(&config).unwrap(),
        store: corten_store::Options { root: directory.path().join("store") },
        log: None,
    };
    let server = corten_registry::server::Server::bind(options()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let taken = corten_registry::server::Server::bind(options()).unwrap_err();
    assert!(taken.report().contains("another program listens there"), "{}", taken.report());
    let stopper = server.stopper();
    let thread = std::thread::spawn(move || server.run().unwrap());
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stopper.stop();
    thread.join().unwrap();
    assert!(!path.exists(), "the socket goes with the server");
    // What a killed server left is replaced; a file is not.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(corten_registry::server::Server::bind(options()).unwrap());
    std::fs::write(&path, "a file").unwrap();
    assert!(corten_registry::server::Server::bind(options()).is_err());
}

/// A client that trusts `authority`, shows `pair` where there is one, and gets `path`; the answer's first line.
fn over_tls(
    server: &Running,
    authority: &corten_testkit::Authority,
    pair: Option<&Pair>,
    path: &str,
) -> Option<String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use std::io::{BufRead, Write};
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let name = ServerName::try_from("reg.test").unwrap();
    let connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let socket = std::net::TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: reg.test\r\nConnection: close\r\n\r\n").ok()?;
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line).filter(|line| !line.is_empty())
}

#[test]
fn a_certificate_is_shown_asked_for_and_read_again_when_it_was_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, clients) =
        (corten_testkit::Authority::new(), corten_testkit::Authority::new(), corten_testkit::Authority::new());
    first.server(&["reg.test"]).write(directory.path(), "server", "crt");
    std::fs::write(directory.path().join("clients.crt"), clients.pem()).unwrap();
    let path = |name: &str| directory.path().join(name);
    let tls = format!(
        "tls = {{ certificate = {:?}, key = {:?}, client_ca = {:?} }}",
        path("server.crt"),
        path("server.key"),
        path("clients.crt")
    );
    let server = Running::start(directory.path(), &tls);
    let me = clients.client("me");
    let get = |authority: &corten_testkit::Authority, pair: Option<&Pair>| over_tls(&server, authority, pair, "/v2/");
    assert_eq!(get(&first, Some(&me)).as_deref(), Some("HTTP/1.1 200 OK\r\n"));
    assert_eq!(get(&first, None), None, "no certificate, no answer");
    assert_eq!(get(&first, Some(&second.client("me"))), None);
    assert_eq!(get(&second, Some(&me)), None, "another authority's server it is not");
    assert_eq!(read_plain(&server), "", "nothing is said in the clear");
    // Renewed: first half of it, which changes nothing, then all.
    let renewed = second.server(&["reg.test"]);
    std::fs::write(path("server.crt"), &renewed.certificate).unwrap();
    let limit = std::time::Duration::from_secs(60);
    assert_eq!(get(&first, Some(&me)).as_deref(), Some("HTTP/1.1 200 OK\r\n"));
    std::fs::write(path("server.key"), &renewed.key).unwrap();
    assert!(corten_testkit::run::eventually(limit, || get(&second, Some(&me)).is_some()));
    assert_eq!(get(&first, Some(&me)), None);
}

fn read_plain(server: &Running) -> String {
    let mut stream = server.request("GET", "/v2/").begin();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap_or_default();
    if answer.starts_with(b"HTTP/") { String::from_utf8_lossy(&answer).into_owned() } else { String::new() }
}

/// A private key of these tests alone (RSA, 2048 bits, PKCS #1), and what a server is told of it. (rcgen makes none.)
const RSA_KEY: &str = "\
    MIIEowIBAAKCAQEArVxsyAuwkCs9YP1RTfTcyzDNFuqvzeDjxK/cftyQw1RU0WCh4Dx3GsTv1l0/Qe4KXmBXiIisPha31TpDexNl\
    7RwVT0NsClJuoVIhfATNVE1ZujuLvPbkCGPqLgEiXx8EwT0iRxzBbgVqdoJXDUs/ZMkhb1G/EvUATuRMApyIwHXcCcVyV4DDw5Pf\
    LRa0VijN46w7NIEjilYJP8L6u7tnDfrp7Sv9SC33kldd6W8Com28n/3ppwjaxmSCC16tDI2stHVt+h/Jyc25tfDZCu7uR6s/dNKd\
    xoEuzJwVnXJTVeGi9Kmf0uHI09WzIi82CoeT4Oo9fZ8TSwzoICFQcyKohwIDAQABAoIBAEQROhUBof25PIxMahP1xItzSdNpqkVn\
    u4aKlkSpTZ2kCvl6u5RTqWA1WwYL7r5wPFn58eSF5TsrqFpsWfqFD0wd7rAEhPM4kn98w/Dx4bzr8gMRRjiXp8kzkcsmXtyCTVei\
    LUdGnxwXvElzu8JYfTeRUTNoIWHMGKbhNIcB9x+5gRQ9Jh99F+AxOXNDZPwV0UF2TQvW8UGNMOsQ+hmIQd+b0AcKmWghDlaqt4qv\
    GQRd764bK9vGWJzrLJdkZ2eMSZX1d85VfnFbu7FdC34178pU2/wWDLF6UW+8OxMMBLTjJxap4gGhJcp8c1w7HOSZKWpzv6d1+iyI\
    tblIMHwCMWECgYEA43u0QWt9qjzlFi/wYwGh9kb4V5VI+gvkAm/zh54uFp8gQsIkzCXY2TdVJhsHuGGwr0J06cm6sDlfH+/r9vdy\
    KxYlLs9/6q+vu4YCrYsXsoG4SAwri61nZvJLmhU1cuszarawUYCU3A7D7taaAIIuI/MLK1SsaEY5moCgfxKlD4MCgYEAwxfaunJJ\
    n1ffhHUVNBYPkFjHAWgu6zXLqOS5O4lzu2cd/UuiOmEQfN71LuDXjd6dajTL9F/PdKf219WjWjyMExX8Yauqh12qxsgtjfWKIYu5\
    Cr1bA9swmAnuo5KsTfZ7KcdLyz4DeCy2a1jZho7Gkwg0NfuvW9eMzdymFonPj60CgYBoni+cFo9Ih5Djz1BCeDHATYtQ3Dsfo/BM\
    nqflKv4PMUdo7Fh3+r/rxeLHD49RYLwdHfcevcO53+i7i199yPcckaawDIXLrNio6Uy5+0n+smHJ4K72Id14Ht5eEnruSvTuku4r\
    zXKocbHyWYehzDzkE5aDawGPQxyizZ0CU9TNeQKBgQCKwCJty+6UhxiOyf6EhtQW4yzV0VTdL+tieRlMQJuwwsvPY8VDI9loFeHm\
    rz5exd7KtDYB3UpcO0ERi/2bpcgxosdWZ5LmpzVYHvJXLjRJW2gFPVrHyVIsL5QrfZtR72T096ruJ3KsO5CZlB1Q16Ze18zaP+Ad\
    v5WCq9Tr3qNiGQKBgAvfCve+lvtVwE2ILD8KAr2Yzebv8e7UKY4nl2I9JlGy0Krww3hZRLcHjyHlVG81M582/VbLjZeAk2E1nqTU\
    +Bc1QLqWIdmgFfMgfySMs+adxGtKX0Koq6RxdW0BOZ+INgARHODCJrLVVJvROauAyId0bQ5oFFC+oxDMlgl8Xy6q";
const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArVxsyAuwkCs9YP1RTfTc\n\
    yzDNFuqvzeDjxK/cftyQw1RU0WCh4Dx3GsTv1l0/Qe4KXmBXiIisPha31TpDexNl\n\
    7RwVT0NsClJuoVIhfATNVE1ZujuLvPbkCGPqLgEiXx8EwT0iRxzBbgVqdoJXDUs/\n\
    ZMkhb1G/EvUATuRMApyIwHXcCcVyV4DDw5PfLRa0VijN46w7NIEjilYJP8L6u7tn\n\
    Dfrp7Sv9SC33kldd6W8Com28n/3ppwjaxmSCC16tDI2stHVt+h/Jyc25tfDZCu7u\n\
    R6s/dNKdxoEuzJwVnXJTVeGi9Kmf0uHI09WzIi82CoeT4Oo9fZ8TSwzoICFQcyKo\n\
    hwIDAQAB\n\
    -----END PUBLIC KEY-----\n";

#[test]
fn a_token_signed_by_rsa_is_believed_too_and_its_algorithm_is_the_key_s() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.pem");
    std::fs::write(&keys, RSA_PUBLIC).unwrap();
    let config = format!(
        "auth.token = {{ realm = \"http://auth.test/token\", service = \"reg\", issuer = \"auth\", keys = [{keys:?}] }}"
    );
    let server = Running::start(directory.path(), &config);
    let random = ring::rand::SystemRandom::new();
    let key = ring::signature::RsaKeyPair::from_der(&STANDARD.decode(RSA_KEY).unwrap()).unwrap();
    let token = |header: &str, expires: i64| {
        let access = r#"[{"type":"repository","name":"app","actions":["pull","push"]}]"#;
        let body = format!(r#"{{"iss":"auth","sub":"ci","aud":["other","reg"],"exp":{expires},"access":{access}}}"#);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&ring::signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let now = corten_types::time::now().0;
    let push = |token: String| {
        server.request("POST", "/v2/app/blobs/uploads/").header("Authorization", token).body("").send().status
    };
    assert_eq!(push(token(r#"{"alg":"RS256","typ":"JWT"}"#, now + 300)), 202);
    for (header, expires) in
        [(r#"{"alg":"ES256"}"#, now + 300), (r#"{"alg":"PS256"}"#, now + 300), (r#"{"alg":"RS256"}"#, now - 300)]
    {
        assert_eq!(push(token(header, expires)), 401, "{header} {expires}");
    }
}

//! Who may do what: passwords, tokens, rights, TLS.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

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

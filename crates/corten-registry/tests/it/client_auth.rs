//! Who learns what: no secret goes to anybody but the registry that it belongs to and its own token service.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corten_registry::client::{Client, Options, Registries, Secret};
use corten_testkit::Registry;
use corten_testkit::registry::{Reply, Request};
use corten_types::ErrorKind;

use crate::support::{client, image, logged_in, pull, push, store, text};

const PASSWORD: &str = "correct horse battery staple";
/// base64 of `me:` and the password.
const BASIC: &str = "Basic bWU6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==";

fn wants(challenge: &str) -> Reply {
    Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
        .header("WWW-Authenticate", challenge)
}

fn mentions_secret(requests: &[Request]) -> bool {
    requests.iter().map(Request::whole).any(|text| {
        text.contains("correct") || text.contains("bWU6") || text.contains("token-of") || text.contains("authorization")
    })
}

#[test]
fn basic_authentication_is_given_where_it_is_asked_for() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(1000));
    registry.hook(|request, _| {
        let known = request.header("authorization") == Some(BASIC);
        (!known).then(|| wants("Basic realm=\"x\""))
    });
    let (_directory, store) = store();
    let name = registry.name("app:1");
    let error = pull(&client(), &store, &name).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && text(&error).contains("corten login"), "{error:?}");
    let (_files, me) = logged_in(&registry.host(), "me", PASSWORD);
    pull(&me, &store, &name).unwrap();
    let (_files, wrong) = logged_in(&registry.host(), "me", "wrong");
    let error = pull(&wrong, &store, &registry.name("other:1")).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && !text(&error).contains("wrong"), "{error:?}");
}

/// A registry with a token service of its own: tokens are `token-of-N` and do for `uses` requests.
fn with_tokens(registry: &Registry, uses: usize) -> Arc<AtomicUsize> {
    let (given, used) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&given);
    let realm = format!("http://{}/token", registry.host());
    registry.hook(move |request, _| {
        if request.path.starts_with("/token") {
            assert!(request.path.contains("service=it"), "{}", request.path);
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            used.store(0, Ordering::SeqCst);
            return Some(Reply::new(200, format!("{{\"token\":\"token-of-{number}\",\"expires_in\":300}}")));
        }
        let current = format!("Bearer token-of-{}", counted.load(Ordering::SeqCst));
        let good = request.header("authorization") == Some(&current) && used.fetch_add(1, Ordering::SeqCst) < uses;
        (!good).then(|| wants(&format!("Bearer realm=\"{realm}\",service=\"it\"")))
    });
    given
}

#[test]
fn a_token_serves_many_requests_and_is_renewed_when_it_ends_in_mid_pull() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(1000));
    let given = with_tokens(&registry, usize::MAX);
    let (_directory, first) = store();
    pull(&client(), &first, &registry.name("app:1")).unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 1, "one token for all");
    assert!(registry.count("/token?service=it&scope=repository%3Aapp%3Apull") == 1, "{:?}", registry.requests());
    let given = with_tokens(&registry, 2);
    let (_directory, second) = store();
    pull(&client(), &second, &registry.name("app:1")).unwrap();
    assert!(given.load(Ordering::SeqCst) >= 2, "renewed");
}

#[test]
fn a_login_goes_to_no_foreign_token_service() {
    let (registry, evil) = (Registry::start(), Registry::start());
    registry.add_image("app", "1", &image(1000));
    // Another name of this machine stands for another host.
    let realm = format!("https://localhost:{}/token", evil.host().rsplit(':').next().unwrap());
    registry.hook(move |_, _| Some(wants(&format!("Bearer realm=\"{realm}\",service=\"it\""))));
    let (_files, me) = logged_in(&registry.host(), "me", PASSWORD);
    let (_directory, store) = store();
    let error = pull(&me, &store, &registry.name("app:1")).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied, "{error:?}");
    assert!(text(&error).contains("which is not its own") && text(&error).contains("token-hosts"), "{error:?}");
    assert!(evil.requests().is_empty() && !text(&error).contains("correct"));
    assert!(!mentions_secret(&registry.requests()), "not even the registry was told");
}

#[test]
fn a_redirect_takes_no_secret_to_another_host_and_none_leads_to_metadata() {
    let (registry, other) = (Registry::start(), Registry::start());
    let picture = image(1 << 20);
    registry.add_image("app", "1", &picture);
    other.add_image("app", "1", &picture);
    let elsewhere = other.host();
    registry.hook(move |request, _| {
        if request.header("authorization") != Some(BASIC) {
            return Some(wants("Basic realm=\"x\""));
        }
        request
            .path
            .contains("/blobs/")
            .then(|| Reply::new(307, "").header("Location", format!("http://{elsewhere}{}", request.path)))
    });
    let (_files, me) = logged_in(&registry.host(), "me", PASSWORD);
    let (_directory, first) = store();
    pull(&me, &first, &registry.name("app:1")).unwrap();
    assert!(other.count("/blobs/") > 0 && !mentions_secret(&other.requests()));
    for place in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:1/",
        "file:///etc/passwd",
    ] {
        registry.hook(move |request, _| {
            request.path.contains("/blobs/").then(|| Reply::new(302, "").header("Location", place))
        });
        let (_directory, store) = store();
        let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
        assert!(
            text(&error).contains("refused") || text(&error).contains("neither http nor https"),
            "{place}: {error:?}"
        );
    }
    registry.hook(|request, _| {
        request.path.contains("/blobs/").then(|| Reply::new(302, "").header("Location", request.path.clone()))
    });
    let (_directory, store) = store();
    let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
    assert!(text(&error).contains("redirects more than"), "{error:?}");
}

#[test]
fn an_upload_s_location_on_another_host_learns_no_secret() {
    let (registry, other) = (Registry::start(), Registry::start());
    registry.add_image("app", "1", &image(1000));
    let (_directory, store) = store();
    pull(&client(), &store, &registry.name("app:1")).unwrap();
    let target = Registry::start();
    let elsewhere = other.host();
    target.hook(move |request, _| {
        if request.header("authorization") != Some(BASIC) {
            return Some(wants("Basic realm=\"x\""));
        }
        (request.method == "POST")
            .then(|| Reply::new(202, "").header("Location", format!("http://{elsewhere}/v2/app/blobs/uploads/u")))
    });
    let (_files, me) = logged_in(&target.host(), "me", PASSWORD);
    push(&me, &store, &registry.name("app:1"), &target.name("app:1")).unwrap_err();
    assert!(other.count("PUT ") > 0 && !mentions_secret(&other.requests()), "{:?}", other.requests());
}

#[test]
fn a_mirror_never_sees_the_registry_s_login() {
    let (registry, mirror) = (Registry::start(), Registry::start());
    registry.add_image("app", "1", &image(1000));
    mirror.hook(|_, _| Some(wants("Basic realm=\"x\"")));
    registry.hook(|request, _| (request.header("authorization") != Some(BASIC)).then(|| wants("Basic realm=\"x\"")));
    let mut registries = Registries::default();
    let conf =
        format!("[[registry]]\nlocation='{}'\n[[registry.mirror]]\nlocation='{}'", registry.host(), mirror.host());
    registries.add(&conf, "registries.conf", true).unwrap();
    let (_files, me) = logged_in(&registry.host(), "me", PASSWORD);
    let client = Client::new(Options { registries, ..me.options().clone() });
    let (_directory, store) = store();
    pull(&client, &store, &registry.name("app:1")).unwrap();
    assert!(!mirror.requests().is_empty() && !mentions_secret(&mirror.requests()));
}

#[test]
fn a_login_is_kept_where_the_registry_takes_it_and_only_then() {
    let registry = Registry::start();
    registry.hook(|request, _| (request.header("authorization") != Some(BASIC)).then(|| wants("Basic realm=\"x\"")));
    let (files, me) = logged_in("elsewhere.example", "you", "other");
    let error = me.login(&registry.host(), "me", Secret::new("wrong".into())).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && text(&error).contains("incorrect username or password"), "{error:?}");
    let config = files.path().join("config.json");
    assert!(!std::fs::read_to_string(&config).unwrap().contains(&registry.host()));
    me.login(&registry.host(), "me", Secret::new(PASSWORD.into())).unwrap();
    assert!(std::fs::read_to_string(&config).unwrap().contains(&registry.host()));
    assert!(me.options().credentials.forget(&registry.host()).unwrap());
    assert!(!std::fs::read_to_string(&config).unwrap().contains(&registry.host()));
}

#[test]
fn a_refresh_token_is_kept_in_place_of_the_password_and_gets_tokens() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(1000));
    let realm = format!("http://{}/token", registry.host());
    registry.hook(move |request, _| {
        if request.path.starts_with("/token") {
            let by_password = request.method == "GET" && request.header("authorization") == Some(BASIC);
            let by_refresh = request.method == "POST"
                && String::from_utf8_lossy(&request.body).contains("grant_type=refresh_token&refresh_token=again%2B");
            let reply = r#"{"access_token":"granted","refresh_token":"again+"}"#;
            return Some(if by_password || by_refresh { Reply::new(200, reply) } else { Reply::new(401, "{}") });
        }
        let known = request.header("authorization") == Some("Bearer granted");
        (!known).then(|| wants(&format!("Bearer realm=\"{realm}\",service=\"it\"")))
    });
    let (files, me) = logged_in("elsewhere.example", "you", "other");
    me.login(&registry.host(), "me", Secret::new(PASSWORD.into())).unwrap();
    let kept = std::fs::read_to_string(files.path().join("config.json")).unwrap();
    assert!(kept.contains("identitytoken") && !kept.contains("bWU6"), "{kept}");
    let (_directory, store) = store();
    pull(&me, &store, &registry.name("app:1")).unwrap();
    assert_eq!(registry.count("POST /token"), 1);
}

//! Registries that break, lie or attack: a bounded, named error, or success with no more than the bytes it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corten_registry::client::{Client, Options};
use corten_testkit::Registry;
use corten_testkit::registry::{Reply, Request};
use corten_types::ErrorKind;
use serde_json::{Value, json};

use crate::support::{client, image, options, pull, size, store, text};

fn is_large_blob(request: &Request, reply: &Reply) -> bool {
    request.method == "GET" && request.path.contains("/blobs/sha256") && reply.body.len() > 1 << 20
}

#[test]
fn a_registry_that_drops_every_mebibyte_costs_no_more_bytes() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(6 << 20));
    registry.hook(|request, own| {
        let reply = own();
        Some(if is_large_blob(request, &reply) { Reply { cut_after: Some(1 << 20), ..reply } } else { reply })
    });
    let (_directory, store) = store();
    pull(&client(), &store, &registry.name("app:1")).unwrap();
    let sent = registry.blob_bytes_sent();
    assert!(sent <= size(&registry, "app", "1") * 105 / 100, "{sent}");
}

#[test]
fn a_registry_that_ignores_ranges_and_trickles_is_no_failure() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(3 << 20));
    let manifest: Value = serde_json::from_slice(&registry.manifest("app", "1").unwrap().1).unwrap();
    let digests =
        manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned());
    let contents: std::collections::HashMap<String, Vec<u8>> =
        digests.map(|digest| (digest.clone(), registry.blob(&digest).unwrap())).collect();
    registry.hook(move |request, own| {
        let reply = own();
        let whole = request.header("range").and_then(|_| request.path.rsplit('/').next()).map(str::to_owned);
        let body = whole.and_then(|digest| contents.get(&digest).cloned()).unwrap_or(reply.body);
        let status = if reply.status == 206 { 200 } else { reply.status };
        let headers = reply.headers.into_iter().filter(|(name, _)| name != "Content-Range").collect();
        Some(Reply { status, headers, body, piece: Some(1000), ..Reply::default() })
    });
    let split = corten_registry::client::Split { from_bytes: 0, range_bytes: 1 << 20, fast_bytes_per_second: u64::MAX };
    let (_directory, store) = store();
    pull(&Client::new(Options { split, ..options() }), &store, &registry.name("app:1")).unwrap();
    assert!(registry.blob_bytes_sent() <= size(&registry, "app", "1") * 105 / 100);
}

#[test]
fn wrong_bytes_wrong_sizes_and_wrong_types_are_named_and_nothing_is_stored() {
    type Damage = fn(&Registry, &str) -> ();
    let layer = |registry: &Registry| -> (String, Vec<u8>) {
        let manifest: Value = serde_json::from_slice(&registry.manifest("app", "1").unwrap().1).unwrap();
        let digest = manifest["layers"][1]["digest"].as_str().unwrap().to_owned();
        let content = registry.blob(&digest).unwrap();
        (digest, content)
    };
    let cases: [(&str, Damage, &str); 5] = [
        (
            "flipped",
            |registry, digest| {
                let mut content = registry.blob(digest).unwrap();
                content[1000] ^= 1;
                registry.replace_blob(digest, &content);
            },
            "expected sha256:",
        ),
        (
            "shorter",
            |registry, digest| {
                let content = registry.blob(digest).unwrap();
                registry.replace_blob(digest, &content[..1000]);
            },
            "were announced",
        ),
        (
            "longer",
            |registry, digest| {
                let mut content = registry.blob(digest).unwrap();
                content.extend_from_slice(b"more");
                registry.replace_blob(digest, &content);
            },
            "were announced",
        ),
        (
            "another manifest under the digest",
            |registry, _| {
                registry.hook(|request, own| {
                    let mut reply = own();
                    (request.path.contains("/manifests/") && request.method == "GET").then(|| {
                        reply.body.push(b' ');
                        reply
                    })
                });
            },
            "expected sha256:",
        ),
        (
            "a type that the body denies",
            |registry, _| {
                let (_, content) = registry.manifest("app", "1").unwrap();
                registry.add_manifest("app", "1", "application/vnd.oci.image.index.v1+json", &content);
            },
            "is announced as",
        ),
    ];
    for (name, damage, words) in cases {
        let registry = Registry::start();
        registry.add_image("app", "1", &image(2 << 20));
        let (digest, _) = layer(&registry);
        damage(&registry, &digest);
        let (directory, store) = store();
        let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
        assert!(text(&error).contains(words), "{name}: {error:?}");
        assert!(store.images().unwrap().is_empty(), "{name}");
        let hex = digest.trim_start_matches("sha256:");
        assert!(!directory.path().join("store/blobs/sha256").join(hex).exists(), "{name}");
    }
}

#[test]
fn sizes_in_a_manifest_are_checked_against_what_comes() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(2 << 20));
    let (_, content) = registry.manifest("app", "1").unwrap();
    for size in [0_i64, 10, 1 << 40] {
        let mut manifest: Value = serde_json::from_slice(&content).unwrap();
        manifest["layers"][1]["size"] = json!(size);
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        registry.add_manifest("app", "1", &kind, manifest.to_string().as_bytes());
        let (_directory, store) = store();
        let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
        assert!(store.images().unwrap().is_empty(), "{size}: {error:?}");
    }
}

#[test]
fn a_busy_registry_is_given_the_time_it_asks_for() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(1000));
    let busy = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&busy);
    registry.hook(move |request, _| {
        let first = request.path.contains("/manifests/") && counted.fetch_add(1, Ordering::SeqCst) < 3;
        let status = [429, 503, 502][counted.load(Ordering::SeqCst) % 3];
        first.then(|| Reply::new(status, "").header("Retry-After", "0"))
    });
    let (_directory, store) = store();
    pull(&client(), &store, &registry.name("app:1")).unwrap();
    assert!(busy.load(Ordering::SeqCst) >= 4);
    // One that never is free ends the pull in its own words.
    registry.hook(|_, _| {
        Some(
            Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
                .header("Retry-After", "0"),
        )
    });
    let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
    assert!(error.kind() == ErrorKind::Exhausted && text(&error).contains("slow down"), "{error:?}");
}

#[test]
fn a_registry_that_falls_silent_is_left() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(1000));
    registry.hook(|request, own| {
        // More is announced than comes, and the connection stays open.
        let reply = own();
        (request.path.contains("/manifests/") && request.method == "GET")
            .then(|| Reply { length: Some(reply.body.len() + 10), ..reply })
    });
    let (_directory, store) = store();
    let impatient = Options { stall_limit: Duration::from_millis(200), retries: 1, ..options() };
    let error = pull(&Client::new(impatient), &store, &registry.name("app:1")).unwrap_err();
    assert!(text(&error).contains("broke off"), "{error:?}");
}

#[test]
fn what_is_too_large_is_refused_unread() {
    let registry = Registry::start();
    let (_directory, store) = store();
    let name = registry.name("app:1");
    registry.hook(|request, _| {
        request.path.contains("/manifests/").then(|| {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            Reply::new(200, vec![b' '; 5 << 20]).header("Content-Type", kind)
        })
    });
    let error = pull(&client(), &store, &name).unwrap_err();
    assert!(error.kind() == ErrorKind::Exhausted && text(&error).contains("larger than 4 MiB"), "{error:?}");
    registry.hook(|request, _| {
        let head = Reply::new(200, "").header("X-Long", "x".repeat(200_000));
        request.path.contains("/manifests/").then_some(head)
    });
    let error = pull(&client(), &store, &name).unwrap_err();
    assert!(text(&error).contains("larger than 64 KiB"), "{error:?}");
}

#[test]
fn digests_that_are_paths_are_refused() {
    let registry = Registry::start();
    for digest in ["sha256:../../../etc/passwd", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2}});
        registry.add_manifest("app", "1", kind, manifest.to_string().as_bytes());
        let (_directory, store) = store();
        let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
        assert!(text(&error).contains("digest"), "{error:?}");
    }
}

/// An image whose layer the registry does not have: it is said to be at `urls`.
fn with_foreign_layer(registry: &Registry, urls: &[String]) -> String {
    let digest = registry.add_image("app", "1", &image(300_000));
    let mut manifest: Value = serde_json::from_slice(&registry.manifest("app", "1").unwrap().1).unwrap();
    manifest["layers"][1]["urls"] = json!(urls);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    registry.add_manifest("app", "1", kind, manifest.to_string().as_bytes());
    let layer = manifest["layers"][1]["digest"].as_str().unwrap().to_owned();
    let missing = layer.clone();
    registry.hook(move |request, _| request.path.ends_with(&missing).then(|| Reply::new(404, "{}")));
    assert!(registry.manifest("app", &digest).is_some());
    layer
}

#[test]
fn a_layer_kept_elsewhere_comes_from_there_and_from_no_address_of_this_machine_s_alone() {
    let (registry, elsewhere) = (Registry::start(), Registry::start());
    elsewhere.add_image("x", "1", &image(300_000));
    // The first that works counts.
    let layer = with_foreign_layer(&registry, &["http://127.0.0.1:1/gone".into()]);
    let place = format!("http://{}/v2/x/blobs/{layer}", elsewhere.host());
    with_foreign_layer(&registry, &["http://127.0.0.1:1/gone".into(), place]);
    let (_directory, first) = store();
    pull(&client(), &first, &registry.name("app:1")).unwrap();
    assert_eq!(elsewhere.count(&layer), 1);
    for (place, why) in [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
        ("http://[::ffff:169.254.169.254]/", "is refused"),
        ("http://[fe80::1]/", "is refused"),
        ("http://100.100.100.200/", "is refused"),
        ("http://0.0.0.0:1/", "is refused"),
        ("file:///etc/shadow", "neither http nor https"),
        ("http://me:secret@127.0.0.1/", "carries a user name"),
    ] {
        with_foreign_layer(&registry, &[place.to_owned()]);
        let (_directory, store) = store();
        let said = text(&pull(&client(), &store, &registry.name("app:1")).unwrap_err());
        assert!(said.contains(why) && !said.contains("root:"), "{place}: {said}");
    }
}

//! Registries that are read through.

use crate::server_support::{Running, artifact, sha256};
use crate::support::noise;

/// A registry, and one in front of it that reads `far/…` through.
fn chain(config: &str) -> (tempfile::TempDir, Running, Running) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("far")).unwrap();
    let far = Running::start(&directory.path().join("far"), "");
    let config = format!(
        "[[upstream]]\nprefix = \"far\"\nregistry = \"127.0.0.1:{}\"\nplain_http = true\n{config}",
        far.address.port()
    );
    let near = Running::start(directory.path(), &config);
    (directory, far, near)
}

#[test]
fn what_is_elsewhere_is_fetched_once_and_served_when_elsewhere_is_gone() {
    let (_directory, mut far, near) = chain("");
    let content = noise(1_000_000, 11);
    far.push_blob("team/app", b"{}");
    let layer = far.push_blob("team/app", &content);
    let manifest = artifact(&[(&layer, content.len())], None);
    assert_eq!(far.push_manifest("team/app", "1", &manifest).status, 201);
    let blob = format!("/v2/far/team/app/blobs/{layer}");
    assert_eq!(near.get(&blob).status, 404, "nothing names it yet");
    let found = near.get("/v2/far/team/app/manifests/1");
    assert_eq!((found.status, found.body.as_slice()), (200, manifest.as_bytes()));
    assert_eq!(near.get("/v2/far/team/app/tags/list").json()["tags"], serde_json::json!(["1"]));
    let head = near.request("HEAD", &blob).send();
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000000")));
    // Many at once, one of them in part.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(near.get(&blob).body, content));
        }
        scope.spawn(|| {
            let part = near.request("GET", &blob).header("Range", "bytes=5-9").send();
            assert_eq!((part.status, part.body.as_slice()), (206, &content[5..10]));
        });
    });
    let metrics = String::from_utf8(far.get("/metrics").body).unwrap();
    let sent = metrics.lines().find_map(|line| line.strip_prefix("corten_registry_sent_bytes_total ")).unwrap();
    assert!(sent.parse::<u64>().unwrap() < 1_100_000, "the layer came once: {sent}");
    far.stop();
    assert_eq!(near.get("/v2/far/team/app/manifests/1").status, 200);
    assert_eq!(near.get(&blob).body, content);
    assert_eq!(near.get("/v2/far/team/app/tags/list").json()["tags"], serde_json::json!(["1"]));
    assert_eq!(near.get("/v2/far/team/app/manifests/2").status, 502);
}

#[test]
fn a_tag_that_moved_elsewhere_is_seen_here() {
    let (_directory, far, near) = chain("");
    far.push_artifact("app", "1", "old");
    let old = near.get("/v2/far/app/manifests/1").header("docker-content-digest").unwrap().to_owned();
    let (new, _) = far.push_artifact("app", "1", "new");
    assert_ne!(old, new);
    assert_eq!(near.get("/v2/far/app/manifests/1").header("docker-content-digest"), Some(new.as_str()));
    assert_eq!(near.get("/v2/far/app/manifests/none").status, 404);
    assert_eq!(near.get(&format!("/v2/far/app/manifests/{old}")).status, 200);
}

#[test]
fn one_pushes_beside_what_is_read_through_and_not_into_it() {
    let (_directory, far, near) = chain("");
    far.push_artifact("app", "1", "there");
    near.push_artifact("mine/app", "1", "here");
    assert_eq!(near.get("/v2/mine/app/manifests/1").status, 200);
    assert_eq!(far.get("/v2/mine/app/manifests/1").status, 404);
    assert_eq!(near.get("/v2/far/app/manifests/1").status, 200);
    for (method, path) in [
        ("POST", "/v2/far/app/blobs/uploads/".to_owned()),
        ("PUT", "/v2/far/app/manifests/1".to_owned()),
        ("DELETE", "/v2/far/app/manifests/1".to_owned()),
        ("DELETE", format!("/v2/far/app/blobs/{}", sha256(b"there"))),
    ] {
        let refused = near.request(method, &path).body("{}").send();
        assert_eq!((refused.status, refused.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
    }
}

#[test]
fn a_registry_that_lies_is_not_believed() {
    let (directory, far, near) = chain("");
    let (_, layer) = far.push_artifact("app", "1", "right");
    assert_eq!(near.get("/v2/far/app/manifests/1").status, 200);
    // The same length, other bytes.
    let hex = layer.strip_prefix("sha256:").unwrap();
    std::fs::write(directory.path().join("far/store/blobs/sha256").join(hex), "wrong").unwrap();
    let refused = near.get(&format!("/v2/far/app/blobs/{layer}"));
    assert_eq!(refused.status, 502);
    assert!(!directory.path().join("store/blobs/sha256").join(hex).exists());
}

/// The blobs of the store behind `near`, bytes.
fn kept(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory.join("store/blobs/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn what_is_kept_of_another_registry_stays_within_its_quota_and_the_oldest_goes_first() {
    let (directory, far, near) = chain("size_max = \"1MB\"\n");
    let contents: Vec<Vec<u8>> = (0..6).map(|seed| noise(300_000, 2 * seed + 1)).collect();
    far.push_blob("app", b"{}");
    for (index, content) in contents.iter().enumerate() {
        let layer = far.push_blob("app", content);
        let manifest = artifact(&[(&layer, content.len())], None);
        assert_eq!(far.push_manifest("app", &format!("v{index}"), &manifest).status, 201);
    }
    near.push_artifact("mine/app", "1", "what was pushed here does not make room");
    for (index, content) in contents.iter().enumerate() {
        assert_eq!(near.get(&format!("/v2/far/app/manifests/v{index}")).status, 200);
        let blob = near.get(&format!("/v2/far/app/blobs/{}", sha256(content)));
        assert_eq!((blob.status, blob.body == *content), (200, true), "{index}");
        assert!(kept(directory.path()) < 1_010_000, "{index}: {}", kept(directory.path()));
    }
    let asked = |far: &Running| far.get("/metrics").body;
    let sent = |far: &Running| {
        let metrics = String::from_utf8(asked(far)).unwrap();
        let sent = metrics.lines().find_map(|line| line.strip_prefix("corten_registry_sent_bytes_total ")).unwrap();
        sent.parse::<u64>().unwrap()
    };
    // The newest is here still; the oldest is fetched again.
    let before = sent(&far);
    assert_eq!(near.get(&format!("/v2/far/app/blobs/{}", sha256(&contents[5]))).status, 200);
    assert!(sent(&far) - before < 100_000);
    assert_eq!(near.get(&format!("/v2/far/app/blobs/{}", sha256(&contents[0]))).body, contents[0]);
    assert!(sent(&far) - before >= 300_000);
    assert_eq!(near.get("/v2/mine/app/manifests/1").status, 200);
    // What never fits is refused in words, and fetched by nobody.
    let layer = far.push_blob("app", &noise(1_100_000, 77));
    assert_eq!(far.push_manifest("app", "large", &artifact(&[(&layer, 1_100_000)], None)).status, 201);
    assert_eq!(near.get("/v2/far/app/manifests/large").status, 200);
    let refused = near.get(&format!("/v2/far/app/blobs/{layer}"));
    assert_eq!((refused.status, refused.code().as_str()), (507, "SIZE_INVALID"));
    assert!(kept(directory.path()) < 1_010_000);
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let (directory, far, near) = chain("");
    let content = noise(100_000, 3);
    far.push_blob("app", b"{}");
    let layer = far.push_blob("app", &content);
    assert_eq!(far.push_manifest("app", "1", &artifact(&[(&layer, content.len())], None)).status, 201);
    near.push_artifact("mine/app", "1", "stays");
    assert_eq!(near.get("/v2/far/app/manifests/1").status, 200);
    assert_eq!(near.get(&format!("/v2/far/app/blobs/{layer}")).status, 200);
    let store = crate::support::open(directory.path());
    assert_eq!(store.forget_unused_copies("reg.test/far", std::time::Duration::from_hours(1)).unwrap(), 0);
    assert_eq!(store.copies_size("reg.test/far").unwrap() / 100_000, 1);
    assert!(store.forget_unused_copies("reg.test/far", std::time::Duration::ZERO).unwrap() >= 3);
    store.collect_garbage().unwrap();
    store.empty_trash().unwrap();
    assert!(kept(directory.path()) < 10_000, "{}", kept(directory.path()));
    assert_eq!(store.copies_size("reg.test/far").unwrap(), 0);
    assert_eq!(near.get("/v2/mine/app/manifests/1").status, 200);
    // And fetched again when somebody does.
    assert_eq!(near.get("/v2/far/app/manifests/1").status, 200);
    assert_eq!(near.get(&format!("/v2/far/app/blobs/{layer}")).body, content);
}

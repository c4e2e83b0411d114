//! What clients that mean harm try, and what is done about it.

use std::io::Write;

use corten_registry::server::config::Collection;
use corten_registry::server::{admin, config};
use corten_types::digest::Algorithm;

use crate::server_support::{MANIFEST, Running, artifact, digest, read, sha256};

fn server(config: &str) -> (tempfile::TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), config);
    (directory, server)
}

#[test]
fn a_blob_of_one_repository_cannot_be_read_through_another() {
    let (_directory, server) = server("");
    let (manifest, layer) = server.push_artifact("secret", "1", "secret");
    for path in [
        format!("/v2/public/blobs/{layer}"),
        format!("/v2/secret/sub/blobs/{layer}"),
        format!("/v2/public/blobs/{manifest}"),
        format!("/v2/public/manifests/{manifest}"),
    ] {
        for method in ["GET", "HEAD", "DELETE"] {
            assert_eq!(server.request(method, &path).send().status, 404, "{method} {path}");
        }
    }
    // Nor made one's own by naming it in a manifest.
    server.push_blob("public", b"{}");
    let stolen = server.push_manifest("public", "1", &artifact(&[(&layer, 6)], None));
    assert_eq!((stolen.status, stolen.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(stolen.json()["errors"][0]["detail"]["digest"], layer);
    assert_eq!(server.get("/v2/public/tags/list").json()["tags"], serde_json::json!([]));
}

#[test]
fn a_deleted_blob_cannot_be_brought_back() {
    let (_directory, server) = server("");
    server.push_blob("app", b"{}");
    let digest = server.push_blob("app", b"gone");
    server.push_blob("keeps/it", b"gone");
    let blob = format!("/v2/app/blobs/{digest}");
    assert_eq!(server.request("DELETE", &blob).send().status, 202);
    assert_eq!(server.get(&blob).status, 404);
    let named = server.push_manifest("app", "1", &artifact(&[(&digest, 4)], None));
    assert_eq!((named.status, named.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    let mount = format!("/v2/third/blobs/uploads/?mount={digest}&from=app");
    assert_eq!(server.request("POST", &mount).body("").send().status, 202);
    assert_eq!(server.get(&format!("/v2/keeps/it/blobs/{digest}")).body, b"gone");
    assert_eq!(server.request("DELETE", &blob).send().status, 404);
}

#[test]
fn a_blob_that_a_manifest_needs_stays() {
    let (_directory, server) = server("");
    let (manifest, layer) = server.push_artifact("app", "1", "needed");
    let blob = format!("/v2/app/blobs/{layer}");
    let refused = server.request("DELETE", &blob).send();
    assert_eq!((refused.status, refused.code().as_str()), (405, "UNSUPPORTED"));
    assert_eq!(server.request("DELETE", &format!("/v2/app/manifests/{manifest}")).send().status, 202);
    assert_eq!(server.request("DELETE", &blob).send().status, 202);
}

#[test]
fn content_that_is_not_its_digest_is_refused() {
    let (_directory, server) = server("");
    let wrong = sha256(b"other");
    let put = server.request("POST", &format!("/v2/app/blobs/uploads/?digest={wrong}")).body("content").send();
    assert_eq!((put.status, put.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(server.get(&format!("/v2/app/blobs/{wrong}")).status, 404);
    let place = server.request("POST", "/v2/app/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    for (digest, code) in [("sha256:1", "DIGEST_INVALID"), ("md5:00", "DIGEST_INVALID"), ("", "DIGEST_INVALID")] {
        let closed = server.request("PUT", &format!("{place}?digest={digest}")).body("x").send();
        assert_eq!((closed.status, closed.code().as_str()), (400, code), "{digest}");
    }
    server.push_blob("app", b"{}");
    let manifest = artifact(&[], None);
    for by in [wrong.as_str(), &digest(Algorithm::Sha512, b"other").to_string()] {
        let put = server.push_manifest("app", by, &manifest);
        assert_eq!((put.status, put.code().as_str()), (400, "DIGEST_INVALID"));
    }
}

#[test]
fn a_session_belongs_to_its_repository() {
    let (_directory, server) = server("");
    let place =
        server.request("POST", "/v2/mine/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    assert_eq!(server.request("PATCH", &place).body("half").send().status, 202);
    let other = place.replace("/mine/", "/yours/");
    for method in ["GET", "PATCH", "DELETE"] {
        assert_eq!(server.request(method, &other).body("").send().status, 404, "{method}");
    }
    assert_eq!(server.request("PUT", &format!("{other}?digest={}", sha256(b"half"))).body("").send().status, 404);
    assert_eq!(server.get(&place).header("range"), Some("0-3"));
    for id in ["x", "..", "%2e%2e%2fstore", "00000000-0000-4000-8000-000000000000"] {
        assert_eq!(server.get(&format!("/v2/mine/blobs/uploads/{id}")).status, 404, "{id}");
    }
}

#[test]
fn manifests_that_are_none_are_refused() {
    let (_directory, server) = server("");
    server.push_blob("app", b"{}");
    let good = artifact(&[], None);
    let put = |kind: &str, body: &[u8]| {
        server.request("PUT", "/v2/app/manifests/1").header("Content-Type", kind).body(body).send()
    };
    let both = good.replace("\"layers\"", "\"manifests\":[],\"layers\"");
    let schema1 = r#"{"schemaVersion":1,"name":"app","tag":"1","fsLayers":[]}"#;
    let dots = good.replace(&sha256(b"{}"), "sha256:../../../../etc/passwd");
    for (kind, body) in [
        (MANIFEST, "nothing"),
        (MANIFEST, "{}"),
        (MANIFEST, &both),
        ("application/vnd.oci.image.index.v1+json", &good),
        ("application/vnd.docker.distribution.manifest.v1+json", schema1),
        ("text/html", &good),
        (MANIFEST, &dots),
    ] {
        let answer = put(kind, body.as_bytes());
        assert_eq!((answer.status, answer.code().as_str()), (400, "MANIFEST_INVALID"), "{kind} {body}");
    }
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    let answer = put(MANIFEST, &huge);
    assert_eq!((answer.status, answer.code().as_str()), (413, "MANIFEST_INVALID"));
    // Also where no length was announced.
    let mut chunked = format!("{:x}\r\n", huge.len()).into_bytes();
    chunked.extend_from_slice(&huge);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let request = server.request("PUT", "/v2/app/manifests/1").header("Content-Type", MANIFEST);
    assert_eq!(request.header("Transfer-Encoding", "chunked").body(chunked).send().status, 413);
    // Four megabytes are not too many.
    let padded = format!("{good}{}", " ".repeat(4 * 1024 * 1024 - good.len()));
    assert_eq!(put(MANIFEST, padded.as_bytes()).status, 201);
    assert_eq!(put("application/json", good.as_bytes()).status, 201);
    for tag in [".x", "-x", &"a".repeat(129)] {
        let refused = server.push_manifest("app", tag, &good);
        assert_eq!(refused.status, 400, "{tag}");
        assert_eq!(server.get(&format!("/v2/app/manifests/{tag}")).status, 404, "{tag}");
    }
}

#[test]
fn wrong_methods_and_names_lead_nowhere() {
    let (directory, server) = server("");
    let canary = directory.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    for (method, path, status) in [
        ("POST", "/v2/", 405),
        ("DELETE", "/v2/_catalog", 405),
        ("PUT", "/v2/app/tags/list", 405),
        ("GET", "/v2/app/blobs/uploads/", 405),
        ("POST", "/v2/app/manifests/1", 405),
        ("BREW", "/v2/app/manifests/1", 405),
        ("GET", "/v2/../../canary", 404),
        ("GET", "/v2/../canary/tags/list", 400),
        ("POST", "/v2/a/../../canary/blobs/uploads/", 400),
        ("POST", "/v2/%2e%2e/%2e%2e/canary/blobs/uploads/", 400),
        ("POST", "/v2/A/blobs/uploads/", 400),
        ("PUT", "/v2/a/manifests/..", 400),
        ("GET", "/canary", 404),
    ] {
        let answer = server.request(method, path).body("").send();
        assert_eq!(answer.status, status, "{method} {path}");
    }
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
    let uploads = std::fs::read_dir(directory.path().join("store/uploads")).unwrap();
    assert_eq!(uploads.count(), 0, "no refused request left a session");
}

#[test]
fn headers_and_clients_have_limits() {
    let (_directory, server) =
        server("[limits]\nheader_size_max = \"8KiB\"\nidle_timeout = \"1s\"\nupload_rate_min = \"1MB\"");
    let long = server.request("GET", "/v2/").header("X-Long", "a".repeat(20_000)).send();
    assert_eq!(long.status, 431);
    // A body that never comes.
    let stream = server.request("POST", "/v2/app/blobs/uploads/").header("Content-Length", "10").begin();
    assert!(matches!(read(stream, "POST").status, 202 | 408), "it is answered");
    let place = server.request("POST", "/v2/app/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    let mut stream = server.request("PATCH", &place).header("Content-Length", "10").begin();
    stream.write_all(b"slow").unwrap();
    assert_eq!(read(stream, "PATCH").status, 408);
    // What came before the silence is kept.
    assert_eq!(server.get(&place).header("range"), Some("0-3"));
}

#[test]
fn uploads_and_blobs_have_limits() {
    let (_directory, server) = server("[limits]\nblob_size_max = 10\nsessions_max = 2");
    let announced =
        server.request("POST", &format!("/v2/a/blobs/uploads/?digest={}", sha256(&[0; 11]))).body([0; 11]).send();
    assert_eq!((announced.status, announced.code().as_str()), (413, "SIZE_INVALID"));
    let place = server.request("POST", "/v2/a/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    assert_eq!(server.request("PATCH", &place).body([0; 8]).send().status, 202);
    assert_eq!(server.request("PATCH", &place).body([0; 8]).send().status, 413);
    assert_eq!(server.request("POST", "/v2/a/blobs/uploads/").body("").send().status, 202);
    let many = server.request("POST", "/v2/a/blobs/uploads/").body("").send();
    assert_eq!((many.status, many.code().as_str(), many.header("retry-after")), (429, "TOOMANYREQUESTS", Some("1")));
}

#[test]
fn quotas_hold_in_a_repository_and_in_all() {
    let (_directory, server) =
        server("[quota]\ntotal = 1000\n[[quota.repository]]\nrepositories = [\"small/*\"]\nsize = 100");
    let push = |repository: &str, content: &[u8]| {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", sha256(content));
        let answer = server.request("POST", &path).body(content).send();
        (answer.status, if answer.status == 201 { String::new() } else { answer.code() })
    };
    let denied = || (403, "DENIED".to_owned());
    assert_eq!(push("small/a", &[1; 60]).0, 201);
    assert_eq!(push("small/a", &[2; 60]), denied());
    assert_eq!(push("small/b", &[2; 60]).0, 201, "each repository has its own");
    assert_eq!(push("large", &[3; 800]).0, 201);
    assert_eq!(push("large", &[4; 200]), denied());
    assert_eq!(push("copy", &[3; 800]).0, 403, "what is on its way counts until it is known to be there");
    assert_eq!(server.request("DELETE", &format!("/v2/large/blobs/{}", sha256(&[3; 800]))).send().status, 202);
    assert_eq!(push("large", &[4; 200]).0, 201);
}

#[test]
fn a_read_only_registry_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Running::start(directory.path(), "");
    let (manifest, layer) = server.push_artifact("app", "1", "content");
    server.stop();
    let server = Running::start(directory.path(), "read_only = true");
    assert_eq!(server.get("/v2/app/manifests/1").status, 200);
    for (method, path) in [
        ("POST", "/v2/app/blobs/uploads/".to_owned()),
        ("PUT", "/v2/app/manifests/2".to_owned()),
        ("DELETE", format!("/v2/app/manifests/{manifest}")),
        ("DELETE", format!("/v2/app/blobs/{layer}")),
    ] {
        assert_eq!(server.request(method, &path).body("").send().status, 405, "{method} {path}");
    }
}

#[test]
fn collection_takes_what_nothing_names_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), "");
    let (_, layer) = server.push_artifact("app", "1", "kept");
    let (untagged, _) = server.push_artifact("app", "2", "moved");
    server.push_artifact("app", "2", "moved on");
    let loose = server.push_blob("app", b"loose");
    let store = crate::support::open(directory.path());
    let collect = |grace: &str, untagged: Option<&str>| {
        let span = |text: &str| config::Span::parse(text).unwrap();
        let collection = Collection { grace: span(grace), untagged_after: untagged.map(span), ..Collection::default() };
        admin::collect(&store, &collection).unwrap()
    };
    let nothing = collect("1h", None);
    assert_eq!((nothing.blobs, nothing.manifests, nothing.store.blobs.len()), (0, 0, 0));
    let first = collect("0s", None);
    assert_eq!((first.blobs, first.store.blobs.len()), (1, 1));
    assert_eq!(server.get(&format!("/v2/app/blobs/{loose}")).status, 404);
    assert_eq!(
        server.get(&format!("/v2/app/manifests/{untagged}")).status,
        200,
        "untagged manifests are kept unless told"
    );
    let second = collect("0s", Some("0s"));
    assert_eq!(second.manifests, 1);
    assert_eq!(server.get(&format!("/v2/app/manifests/{untagged}")).status, 404);
    assert_eq!(server.get(&format!("/v2/app/blobs/{layer}")).body, b"kept");
    assert_eq!(server.get("/v2/app/manifests/1").status, 200);
}

//! Every endpoint of the distribution specification, by hand.

use corten_types::digest::Algorithm;

use crate::server_support::{INDEX, MANIFEST, Running, artifact, digest, sha256};

fn server() -> (tempfile::TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), "");
    (directory, server)
}

#[test]
fn the_registry_says_that_it_is_one() {
    let (_directory, server) = server();
    let answer = server.get("/v2/");
    assert_eq!((answer.status, answer.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
    assert_eq!(server.get("/v1/").status, 404);
}

#[test]
fn a_blob_is_read_whole_and_in_part() {
    let (_directory, server) = server();
    let content: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    let blob = format!("/v2/app/blobs/{}", server.push_blob("app", &content));
    let whole = server.get(&blob);
    assert_eq!((whole.status, whole.header("docker-content-digest")), (200, Some(sha256(&content).as_str())));
    assert_eq!(whole.body, content);
    let head = server.request("HEAD", &blob).send();
    assert_eq!((head.status, head.header("content-length")), (200, Some("700000")));
    let part = server.request("GET", &blob).header("Range", "bytes=10-19").send();
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 10-19/700000")));
    assert_eq!(part.body, content[10..20]);
    let end = server.request("GET", &blob).header("Range", "bytes=-5").send();
    assert_eq!((end.status, end.body.as_slice()), (206, &content[699_995..]));
    let outside = server.request("GET", &blob).header("Range", "bytes=700000-").send();
    assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */700000")));
    let etag = whole.header("etag").unwrap().to_owned();
    assert_eq!(server.request("GET", &blob).header("If-None-Match", etag).send().status, 304);
    let other = server.request("GET", &blob).header("Range", "bytes=0-1").header("If-Range", "\"x\"").send();
    assert_eq!(other.status, 200);
}

#[test]
fn a_blob_comes_in_chunks_in_their_order() {
    let (_directory, server) = server();
    let started = server.request("POST", "/v2/app/blobs/uploads/").body("").send();
    assert_eq!((started.status, started.header("range")), (202, Some("0-0")));
    let place = started.header("location").unwrap().to_owned();
    assert!(place.ends_with(started.header("docker-upload-uuid").unwrap()));
    let chunk =
        |range: &str, body: &str| server.request("PATCH", &place).header("Content-Range", range).body(body).send();
    let first = chunk("0-4", "hello");
    assert_eq!((first.status, first.header("range")), (202, Some("0-4")));
    // A gap, the same again, a length that is not the range's.
    let gap = chunk("6-9", "rld!");
    assert_eq!((gap.status, gap.header("range"), gap.header("location")), (416, Some("0-4"), Some(place.as_str())));
    assert_eq!(chunk("0-4", "hello").status, 416);
    let short = chunk("5-9", "xy");
    assert_eq!((short.status, short.code().as_str()), (400, "SIZE_INVALID"));
    assert_eq!(chunk("nonsense", "x").status, 416);
    let status = server.get(&place);
    assert_eq!((status.status, status.header("range")), (204, Some("0-4")));
    assert_eq!(chunk("5-6", ", ").status, 202);
    // The last chunk in the closing request; out of order it is refused and nothing is lost.
    let close = |range: &str| {
        let path = format!("{place}?digest={}", sha256(b"hello, world"));
        server.request("PUT", &path).header("Content-Range", range).body("world").send()
    };
    assert_eq!(close("8-12").status, 416);
    let closed = close("7-11");
    assert_eq!(closed.status, 201, "{closed:?}");
    assert_eq!(server.get(closed.header("location").unwrap()).body, b"hello, world");
    assert_eq!(server.get(&place).status, 404, "a closed session is over");
}

#[test]
fn a_blob_comes_without_a_length_and_without_ranges() {
    let (_directory, server) = server();
    let place = server.request("POST", "/v2/app/blobs/uploads/").body("").send();
    let place = place.header("location").unwrap().to_owned();
    let chunked = server
        .request("PATCH", &place)
        .header("Transfer-Encoding", "chunked")
        .body("5\r\nhello\r\n3\r\n...\r\n0\r\n\r\n")
        .send();
    assert_eq!((chunked.status, chunked.header("range")), (202, Some("0-7")));
    let closed = server.request("PUT", &format!("{place}?digest={}", sha256(b"hello..."))).body("").send();
    assert_eq!(closed.status, 201);
    // sha512, by the parameter and by the digest alone.
    let long = digest(Algorithm::Sha512, b"long");
    let started = server.request("POST", "/v2/app/blobs/uploads/?digest-algorithm=sha512").body("").send();
    let closed =
        server.request("PUT", &format!("{}?digest={long}", started.header("location").unwrap())).body("long").send();
    assert_eq!(closed.status, 201);
    assert_eq!(server.get(&format!("/v2/app/blobs/{long}")).body, b"long");
    assert_eq!(server.request("POST", "/v2/app/blobs/uploads/?digest-algorithm=md5").body("").send().status, 400);
    // The empty blob in one request.
    server.push_blob("app", b"");
}

#[test]
fn an_upload_that_is_cancelled_is_gone() {
    let (_directory, server) = server();
    let place = server.request("POST", "/v2/app/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    assert_eq!(server.request("PATCH", &place).body("half").send().status, 202);
    assert_eq!(server.request("DELETE", &place).send().status, 204);
    for method in ["GET", "PATCH", "DELETE"] {
        let answer = server.request(method, &place).body("").send();
        assert_eq!((answer.status, answer.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{method}");
    }
}

#[test]
fn a_manifest_keeps_its_bytes_type_and_tags() {
    let (_directory, server) = server();
    server.push_blob("app", b"{}");
    let manifest = artifact(&[], None);
    let digest = sha256(manifest.as_bytes());
    let path = format!("/v2/app/manifests/{digest}?tag=1&tag=2");
    let put = server.request("PUT", &path).header("Content-Type", MANIFEST).body(manifest.as_bytes()).send();
    assert_eq!((put.status, put.header("oci-tag")), (201, Some("1, 2")));
    for by in ["1", "2", &digest] {
        let got = server.get(&format!("/v2/app/manifests/{by}"));
        assert_eq!(
            (got.status, got.header("content-type"), got.header("docker-content-digest")),
            (200, Some(MANIFEST), Some(digest.as_str()))
        );
        assert_eq!(got.body, manifest.as_bytes());
    }
    let docker_only = "application/vnd.docker.distribution.manifest.v2+json";
    let refused = server.request("GET", "/v2/app/manifests/1").header("Accept", docker_only).send();
    assert_eq!((refused.status, refused.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    assert_eq!(server.request("DELETE", "/v2/app/manifests/2").send().status, 202);
    assert_eq!(server.get("/v2/app/manifests/2").status, 404);
    assert_eq!(server.get("/v2/app/manifests/1").status, 200);
    assert_eq!(server.request("DELETE", &format!("/v2/app/manifests/{digest}")).send().status, 202);
    assert_eq!(server.get("/v2/app/manifests/1").status, 404, "its tags went with it");
    assert_eq!(server.request("DELETE", &format!("/v2/app/manifests/{digest}")).send().status, 404);
}

#[test]
fn a_list_is_the_image_of_this_platform_to_a_client_that_knows_no_lists() {
    let (_directory, server) = server();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    server.push_blob("app", b"{}");
    let image = artifact(&[], None).replace(MANIFEST, docker);
    let put = |reference: &str, kind: &str, body: &str| {
        let path = format!("/v2/app/manifests/{reference}");
        server.request("PUT", &path).header("Content-Type", kind).body(body).send()
    };
    let digest = sha256(image.as_bytes());
    assert_eq!(put(&digest, docker, &image).status, 201);
    let platform = serde_json::json!({"os": "linux", "architecture": "amd64"});
    let member = serde_json::json!({"mediaType": docker, "digest": digest, "size": image.len(), "platform": platform});
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": list, "manifests": [member]}).to_string();
    assert_eq!(put("all", list, &body).status, 201);
    let plain = server.request("GET", "/v2/app/manifests/all").header("Accept", docker).send();
    assert_eq!((plain.status, plain.header("docker-content-digest")), (200, Some(digest.as_str())));
    let whole = server.request("GET", "/v2/app/manifests/all").header("Accept", format!("{docker}, {list}")).send();
    assert_eq!(whole.header("content-type"), Some(list));
}

#[test]
fn lists_come_in_pages() {
    let (_directory, server) = server();
    server.push_blob("app", b"{}");
    let manifest = artifact(&[], None);
    for tag in ["b", "a", "c", "A"] {
        assert_eq!(server.push_manifest("app", tag, &manifest).status, 201);
    }
    server.push_artifact("team/other", "x", "x");
    let tags = |query: &str| {
        let answer = server.get(&format!("/v2/app/tags/list{query}"));
        (answer.json()["tags"].clone(), answer.header("link").map(str::to_owned))
    };
    assert_eq!(tags(""), (serde_json::json!(["A", "a", "b", "c"]), None));
    let (first, link) = tags("?n=3");
    assert_eq!(
        (first, link.as_deref()),
        (serde_json::json!(["A", "a", "b"]), Some("</v2/app/tags/list?last=b&n=3>; rel=\"next\""))
    );
    assert_eq!(tags("?n=3&last=b"), (serde_json::json!(["c"]), None));
    assert_eq!(tags("?n=0"), (serde_json::json!([]), None));
    assert_eq!(server.get("/v2/app/tags/list?n=x").status, 400);
    let unknown = server.get("/v2/nobody/tags/list");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "NAME_UNKNOWN"));
    let catalog = server.get("/v2/_catalog?n=1");
    assert_eq!(catalog.json()["repositories"], serde_json::json!(["app"]));
    assert_eq!(catalog.header("link"), Some("</v2/_catalog?last=app&n=1>; rel=\"next\""));
    assert_eq!(server.get("/v2/_catalog?last=app").json()["repositories"], serde_json::json!(["team/other"]));
}

#[test]
fn what_is_about_a_manifest_is_listed() {
    let (_directory, server) = server();
    let (subject, _) = server.push_artifact("app", "1", "subject");
    let about = artifact(&[], Some(&subject));
    let put = server.push_manifest("app", &sha256(about.as_bytes()), &about);
    assert_eq!((put.status, put.header("oci-subject")), (201, Some(subject.as_str())));
    let list = |query: &str| server.get(&format!("/v2/app/referrers/{subject}{query}"));
    let all = list("");
    assert_eq!((all.status, all.header("content-type")), (200, Some(INDEX)));
    let entry = &all.json()["manifests"][0];
    assert_eq!(entry["digest"], sha256(about.as_bytes()));
    assert_eq!(
        (entry["artifactType"].as_str(), entry["annotations"]["note"].as_str()),
        (Some("application/x-test"), Some("about"))
    );
    let filtered = list("?artifactType=other");
    assert_eq!(
        (filtered.header("oci-filters-applied"), filtered.json()["manifests"].as_array().unwrap().len()),
        (Some("artifactType"), 0)
    );
    assert_eq!(server.get("/v2/app/referrers/sha256:x").status, 400);
    // A subject that is not there is no reason to refuse.
    let early = artifact(&[], Some(&sha256(b"later")));
    assert_eq!(server.push_manifest("app", "early", &early).status, 201);
}

#[test]
fn a_blob_is_mounted_from_where_it_is() {
    let (_directory, server) = server();
    let digest = server.push_blob("app", b"shared");
    let mount = |from: &str| {
        server.request("POST", &format!("/v2/other/blobs/uploads/?mount={digest}&from={from}")).body("").send()
    };
    assert_eq!(mount("nobody").status, 202);
    assert_eq!(server.get(&format!("/v2/other/blobs/{digest}")).status, 404);
    let mounted = mount("app");
    assert_eq!((mounted.status, mounted.header("docker-content-digest")), (201, Some(digest.as_str())));
    assert_eq!(server.get(mounted.header("location").unwrap()).body, b"shared");
    // Without a source, nothing is searched for: that would tell what other repositories have.
    let blind = server.request("POST", &format!("/v2/third/blobs/uploads/?mount={digest}")).body("").send();
    assert_eq!(blind.status, 202);
}

#[test]
fn what_the_engine_has_is_served_and_what_is_pushed_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::support::open(directory.path());
    let archive = directory.path().join("app.tar");
    crate::support::image(10_000).write_docker_archive(&archive);
    store.load(std::fs::File::open(&archive).unwrap()).unwrap();
    let server = Running::start(directory.path(), "");
    let by_name = server.get("/v2/library/app/manifests/1");
    assert_eq!((by_name.status, server.get("/v2/app/manifests/1").status), (200, 200));
    let layer = by_name.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("/v2/app/blobs/{layer}")).status, 200);
    assert_eq!(server.get(&format!("/v2/other/blobs/{layer}")).status, 404);
    // It is the engine's to remove.
    let refused = server.request("DELETE", "/v2/app/manifests/1").send();
    assert_eq!((refused.status, refused.code().as_str()), (405, "UNSUPPORTED"));
    // A tag in the registry's name publishes; a push into it is an image of the store.
    let image = store.resolve("app:1").unwrap();
    store.tag(&image.manifest, &"reg.test/team/app:2".parse().unwrap()).unwrap();
    assert_eq!(server.get("/v2/team/app/manifests/2").status, 200);
    let mount = format!("/v2/copy/blobs/uploads/?mount={layer}&from=team/app");
    assert_eq!(server.request("POST", &mount).body("").send().status, 201);
    for blob in by_name.json()["layers"].as_array().unwrap().iter().chain([&by_name.json()["config"]]) {
        let mount = format!("/v2/copy/blobs/uploads/?mount={}&from=app", blob["digest"].as_str().unwrap());
        assert_eq!(server.request("POST", &mount).body("").send().status, 201);
    }
    let kind = by_name.header("content-type").unwrap();
    let put =
        server.request("PUT", "/v2/copy/manifests/3").header("Content-Type", kind).body(by_name.body.clone()).send();
    assert_eq!(put.status, 201, "{put:?}");
    assert_eq!(store.resolve("reg.test/copy:3").unwrap().id, image.id);
    // Removed from the engine, it stays in the repository that it was pushed to.
    store.remove("app:1", true).unwrap();
    store.remove("reg.test/team/app:2", true).unwrap();
    store.remove("reg.test/copy:3", true).unwrap();
    assert_eq!(server.get("/v2/app/manifests/1").status, 404);
    assert_eq!(server.get(&format!("/v2/copy/manifests/{}", image.manifest)).status, 200);
    assert_eq!(server.get(&format!("/v2/copy/blobs/{layer}")).status, 200);
}

#[test]
fn what_the_engine_has_about_an_image_is_listed_beside_what_was_pushed() {
    use corten_store::{NewImageRequest, RawDocument, Unpack};
    let directory = tempfile::tempdir().unwrap();
    let store = crate::support::open(directory.path());
    let server = Running::start(directory.path(), "");
    // The engine's own: an artifact, and one about it, each under a name.
    let add = |name: &str, manifest: &str| {
        let lease = store.lease("test").unwrap();
        for blob in [b"{}".as_slice(), b"layer"] {
            store.put_blob(&lease, &digest(Algorithm::Sha256, blob), blob).unwrap();
        }
        let raw = RawDocument { bytes: manifest.as_bytes(), media_type: MANIFEST, algorithm: Algorithm::Sha256 };
        let references = [corten_types::Reference::parse(name).unwrap()];
        let request = NewImageRequest {
            target: raw,
            members: &[],
            references: &references,
            unpack: Unpack::Later,
            attached: false,
            cause: "test",
        };
        store.add_image(&lease, &request).unwrap();
        sha256(manifest.as_bytes())
    };
    let layer = sha256(b"layer");
    let subject = add("reg.test/app:1", &artifact(&[(&layer, 5)], None));
    let about = add("reg.test/app:about", &artifact(&[(&layer, 5)], Some(&subject)));
    server.push_blob("app", b"{}");
    let other = server.push_blob("app", b"other");
    let pushed = artifact(&[(&other, 5)], Some(&subject));
    let answer = server.push_manifest("app", &sha256(pushed.as_bytes()), &pushed);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(subject.as_str())));
    let listed = server.get(&format!("/v2/app/referrers/{subject}")).json();
    let mut found: Vec<&str> =
        listed["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
    found.sort_unstable();
    let mut expected = [about.clone(), sha256(pushed.as_bytes())];
    expected.sort_unstable();
    assert_eq!(found, expected);
    let entry = listed["manifests"].as_array().unwrap().iter().find(|entry| entry["digest"] == about.as_str()).unwrap();
    assert_eq!(
        (&entry["artifactType"], &entry["annotations"]["note"]),
        (&"application/x-test".into(), &"about".into())
    );
    assert_eq!(server.get(&format!("/v2/other/referrers/{subject}")).json()["manifests"], serde_json::json!([]));
}

//! Many clients at once, collection beside them, and servers that end in the middle.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use corten_registry::server::admin;
use corten_registry::server::config::{Collection, Span};

use crate::server_support::{Running, artifact, read, sha256};
use crate::support::noise;

const CLIENTS: u64 = 200;

/// Pushes an artifact of one layer as docker does: session, one chunk, close, manifest.
fn push(server: &Running, repository: &str, tag: &str, content: &[u8]) {
    let start = || {
        let started = server.request("POST", &format!("/v2/{repository}/blobs/uploads/")).body("").send();
        assert_eq!(started.status, 202, "{started:?}");
        started.header("location").unwrap().to_owned()
    };
    for blob in [b"{}".as_slice(), content] {
        let place = start();
        let sent = server.request("PATCH", &place).body(blob).send();
        assert_eq!(sent.status, 202, "{sent:?}");
        let closed = server.request("PUT", &format!("{place}?digest={}", sha256(blob))).body("").send();
        assert_eq!(closed.status, 201, "{closed:?}");
    }
    let manifest = artifact(&[(&sha256(content), content.len())], None);
    let put = server.push_manifest(repository, tag, &manifest);
    assert_eq!(put.status, 201, "{put:?}");
}

#[test]
fn two_hundred_uploads_at_once_lose_none_while_collection_runs() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), "");
    let contents: Vec<Vec<u8>> = (0..CLIENTS).map(|seed| noise(200_000, seed * 2 + 1)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            // Everything that no manifest names goes at once where nobody asked for it in the last minute.
            let store = crate::support::open(directory.path());
            let collection = Collection { grace: Span::parse("1m").unwrap(), ..Collection::default() };
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                admin::collect(&store, &collection).unwrap();
                rounds += 1;
            }
            rounds
        });
        let pushing: Vec<_> = contents
            .iter()
            .enumerate()
            .map(|(index, content)| {
                let server = &server;
                scope.spawn(move || push(server, &format!("team{}/app", index % 7), &format!("v{index}"), content))
            })
            .collect();
        for thread in pushing {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
    });
    for (index, content) in contents.iter().enumerate() {
        let repository = format!("team{}/app", index % 7);
        assert_eq!(server.get(&format!("/v2/{repository}/manifests/v{index}")).status, 200);
        let blob = server.get(&format!("/v2/{repository}/blobs/{}", sha256(content)));
        assert_eq!((blob.status, blob.body.len()), (200, content.len()), "{index}");
        assert_eq!(sha256(&blob.body), sha256(content));
    }
}

#[test]
fn a_session_goes_on_after_the_server_was_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Running::start(directory.path(), "");
    let content = noise(3_000_000, 5);
    let (first, second) = content.split_at(1_000_000);
    let place = server.request("POST", "/v2/app/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    assert_eq!(server.request("PATCH", &place).body(first).send().status, 202);
    server.stop();
    let server = Running::start(directory.path(), "");
    let status = server.get(&place);
    assert_eq!((status.status, status.header("range")), (204, Some("0-999999")));
    let rest = server.request("PATCH", &place).header("Content-Range", "1000000-2999999").body(second).send();
    assert_eq!(rest.status, 202);
    let closed = server.request("PUT", &format!("{place}?digest={}", sha256(&content))).body("").send();
    assert_eq!(closed.status, 201);
    assert_eq!(server.get(&format!("/v2/app/blobs/{}", sha256(&content))).body, content);
}

#[test]
fn a_server_that_stops_finishes_what_runs() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Running::start(directory.path(), "");
    let content = noise(500_000, 9);
    let path = format!("/v2/app/blobs/uploads/?digest={}", sha256(&content));
    let mut stream = server.request("POST", &path).header("Content-Length", content.len().to_string()).begin();
    stream.write_all(&content[..1000]).unwrap();
    // The server has the request once it counts an upload.
    while !String::from_utf8(server.get("/metrics").body).unwrap().contains("corten_registry_uploads 1") {}
    let address = server.address;
    let ending = std::thread::spawn(move || {
        server.stop();
        server
    });
    // New connections are refused once it stops; the one that runs goes on.
    while std::net::TcpStream::connect(address).is_ok() {}
    stream.write_all(&content[1000..]).unwrap();
    assert_eq!(read(stream, "POST").status, 201);
    ending.join().unwrap();
    let server = Running::start(directory.path(), "");
    assert_eq!(server.get(&format!("/v2/app/blobs/{}", sha256(&content))).status, 200);
}

#[test]
fn a_client_that_goes_away_leaves_what_it_sent() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), "");
    let place = server.request("POST", "/v2/app/blobs/uploads/").body("").send().header("location").unwrap().to_owned();
    let mut stream = server.request("PATCH", &place).header("Content-Length", "1000000").begin();
    stream.write_all(&noise(600_000, 3)).unwrap();
    drop(stream);
    // The request that was cut off may still hold the session for a moment.
    let size = loop {
        let status = server.get(&place);
        if status.status == 204 {
            let range = status.header("range").unwrap().to_owned();
            break range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        }
        assert_eq!(status.status, 409);
    };
    assert!(size <= 600_000);
    let content = noise(1_000_000, 3);
    let rest = &content[if size == 1 { 0 } else { size }..];
    assert_eq!(server.request("PATCH", &place).body(rest).send().status, 202);
    let closed = server.request("PUT", &format!("{place}?digest={}", sha256(&content))).body("").send();
    assert!(matches!(closed.status, 201), "{closed:?}");
}

//! Stores that earlier versions wrote.

use std::process::Command;

use corten_store::{Base, PrepareRequest};
use corten_types::{ErrorKind, Reference};

use crate::support::{Sandbox, open};

#[test]
fn a_store_of_version_1_opens_with_its_images_names_and_history() {
    let sandbox = Sandbox::new();
    let root = sandbox.dir.path().join("old");
    std::fs::create_dir(&root).unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/store-version-1.tar.gz");
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&root).status().unwrap();
    assert!(status.success());
    let store = open(&root.join("store"));
    let names: Vec<String> = store.references().unwrap().iter().map(|(name, _)| name.familiar()).collect();
    assert_eq!(names, ["one:1", "two:1", "other/one:2"]);
    let one = store.resolve("one:1").unwrap();
    assert_eq!((one.manifest, one.size), (one.target, 4));
    assert_eq!(store.images().unwrap().len(), 2);
    let history = store.history(&Reference::parse("other/one:2").unwrap()).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].target, history[0].cause.as_str()), (Some(one.manifest), "tag"));
    // Its layers were not synced in this boot: they are unpacked again.
    let two = store.resolve("two:1").unwrap();
    let snapshot = store.prepare(PrepareRequest { key: "k", base: Base::Image(&two), throwaway: true }).unwrap();
    assert_eq!(snapshot.overlay.lower.len(), 2);
    store.remove_snapshot("k").unwrap();
    store.remove("two:1", false).unwrap();
    assert_eq!(store.resolve("two:1").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.resolve("one:1").is_ok());
    let read = std::fs::read_dir(root.join("store/blobs/sha256")).unwrap().count();
    assert_eq!(read, 3, "what only the removed image needed is gone");
}

//! fsck: flipped bits, cut and missing files, a broken database.

use std::os::unix::fs::FileExt;
use std::path::Path;

use corten_store::Outcome;
use corten_testkit::require;
use corten_types::{Context, Result};

use crate::support::{Sandbox, dir, docker_archive, file, names, open, tar};

fn loaded() -> Sandbox {
    let sandbox = Sandbox::new();
    let below = tar(&[dir("etc/", 0o755), file("etc/one", &[b'1'; 5000])]);
    let bound = tar(&[file("etc/two", b"2")]);
    sandbox.store.load(docker_archive("app:1", &[below.clone(), bound]).as_slice()).unwrap();
    sandbox.store.load(docker_archive("other:1", &[below]).as_slice()).unwrap();
    sandbox
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn said(checked: &corten_store::Checked) -> Vec<(Outcome, String)> {
    checked.damage.iter().map(|damage| (damage.outcome, damage.images.join(","))).collect()
}

#[test]
fn a_sound_store_has_no_damage() {
    let sandbox = loaded();
    let checked = sandbox.store.check(true).unwrap();
    assert!(checked.damage.is_empty(), "{:?}", checked.damage);
    assert_eq!((checked.blobs, checked.layers), (6, 3));
    let image = sandbox.store.resolve("app:1").unwrap();
    assert!(sandbox.store.verify_image(&image).unwrap().damage.is_empty());
    assert!(sandbox.names("ingest").is_empty() && sandbox.names("leases").is_empty());
}

#[test]
fn a_flipped_bit_in_any_blob_is_found_and_its_images_are_named() {
    for blob in loaded().names("blobs/sha256") {
        let sandbox = loaded();
        flip(&sandbox.root().join("blobs/sha256").join(&blob), 20);
        let checked = open(&sandbox.root()).check(true).unwrap();
        let damage = checked.damage.iter().find(|damage| damage.what.contains(&blob)).unwrap();
        assert_eq!(damage.outcome, Outcome::Quarantined);
        assert!(damage.images.iter().any(|name| name == "app:1" || name == "other:1"), "{damage:?}");
        assert!(!sandbox.names("blobs/sha256").contains(&blob) && sandbox.names("quarantine").len() == 1);
        // Still there to be named, and loading it again heals it.
        let checked = sandbox.store.check(true).unwrap();
        assert_eq!(checked.damage[0].outcome, Outcome::Missing);
        let below = tar(&[dir("etc/", 0o755), file("etc/one", &[b'1'; 5000])]);
        let bound = tar(&[file("etc/two", b"2")]);
        sandbox.store.load(docker_archive("app:1", &[below.clone(), bound]).as_slice()).unwrap();
        sandbox.store.load(docker_archive("other:1", &[below]).as_slice()).unwrap();
        assert!(sandbox.store.check(true).unwrap().damage.is_empty());
    }
}

/// The first regular file below a directory that has bytes.
fn first_file(path: &Path) -> std::path::PathBuf {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return first_file(&path);
        }
        if path.metadata().unwrap().len() > 0 {
            return path;
        }
    }
    panic!("no file below {}", path.display());
}

#[test]
fn a_flipped_bit_in_a_layer_is_repaired_from_its_blob() {
    let sandbox = loaded();
    let image = sandbox.store.resolve("other:1").unwrap();
    let key = image.layers[0].diff_id.hex();
    flip(&first_file(&sandbox.root().join("layers").join(&key)), 0);
    let found = sandbox.store.verify_image(&image).unwrap();
    assert_eq!(said(&found), [(Outcome::Found, "other:1".to_owned())]);
    let checked = sandbox.store.check(true).unwrap();
    assert_eq!(checked.damage.len(), 1, "{:?}", checked.damage);
    assert_eq!(checked.damage[0].outcome, Outcome::Repaired);
    assert!(sandbox.store.check(true).unwrap().damage.is_empty());
    assert_eq!(sandbox.names("quarantine").len(), 1);
}

#[test]
fn a_broken_database_is_made_anew() -> Result<()> {
    let sandbox = loaded();
    let root = sandbox.root();
    let database = root.join("db.sqlite");
    // All of it in the one file, as after a checkpoint.
    drop(sandbox.store);
    for name in ["db.sqlite", "db.sqlite-wal"] {
        let path = root.join(name);
        let length = path.metadata().unwrap().len();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for offset in (0..length).step_by(512) {
            file.write_all_at(&[0xa5; 256], offset).unwrap();
        }
    }
    let store = open(&root);
    let error = store.resolve("app:1").unwrap_err();
    assert!(error.hints().iter().any(|hint| hint.contains("image fsck")), "{error:?}");
    let checked = store.check(true).context(|| "fsck")?;
    assert_eq!((checked.damage[0].what.as_str(), checked.damage[0].outcome), ("database", Outcome::Repaired));
    // Names lie beside it.
    assert_eq!(store.images()?.len(), 2);
    let image = store.resolve("app:1")?;
    assert_eq!((image.layers.len(), store.resolve("other:1")?.layers.len()), (2, 1));
    assert!(database.exists() && !names(&root.join("quarantine")).is_empty());
    assert!(store.check(true)?.damage.is_empty());
    Ok(())
}

#[test]
fn usage_is_what_du_finds() {
    let sandbox = loaded();
    let usage = sandbox.store.usage().unwrap();
    let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(sandbox.root()).output().unwrap();
    let du: u64 = String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let ours = usage.images + usage.snapshots.values().sum::<u64>();
    // The directories that hold the parts are not counted: three blocks.
    assert!(du.abs_diff(ours) <= 4 * 4096, "{du} and {ours}");
    let app = usage.by_image.iter().find(|one| one.image.repo_tags[0].familiar() == "app:1").unwrap();
    assert!(app.shared > 0 && app.size > app.shared);
}

/// A layer as large as those that are not kept in memory: its blob and its tar are one file where images are used.
#[test]
fn a_plain_layer_is_written_once_and_damage_of_its_blob_takes_it_along() {
    use std::os::unix::fs::MetadataExt;
    require!(crate::support::forms().contains(&corten_store::Form::Erofs), "EROFS images cannot be mounted here");
    let sandbox = Sandbox::of_form(corten_store::Form::Erofs);
    let content: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
    let archive = docker_archive("app:1", &[tar(&[dir("./", 0o755), file("large", &content)])]);
    sandbox.store.load(archive.as_slice()).unwrap();
    let image = sandbox.store.resolve("app:1").unwrap();
    let blob = sandbox.root().join("blobs/sha256").join(image.layers[0].blob.digest.hex());
    let layer = sandbox.root().join("layers").join(image.layers[0].diff_id.hex()).join("tar");
    assert_eq!(blob.metadata().unwrap().ino(), layer.metadata().unwrap().ino());
    let collected = u64::try_from(content.len()).unwrap();

    flip(&blob, 5000);
    let checked = sandbox.store.check(true).unwrap();
    let outcomes: Vec<Outcome> = checked.damage.iter().map(|damage| damage.outcome).collect();
    assert_eq!(outcomes, [Outcome::Quarantined; 2], "{:?}", checked.damage);
    assert!(!layer.exists() && !blob.exists());
    sandbox.store.load(archive.as_slice()).unwrap();
    assert!(sandbox.store.check(true).unwrap().damage.is_empty());
    assert_eq!(blob.metadata().unwrap().ino(), layer.metadata().unwrap().ino());

    // What is given back is counted once.
    let removed = sandbox.store.remove("app:1", false).unwrap();
    assert!(removed.collected.bytes < collected + 100_000, "{}", removed.collected.bytes);
}

//! Archives become images, images become roots.

use std::fs::File;
use std::os::fd::AsFd;

use corten_store::{Base, PrepareRequest};
use corten_testkit::require;
use corten_testkit::skip::is_root;

use crate::support::{Sandbox, dir, docker_archive, file, tar};

#[test]
fn a_docker_archive_is_loaded_listed_and_removed() {
    let sandbox = Sandbox::new();
    let layer = tar(&[dir("etc/", 0o755), file("etc/motd", b"hello\n")]);
    let loaded = sandbox.store.load(docker_archive("app:1", &[layer]).as_slice()).unwrap();
    assert_eq!(loaded[0].references[0].familiar(), "app:1");
    let image = sandbox.store.resolve("app:1").unwrap();
    assert_eq!((image.id, image.size), (loaded[0].id, 6));
    for name in [image.id.to_string(), image.id.hex(), image.id.short(), "docker.io/library/app:1".to_owned()] {
        assert_eq!(sandbox.store.resolve(&name).unwrap().manifest, image.manifest, "{name}");
    }
    assert_eq!(sandbox.names("blobs/sha256").len(), 3);
    assert_eq!(sandbox.names("layers").len(), 1);
    let removed = sandbox.store.remove("app:1", false).unwrap();
    assert_eq!(removed.collected.blobs.len(), 3);
    assert!(sandbox.store.images().unwrap().is_empty());
    for part in ["blobs/sha256", "layers", "ingest", "locks"] {
        assert!(sandbox.names(part).is_empty(), "{part}");
    }
    sandbox.store.empty_trash().unwrap();
    assert!(sandbox.names("trash").is_empty());
}

#[test]
fn nobody_else_may_read_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    sandbox.store.load(docker_archive("app:1", &[tar(&[file("f", b"x")])]).as_slice()).unwrap();
    let mode = |path: &str| std::fs::metadata(sandbox.root().join(path)).unwrap().permissions().mode() & 0o777;
    for part in ["", "blobs", "blobs/sha256", "ingest", "layers", "locks", "snapshots", "trash"] {
        assert_eq!(mode(part), 0o700, "{part}");
    }
    for name in crate::support::names(&sandbox.root()).iter().filter(|name| name.starts_with("db.")) {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(mode(&format!("layers/{}", sandbox.names("layers")[0])), 0o700);
}

#[test]
fn layers_and_a_writable_directory_make_a_root() {
    require!(is_root(), "only root makes devices");
    let sandbox = Sandbox::new();
    let below = tar(&[
        dir("./", 0o751),
        dir("a/", 0o700),
        file("a/old", b"old"),
        file("gone", b"x"),
        dir("b/", 0o755),
        file("b/hidden", b"x"),
    ]);
    let above = tar(&[file(".wh.gone", b""), file("b/.wh..wh..opq", b""), file("a/new", b"new")]);
    sandbox.store.load(docker_archive("app", &[below, above]).as_slice()).unwrap();
    let image = sandbox.store.resolve("app").unwrap();
    let request = PrepareRequest { key: "one", base: Base::Image(&image), throwaway: true };
    let snapshot = sandbox.store.prepare(request).unwrap();
    assert!(sandbox.store.prepare(request).is_err(), "the name is taken");
    assert_eq!(sandbox.store.snapshot("one").unwrap().overlay, snapshot.overlay);
    let target = sandbox.dir.path().join("root");
    std::fs::create_dir(&target).unwrap();
    snapshot.overlay.mount(File::open(&target).unwrap().as_fd()).unwrap();
    let seen = std::panic::catch_unwind(|| {
        let mut seen: Vec<_> =
            ["a/old", "a/new", "gone", "b/hidden", "b"].map(|path| target.join(path).exists()).to_vec();
        std::fs::write(target.join("written"), "x").unwrap();
        use std::os::unix::fs::PermissionsExt;
        seen.push(std::fs::metadata(&target).unwrap().permissions().mode() & 0o7777 == 0o751);
        // `a` is no member of the upper layer: it looks as below.
        seen.push(std::fs::metadata(target.join("a")).unwrap().permissions().mode() & 0o7777 == 0o700);
        seen
    });
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(seen.unwrap(), [true, true, false, false, true, true, true]);
    // What is thrown away with its container can be mounted again, though the kernel marks it.
    snapshot.overlay.mount(File::open(&target).unwrap().as_fd()).unwrap();
    let kept = target.join("written").exists();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(kept);
    assert!(sandbox.store.remove("app", false).unwrap_err().one_line().contains("used by a container"));
    sandbox.store.remove_snapshot("one").unwrap();
    sandbox.store.remove_snapshot("one").unwrap();
    sandbox.store.remove("app", false).unwrap();
    sandbox.store.empty_trash().unwrap();
}

#[test]
fn the_built_in_image_is_made_once_for_each_binary() {
    let sandbox = Sandbox::new();
    let path = sandbox.dir.path().join("binary");
    std::fs::write(&path, vec![7u8; 300_000]).unwrap();
    let image = sandbox.store.hello(&File::open(&path).unwrap()).unwrap();
    assert_eq!(image.config.config.entrypoint.as_deref(), Some(&["/corten".to_owned(), "hello".to_owned()][..]));
    assert_eq!(image.repo_tags[0].familiar(), "hello:latest");
    let again = sandbox.store.hello(&File::open(&path).unwrap()).unwrap();
    assert_eq!(image.manifest, again.manifest);
    std::fs::write(&path, vec![8u8; 300_000]).unwrap();
    let other = sandbox.store.hello(&File::open(&path).unwrap()).unwrap();
    assert_ne!(image.manifest, other.manifest);
    assert_eq!(sandbox.names("blobs/sha256").len(), 3, "the superseded build is gone");
    assert_eq!(sandbox.names("layers").len(), 1);
}

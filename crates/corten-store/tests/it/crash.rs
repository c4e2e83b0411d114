//! Many processes at once, and processes killed at any moment.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_store::{Base, PrepareRequest};

use crate::support::{Sandbox, dir, docker_archive, file, names, open, tar};

/// What a child finds in its working directory.
const ARCHIVE: &str = "archive-for-child.tar";

/// Not a test by itself: the body of the children below, which are this program again.
#[test]
fn child_loads_the_archive_of_its_directory() {
    let Ok(archive) = std::fs::File::open(ARCHIVE) else { return };
    let store = open("store".as_ref());
    store.load(archive).unwrap();
    let image = store.resolve("app:1").unwrap();
    let key = format!("c{}", std::process::id());
    store.prepare(PrepareRequest { key: &key, base: Base::Image(&image), throwaway: true }).unwrap();
    store.remove_snapshot(&key).unwrap();
}

fn child(sandbox: &Sandbox) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_loads_the_archive_of_its_directory"])
        .current_dir(sandbox.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Two layers of some hundred files, and one bound to those below it.
fn archive() -> Vec<u8> {
    let paths: Vec<String> = (0..300).map(|number| format!("dir/file-{number}")).collect();
    let content = vec![b'x'; 3000];
    let mut members = vec![dir("dir/", 0o1777)];
    members.extend(paths.iter().map(|path| file(path, &content)));
    let below = tar(&members);
    let other = tar(&[file("top", &content), dir("etc/", 0o700)]);
    let bound = tar(&[file("dir/new", b"x")]);
    docker_archive("app:1", &[below, other, bound])
}

#[test]
fn loads_at_once_unpack_each_layer_once() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.dir.path().join(ARCHIVE), archive()).unwrap();
    let children: Vec<Child> = (0..12).map(|_| child(&sandbox)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(sandbox.names("layers").len(), 3);
    assert_eq!(sandbox.names("blobs/sha256").len(), 5);
    for part in ["ingest", "locks", "snapshots"] {
        assert!(sandbox.names(part).is_empty(), "{part}");
    }
    assert_eq!(sandbox.store.images().unwrap().len(), 1);
}

#[test]
fn a_kill_at_any_moment_is_repaired() {
    let sandbox = Sandbox::new();
    let archive = archive();
    std::fs::write(sandbox.dir.path().join(ARCHIVE), &archive).unwrap();
    let mut killed = 0;
    for round in 0..40u64 {
        let mut child = child(&sandbox);
        // Spread over the whole life of a load, which takes some tens of milliseconds.
        wait(Duration::from_micros(500 + round * 1500));
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open(&sandbox.root());
        assert!(sandbox.names("ingest").is_empty(), "round {round}");
        for image in store.images().unwrap() {
            assert_eq!(image.layers.len(), 3);
        }
        if round % 8 == 7 {
            // From every state a load works, and a removal leaves nothing.
            store.load(archive.as_slice()).unwrap();
            let image = store.resolve("app:1").unwrap();
            let request = PrepareRequest { key: "after", base: Base::Image(&image), throwaway: false };
            store.prepare(request).unwrap();
            for name in store.snapshots().unwrap() {
                store.remove_snapshot(&name).unwrap();
            }
            store.remove("app:1", false).unwrap();
            store.empty_trash().unwrap();
            for part in ["layers", "blobs/sha256", "snapshots", "trash"] {
                assert_eq!(names(&sandbox.root().join(part)), [""; 0], "{part} in round {round}");
            }
        }
    }
    assert!(killed > 10, "only {killed} children were alive when they were killed");
}

#[test]
fn a_full_disk_is_an_error_that_damages_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(c"size=3m,mode=700")).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        let store = open(&dir.path().join("store"));
        let small = docker_archive("small", &[tar(&[file("f", b"x")])]);
        store.load(small.as_slice()).unwrap();
        let content: Vec<u8> = (0..2_500_000u32).map(|number| number.to_le_bytes()[0] | 1).collect();
        let error = store.load(docker_archive("big", &[tar(&[file("f", &content)])]).as_slice()).unwrap_err();
        assert_eq!(error.kind(), corten_types::ErrorKind::Exhausted, "{error:?}");
        assert!(error.hints()[0].contains("make room"), "{error:?}");
        assert!(names(&dir.path().join("store/ingest")).is_empty());
        assert_eq!(store.images().unwrap().len(), 1);
        let image = store.resolve("small").unwrap();
        store.prepare(PrepareRequest { key: "k", base: Base::Image(&image), throwaway: false }).unwrap();
        store.remove_snapshot("k").unwrap();
        store.remove("small", false).unwrap();
        store.load(small.as_slice()).unwrap();
    });
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}

/// Waits without an event to wait for: the moment is what is tested.
fn wait(time: Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        std::thread::yield_now();
    }
}

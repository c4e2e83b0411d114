//! Many processes at once, and processes killed at any moment.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_store::{Base, Compress, PrepareRequest, RootfsRequest, SaveRequest};
use corten_testkit::require;
use corten_testkit::skip::is_root;
use corten_types::Reference;
use corten_types::image_spec::{History, ImageConfig};

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

/// What another child finds in its working directory.
const OPERATIONS: &str = "archive-for-operations.tar";

/// Not a test by itself: every operation that moves names, blobs and layers, over and over until it is killed.
#[test]
fn child_moves_everything_there_is() {
    if !std::path::Path::new(OPERATIONS).exists() {
        return;
    }
    let store = open("store".as_ref());
    for round in 0.. {
        store.load(std::fs::File::open(OPERATIONS).unwrap()).unwrap();
        let name = |text: &str| Reference::parse(text).unwrap();
        let target = store.target("app:1").unwrap().digest;
        store.tag(&target, &name(&format!("kept:{}", round % 3))).unwrap();
        let out = std::fs::File::options().write(true).create(true).truncate(true).open("saved.tar").unwrap();
        let names = ["app:1".to_owned()];
        store.save(&SaveRequest { names: &names, platform: None }, &out).unwrap();
        let compress = [None, Some(Compress::Gzip(1)), Some(Compress::Zstd(1))][round % 3];
        let request = RootfsRequest {
            config: ImageConfig::default(),
            step: History::default(),
            compress,
            reference: Some(name("flat:1")),
            cause: "squash",
        };
        let root = tar(&[dir("./", 0o755), file("root", format!("round {round}").as_bytes())]);
        store.import_rootfs(root.as_slice(), request).unwrap();
        store.rollback(&name("flat:1"), usize::from(round > 0)).unwrap();
        store.untag(&name(&format!("kept:{}", round % 3))).unwrap();
        store.remove("app:1", true).unwrap();
        store.collect_garbage().unwrap();
        store.do_chores().unwrap();
    }
}

fn child(sandbox: &Sandbox) -> Child {
    child_of(sandbox, "crash::child_loads_the_archive_of_its_directory")
}

fn child_of(sandbox: &Sandbox, test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
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
    // About what a load takes on this machine: learnt from who still lived.
    let mut life = Duration::from_millis(60);
    for round in 0..40 {
        let mut child = child(&sandbox);
        // Spread over the whole of it.
        wait(life * (1 + round * 7 % 40) / 40);
        let is_alive = child.try_wait().unwrap().is_none();
        killed += u32::from(is_alive);
        life = if is_alive { life * 9 / 8 } else { life * 2 / 3 };
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
fn a_kill_amid_save_tag_remove_squash_and_collection_is_repaired() {
    let sandbox = Sandbox::new();
    let archive = archive();
    std::fs::write(sandbox.dir.path().join(OPERATIONS), &archive).unwrap();
    for round in 0..24u64 {
        let mut child = child_of(&sandbox, "crash::child_moves_everything_there_is");
        // Over several rounds of the child's own.
        wait(Duration::from_micros(5_000 + round * 9_300));
        assert!(child.try_wait().unwrap().is_none(), "the child works until it is killed");
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open(&sandbox.root());
        assert!(sandbox.names("ingest").is_empty(), "round {round}");
        for image in store.images().unwrap() {
            let whole = store.verify_image(&image).unwrap();
            assert!(whole.damage.is_empty(), "round {round}: {:?}", whole.damage);
        }
        if round % 6 == 5 {
            let checked = store.check(true).unwrap();
            assert!(checked.damage.is_empty(), "round {round}: {:?}", checked.damage);
            store.load(archive.as_slice()).unwrap();
        }
    }
    let store = open(&sandbox.root());
    for (name, _) in store.references().unwrap() {
        store.untag(&name).unwrap();
    }
    for target in store.targets().unwrap() {
        store.remove(&target.digest.to_string(), true).unwrap();
    }
    store.collect_garbage().unwrap();
    store.do_chores().unwrap();
    for part in ["layers", "blobs/sha256", "leases", "trash"] {
        assert_eq!(sandbox.names(part), [""; 0], "{part}");
    }
}

/// A small file system of its own; what the test does there.
fn on_tmpfs(options: &std::ffi::CStr, work: impl FnOnce(&std::path::Path) + std::panic::UnwindSafe) {
    require!(is_root(), "only root mounts a tmpfs");
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(options)).unwrap();
    let path = dir.path().to_owned();
    let outcome = std::panic::catch_unwind(move || work(&path));
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}

/// Takes all that is left: bytes, then names.
fn fill(dir: &std::path::Path) {
    let new = |path: std::path::PathBuf| std::fs::File::options().write(true).create_new(true).open(path);
    let bytes = new(dir.join("filler"));
    if let Ok(mut bytes) = bytes {
        for size in [64 * 1024, 4096, 1] {
            while std::io::Write::write_all(&mut bytes, &vec![1; size]).is_ok() {}
        }
    }
    let names = dir.join("names");
    if std::fs::create_dir(&names).is_ok() {
        for number in 0.. {
            if new(names.join(number.to_string())).is_err() {
                break;
            }
        }
    }
}

#[test]
fn on_a_disk_without_room_or_names_images_are_listed_removed_and_pruned() {
    for options in [c"size=8m,nr_inodes=1000,mode=700", c"size=64m,nr_inodes=220,mode=700"] {
        on_tmpfs(options, |dir| {
            let root = dir.join("store");
            let store = open(&root);
            for name in ["one", "two", "three"] {
                let layer = tar(&[file("f", name.as_bytes())]);
                store.load(docker_archive(name, &[layer]).as_slice()).unwrap();
            }
            drop(store);
            fill(dir);
            let store = open(&root);
            let error = store.load(docker_archive("four", &[tar(&[file("f", &[7; 400_000])])]).as_slice()).unwrap_err();
            assert_eq!(error.kind(), corten_types::ErrorKind::Exhausted, "{error:?}");
            assert_eq!(store.images().unwrap().len(), 3);
            store.remove("one", false).unwrap();
            drop(store);
            let store = open(&root);
            store.remove("two", false).unwrap();
            store.collect_garbage().unwrap();
            store.do_chores().unwrap();
            assert_eq!(store.images().unwrap().len(), 1);
            corten_fs::Root::open_ambient(dir).unwrap().remove_all("names").unwrap_or_default();
            std::fs::remove_file(dir.join("filler")).unwrap_or_default();
            assert!(store.check(true).unwrap().damage.is_empty());
            let layer = tar(&[file("f", b"one")]);
            store.load(docker_archive("one", &[layer]).as_slice()).unwrap();
        });
    }
}

#[test]
fn a_full_disk_is_an_error_that_damages_nothing() {
    on_tmpfs(c"size=5m,mode=700", |dir| {
        let store = open(&dir.join("store"));
        let small = docker_archive("small", &[tar(&[file("f", b"x")])]);
        store.load(small.as_slice()).unwrap();
        let content: Vec<u8> = (0..4_000_000u32).map(|number| number.to_le_bytes()[0] | 1).collect();
        let error = store.load(docker_archive("big", &[tar(&[file("f", &content)])]).as_slice()).unwrap_err();
        assert_eq!(error.kind(), corten_types::ErrorKind::Exhausted, "{error:?}");
        assert!(error.hints()[0].contains("make room"), "{error:?}");
        assert!(names(&dir.join("store/ingest")).is_empty());
        assert_eq!(store.images().unwrap().len(), 1);
        let image = store.resolve("small").unwrap();
        store.prepare(PrepareRequest { key: "k", base: Base::Image(&image), throwaway: false }).unwrap();
        store.remove_snapshot("k").unwrap();
        store.remove("small", false).unwrap();
        store.load(small.as_slice()).unwrap();
    });
}

/// Waits without an event to wait for: the moment is what is tested.
fn wait(time: Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        std::thread::yield_now();
    }
}

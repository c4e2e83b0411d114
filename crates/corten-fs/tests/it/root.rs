//! Paths beneath a root: one body over both resolvers, openat2 and the walk by hand.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use corten_fs::Root;
use corten_fs::root::{Resolver, read_ambient};
use corten_types::ErrorKind;
use rustix::fs::{FileType, Mode, OFlags, RenameFlags};

/// Runs `body` over a fresh tree with each resolver; `outside` lies beside the root.
fn over_both(body: impl Fn(&Root, &Path)) {
    for resolver in [Resolver::Openat2, Resolver::Walk] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        for name in ["root/a/b", "root/etc", "outside"] {
            fs::DirBuilder::new().recursive(true).create(directory.path().join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "inside").unwrap();
        fs::write(directory.path().join("outside/canary"), "outside").unwrap();
        body(&Root::open_ambient(&root).unwrap().with_resolver(resolver), &root);
        assert_eq!(fs::read_dir(directory.path().join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(directory.path().join("outside/canary")).unwrap(), "outside");
    }
}

#[test]
fn links_and_dots_end_at_the_root() {
    over_both(|root, path| {
        for (link, target) in [
            ("absolute", "/etc/passwd"),
            ("climbing", "../../../../etc/passwd"),
            ("a/b/deep", "../../../../../etc/passwd"),
            ("twice", "absolute"),
        ] {
            symlink(target, path.join(link)).unwrap();
            assert_eq!(root.read(link, 100).unwrap(), b"inside", "{link}");
            assert_eq!(root.readlink(link).unwrap(), Path::new(target));
        }
        symlink("/", path.join("top")).unwrap();
        symlink("..", path.join("a/up")).unwrap();
        for spelling in
            ["/../../etc/passwd", "a/../etc/./passwd", "top/top/etc/passwd", "a/up/a/up/etc/passwd", "//etc//passwd"]
        {
            assert_eq!(root.read(spelling, 100).unwrap(), b"inside", "{spelling}");
        }
        assert!(!root.exists("../outside/canary").unwrap());
        assert!(root.open("etc/passwd/", OFlags::PATH, Mode::empty()).is_err(), "a file is no directory");
        assert_eq!(root.stat("/").unwrap().st_ino, fs::metadata(path).unwrap().ino());
        assert_eq!(root.stat("..").unwrap().st_ino, fs::metadata(path).unwrap().ino());
    });
}

#[test]
fn loops_magic_links_and_long_paths_are_refused() {
    over_both(|root, path| {
        symlink("loop", path.join("loop")).unwrap();
        assert_eq!(root.open_path("loop").unwrap_err().errno(), Some(40));
        assert!(root.open_path(format!("/{}", "a/".repeat(3000))).is_err());
        assert!(root.open_path("a\0b").is_err());
    });
    for resolver in [Resolver::Openat2, Resolver::Walk] {
        let proc = Root::open_ambient(Path::new("/proc")).unwrap().with_resolver(resolver);
        for magic in ["self/root", "self/cwd/x", "self/exe", "self/fd/0", "self/ns/mnt"] {
            assert_eq!(proc.open_path(magic).unwrap_err().errno(), Some(40), "{magic} by {resolver:?}");
        }
        assert!(proc.exists("self/status").unwrap() && proc.exists("mounts").unwrap());
    }
}

#[test]
fn our_own_state_holds_no_links_at_all() {
    over_both(|root, path| {
        symlink("etc", path.join("link")).unwrap();
        let own = root.try_clone().unwrap().beneath();
        assert_eq!(own.read("etc/passwd", 100).unwrap(), b"inside");
        assert_eq!(own.open_path("link/passwd").unwrap_err().errno(), Some(40));
        for leaving in ["/etc/passwd", "../outside/canary", "a/../../outside"] {
            assert_eq!(own.open_path(leaving).unwrap_err().errno(), Some(18), "{leaving}");
        }
        assert!(own.create_dir_all("link/new", 0o755.into()).is_err());
        assert!(!path.join("etc/new").exists());
    });
}

#[test]
fn directories_are_made_where_links_lead_inside() {
    over_both(|root, path| {
        symlink("/run/../../run", path.join("var")).unwrap();
        symlink("../../../outside", path.join("out")).unwrap();
        root.create_dir_all("var/lock/deep", 0o750.into()).unwrap();
        assert!(path.join("run/lock/deep").is_dir());
        root.create_dir_all("out/made", 0o755.into()).unwrap();
        assert!(path.join("outside/made").is_dir(), "inside the root");
        root.create_dir_all("a/b", 0o755.into()).unwrap();
        root.create_dir_all("/", 0o755.into()).unwrap();
        assert!(root.create_dir_all("etc/passwd/x", 0o755.into()).is_err());
        let file = root.open_or_create_file("out/file", OFlags::PATH, 0o644.into()).unwrap();
        assert_eq!(rustix::fs::fstat(file.as_fd()).unwrap().st_size, 0);
        assert!(path.join("outside/file").is_file());
        symlink("/made/by/link", path.join("dangling")).unwrap();
        root.open_or_create_file("dangling", OFlags::PATH, 0o644.into()).unwrap();
        assert!(path.join("made/by/link").is_file());
    });
}

#[test]
fn names_are_made_moved_and_removed() {
    over_both(|root, path| {
        root.create_dir("new", 0o700.into()).unwrap();
        root.symlink("anything/at all", "new/link").unwrap();
        root.mknod("new/fifo", FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut kinds: Vec<_> = root.list("new").unwrap().into_iter().map(|entry| entry.kind).collect();
        kinds.sort_by_key(|kind| format!("{kind:?}"));
        assert_eq!(kinds, [FileType::Fifo, FileType::Symlink]);
        root.rename("new/link", "etc/link", RenameFlags::empty()).unwrap();
        assert_eq!(root.create_dir("new", 0o700.into()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let taken = root.rename("etc/link", "etc/passwd", RenameFlags::NOREPLACE).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        root.remove_file("etc/link").unwrap();
        assert_eq!(root.remove_dir("new").unwrap_err().errno(), Some(39));
        for wrong in ["/", "..", "a/.", "a/..", ""] {
            assert!(root.remove_file(wrong).is_err(), "{wrong}");
        }
        assert!(path.join("a").is_dir());
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        assert_eq!(root.open("etc/passwd", exclusive, 0o600.into()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        root.open("etc/shadow", exclusive, 0o600.into()).unwrap();
        assert_eq!(fs::metadata(path.join("etc/shadow")).unwrap().mode() & 0o777, 0o600);
    });
}

#[test]
fn reading_is_bounded_and_waits_for_nobody() {
    over_both(|root, path| {
        fs::write(path.join("big"), vec![1; 5000]).unwrap();
        assert_eq!(root.read("big", 5000).unwrap().len(), 5000);
        assert!(root.read("big", 4999).unwrap_err().one_line().contains("longer than 4999 bytes"));
        root.mknod("fifo", FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(root.read("fifo", 10).unwrap_err().one_line().contains("not a regular file"));
        assert!(root.read("a", 10).is_err());
        assert_eq!(root.read("absent", 10).unwrap_err().kind(), ErrorKind::NotFound);
    });
    assert!(!read_ambient(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty(), "states no size");
}

#[test]
fn whole_trees_go_and_what_links_lead_to_stays() {
    over_both(|root, path| {
        symlink("../../outside", path.join("a/link")).unwrap();
        let mut deep = root.sub_root("a").unwrap();
        for _ in 0..700 {
            deep.create_dir("d", 0o755.into()).unwrap();
            deep.create_dir("e", 0o755.into()).unwrap();
            deep = deep.sub_root("d").unwrap();
        }
        root.create_dir("a/.corten-removing-1", 0o755.into()).unwrap();
        root.remove_all("a").unwrap();
        assert!(!path.join("a").exists());
        root.remove_all("a").unwrap();
        root.remove_all("absent/below").unwrap();
        root.remove_all("etc/passwd").unwrap();
        assert!(path.join("etc").is_dir() && !path.join("etc/passwd").exists());
    });
}

#[test]
fn an_error_shows_the_call_as_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open_ambient(directory.path()).unwrap();
    let report = root.open_path("etc/absent").unwrap_err().report();
    let path = directory.path().display();
    assert!(report.contains(&format!("]<{path}>, \"etc/absent\", O_PATH, RESOLVE_IN_ROOT)")), "{report}");
}

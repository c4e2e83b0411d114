//! The same in a user namespace: a child of this program, as the only user there or with a range of ids.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use corten_fs::tar::Kind;
use corten_store::{Base, PrepareRequest};

use crate::support::{Sandbox, dir, docker_archive, file, of_kind, open, tar};

/// What a child finds in its working directory.
const ARCHIVE: &str = "archive-for-namespace.tar";

/// Not a test by itself: the body of the child below.
#[test]
fn child_mounts_roots_in_its_user_namespace() {
    let Ok(archive) = File::open(ARCHIVE) else { return };
    let store = open("inner".as_ref());
    store.load(archive).unwrap();
    let image = store.resolve("app").unwrap();
    std::fs::create_dir("root").unwrap();
    for (key, base) in [("image", Base::Image(&image)), ("host", Base::Host)] {
        let snapshot = store.prepare(PrepareRequest { key, base, throwaway: true }).unwrap();
        let options = snapshot.overlay.options();
        let overlay = corten_store::Overlay::parse(&options).unwrap();
        assert_eq!(overlay, snapshot.overlay);
        overlay.mount(File::open("root").unwrap().as_fd()).unwrap();
        std::fs::write("root/etc/written", "x").unwrap();
        if key == "image" {
            assert!(std::fs::exists("root/a/kept").unwrap());
            assert!(!std::fs::exists("root/a/hidden").unwrap() && !std::fs::exists("root/gone").unwrap());
        } else {
            assert!(!std::fs::exists("/etc/written").unwrap());
            assert_eq!(std::fs::read("root/etc/passwd").unwrap(), std::fs::read("/etc/passwd").unwrap());
            assert!(std::fs::exists("root/usr/bin/env").unwrap());
        }
        rustix::mount::unmount("root", rustix::mount::UnmountFlags::DETACH).unwrap();
        store.remove_snapshot(key).unwrap();
    }
    store.remove("app", false).unwrap();
    store.empty_trash().unwrap();
}

/// Which ids the namespace has.
#[derive(Debug, Clone, Copy)]
enum Map {
    /// The caller alone, as 0.
    Single,
    /// 0 to 65535, which only root of this machine may set up without `newuidmap`.
    Range,
}

/// A shell in the new namespace that waits for its map.
const WAITS: &str = "echo ready; read word; exec setpriv --reuid 0 --regid 0 --clear-groups \"$@\"";

/// Runs the child; `None` where this machine has no such namespace.
fn run(sandbox: &Sandbox, map: Map) -> Option<(bool, String)> {
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(sandbox.dir.path(), everyone).unwrap();
    let mut command = Command::new("unshare");
    match map {
        Map::Single => command.args(["-Ur", "-m"]),
        Map::Range => command.args(["-U", "-m", "sh", "-c", WAITS, "sh"]),
    };
    let mut child = command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "rootless::child_mounts_roots_in_its_user_namespace"])
        .current_dir(sandbox.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    if matches!(map, Map::Range) {
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).ok()?;
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{}/{file}", child.id()), "0 100000 65536").ok()?;
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let refused = ["unshare:", "setpriv:"].iter().any(|word| text.contains(word));
    (!refused).then_some((output.status.success(), text))
}

#[test]
fn a_user_namespace_loads_and_mounts() {
    let mut owned = file("etc/owned", b"x");
    (owned.0.uid, owned.0.gid) = (1234, 5678);
    let below = tar(&[dir("etc/", 0o755), owned, dir("a/", 0o755), file("a/hidden", b"x"), file("gone", b"x")]);
    let above = tar(&[
        dir("a/", 0o755),
        file("a/.wh..wh..opq", b""),
        file("a/kept", b"x"),
        file(".wh.gone", b""),
        of_kind("null", Kind::CharDevice { major: 1, minor: 3 }),
    ]);
    let archive = docker_archive("app", &[below, above]);
    for map in [Map::Single, Map::Range] {
        let sandbox = Sandbox::new();
        std::fs::write(sandbox.dir.path().join(ARCHIVE), &archive).unwrap();
        match run(&sandbox, map) {
            Some((passed, text)) => assert!(passed, "{map:?}: {text}"),
            None => corten_testkit::skip::skip(&format!("no user namespace with {map:?} can be made here")),
        }
    }
}

#[test]
fn ids_outside_the_map_fail_with_a_hint() {
    let mut owned = file("f", b"x");
    owned.0.uid = 70_000;
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.dir.path().join(ARCHIVE), docker_archive("app", &[tar(&[owned])])).unwrap();
    let Some((passed, text)) = run(&sandbox, Map::Range) else {
        return corten_testkit::skip::skip("no user namespace with a range of ids can be made here");
    };
    assert!(!passed);
    assert!(text.contains("user id 70000 is not mapped") && text.contains("/etc/subuid"), "{text}");
}

//! Images that we write and the kernel mounts; `fsck.erofs` has a second look where it is installed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use corten_fs::erofs::{Attributes, Budget, Content, Tree, mount};
use corten_fs::tar::{Segment, Time};

const PLAIN: Attributes<'static> =
    Attributes { mode: 0o644, uid: 0, gid: 0, mtime: Time { seconds: 7, nanoseconds: 9 }, xattrs: &[] };

struct Image {
    dir: tempfile::TempDir,
    _mount: std::os::fd::OwnedFd,
    root: PathBuf,
}

fn no_mounts() {
    corten_testkit::skip::skip("this kernel or user mounts no EROFS from files");
}

/// Writes `tree` with `tar` as its content, and mounts it; `None` where this machine cannot.
fn image(tree: Tree, tar: &[u8]) -> Option<Image> {
    let dir = tempfile::tempdir().unwrap();
    let (index, data) = (dir.path().join("index"), dir.path().join("tar"));
    std::fs::write(&data, tar).unwrap();
    let file = File::options().create_new(true).read(true).write(true).open(&index).unwrap();
    let written = tree.write(&file, &File::open(&data).unwrap(), tar.len() as u64, [7; 16]).unwrap().unwrap();
    assert_eq!(written.size_bytes, file.metadata().unwrap().len());
    // Ordinary users and older kernels cannot mount it.
    corten_fs::erofs::is_supported(dir.path()).ok()?;
    let mount = mount(&index, &data).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    Some(Image { dir, _mount: mount, root })
}

fn fsck(image: &Image) {
    let Ok(output) = Command::new("fsck.erofs")
        .arg(format!("--device={}", image.dir.path().join("tar").display()))
        .arg(image.dir.path().join("index"))
        .output()
    else {
        return corten_testkit::skip::skip("`fsck.erofs` is not installed");
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Versions before 1.6 know only blocks of a page.
    if !said.contains("isn't supported") && !said.contains("blksize") {
        assert!(output.status.success(), "{said}");
    }
}

fn content(offset: u64, size: u64) -> Content<'static> {
    Content { offset, size, segments: None }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 70_000];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn everything_a_layer_has_is_in_the_image() {
    let mut tar = vec![b'a'; 512 * 3];
    tar[512..517].copy_from_slice(b"hello");
    let xattrs = vec![
        (b"user.note".to_vec(), vec![b'v'; 3000]),
        (b"security.capability".to_vec(), b"\x01\0\0\x02\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        (b"trusted.kept".to_vec(), b"t".to_vec()),
    ];
    let rich = Attributes { uid: 3_000_000_000, gid: 70_000, xattrs: &xattrs, mode: 0o4755, ..PLAIN };
    let mut tree = Tree::new(&Budget::new(1 << 24));
    tree.root(&Attributes { mode: 0o700, ..PLAIN }).unwrap();
    tree.directory(b"d", &Attributes { mode: 0o1777, ..PLAIN }).unwrap();
    tree.file(b"d/file", &rich, &content(512, 5)).unwrap();
    tree.hard_link(b"hard", b"d/file").unwrap();
    tree.file(b"empty", &PLAIN, &content(0, 0)).unwrap();
    tree.symlink(b"short", &PLAIN, b"d/file").unwrap();
    let long = vec![b'l'; 4000];
    tree.symlink(b"long", &PLAIN, &long).unwrap();
    tree.character_device(b"tty", &PLAIN, (4, 0x12345)).unwrap();
    tree.block_device(b"disk", &PLAIN, (8, 1)).unwrap();
    tree.fifo(b"fifo", &PLAIN).unwrap();
    tree.whiteout(b"", b"gone").unwrap();
    tree.directory(b"opaque", &PLAIN).unwrap();
    tree.opaque(b"opaque").unwrap();
    let old = Attributes { mtime: Time { seconds: -5, nanoseconds: 250_000_000 }, ..PLAIN };
    tree.file(b"implied/old", &old, &content(1024, 512)).unwrap();
    assert_eq!(tree.implicit(), [b"implied"]);
    tree.file(b"replaced/x", &PLAIN, &content(0, 1)).unwrap();
    tree.file(b"replaced", &PLAIN, &content(0, 3)).unwrap();
    let Some(image) = image(tree, &tar) else { return no_mounts() };
    fsck(&image);
    let at = |path: &str| image.root.join(path);
    let stat = |path: &str| std::fs::symlink_metadata(at(path)).unwrap();

    assert_eq!(std::fs::read(at("d/file")).unwrap(), b"hello");
    let file = stat("hard");
    assert_eq!((file.uid(), file.gid(), file.mode(), file.nlink()), (3_000_000_000, 70_000, 0o104_755, 2));
    assert_eq!((file.mtime(), file.mtime_nsec(), file.ino()), (7, 9, stat("d/file").ino()));
    for (name, value) in &xattrs {
        assert_eq!(xattr(&at("hard"), std::str::from_utf8(name).unwrap()).as_ref(), Some(value));
    }
    assert_eq!(std::fs::read_link(at("short")).unwrap(), Path::new("d/file"));
    assert_eq!(std::fs::read_link(at("long")).unwrap().as_os_str().len(), 4000);
    assert_eq!((stat("tty").rdev(), stat("disk").rdev()), (rustix::fs::makedev(4, 0x12345), rustix::fs::makedev(8, 1)));
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("gone").file_type().is_char_device() && stat("gone").rdev() == 0);
    assert_eq!(xattr(&at("opaque"), "trusted.overlay.opaque"), Some(b"y".to_vec()));
    assert_eq!((stat("implied/old").mtime(), stat("implied/old").mtime_nsec()), (-5, 250_000_000));
    assert_eq!(std::fs::read(at("implied/old")).unwrap(), [b'a'; 512]);
    assert_eq!(stat("replaced").len(), 3);
    assert_eq!((stat("").nlink(), stat("").mode(), stat("d").nlink()), (5, 0o40_700, 2));
    let names = std::fs::read_dir(&image.root).unwrap().count();
    assert_eq!(names, 12);
}

#[test]
fn large_directories_are_found_by_name() {
    let mut tree = Tree::new(&Budget::new(1 << 25));
    let names: Vec<String> = (0..30_000).map(|number| format!("{number:x}-{}", "n".repeat(number % 200))).collect();
    for name in &names {
        tree.file(format!("many/{name}").as_bytes(), &PLAIN, &content(0, 512)).unwrap();
    }
    // What sorts before `.`, between the dots, and behind them.
    for name in ["!", "-", ".", "..", ".a", "..b", "...", "\u{ff}"] {
        if name != "." && name != ".." {
            tree.directory(format!("odd/{name}").as_bytes(), &PLAIN).unwrap();
        }
    }
    assert!(tree.fits());
    let Some(image) = image(tree, &[b'x'; 512]) else { return no_mounts() };
    fsck(&image);
    for name in &names {
        assert_eq!(std::fs::symlink_metadata(image.root.join("many").join(name)).unwrap().len(), 512, "{name}");
    }
    let mut found: Vec<String> = std::fs::read_dir(image.root.join("many"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(found, expected);
    assert!(!image.root.join("many/none").exists());
    for name in ["!", "-", ".a", "..b", "...", "\u{ff}"] {
        assert!(image.root.join("odd").join(name).is_dir(), "{name}");
    }
    assert_eq!(std::fs::read_dir(image.root.join("odd")).unwrap().count(), 6);
}

#[test]
fn holes_are_holes() {
    let tar: Vec<u8> = (0..40_960u32).map(|byte| byte.to_le_bytes()[1] | 1).collect();
    let cases: [(u64, Vec<(u64, u64)>); 4] = [
        (1 << 20, vec![(0, 4096), (65_536, 8192), (1 << 19, 512)]),
        (100_001, vec![(1, 3), (4095, 2), (50_000, 13_000), (100_000, 1)]),
        (1 << 42, vec![((1 << 42) - 5, 5)]),
        (12_288, vec![]),
    ];
    let mut tree = Tree::new(&Budget::new(1 << 24));
    for (number, (size, segments)) in cases.iter().enumerate() {
        let segments: Vec<Segment> =
            segments.iter().map(|(offset, length)| Segment { offset: *offset, length: *length }).collect();
        let content = Content { offset: 1024, size: *size, segments: Some(&segments) };
        tree.file(format!("sparse-{number}").as_bytes(), &PLAIN, &content).unwrap();
    }
    let Some(image) = image(tree, &tar) else { return no_mounts() };
    for (number, (size, segments)) in cases.iter().enumerate() {
        use std::os::unix::fs::FileExt;
        let file = File::open(image.root.join(format!("sparse-{number}"))).unwrap();
        assert_eq!(file.metadata().unwrap().len(), *size);
        let mut at = 1024;
        for (offset, length) in segments {
            let mut bytes = vec![0; usize::try_from(*length).unwrap()];
            file.read_exact_at(&mut bytes, *offset).unwrap();
            assert_eq!(bytes, tar[at..at + bytes.len()], "{number} at {offset}");
            at += bytes.len();
        }
        if *size < 1 << 21 {
            let all = std::fs::read(image.root.join(format!("sparse-{number}"))).unwrap();
            let data: u64 = all.iter().filter(|byte| **byte != 0).count() as u64;
            assert_eq!(data, segments.iter().map(|(_, length)| length).sum::<u64>(), "{number}");
        }
    }
}

#[test]
fn paths_resolve_as_after_chroot_and_memory_is_bounded() {
    let mut tree = Tree::new(&Budget::new(1 << 20));
    tree.directory(b"real", &PLAIN).unwrap();
    tree.symlink(b"absolute", &PLAIN, b"/real").unwrap();
    tree.symlink(b"climbing", &PLAIN, b"../../../real").unwrap();
    tree.file(b"absolute/one", &PLAIN, &content(0, 1)).unwrap();
    tree.file(b"climbing/two", &PLAIN, &content(0, 2)).unwrap();
    tree.symlink(b"loop", &PLAIN, b"loop").unwrap();
    let said = tree.file(b"loop/x", &PLAIN, &content(0, 1)).unwrap_err().one_line();
    assert!(said.contains("symbolic links"), "{said}");
    tree.symlink(b"out", &PLAIN, b"/nowhere/at/all").unwrap();
    let said = tree.file(b"out/x", &PLAIN, &content(0, 1)).unwrap_err().one_line();
    assert!(said.contains("symlink to nowhere"), "{said}");
    let said = tree.hard_link(b"x", b"missing").unwrap_err().one_line();
    assert!(said.contains("is not in the layer"), "{said}");
    assert!(tree.hard_link(b"x", b"real").is_err());
    // A directory takes the place of the link that led elsewhere.
    tree.directory(b"absolute", &PLAIN).unwrap();
    tree.file(b"absolute/three", &PLAIN, &content(0, 3)).unwrap();
    let mut count = 0;
    while tree.fits() {
        count += 1;
        tree.file(format!("many/{count}").as_bytes(), &PLAIN, &content(0, 0)).unwrap();
    }
    assert!((5_000..20_000).contains(&count), "{count}");
    let Some(image) = image(tree, &[0; 512]) else { return no_mounts() };
    let names = |path: &str| {
        let mut names: Vec<_> =
            std::fs::read_dir(image.root.join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("real"), ["one", "two"]);
    assert_eq!(names("absolute"), ["three"]);
}

#[test]
fn who_mounts_an_image_again_shares_its_file_system() {
    let mut tree = Tree::new(&Budget::new(1 << 20));
    tree.file(b"file", &PLAIN, &content(0, 100)).unwrap();
    let Some(image) = image(tree, &[b'x'; 512]) else { return no_mounts() };
    let (index, tar) = (image.dir.path().join("index"), image.dir.path().join("tar"));
    let device = |mount: &std::os::fd::OwnedFd| rustix::fs::fstat(mount).unwrap().st_dev;
    let again = || corten_fs::erofs::mount_shared(&index, &tar).unwrap();
    // Another process that holds a mount as its descriptor 0.
    let mount = mount(&index, &tar).unwrap();
    let mut holder = Command::new("sleep").arg("1000").stdin(mount.try_clone().unwrap()).spawn().unwrap();
    let note = |text: &str| std::fs::write(image.dir.path().join("mounted"), text).unwrap();
    note(&format!("{} 1\nnonsense\n{} 0", holder.id(), holder.id()));
    let shared = again();
    let is_shared = device(&shared) == device(&mount);
    let notes = std::fs::read_to_string(image.dir.path().join("mounted")).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    corten_testkit::require!(is_shared, "kernels before 6.15 clone no mount that is attached nowhere");
    assert_eq!(notes, format!("{} 0\n{} {}", holder.id(), std::process::id(), shared.as_raw_fd()));
    // The holder is gone, and what this process noted is not believed by itself.
    assert_ne!(device(&again()), device(&mount));
    note("");
    assert_ne!(device(&again()), device(&mount));
}

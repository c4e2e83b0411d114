//! Layers that attack their reader: contained or refused, with nothing outside touched and nothing left behind.

use std::time::{Duration, Instant};

use corten_fs::tar::{Kind, Member};
use corten_store::Form;
use corten_types::ErrorKind;

use crate::support::{Sandbox, Tree, dir, docker_archive, docker_archive_with, file, forms, of_kind, sha256, tar};

type Entries<'a> = Vec<(Member<'a>, &'a [u8])>;

/// Loads one layer with canaries around the store; what was said, after checking that they are untouched.
fn load(form: Form, entries: &Entries<'_>) -> Result<Sandbox, String> {
    load_bytes(form, tar(entries))
}

fn load_bytes(form: Form, layer: Vec<u8>) -> Result<Sandbox, String> {
    let sandbox = Sandbox::of_form(form);
    let outside = sandbox.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "alive").unwrap();
    std::fs::write(sandbox.dir.path().join("canary"), "alive").unwrap();
    let start = Instant::now();
    let result = sandbox.store.load(docker_archive("evil", &[layer]).as_slice());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for canary in [outside.join("canary"), sandbox.dir.path().join("canary")] {
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
    }
    assert_eq!(crate::support::names(sandbox.dir.path()), ["canary", "outside", "store"]);
    assert_eq!(crate::support::names(&outside), ["canary"]);
    assert!(sandbox.names("ingest").is_empty() && sandbox.names("locks").is_empty());
    match result {
        Ok(_) => Ok(sandbox),
        Err(error) => {
            assert!(sandbox.names("blobs/sha256").is_empty(), "nothing is named");
            assert!(sandbox.store.images().unwrap().is_empty());
            Err(error.one_line())
        }
    }
}

fn tree(sandbox: &Sandbox) -> Tree {
    let layers = sandbox.names("layers");
    assert_eq!(layers.len(), 1);
    sandbox.tree(&layers[0])
}

fn link<'a>(path: &'a str, target: &str) -> (Member<'a>, &'a [u8]) {
    of_kind(path, Kind::Symlink(target.as_bytes().to_vec()))
}

fn hard<'a>(path: &'a str, target: &str) -> (Member<'a>, &'a [u8]) {
    of_kind(path, Kind::HardLink(target.as_bytes().to_vec()))
}

#[test]
fn paths_that_leave_are_refused() {
    for form in forms() {
        for path in ["../canary", "a/../../canary", "a/..", "..", "/../canary", ".wh...", ".wh..", ".wh.", "a/.wh..."] {
            let said = load(form, &vec![dir("a/", 0o755), file(path, b"dead")]).unwrap_err();
            assert!(said.contains("`..`") || said.contains("whiteout of no name"), "{path}: {said}");
        }
        let said = load(form, &vec![hard("x", "../../outside/canary")]).unwrap_err();
        assert!(said.contains("`..`"), "{said}");
        let said = load(form, &vec![hard("x", "/outside/canary")]).unwrap_err();
        assert!(said.contains("is not in the layer"), "{said}");
        let said = load(form, &vec![link(".", "/"), file("etc", b"x")]).unwrap_err();
        assert!(said.contains("root is not a directory"), "{said}");
    }
}

#[test]
fn absolute_paths_and_links_stay_inside() {
    for form in forms() {
        let outside = "../../../../../../../../../../../../../../..";
        let sandbox = load(
            form,
            &vec![
                file("/absolute", b"inside"),
                dir("real/", 0o755),
                link("absolute-link", "/real"),
                link("climbing-link", &format!("{outside}/real")),
                file("absolute-link/one", b"1"),
                file("climbing-link/two", b"2"),
                // The last name is replaced, never followed.
                link("file", "/real/target"),
                file("file", b"new"),
                link("dir", "/real"),
                dir("dir/", 0o700),
            ],
        )
        .unwrap();
        let tree = tree(&sandbox);
        for (path, content) in [("absolute", "inside"), ("real/one", "1"), ("real/two", "2"), ("file", "new")] {
            assert_eq!(std::fs::read_to_string(tree.join(path)).unwrap(), content);
        }
        assert!(!tree.join("real/target").exists());
        assert!(std::fs::symlink_metadata(tree.join("dir")).unwrap().is_dir());
    }
}

#[test]
fn a_symlink_to_outside_is_no_way_out() {
    for form in forms() {
        let sandbox = Sandbox::new();
        let outside = sandbox.dir.path().display().to_string();
        let said = load(form, &vec![link("out", &outside), file("out/canary", b"dead")]).unwrap_err();
        assert!(said.contains("symlink to nowhere"), "{said}");
        // Inside, `/proc/self/root` leads back to the link itself.
        let said = load(form, &vec![link("proc", "/proc/self/root"), file("proc/canary", b"dead")]).unwrap_err();
        assert!(said.contains("symbolic links"), "{said}");
        let said = load(form, &vec![link("loop", "loop"), file("loop/x", b"")]).unwrap_err();
        assert!(said.contains("symbolic links"), "{said}");
        // A hard link to a symlink is the symlink, not what it names.
        let sandbox =
            load(form, &vec![link("out", "/outside/canary"), hard("again", "out"), file("again", b"dead")]).unwrap();
        assert!(std::fs::symlink_metadata(tree(&sandbox).join("again")).unwrap().is_file());
    }
}

#[test]
fn whiteouts_and_overlay_marks_stay_what_they_are() {
    for form in forms() {
        let xattrs = vec![
            (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
            (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
            (b"user.kept".to_vec(), b"1".to_vec()),
        ];
        let mut directory = dir("d/", 0o755);
        directory.0.xattrs = &xattrs;
        let sandbox = load(
            form,
            &vec![
                directory,
                file("d/.wh.gone", b""),
                file(".wh..wh.plnk/x", b"aufs"),
                file("same", b"x"),
                file(".wh.same", b""),
                dir("both/", 0o755),
                file("both/new", b"x"),
                file(".wh.both", b""),
                file(".wh.later", b""),
                dir("later/", 0o755),
            ],
        )
        .unwrap();
        let tree = tree(&sandbox);
        let xattr = |path: &str, name: &str| {
            let mut value = [0u8; 16];
            let length = rustix::fs::lgetxattr(tree.join(path), name, &mut value[..]);
            length.ok().map(|length| value[..length].to_vec())
        };
        let opaque =
            if rustix::process::geteuid().is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
        assert_eq!(xattr("d", "user.kept"), Some(b"1".to_vec()));
        assert_eq!(xattr("d", "trusted.overlay.redirect"), None);
        assert_eq!(xattr("d", "user.overlay.opaque"), None);
        assert_eq!(xattr("both", opaque), Some(b"y".to_vec()));
        assert_eq!(xattr("later", opaque), Some(b"y".to_vec()));
        assert!(!tree.join(".wh..wh.plnk").exists());
        use std::os::unix::fs::FileTypeExt;
        assert!(std::fs::symlink_metadata(tree.join("d/gone")).unwrap().file_type().is_char_device());
        assert_eq!(std::fs::read(tree.join("same")).unwrap(), b"x", "a layer does not hide its own files");
        assert!(tree.join("both/new").exists());
    }
}

#[test]
fn later_members_replace_earlier_ones() {
    for form in forms() {
        let sandbox = load(
            form,
            &vec![
                dir("tree/", 0o755),
                file("tree/deep", b"x"),
                file("tree", b"now a file"),
                file("f", b"long content"),
                hard("g", "f"),
                file("f", b"short"),
                hard("h", "h"),
            ],
        );
        let sandbox = sandbox.unwrap();
        let tree = tree(&sandbox);
        assert_eq!(std::fs::read(tree.join("tree")).unwrap(), b"now a file");
        assert_eq!(std::fs::read(tree.join("f")).unwrap(), b"short");
        assert_eq!(std::fs::read(tree.join("g")).unwrap(), b"long content", "the other name keeps its file");
    }
}

#[test]
fn what_does_not_unfold_to_its_digest_is_refused() {
    for form in forms() {
        let sandbox = Sandbox::of_form(form);
        let (good, evil) = (tar(&[file("a", b"good")]), tar(&[file("a", b"evil")]));
        sandbox.store.load(docker_archive("good", std::slice::from_ref(&good)).as_slice()).unwrap();
        // An image that claims a layer which is here already, with other content.
        let claimed = docker_archive_with("evil", &[evil], &[format!("sha256:{}", sha256(&good))]);
        let error = sandbox.store.load(claimed.as_slice()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert_eq!(sandbox.store.images().unwrap().len(), 1);
        sandbox.store.collect_garbage().unwrap();
        assert_eq!(sandbox.names("layers").len(), 1, "the refused layer is collected");
    }
}

#[test]
fn malformed_archives_are_refused() {
    for form in forms() {
        let good = tar(&[file("a", &[7u8; 2000]), file("b", b"x")]);
        assert!(load_bytes(form, good.clone()).is_ok());
        for (cut, word) in [(1500, "middle of a member"), (700, "middle of a member"), (100, "middle of a member")] {
            let said = load_bytes(form, good[..cut].to_vec()).unwrap_err();
            assert!(said.contains(word), "{cut}: {said}");
        }
        let mut damaged = good.clone();
        damaged[3] ^= 1;
        assert!(load_bytes(form, damaged).unwrap_err().contains("checksum"));
        // A directory with content: some readers skip it, others read it as headers.
        let mut smuggled = tar(&[file("d", &[0u8; 512])]);
        smuggled[156] = b'5';
        reseal(&mut smuggled);
        assert!(load_bytes(form, smuggled).unwrap_err().contains("has content though it is no file"));
        // Content behind a lone zero block.
        let mut lone = vec![0u8; 512];
        lone.extend(&good);
        assert!(load_bytes(form, lone).unwrap_err().contains("lone block of zeros"));
        for kind in [b'M', b'N', b'A', 0x80] {
            let mut odd = good.clone();
            odd[156] = kind;
            reseal(&mut odd);
            assert!(load_bytes(form, odd).unwrap_err().contains("not supported"), "{kind}");
        }
    }
}

#[test]
fn limits_hold() {
    for form in forms() {
        let long = "x/".repeat(2100);
        assert!(load(form, &vec![file(&long, b"")]).unwrap_err().contains("longer than 4096"));
        let name = "y".repeat(300);
        assert!(load(form, &vec![file(&name, b"")]).unwrap_err().contains("File name too long"));
        // An extended header that says it is huge, and one that is.
        let mut huge = tar(&[file("a", b"x")]);
        huge[156] = b'x';
        huge[124..136].copy_from_slice(b"10000000000\0");
        reseal(&mut huge);
        assert!(load_bytes(form, huge).unwrap_err().contains("larger than 1048576"));
        let big = vec![(b"user.big".to_vec(), vec![b'v'; 2 << 20])];
        let mut member = file("a", b"");
        member.0.xattrs = &big;
        assert!(load(form, &vec![member]).unwrap_err().contains("larger than 1048576"));
        // Numbers that name nobody.
        let mut member = file("a", b"");
        member.0.uid = u64::from(u32::MAX);
        assert!(load(form, &vec![member]).unwrap_err().contains("larger than any user id"));
        let mut member = file("a", b"");
        member.0.gid = 1 << 33;
        assert!(load(form, &vec![member]).unwrap_err().contains("larger than any group id"));
    }
}

#[test]
fn a_bomb_is_refused() {
    use corten_store::layer::decode::{Decoder, Limits};
    use std::io::Read;
    let zeros = vec![0u8; 8 << 20];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    let bomb = encoder.finish().unwrap();
    let limits = Limits { ratio_free_bytes: 1 << 20, ..Limits::default() };
    let error = Decoder::new(bomb.as_slice(), false, limits).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("unfolds more than 200 times"), "{error}");
    let limits = Limits { size_bytes_max: 1 << 20, ..Limits::default() };
    assert!(Decoder::new(bomb.as_slice(), false, limits).unwrap().read_to_end(&mut Vec::new()).is_err());
    let nested = zstd::encode_all(zeros.as_slice(), 3).unwrap();
    let limits = Limits { ratio_free_bytes: 1 << 20, ..Limits::default() };
    assert!(Decoder::new(nested.as_slice(), false, limits).unwrap().read_to_end(&mut Vec::new()).is_err());
}

/// Ten million members of a few kilobytes: what they cost is bounded, and they are refused before many are made.
#[test]
fn millions_of_members_from_next_to_nothing_are_refused() {
    for form in forms() {
        let one = tar(&[file("a/b", b"")]);
        let members: Vec<u8> = one[..512].repeat(4096);
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..64 {
            std::io::Write::write_all(&mut bomb, &members).unwrap();
        }
        let sandbox = Sandbox::of_form(form);
        let archive = docker_archive("evil", &[bomb.finish().unwrap()]);
        let error = sandbox.store.load(archive.as_slice()).unwrap_err().one_line();
        assert!(error.contains("members from"), "{error}");
        assert!(sandbox.names("ingest").is_empty() && sandbox.names("layers").is_empty());
    }
}

/// The checksum of the first header, right again.
fn reseal(archive: &mut [u8]) {
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

//! Accepted archives give the tree that GNU tar and the `tar` crate give.

use std::path::Path;
use std::process::Command;

use corten_testkit::require;
use corten_testkit::skip::is_root;

use crate::support::{Sandbox, docker_archive, forms, tree};

/// A tree with everything that tar carries, packed by GNU tar in its formats.
fn pack(dir: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let source = dir.join("source");
    if !source.exists() {
        let script = r#"
            umask 022; mkdir -p source/a/b source/empty source/setgid; cd source
            echo text > a/file; ln a/file a/hard; ln -s ../a/file a/b/soft; ln -s /absolute/nowhere dangling
            chmod 4755 a/file; chmod 2775 setgid; echo x > setgid/in; chmod 1777 empty; : > zero
            mkfifo fifo; truncate -s 3M holes; printf data | dd of=holes bs=1 seek=1500000 conv=notrunc status=none
            printf end >> holes
            n=$(printf 'n%.0s' $(seq 1 120)); mkdir $n; echo deep > $n/$n; ln -s $n/$n link-to-long
            touch -d '1969-12-31 23:59:58.25' old; touch -d '2033-01-01 00:00:00.123456789' new
            chown 12345:54321 new 2>/dev/null; mknod null c 1 3 2>/dev/null
            setfattr -n user.note -v hello a/file 2>/dev/null; touch -d @1000000000 a a/b .
        "#;
        Command::new("sh").args(["-ec", script]).current_dir(dir).status().ok()?;
    }
    let output =
        Command::new("tar").args(arguments).args(["-C", "source", "-cf", "-", "."]).current_dir(dir).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn the_tree_is_gnu_tars() {
    let work = tempfile::tempdir().unwrap();
    require!(Command::new("tar").arg("--version").output().is_ok(), "GNU tar is not installed");
    require!(is_root(), "only root makes devices");
    for arguments in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--xattrs"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=oldgnu", "--sparse"],
    ] {
        let archive = pack(work.path(), arguments).unwrap();
        let expected = tempfile::tempdir().unwrap();
        let mut child = Command::new("tar")
            .args(["--same-owner", "-p", "-xf", "-"])
            .current_dir(expected.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &archive).unwrap();
        assert!(child.wait().unwrap().success());

        for form in forms() {
            let sandbox = Sandbox::of_form(form);
            sandbox.store.load(docker_archive("tree", std::slice::from_ref(&archive)).as_slice()).unwrap();
            let layers = sandbox.names("layers");
            let ours = tree(&sandbox.tree(&layers[0]).root);
            assert_eq!(ours, tree(expected.path()), "{arguments:?} as {form:?}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever the bytes are: an answer, no panic; and what we accept, the `tar` crate reads the same way.
    #[test]
    fn the_reader_agrees_with_the_tar_crate(
        files in proptest::collection::vec(("[a-z]{1,120}(/[a-z]{1,40}){0,4}", proptest::collection::vec(0u8.., 0..1200), 0u64..1 << 40), 1..8),
        flip in proptest::option::of((0usize..4096, 1u8..)),
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content, uid) in &files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(*uid);
            header.set_gid(1);
            header.set_mtime(7);
            header.set_cksum();
            builder.append_data(&mut header, path, content.as_slice()).unwrap();
        }
        let mut bytes = builder.into_inner().unwrap();
        if let Some((at, bits)) = flip && at < bytes.len() {
            bytes[at] ^= bits;
        }
        let mut ours = Vec::new();
        let mut archive = corten_fs::tar::Archive::new(bytes.as_slice(), Default::default());
        let complete = loop {
            match archive.next_entry() {
                Ok(Some(entry)) => {
                    let mut content = Vec::new();
                    if std::io::Read::read_to_end(&mut archive.content(), &mut content).is_err() { break false; }
                    ours.push((entry.path, entry.uid, content));
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if complete {
            let theirs: Vec<_> = tar::Archive::new(bytes.as_slice()).entries().unwrap().map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                (entry.path_bytes().into_owned(), entry.header().uid().unwrap(), content)
            }).collect();
            proptest::prop_assert_eq!(ours, theirs);
        } else {
            proptest::prop_assert!(flip.is_some());
        }
    }
}

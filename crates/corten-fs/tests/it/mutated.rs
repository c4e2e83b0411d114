//! The promise of the fuzz target for archives (`fuzz/bodies`), held against mutated ones.

#[path = "../../../../fuzz/bodies/tar_archive.rs"]
mod tar_archive;

use corten_testkit::mutate;
use corten_testkit::tar::{Entry, archive};

#[test]
fn mutated_archives_are_members_or_errors_in_words() {
    let plain = archive(&[
        Entry::directory("etc", 0o755),
        Entry::file("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n"),
        Entry::symlink("etc/link", "../../outside"),
        Entry::file(&format!("{}/name", "long".repeat(30)), 0o600, "x"),
    ]);
    let mut extended = tar::Builder::new(Vec::new());
    let records = [("path", &b"from/the/record"[..]), ("size", b"3"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")];
    extended.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    header.set_cksum();
    extended.append_data(&mut header, "name", &b"abc"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_cksum();
    extended.append_data(&mut header, "deep/".repeat(60) + "end", &b""[..]).unwrap();
    let extended = extended.into_inner().unwrap();
    mutate::each(&[&plain, &extended], 3000, tar_archive::check);
}

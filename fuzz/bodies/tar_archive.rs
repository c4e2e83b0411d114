//! Tar archives: any bytes give members or an error in words, and a member that is written again reads the same.

use std::io::Read;

use corten_fs::tar::{Archive, Builder, Kind, Limits, Member};

/// Panics where the promise does not hold for `bytes`.
pub(crate) fn check(bytes: &[u8]) {
    let limits = Limits { entries_max: 64, ..Limits::default() };
    let mut archive = Archive::new(bytes, limits);
    loop {
        let entry = match archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return,
            Err(error) => return assert!(!error.report().is_empty()),
        };
        assert!(entry.path.len() <= limits.path_length_max);
        let mut content = Vec::new();
        if archive.content().take(1 << 20).read_to_end(&mut content).is_err() || matches!(entry.kind, Kind::Sparse(_)) {
            continue;
        }
        let member = Member {
            path: &entry.path,
            kind: entry.kind.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size: content.len() as u64,
            xattrs: &entry.xattrs,
        };
        let mut builder = Builder::new(Vec::new());
        if builder.append(&member, content.as_slice()).is_err() {
            continue;
        }
        let written = builder.finish().expect("memory takes it");
        let again = Archive::new(written.as_slice(), Limits::default()).next_entry();
        // A name that ends in a slash, or is empty, is written as it is and may read as a directory.
        if let Ok(Some(again)) = again {
            assert_eq!((again.mode, again.uid, again.gid), (entry.mode, entry.uid, entry.gid));
        }
    }
}

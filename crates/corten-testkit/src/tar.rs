//! An archive in memory (ustar), with what image layers need: files, directories, links, owners and modes.

/// What an entry is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A regular file with its bytes.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(String),
    /// A hard link to an earlier entry.
    Hardlink(String),
    /// A character device, or a whiteout where both numbers are 0.
    CharDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path as it stands in the archive; up to 255 bytes that can be cut at a slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content.
    pub kind: Kind,
}

impl Entry {
    /// A file of root's.
    pub fn file(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, uid: 0, gid: 0, kind: Kind::File(bytes.into()) }
    }

    /// A directory of root's.
    pub fn directory(path: &str, mode: u32) -> Self {
        Self { path: path.into(), mode, uid: 0, gid: 0, kind: Kind::Directory }
    }

    /// A symbolic link of root's.
    pub fn symlink(path: &str, target: &str) -> Self {
        Self { path: path.into(), mode: 0o777, uid: 0, gid: 0, kind: Kind::Symlink(target.into()) }
    }

    /// The same entry with another owner.
    #[must_use]
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
}

/// The archive's bytes.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let content: &[u8] = if let Kind::File(content) = &entry.kind { content } else { &[] };
        bytes.extend_from_slice(&header(entry, content.len()));
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn header(entry: &Entry, size: usize) -> [u8; 512] {
    let (type_flag, link, device) = match &entry.kind {
        Kind::File(_) => (b'0', "", (0, 0)),
        Kind::Hardlink(target) => (b'1', target.as_str(), (0, 0)),
        Kind::Symlink(target) => (b'2', target.as_str(), (0, 0)),
        Kind::CharDevice(major, minor) => (b'3', "", (*major, *minor)),
        Kind::Directory => (b'5', "", (0, 0)),
        Kind::Fifo => (b'6', "", (0, 0)),
    };
    let (prefix, name) = split_path(&entry.path);
    let mut block = [0u8; 512];
    text(&mut block[0..100], name);
    octal(&mut block[100..108], entry.mode.into());
    octal(&mut block[108..116], entry.uid.into());
    octal(&mut block[116..124], entry.gid.into());
    octal(&mut block[124..136], size as u64);
    octal(&mut block[136..148], 1_700_000_000);
    block[148..156].fill(b' ');
    block[156] = type_flag;
    text(&mut block[157..257], link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], device.0.into());
    octal(&mut block[337..345], device.1.into());
    text(&mut block[345..500], prefix);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn split_path(path: &str) -> (&str, &str) {
    if path.len() <= 100 {
        return ("", path);
    }
    let cut = path.match_indices('/').map(|(index, _)| index).find(|index| path.len() - index - 1 <= 100);
    let cut = cut.unwrap_or_else(|| panic!("`{path}` is too long for this archive"));
    (&path[..cut], &path[cut + 1..])
}

fn text(field: &mut [u8], value: &str) {
    field[..value.len()].copy_from_slice(value.as_bytes());
}

fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    text(field, &digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_tar_lists_what_was_written() {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        let bytes = archive(&[
            Entry::directory("etc", 0o755),
            Entry::file("etc/x", 0o640, "hi").owned_by(7, 8),
            Entry::symlink("etc/y", "x"),
            Entry::file(&long, 0o600, ""),
        ]);
        let mut tar = std::process::Command::new("tar");
        tar.args(["--numeric-owner", "-tvf", "-"]);
        let listed = crate::run::finish(tar, Some(&bytes), std::time::Duration::from_secs(10));
        listed.ok().shows("-rw-r----- 7/8 ").shows("etc/y -> x").shows(&long);
    }
}

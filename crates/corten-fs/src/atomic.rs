//! Files that are replaced as a whole or not at all.

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::Result;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Whether a replaced file outlives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Run state: the page cache is enough.
    Volatile,
    /// fdatasync(2) before the rename, fsync(2) of the directory after it.
    Durable,
}

/// Replaces the file `name` in `dir` by `content`: written beside as `.NAME.new`, then renamed.
///
/// Callers see to it that one process writes a name at a time (a lock); readers need nothing.
pub fn replace(dir: impl AsFd, name: &str, content: &[u8], mode: u32, durability: Durability) -> Result<()> {
    let beside = format!(".{name}.new");
    let file = write_beside(&dir, &beside, content, mode)?;
    if durability == Durability::Durable {
        rustix::fs::fdatasync(&file).call(|| format!("fdatasync(<{beside}>)"))?;
    }
    rustix::fs::renameat(&dir, &beside, &dir, name).call(|| format!("renameat({beside:?}, {name:?})"))?;
    if durability == Durability::Durable {
        sync_directory(&dir)?;
    }
    Ok(())
}

/// Makes the names in `dir` durable; works on O_PATH descriptors too.
pub fn sync_directory(dir: impl AsFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(&dir, c".", flags, Mode::empty()).call(|| "openat(\".\", O_DIRECTORY)")?;
    rustix::fs::fsync(open).call(|| "fsync(<directory>)")
}

/// Writes all of `content`, whatever the kernel takes at a time.
pub fn write_all(file: impl AsFd, mut content: &[u8]) -> rustix::io::Result<()> {
    while !content.is_empty() {
        match rustix::io::write(&file, content) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => content = &content[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn write_beside(dir: impl AsFd, beside: &str, content: &[u8], mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, beside, flags, Mode::from_raw_mode(mode))
        .call(|| format!("openat({beside:?}, O_WRONLY | O_CREAT | O_TRUNC)"))?;
    if let Err(errno) = write_all(&file, content) {
        let error = corten_types::Error::syscall(format!("write(<{beside}>)"), errno.raw_os_error());
        // The error that matters is the write's; a file left beside is overwritten by the next attempt.
        rustix::fs::unlinkat(&dir, beside, AtFlags::empty()).unwrap_or_default();
        return Err(error);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open_ambient(directory.path()).unwrap();
        replace(&root, "state", b"one", 0o600, Durability::Durable).unwrap();
        replace(&root, "state", b"two", 0o600, Durability::Volatile).unwrap();
        assert_eq!(root.read("state", 10).unwrap(), b"two");
        assert_eq!(root.list(".").unwrap().len(), 1);
    }
}

//! The names once more, beside the database: what `fsck` finds where SQLite can no longer read its file.
//!
//! ```text
//! ROOT/names      a line for each reference: NAME DIGEST
//! ```

use corten_fs::Root;
use corten_fs::atomic::{Durability, replace};
use corten_types::{Digest, ErrorKind, Reference, Result};
use rustix::fs::{Mode, OFlags};

use super::Database;
use crate::lock::NamedLock;

const NAME: &str = "names";
const LOCK: &str = "locks/names";
/// Largest file that is read back, bytes: some hundred thousand names.
const SIZE_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Database {
    /// Writes the file anew. The database has the truth: where this fails, the move of a name has not.
    pub(super) fn write_names(&self) {
        // A full disk, or a store that is being removed.
        self.try_write_names().unwrap_or_default();
    }

    fn try_write_names(&self) -> Result<()> {
        let Some(directory) = self.path.parent() else { return Ok(()) };
        let root = Root::open_ambient(directory)?;
        let directory = root.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        // Who writes last has read last.
        let _one_at_a_time = NamedLock::acquire(std::os::fd::AsFd::as_fd(&directory), LOCK)?;
        let lines: String = self.references()?.into_iter().map(|(name, target)| format!("{name} {target}\n")).collect();
        replace(&directory, NAME, lines.as_bytes(), 0o600, Durability::Volatile)
    }

    /// The names that the file has; what is no name and no digest is passed over.
    pub(super) fn read_names(&self) -> Vec<(Reference, Digest)> {
        let read = || -> Result<Vec<u8>> {
            let Some(directory) = self.path.parent() else { return Ok(Vec::new()) };
            match Root::open_ambient(directory)?.read(NAME, SIZE_BYTES_MAX) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                result => result,
            }
        };
        let text = read().unwrap_or_default();
        let lines = String::from_utf8_lossy(&text).into_owned();
        let parse = |line: &str| {
            let (name, target) = line.rsplit_once(' ')?;
            Some((Reference::parse(name).ok()?, Digest::parse(target).ok()?))
        };
        lines.lines().filter_map(parse).collect()
    }
}

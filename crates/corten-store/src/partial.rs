//! Content that comes in parts, over several runs of the program: a download that resumes, an upload in chunks.
//!
//! ```text
//! ingest/resume-HEX     the bytes so far; HEX is the hash of the key; locked by whoever writes
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, statat};
use rustix::io::Errno;

use crate::blob::{Hasher, Named, Staged, digest_of};
use crate::disk::{Disk, storing};

/// How the names of these files start.
pub(crate) const PREFIX: &str = "resume-";
/// How long a part is kept that nobody continues.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes that are read again at a time.
const BUFFER_SIZE: usize = 256 * 1024;

/// Content of which a part may be here from an earlier run. What is dropped unfinished stays for a day.
#[derive(Debug)]
pub struct PartialIngest {
    file: Arc<File>,
    named: Named,
    size: u64,
    algorithm: Algorithm,
    hasher: Hasher,
    /// Bytes that went through the hasher: those of an earlier run do so at the end.
    hashed: u64,
}

impl PartialIngest {
    pub(crate) fn open(disk: &Disk, key: &str) -> Result<Self> {
        let ingest = disk.part("ingest")?;
        let name = format!("{PREFIX}{}", digest_of(Algorithm::Sha256, key.as_bytes())?.hex());
        loop {
            let _sweeper_waits = disk.hold_sweeper(&ingest)?;
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW;
            let file = ingest.open(&name, flags, Mode::RUSR | Mode::WUSR)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    let message = format!("`{}` is being received by another process", key.escape_debug());
                    return Err(Error::new(ErrorKind::Conflict, message));
                }
                result => result.call(|| "flock(<ingest>, LOCK_EX | LOCK_NB)")?,
            }
            let locked = fstat(&file).call(|| "fstat(<ingest>)")?;
            // The holder before may have finished and removed the name: this file would be found by nobody.
            match statat(ingest.as_fd(), &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if (found.st_dev, found.st_ino) == (locked.st_dev, locked.st_ino) => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno).call(|| format!("statat({name:?})")),
            }
            return Ok(Self {
                file: Arc::new(file.into()),
                named: Named::kept(ingest, name),
                size: u64::try_from(locked.st_size).unwrap_or(0),
                algorithm: Algorithm::Sha256,
                hasher: Hasher::new(Algorithm::Sha256),
                hashed: 0,
            });
        }
    }

    /// The algorithm that the content will be named by, where it is not sha256: known early, it saves a second reading.
    #[must_use]
    pub fn with_algorithm(mut self, algorithm: Algorithm) -> Self {
        if self.algorithm != algorithm {
            (self.algorithm, self.hasher, self.hashed) = (algorithm, Hasher::new(algorithm), 0);
        }
        self
    }

    /// Bytes that are here: where the next write goes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Forgets all but the first `size` bytes.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        if size >= self.size {
            return Ok(());
        }
        self.file.set_len(size)?;
        self.size = size;
        if self.hashed > size {
            (self.hasher, self.hashed) = (Hasher::new(self.algorithm), 0);
        }
        Ok(())
    }

    /// Throws away what is here.
    pub fn discard(mut self) {
        self.named.remove_with_owner();
    }

    /// Ends writing; the digest is known now. What is not committed then is gone.
    pub fn finish(mut self) -> Result<Staged> {
        self.catch_up()?;
        self.named.remove_with_owner();
        Ok(Staged::new(self.file, Some(self.named), self.hasher.finish()?, self.size))
    }

    /// Hashes what was written by an earlier run.
    fn catch_up(&mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER_SIZE];
        while self.hashed < self.size {
            let wanted = buffer.len().min(usize::try_from(self.size - self.hashed).unwrap_or(usize::MAX));
            match self.file.read_at(&mut buffer[..wanted], self.hashed) {
                Ok(0) => return Err(Error::new(ErrorKind::Corrupt, "a file in `ingest` was shortened")),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.hashed += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        // First what an earlier run left, while the disk is idle anyhow.
        self.catch_up()?;
        self.file.write_all_at(bytes, self.size).map_err(|error| storing(error.into(), "a blob"))?;
        self.size += bytes.len() as u64;
        self.hasher.update(bytes);
        self.hashed = self.size;
        Ok(())
    }
}

impl Write for PartialIngest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether nobody continued a part for long; one of the future is young.
pub(crate) fn is_stale(modified: SystemTime) -> bool {
    SystemTime::now().duration_since(modified).is_ok_and(|age| age > AGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_its_writer_and_is_whole_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        let mut first = PartialIngest::open(&disk, "a").unwrap();
        first.write_all(b"first ").unwrap();
        assert_eq!(PartialIngest::open(&disk, "a").unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(PartialIngest::open(&disk, "b").unwrap().size(), 0);
        drop(first);
        disk.sweep().unwrap();
        let mut second = PartialIngest::open(&disk, "a").unwrap().with_algorithm(Algorithm::Sha512);
        assert_eq!(second.size(), 6);
        second.write_all(b"second too much").unwrap();
        second.truncate(12).unwrap();
        let staged = second.finish().unwrap();
        let expected = digest_of(Algorithm::Sha512, b"first second").unwrap();
        assert_eq!((staged.digest(), staged.size()), (expected, 12));
        let lease = crate::lease::Lease::take(&disk, "test").unwrap();
        assert_eq!(staged.commit(&lease, &expected).unwrap(), 12);
        drop(staged);
        assert_eq!(crate::blob::read(&disk, &expected, 100).unwrap(), b"first second");
        assert_eq!(PartialIngest::open(&disk, "a").unwrap().size(), 0, "what was finished is not resumed");
    }

    #[test]
    fn what_nobody_continues_for_a_day_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        for key in ["young", "old"] {
            PartialIngest::open(&disk, key).unwrap().append(b"x").unwrap();
        }
        let name = format!("{PREFIX}{}", digest_of(Algorithm::Sha256, b"old").unwrap().hex());
        let old = File::options().write(true).open(dir.path().join("ingest").join(name)).unwrap();
        old.set_modified(SystemTime::now() - AGE_MAX - Duration::from_secs(60)).unwrap();
        drop(old);
        disk.sweep().unwrap();
        assert_eq!(disk.part("ingest").unwrap().list(".").unwrap().len(), 1);
    }
}

//! Locks between processes: a file, flock'ed by its holder and gone when nobody needs it.

use std::os::fd::{BorrowedFd, OwnedFd};

use corten_sys::Call;
use corten_types::Result;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

/// An exclusive lock under a name in a directory. The file is removed with the lock.
#[derive(Debug)]
pub(crate) struct NamedLock {
    dir: OwnedFd,
    name: String,
    /// Closing it releases the lock.
    _file: OwnedFd,
}

impl NamedLock {
    /// Waits for the lock.
    pub(crate) fn acquire(dir: BorrowedFd<'_>, name: &str) -> Result<Self> {
        loop {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                openat(dir, name, flags, Mode::RUSR | Mode::WUSR).call(|| format!("openat({name:?}, O_CREAT)"))?;
            retry(|| flock(&file, FlockOperation::LockExclusive)).call(|| format!("flock({name:?})"))?;
            // The holder before removed the name: what is locked here is a file that nobody else will find.
            let locked = fstat(&file).call(|| "fstat")?;
            match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if (found.st_dev, found.st_ino) == (locked.st_dev, locked.st_ino) => {
                    let dir = dir.try_clone_to_owned()?;
                    return Ok(Self { dir, name: name.to_owned(), _file: file });
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).call(|| format!("statat({name:?})")),
            }
        }
    }
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        // A name that stays behind is only an empty file.
        unlinkat(&self.dir, &self.name, AtFlags::empty()).unwrap_or_default();
    }
}

/// flock(2) again after a signal.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_holder_at_a_time_and_no_file_left() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _lock = NamedLock::acquire(fd.as_fd(), "x").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let lock = NamedLock::acquire(fd.as_fd(), "x").unwrap();
        drop(lock);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

//! Locks between processes (flock(2)): they end with their holder, however it ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::Call;
use corten_types::Result;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// A held lock; let go of when the last copy of its descriptor is closed.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// Waits for the exclusive lock of the file `name` in `dir`, made where missing.
    pub fn wait(dir: impl AsFd, name: &str) -> Result<Self> {
        let file = open(dir, name)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call(|| format!("flock(<{name}>, LOCK_EX)")),
            }
        }
    }

    /// The exclusive lock, or `None` where another process has it.
    pub fn attempt(dir: impl AsFd, name: &str) -> Result<Option<Self>> {
        let file = open(dir, name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).call(|| format!("flock(<{name}>, LOCK_EX | LOCK_NB)")),
        }
    }

    /// Takes over a descriptor whose lock another process handed on.
    pub fn from_fd(file: OwnedFd) -> Self {
        Self(file)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).call(|| format!("openat({name:?}, O_CREAT)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_and_ends_with_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let root = crate::Root::open_ambient(directory.path()).unwrap();
        let held = Lock::wait(&root, "lock").unwrap();
        assert!(Lock::attempt(&root, "lock").unwrap().is_none());
        drop(held);
        assert!(Lock::attempt(&root, "lock").unwrap().is_some());
    }
}

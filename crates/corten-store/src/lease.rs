//! Leases: what is brought in while one is held is not collected, though nothing names it yet.
//!
//! ```text
//! leases/NAME      locked by its holder; a line of its owner, then one for each blob or layer that it keeps
//! ```
//!
//! A lease ends with its holder, however that ends; what nobody holds locked is swept. Collection and a lease that takes
//! something in exclude each other by the lock of the directory `locks`, held for the moment it takes to write a line.
//! The line is written before anybody looks whether the thing is there: what a lease found there stays there.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_sys::Call;
use corten_types::{Digest, ErrorKind, Result};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, unlinkat};

use crate::blob;
use crate::disk::{Disk, random_name};
use crate::lock::retry;

/// Bytes of one lease's file that are read back: some hundred thousand names.
const LEASE_SIZE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A hold on what is brought in while it exists. May be shared by threads.
#[derive(Debug)]
pub struct Lease {
    disk: Arc<Disk>,
    leases: Root,
    name: String,
    /// Closing it ends the lease.
    file: OwnedFd,
    kept: Mutex<HashSet<String>>,
}

impl Lease {
    pub(crate) fn take(disk: &Arc<Disk>, owner: &str) -> Result<Self> {
        let leases = disk.part("leases")?;
        let _collection_waits = Shared::hold(disk)?;
        let name = random_name()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW;
        let file = leases.open(&name, flags, Mode::RUSR | Mode::WUSR)?;
        retry(|| flock(&file, FlockOperation::LockExclusive)).call(|| "flock(<lease>, LOCK_EX)")?;
        let owner: String = owner.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        write_all(&file, format!("owner {owner}\n").as_bytes()).call(|| "write(<lease>)")?;
        Ok(Self { disk: Arc::clone(disk), leases, name, file, kept: Mutex::new(HashSet::new()) })
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Keeps a blob from now on; whether the store has it.
    pub fn keep(&self, digest: &Digest) -> Result<bool> {
        self.note(&format!("blob {digest}\n"))?;
        blob::exists(&self.disk, digest)
    }

    /// Keeps an unpacked layer, whether it is there or not.
    pub(crate) fn keep_layer(&self, key: &str) -> Result<()> {
        self.note(&format!("layer {key}\n"))
    }

    fn note(&self, line: &str) -> Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.contains(line) {
            return Ok(());
        }
        let _collection_waits = Shared::hold(&self.disk)?;
        write_all(&self.file, line.as_bytes()).call(|| "write(<lease>)")?;
        kept.insert(line.to_owned());
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays is swept by the next collection.
        unlinkat(self.leases.as_fd(), &*self.name, AtFlags::empty()).unwrap_or_default();
    }
}

/// While it is held, nothing is collected: for moments.
#[derive(Debug)]
pub(crate) struct Shared {
    _lock: OwnedFd,
}

impl Shared {
    pub(crate) fn hold(disk: &Disk) -> Result<Self> {
        let lock = lock_directory(disk)?;
        retry(|| flock(&lock, FlockOperation::LockShared)).call(|| "flock(<locks>, LOCK_SH)")?;
        Ok(Self { _lock: lock })
    }
}

/// While it is held, no lease takes anything in.
#[derive(Debug)]
pub(crate) struct Alone {
    _lock: OwnedFd,
}

impl Alone {
    pub(crate) fn wait(disk: &Disk) -> Result<Self> {
        let lock = lock_directory(disk)?;
        retry(|| flock(&lock, FlockOperation::LockExclusive)).call(|| "flock(<locks>, LOCK_EX)")?;
        Ok(Self { _lock: lock })
    }
}

fn lock_directory(disk: &Disk) -> Result<OwnedFd> {
    disk.root().open("locks", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// What living leases keep.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) blobs: HashSet<String>,
    pub(crate) layers: HashSet<String>,
}

/// Reads every living lease and removes what dead ones left.
pub(crate) fn kept(disk: &Disk, _alone: &Alone) -> Result<Kept> {
    let leases = disk.part("leases")?;
    let mut kept = Kept::default();
    for entry in leases.list(".")? {
        let name = entry.name.to_string_lossy().into_owned();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = leases.open(&name, flags, Mode::empty()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match leases.remove_file(&name) {
                // Its holder let go of it between the two.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => continue,
            }
        }
        let text = corten_fs::root::read_bounded(file.as_fd(), LEASE_SIZE_BYTES_MAX)?;
        for line in String::from_utf8_lossy(&text).lines() {
            match line.split_once(' ') {
                Some(("blob", digest)) => drop(kept.blobs.insert(digest.to_owned())),
                Some(("layer", key)) => drop(kept.layers.insert(key.to_owned())),
                _ => {}
            }
        }
    }
    Ok(kept)
}

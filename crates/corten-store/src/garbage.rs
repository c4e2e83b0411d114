//! What nobody needs: blobs and layers of removed images.
//!
//! A load or a start holds the store's use lock; collection needs it alone, so nothing that is being made looks unneeded.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::{Digest, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::blob;
use crate::database::Database;
use crate::disk::Disk;
use crate::lock::retry;
use crate::snapshot;

/// What a collection removed.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Diff ids (or chain ids) of unpacked layers, as hexadecimal digits.
    pub layers: Vec<String>,
    /// Bytes given back, once the trash is empty.
    pub bytes: u64,
}

/// A hold on the store: nothing is collected meanwhile.
#[derive(Debug)]
pub(crate) struct InUse {
    _lock: OwnedFd,
}

impl InUse {
    pub(crate) fn hold(disk: &Disk) -> Result<Self> {
        let lock = lock_directory(disk)?;
        retry(|| flock(&lock, FlockOperation::LockShared)).call(|| "flock(<locks>, LOCK_SH)")?;
        Ok(Self { _lock: lock })
    }
}

fn lock_directory(disk: &Disk) -> Result<OwnedFd> {
    disk.root().open("locks", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Removes what no image and no snapshot needs; `None` while a load or a start is under way: a later one collects it.
pub(crate) fn collect(disk: &Disk, database: &Database) -> Result<Option<Collected>> {
    let lock = lock_directory(disk)?;
    match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        result => result.call(|| "flock(<locks>, LOCK_EX | LOCK_NB)")?,
    }
    let mut collected = Collected::default();
    layers(disk, database, &mut collected)?;
    blobs(disk, database, &mut collected)?;
    Ok(Some(collected))
}

fn blobs(disk: &Disk, database: &Database, collected: &mut Collected) -> Result<()> {
    let needed: HashSet<String> = database.needed_blobs()?.into_iter().collect();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let dir = disk.part(&format!("blobs/{}", algorithm.as_str()))?;
        for entry in dir.list(".")? {
            let Ok(digest) = Digest::from_hex(algorithm, &entry.name.to_string_lossy()) else { continue };
            if needed.contains(&digest.to_string()) {
                continue;
            }
            // The row first: a row without its blob would say that a layer can be unpacked again.
            database.forget_blob(&digest.to_string())?;
            collected.bytes += blob::remove(disk, &digest)?;
            collected.blobs.push(digest);
        }
    }
    Ok(())
}

fn layers(disk: &Disk, database: &Database, collected: &mut Collected) -> Result<()> {
    let mut needed: HashSet<String> = HashSet::new();
    for id in database.needed_layers()? {
        needed.insert(Digest::parse(&id)?.hex());
    }
    for key in snapshot::keys(disk)? {
        // A snapshot that cannot be read keeps nothing; its container could not start either.
        if let Ok(record) = snapshot::read(disk, &key) {
            needed.extend(record.layers);
        }
    }
    let mut known: HashSet<String> = database.layer_keys()?.into_iter().collect();
    let dir = disk.part("layers")?;
    known.extend(dir.list(".")?.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()));
    for key in known.difference(&needed) {
        collected.bytes += database.layer(key)?.map_or(0, |row| row.size);
        database.remove_layer(key)?;
        disk.discard(&format!("layers/{key}"))?;
        collected.layers.push(key.clone());
    }
    Ok(())
}

//! The record of a container's life, which the engine reads.

use std::os::fd::AsFd;

use corten_fs::atomic::{self, Durability};
use corten_types::shim::{LIFE, LifeRecord};
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Writes the record into the container's directory.
pub(crate) fn write(directory: impl AsFd, record: &LifeRecord, durability: Durability) -> Result<()> {
    let json = serde_json::to_vec(record)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode the container's state").caused_by(error))?;
    match atomic::replace(&directory, LIFE, &json, 0o600, durability) {
        // A full disk has no room for a second file. The first has its block already, and an exit code must not be lost.
        Err(error) if error.errno() == Some(Errno::NOSPC.raw_os_error()) => {
            overwrite(directory, &json).map_err(|_| error)
        }
        written => written,
    }
}

fn overwrite(directory: impl AsFd, json: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, LIFE, flags, Mode::empty())?;
    atomic::write_all(&file, json)?;
    rustix::fs::ftruncate(&file, json.len() as u64)
}

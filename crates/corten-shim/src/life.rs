//! The record of a container's life, which the engine reads.

use std::os::fd::AsFd;

use corten_fs::atomic::{self, Durability};
use corten_types::shim::{LIFE, LifeRecord};
use corten_types::{Error, ErrorKind, Result};

/// Writes the record into the container's directory.
pub(crate) fn write(directory: impl AsFd, record: &LifeRecord, durability: Durability) -> Result<()> {
    let json = serde_json::to_vec(record)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode the container's state").caused_by(error))?;
    atomic::replace(directory, LIFE, &json, 0o600, durability)
}

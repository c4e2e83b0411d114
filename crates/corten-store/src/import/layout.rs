//! An OCI layout directory.

use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use corten_fs::Root;
use corten_types::digest::Algorithm;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};

use super::archive::{begin, stored};
use super::unpack::Unpacker;
use super::{Content, Files, blob_of_path};
use crate::blob::{self, Ingest};
use crate::disk::Disk;

/// Largest blob that is copied, bytes.
const BLOB_SIZE_BYTES_MAX: u64 = 1 << 40;

/// The files of a directory, read beneath it.
pub(crate) struct LayoutDir<'u, 'l> {
    root: Root,
    disk: &'u Disk,
    unpacker: &'u Unpacker<'l>,
}

impl<'u, 'l> LayoutDir<'u, 'l> {
    pub(crate) fn open(path: &Path, disk: &'u Disk, unpacker: &'u Unpacker<'l>) -> Result<Self> {
        let root = Root::open_ambient(path).context(|| format!("cannot open the layout `{}`", path.display()))?;
        Ok(Self { root, disk, unpacker })
    }

    fn open_file(&self, name: &str) -> Result<Option<std::fs::File>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file: OwnedFd = match self.root.open(name, flags, Mode::empty()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| Error::syscall("fstat", errno.raw_os_error()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid(format!("`{name}` is not a regular file")));
        }
        Ok(Some(file.into()))
    }
}

impl Files for LayoutDir<'_, '_> {
    fn read(&mut self, name: &str, size_bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match self.root.read(name, size_bytes_max) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    fn content(&mut self, name: &str, algorithm: Algorithm) -> Result<Option<Content>> {
        if let Some(digest) = blob_of_path(name)
            && blob::exists(self.disk, &digest)?
        {
            return stored(self.disk, digest).map(Some);
        }
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let mut ingest = Ingest::new(self.disk, algorithm)?;
        ingest.copy(&mut BufReader::with_capacity(256 * 1024, file), BLOB_SIZE_BYTES_MAX)?;
        let staged = Arc::new(ingest.finish()?);
        begin(&staged, self.unpacker)?;
        Ok(Some(Content::Staged(staged)))
    }
}

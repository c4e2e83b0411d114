//! Content by digest: hashed while it is written, named only once verified.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use corten_fs::Root;
use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::{Digest, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat, unlinkat};
use rustix::io::Errno;
use sha2::Digest as _;

use crate::disk::{Disk, random_name, storing};
use crate::lease::Lease;
use crate::lock::retry;

/// Bytes that are copied at a time.
const COPY_SIZE: usize = 256 * 1024;

/// A running hash.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(sha2::Sha512::new())),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Result<Digest> {
        match self {
            Self::Sha256(hash) => Digest::from_bytes(Algorithm::Sha256, &hash.finalize()),
            Self::Sha512(hash) => Digest::from_bytes(Algorithm::Sha512, &hash.finalize()),
        }
    }
}

/// The digest of `bytes`.
pub(crate) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// Content that is being written. It has no name and vanishes with its descriptor.
#[derive(Debug)]
pub struct Ingest {
    file: File,
    /// Its name in `ingest` where the file system cannot make unnamed files.
    named: Option<Named>,
    hasher: Hasher,
    size: u64,
}

/// A file in `ingest`.
#[derive(Debug)]
pub(crate) struct Named {
    ingest: Root,
    name: String,
    removed_with_owner: bool,
}

impl Named {
    /// A name that outlives its owner.
    pub(crate) fn kept(ingest: Root, name: String) -> Self {
        Self { ingest, name, removed_with_owner: false }
    }

    pub(crate) fn remove_with_owner(&mut self) {
        self.removed_with_owner = true;
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if self.removed_with_owner {
            // What stays is swept by the next open.
            unlinkat(self.ingest.as_fd(), &*self.name, AtFlags::empty()).unwrap_or_default();
        }
    }
}

impl Ingest {
    pub(crate) fn new(disk: &Disk, algorithm: Algorithm) -> Result<Self> {
        let ingest = disk.part("ingest")?;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match ingest.try_open(".".as_ref(), OFlags::TMPFILE | OFlags::RDWR, mode) {
            Ok(file) => file,
            // What file systems without O_TMPFILE answer (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                return Self::named(disk, algorithm);
            }
            Err(errno) => return Err(errno).call(|| "openat(<ingest>, O_TMPFILE)"),
        };
        Ok(Self { file: file.into(), named: None, hasher: Hasher::new(algorithm), size: 0 })
    }

    /// As [`Ingest::new`], for file systems without unnamed files.
    pub(crate) fn named(disk: &Disk, algorithm: Algorithm) -> Result<Self> {
        let ingest = disk.part("ingest")?;
        let _sweeper_waits = disk.hold_sweeper(&ingest)?;
        let name = format!("blob-{}", random_name()?);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW;
        let file = ingest.open(&name, flags, Mode::RUSR | Mode::WUSR)?;
        retry(|| flock(&file, FlockOperation::LockExclusive)).call(|| "flock(<ingest>, LOCK_EX)")?;
        let named = Some(Named { ingest, name, removed_with_owner: true });
        Ok(Self { file: file.into(), named, hasher: Hasher::new(algorithm), size: 0 })
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Copies all of `content`, refusing more than `size_bytes_max`.
    pub(crate) fn copy(&mut self, content: &mut impl BufRead, size_bytes_max: u64) -> Result<()> {
        loop {
            let count = match content.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(bytes) => {
                    self.append(bytes).map_err(|error| storing(Error::from(error), "a blob"))?;
                    bytes.len()
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(Error::from)),
            };
            content.consume(count);
            if self.size > size_bytes_max {
                let message = format!("content is larger than the announced {size_bytes_max} bytes");
                return Err(Error::new(ErrorKind::Exhausted, message));
            }
        }
    }

    /// Writes bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Ends writing; the digest is known now.
    pub fn finish(self) -> Result<Staged> {
        let (file, named) = (self.file, self.named);
        Ok(Staged { file: Arc::new(file), named, digest: self.hasher.finish()?, size: self.size })
    }
}

/// Content that is whole and hashed, and not named yet.
#[derive(Debug)]
pub struct Staged {
    pub(crate) file: Arc<File>,
    named: Option<Named>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Staged {
    pub(crate) fn new(file: Arc<File>, named: Option<Named>, digest: Digest, size: u64) -> Self {
        Self { file, named, digest, size }
    }

    /// Its digest, by the algorithm that was asked for.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Verifies, makes durable and names the content; its size. From now on the store has the blob; `lease` keeps it.
    pub fn commit(&self, lease: &Lease, expected: &Digest) -> Result<u64> {
        self.name(lease, expected)?;
        sync_names(lease.disk(), expected.algorithm())?;
        Ok(self.size)
    }

    /// As [`Staged::commit`], but the name is durable only after [`sync_names`], once for many blobs.
    pub(crate) fn name(&self, lease: &Lease, expected: &Digest) -> Result<()> {
        if self.digest != *expected {
            let message = format!("expected {expected}, received {} after {} bytes", self.digest, self.size);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let disk = lease.disk();
        if lease.keep(expected)? {
            return Ok(());
        }
        // An error here stops the commit and is never retried: the kernel reports it once and drops the pages.
        rustix::fs::fdatasync(&*self.file).call(|| "fdatasync(<blob>)").map_err(|error| storing(error, "a blob"))?;
        let dir = disk.part(&folder(expected))?;
        let linked = match &self.named {
            Some(named) => linkat(named.ingest.as_fd(), &*named.name, dir.as_fd(), &*expected.hex(), AtFlags::empty()),
            None => link(&self.file, dir.as_fd(), &expected.hex()),
        };
        match linked {
            // Another process was faster with the same bytes.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            // It was a layer's tar too, and that layer went: a file that lost its last name gets no other.
            Err(Errno::NOENT) if self.named.is_none() => self.copied(disk)?.name(lease, expected),
            Err(errno) => Err(errno).call(|| format!("linkat(<ingest>, {:?})", expected.hex())),
        }
    }
}

impl Staged {
    /// The same bytes in a file of their own.
    fn copied(&self, disk: &Disk) -> Result<Self> {
        let mut ingest = Ingest::new(disk, self.digest.algorithm())?;
        let reader = FileReader::new(Arc::clone(&self.file));
        ingest.copy(&mut io::BufReader::with_capacity(COPY_SIZE, reader), self.size)?;
        ingest.finish()
    }
}

/// A name, perhaps one more, for an open file. The direct way wants a capability or a new kernel; the way through /proc
/// wants /proc.
pub(crate) fn link(file: &File, dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    match linkat(file.as_fd(), c"", dir, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        result => result,
    }
}

/// Makes the names of committed blobs durable.
pub(crate) fn sync_names(disk: &Disk, algorithm: Algorithm) -> Result<()> {
    corten_fs::atomic::sync_directory(disk.part(&format!("blobs/{}", algorithm.as_str()))?)
}

/// Opens a blob.
pub(crate) fn open(disk: &Disk, digest: &Digest) -> Result<File> {
    let path = format!("{}/{}", folder(digest), digest.hex());
    let file: OwnedFd = disk.root().open(&path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| {
        let missing = error.kind() == ErrorKind::NotFound;
        let error = error.context(format!("blob {digest} cannot be opened"));
        if missing { error.with_kind(ErrorKind::Corrupt).hint("load or pull the image again") } else { error }
    })?;
    Ok(file.into())
}

/// Whether the store has a blob.
pub(crate) fn exists(disk: &Disk, digest: &Digest) -> Result<bool> {
    disk.root().exists(format!("{}/{}", folder(digest), digest.hex()))
}

/// The content of a small blob, verified again as it is read.
pub(crate) fn read(disk: &Disk, digest: &Digest, size_bytes_max: u64) -> Result<Vec<u8>> {
    let file = open(disk, digest)?;
    let content = corten_fs::root::read_bounded(file.as_fd(), size_bytes_max)
        .map_err(|error| error.context(format!("cannot read blob {digest}")))?;
    let found = digest_of(digest.algorithm(), &content)?;
    if found != *digest {
        return Err(Error::new(ErrorKind::Corrupt, format!("blob {digest} is damaged: its content is {found}"))
            .hint("load or pull the image again"));
    }
    Ok(content)
}

/// The size of a blob; `None` where the store does not have it.
pub(crate) fn size(disk: &Disk, digest: &Digest) -> Result<Option<u64>> {
    match disk.root().stat_nofollow(format!("{}/{}", folder(digest), digest.hex())) {
        Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn folder(digest: &Digest) -> String {
    format!("blobs/{}", digest.algorithm().as_str())
}

/// A reader of a file that others read too: the place lies here, not in the descriptor.
#[derive(Debug, Clone)]
pub(crate) struct FileReader {
    file: Arc<File>,
    offset: u64,
}

impl FileReader {
    pub(crate) fn new(file: Arc<File>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_named_only_when_it_is_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        let lease = Lease::take(&disk, "test").unwrap();
        for (make, algorithm) in [
            (Ingest::new as fn(&Disk, Algorithm) -> Result<Ingest>, Algorithm::Sha256),
            (Ingest::named, Algorithm::Sha256),
            (Ingest::new, Algorithm::Sha512),
        ] {
            let text = format!("{algorithm:?} {make:p}");
            let expected = digest_of(algorithm, text.as_bytes()).unwrap();
            let mut ingest = make(&disk, algorithm).unwrap();
            ingest.write_all(text.as_bytes()).unwrap();
            let staged = ingest.finish().unwrap();
            let other = digest_of(algorithm, b"other").unwrap();
            assert_eq!(staged.commit(&lease, &other).unwrap_err().kind(), ErrorKind::Corrupt);
            assert!(!exists(&disk, &other).unwrap() && !exists(&disk, &expected).unwrap());
            // Swept by nobody while it is held.
            disk.sweep().unwrap();
            staged.commit(&lease, &expected).unwrap();
            staged.commit(&lease, &expected).unwrap();
            drop(staged);
            assert!(disk.part("ingest").unwrap().list(".").unwrap().is_empty());
            assert_eq!(read(&disk, &expected, 100).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_flipped_bit_is_found_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        let lease = Lease::take(&disk, "test").unwrap();
        let digest = digest_of(Algorithm::Sha256, b"text").unwrap();
        let mut ingest = Ingest::new(&disk, Algorithm::Sha256).unwrap();
        ingest.write_all(b"text").unwrap();
        ingest.finish().unwrap().commit(&lease, &digest).unwrap();
        std::fs::write(dir.path().join("blobs/sha256").join(digest.hex()), "tExt").unwrap();
        let error = read(&disk, &digest, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("is damaged"));
    }
}

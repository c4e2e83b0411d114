//! The form of EROFS images: the tar is written as it comes, its members become an index, and the kernel mounts both. No
//! files are made, and removing the layer is removing two.
//!
//! ```text
//! layers/KEY/tar           the plain tar, in whole blocks; of a layer that came plain, one more name of its blob
//! layers/KEY/index.erofs   what is mounted; its digest is noted with the layer
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use corten_fs::Root;
use corten_fs::erofs::{Attributes, Budget, Content, Tree};
use corten_fs::overlay::{DATA, INDEX};
use corten_fs::tar::{Archive, BLOCK_SIZE, Entry, Kind, Limits, Time};
use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::{Context, Digest, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, openat};

use super::apply::{Applied, CHECKED_EVERY};
use super::decode::{self, Decoder};
use super::directory::{Directories, find_below, xattrs};
use super::form::{Draft, Finished, Form, LayerForm};
use super::members::{Wish, is_wanted, normalise, shown, wish};
use crate::blob::{self, FileReader, Hasher};
use crate::disk::Temporary;

/// Memory for the indexes in the making, all layers together. A layer whose index needs more becomes a directory.
const MEMORY_BYTES_MAX: usize = 28 * 1024 * 1024;
const BUFFER_SIZE: usize = 256 * 1024;

fn budget() -> &'static Budget {
    static BUDGET: OnceLock<Budget> = OnceLock::new();
    BUDGET.get_or_init(|| Budget::new(MEMORY_BYTES_MAX))
}

/// Layers as images.
pub(crate) struct Images {
    pub(crate) directories: Directories,
}

struct ImageDraft {
    tree: Tree,
    applied: Applied,
    index: File,
    tar: File,
}

impl LayerForm for Images {
    fn unpack(
        &self,
        stream: Decoder<'static>,
        plain: Option<&File>,
        into: &Temporary,
    ) -> Result<(Box<dyn Draft>, Option<Digest>)> {
        let (stream, tar) = match plain.map(|plain| shared(plain, into)).transpose()?.flatten() {
            Some(tar) => (stream, tar),
            None => {
                let tar = create(into, DATA)?;
                (stream.with_copy(tar.try_clone()?), tar)
            }
        };
        let mut archive = Archive::new(stream, Limits::default());
        let mut reader = Reader { tree: Some(Tree::new(budget())), applied: Applied::default(), images: self };
        reader.read(&mut archive)?;
        let mut stream = archive.into_inner();
        if !stream.fill_buf()?.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "the archive was not read to its end"));
        }
        let digest = stream.finish()?;
        let Some(tree) = reader.tree else {
            return Ok((self.as_directory(&tar, into)?, digest));
        };
        let mut applied = reader.applied;
        applied.implicit = tree.implicit().into_iter().collect();
        let index = create(into, INDEX)?;
        Ok((Box::new(ImageDraft { tree, applied, index, tar }), digest))
    }

    fn open(&self, path: &Path) -> Result<Root> {
        let root = corten_fs::erofs::mount(&path.join(INDEX), &path.join(DATA))?;
        Ok(Root::from_fd(root, path))
    }
}

impl Images {
    /// The layer once more, from the tar that was written, in the other form.
    fn as_directory(&self, tar: &File, into: &Temporary) -> Result<Box<dyn Draft>> {
        let reader = FileReader::new(std::sync::Arc::new(tar.try_clone()?));
        let stream = Decoder::new(reader, true, decode::Limits::default())?;
        let (draft, _) = self.directories.unpack(stream, None, into)?;
        rustix::fs::unlinkat(into.as_fd(), DATA, rustix::fs::AtFlags::empty()).call(|| "unlinkat(<layer>, \"tar\")")?;
        Ok(draft)
    }
}

impl Draft for ImageDraft {
    fn applied(&self) -> &Applied {
        &self.applied
    }

    fn finish(mut self: Box<Self>, below: &[Root]) -> Result<Finished> {
        for path in &self.applied.implicit {
            let Some(found) = find_below(below, Path::new(std::ffi::OsStr::from_bytes(path))) else { continue };
            let stat = rustix::fs::fstat(&found).call(|| "fstat")?;
            let attributes = Attributes {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
                xattrs: &xattrs(&found)?,
            };
            self.tree.look(path, &attributes).context(|| format!("`{}`", shown(path)))?;
        }
        let length = self.tar.metadata()?.len();
        let size = length.next_multiple_of(BLOCK_SIZE as u64);
        if size != length {
            self.tar.set_len(size)?;
        }
        let mut uuid = [0; 16];
        rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty()).call(|| "getrandom")?;
        let written = self.tree.write(&self.index, &self.tar, size, uuid)?.ok_or_else(|| {
            Error::new(ErrorKind::Exhausted, "the layer is too large for an image")
                .hint("unpack it as a directory: `--layer-form directory`")
        })?;
        let index = digest_of_file(&self.index)?;
        let disk_size = Some(size + written.size_bytes);
        Ok(Finished { form: Form::Erofs, applied: self.applied, disk_size, index: Some(index) })
    }
}

/// The digest of a file's content.
pub(crate) fn digest_of_file(file: &File) -> Result<Digest> {
    let mut reader = BufReader::with_capacity(BUFFER_SIZE, FileReader::new(std::sync::Arc::new(file.try_clone()?)));
    let mut hasher = Hasher::new(Algorithm::Sha256);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return hasher.finish();
        }
        hasher.update(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
}

/// The layer's tar as one more name of the blob that it is: nothing is written twice. `None` where the blob does not end
/// with a block, or its file system has no more names for it.
fn shared(plain: &File, into: &Temporary) -> Result<Option<File>> {
    if !plain.metadata()?.len().is_multiple_of(BLOCK_SIZE as u64) {
        return Ok(None);
    }
    match blob::link(plain, into.as_fd(), DATA) {
        Ok(()) => Ok(Some(plain.try_clone()?)),
        // Whatever the reason is, the layer can be copied.
        Err(_) => Ok(None),
    }
}

fn create(into: &Temporary, name: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        openat(into.as_fd(), name, flags, Mode::RUSR | Mode::WUSR).call(|| format!("openat({name:?}, O_CREAT)"))?;
    Ok(file.into())
}

/// Reads members into a tree, as long as that fits.
struct Reader<'a> {
    tree: Option<Tree>,
    applied: Applied,
    images: &'a Images,
}

impl Reader<'_> {
    fn read(&mut self, archive: &mut Archive<Decoder<'static>>) -> Result<()> {
        while let Some(entry) = archive.next_entry()? {
            let position = archive.get_ref().position();
            self.member(&entry, position).context(|| format!("cannot unpack `{}`", shown(&entry.path)))?;
            self.applied.entries += 1;
            if self.applied.entries.is_multiple_of(CHECKED_EVERY) {
                archive.get_ref().check_members(self.applied.entries)?;
            }
            if self.tree.as_mut().is_some_and(|tree| !tree.fits()) {
                // The rest is still read, written and counted.
                self.tree = None;
            }
        }
        Ok(())
    }

    fn member(&mut self, entry: &Entry, position: u64) -> Result<()> {
        let Some(tree) = &mut self.tree else { return Ok(()) };
        let path = normalise(&entry.path)?;
        let wish = wish(&path, &entry.kind)?;
        if let Wish::Whiteout(directory, name) = wish {
            return tree.whiteout(directory, name);
        }
        let (uid, gid, squashed) = self.images.directories.owners.resolve(entry.uid, entry.gid)?;
        let wanted: Vec<(Vec<u8>, Vec<u8>)>;
        let with_xattrs = matches!(entry.kind, Kind::File | Kind::Sparse(_) | Kind::Directory);
        let xattrs: &[(Vec<u8>, Vec<u8>)] = if entry.xattrs.is_empty() || !with_xattrs {
            &[]
        } else {
            wanted = entry.xattrs.iter().filter(|(name, _)| is_wanted(name)).cloned().collect();
            &wanted
        };
        let attributes = Attributes { mode: entry.mode, uid, gid, mtime: entry.mtime, xattrs };
        match wish {
            Wish::Nothing | Wish::Whiteout(..) => Ok(()),
            Wish::Root => {
                self.applied.has_root = true;
                self.applied.squashed += u64::from(squashed);
                tree.root(&attributes)
            }
            Wish::Opaque([]) => {
                // Overlay merges the roots of its layers whatever they say.
                self.applied.opaque_root = true;
                Ok(())
            }
            Wish::Opaque(directory) => tree.opaque(directory),
            Wish::Make(..) => {
                self.applied.squashed += u64::from(squashed);
                match &entry.kind {
                    Kind::File | Kind::Sparse(_) => {
                        self.applied.size += entry.stored_size;
                        let segments = match &entry.kind {
                            Kind::Sparse(segments) => Some(segments.as_slice()),
                            _ => None,
                        };
                        tree.file(&path, &attributes, &Content { offset: position, size: entry.size, segments })
                    }
                    Kind::Directory => tree.directory(&path, &attributes),
                    Kind::Symlink(target) => tree.symlink(&path, &attributes, target),
                    Kind::HardLink(target) => {
                        let target =
                            normalise(target).map_err(|error| error.context("its link target leads outside"))?;
                        if target == path { Ok(()) } else { tree.hard_link(&path, &target) }
                    }
                    Kind::CharDevice { major, minor } => tree.character_device(&path, &attributes, (*major, *minor)),
                    Kind::BlockDevice { major, minor } => tree.block_device(&path, &attributes, (*major, *minor)),
                    Kind::Fifo => tree.fifo(&path, &attributes),
                }
            }
        }
    }
}

//! An archive read once, front to back: small files stay in memory, large ones are hashed into unnamed files, and what
//! looks like a layer is unpacked at once.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use corten_fs::tar::{Archive, Kind, Limits};
use corten_types::digest::Algorithm;
use corten_types::image_spec::Compression;
use corten_types::{Context, Error, ErrorKind, Result};

use super::unpack::Unpacker;
use super::{Content, Files, blob_of_path};
use crate::blob::{self, Ingest, Staged, digest_of};
use crate::disk::Disk;
use crate::layer::decode::{self, Decoder, sniff};
use crate::layer::members::normalise;

/// Files up to this size stay in memory, bytes.
const SMALL_SIZE_BYTES_MAX: u64 = 256 * 1024;
/// All of them together, bytes.
const MEMORY_BYTES_MAX: u64 = 24 * 1024 * 1024;
/// Members of an image archive, and how many of them may be large: each holds a descriptor.
const ENTRIES_MAX: u64 = 16 * 1024;
const STAGED_MAX: usize = 2048;
/// Links that are followed from name to name.
const LINKS_MAX: usize = 8;

/// The members of an archive, by path.
pub(crate) struct StagedArchive {
    members: HashMap<String, Member>,
    memory: u64,
    staged: usize,
}

enum Member {
    Small(Vec<u8>),
    Content(Content),
    /// Another member's path.
    Link(String),
}

impl StagedArchive {
    /// Reads all of `input`, which may be compressed.
    pub(crate) fn read<'a>(input: impl Read + Send + 'a, disk: &Disk, unpacker: &Unpacker<'_>) -> Result<Self> {
        let limits = Limits { entries_max: ENTRIES_MAX, ..Limits::default() };
        let mut archive = Archive::new(Decoder::of_archive(input, decode::Limits::default())?, limits);
        let mut staged = Self { members: HashMap::new(), memory: 0, staged: 0 };
        while let Some(entry) = archive.next_entry()? {
            let path = String::from_utf8(normalise(&entry.path)?)
                .map_err(|_| Error::invalid("a member's name is not UTF-8"))?;
            let member = match entry.kind {
                Kind::File => staged.file(&path, entry.size, &mut archive, disk, unpacker)?,
                Kind::Symlink(target) => Member::Link(linked(&path, &target)?),
                Kind::HardLink(target) => Member::Link(linked("", &target)?),
                Kind::Directory => continue,
                _ => return Err(Error::invalid(format!("member `{}` is no file", path.escape_debug()))),
            };
            staged.members.insert(path, member);
        }
        Ok(staged)
    }

    fn file<R: std::io::BufRead>(
        &mut self,
        path: &str,
        size: u64,
        archive: &mut Archive<R>,
        disk: &Disk,
        unpacker: &Unpacker<'_>,
    ) -> Result<Member> {
        let named = blob_of_path(path);
        if let Some(digest) = named
            && size > SMALL_SIZE_BYTES_MAX
            && blob::exists(disk, &digest)?
        {
            return stored(disk, digest).map(Member::Content);
        }
        if size <= SMALL_SIZE_BYTES_MAX && self.memory + size <= MEMORY_BYTES_MAX {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            archive.content().read_to_end(&mut bytes).map_err(|error| error.downcast().unwrap_or_else(Error::from))?;
            self.memory += size;
            return Ok(Member::Small(bytes));
        }
        self.staged += 1;
        if self.staged > STAGED_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("archive has more than {STAGED_MAX} large files")));
        }
        let algorithm = named.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let mut ingest = Ingest::new(disk, algorithm)?;
        loop {
            let bytes = archive.fill().context(|| format!("member `{}`", path.escape_debug()))?;
            if bytes.is_empty() {
                break;
            }
            ingest.append(bytes).map_err(|error| crate::disk::storing(error.into(), "a blob"))?;
            let count = bytes.len();
            archive.consume(count);
        }
        let content = Arc::new(ingest.finish()?);
        begin(&content, unpacker)?;
        Ok(Member::Content(Content::Staged(content)))
    }

    /// The member of a path, through links.
    fn find(&self, name: &str) -> Option<&Member> {
        let mut name = String::from_utf8(normalise(name.as_bytes()).ok()?).ok()?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&name)? {
                Member::Link(target) => name.clone_from(target),
                member => return Some(member),
            }
        }
        None
    }
}

impl Files for StagedArchive {
    fn read(&mut self, name: &str, size_bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let bytes = match self.find(name) {
            None | Some(Member::Link(_)) => return Ok(None),
            Some(Member::Small(bytes)) if bytes.len() as u64 <= size_bytes_max => bytes.clone(),
            Some(Member::Content(content)) if content.size() <= size_bytes_max => {
                let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or(0)];
                match content {
                    Content::Staged(staged) => staged.file.read_exact_at(&mut bytes, 0)?,
                    Content::Stored(_, _, file) => file.read_exact_at(&mut bytes, 0)?,
                    Content::Bytes(_, content) => bytes.clone_from(content),
                }
                bytes
            }
            Some(_) => {
                let message = format!("`{name}` in the archive is larger than {size_bytes_max} bytes");
                return Err(Error::new(ErrorKind::Exhausted, message));
            }
        };
        Ok(Some(bytes))
    }

    fn content(&mut self, name: &str, algorithm: Algorithm) -> Result<Option<Content>> {
        Ok(match self.find(name) {
            None | Some(Member::Link(_)) => None,
            Some(Member::Small(bytes)) => Some(Content::Bytes(digest_of(algorithm, bytes)?, bytes.clone())),
            Some(Member::Content(content)) => Some(content.clone()),
        })
    }
}

/// A blob that the store has.
pub(super) fn stored(disk: &Disk, digest: corten_types::Digest) -> Result<Content> {
    let file = blob::open(disk, &digest)?;
    let size = file.metadata()?.len();
    Ok(Content::Stored(digest, size, Arc::new(file)))
}

/// Starts what can be done with content before it is known what it is for.
pub(super) fn begin(staged: &Arc<Staged>, unpacker: &Unpacker<'_>) -> Result<()> {
    let mut start = [0; 512];
    let count = staged.file.read_at(&mut start, 0)?;
    if sniff(&start[..count]) != Compression::None || start[257..262] == *b"ustar" {
        unpacker.start(staged);
    }
    unpacker.sync(staged);
    Ok(())
}

/// The path that a link at `path` leads to.
fn linked(path: &str, target: &[u8]) -> Result<String> {
    let wrong = || Error::invalid(format!("member `{}` is a link that leads outside", path.escape_debug()));
    let target = std::str::from_utf8(target).map_err(|_| wrong())?;
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(wrong)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

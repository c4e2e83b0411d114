//! The numbers of the format, as bytes.

use corten_types::{Error, Result};

use super::BLOCK_BITS;
use super::tree::{Inode, Xattrs, kind};

/// Bytes of an inode in its long form.
pub(super) const INODE_SIZE: u64 = 64;
/// What inode numbers count.
pub(super) const SLOT_SIZE: u64 = 32;
/// Where the inodes start; the root is the first.
pub(super) const INODES_START: u64 = 4096;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT_SIZE: usize = 12;
/// An address that is a hole.
pub(super) const HOLE: u32 = u32::MAX;

/// What the superblock starts with, and what statfs(2) says.
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the image's identifier is.
pub(super) const UUID_START: u64 = 1024 + 48;
const SUPERBLOCK_START: usize = 1024;
const DEVICE_SLOT_SIZE: usize = 128;
/// Times of inodes are their last modification.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;
const INCOMPAT_DEVICE_TABLE: u32 = 8;

/// How an inode's content is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Block after block from here.
    Plain(u32),
    /// Behind the inode.
    Inline,
    /// By a map of chunks of this many bits behind the inode.
    Chunks(u32),
}

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Superblock {
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) tar_blocks: u32,
    pub(super) tar_start: u32,
    pub(super) has_chunks: bool,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Everything before the first inode.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(INODES_START).unwrap_or(0)];
        let block = &mut bytes[SUPERBLOCK_START..];
        let chunks = if self.has_chunks { INCOMPAT_CHUNKED_FILE } else { 0 };
        let root = u16::try_from(INODES_START / SLOT_SIZE).unwrap_or(0);
        put(block, 0, &MAGIC.to_le_bytes());
        put(block, 8, &COMPAT_MTIME.to_le_bytes());
        block[12] = u8::try_from(BLOCK_BITS).unwrap_or(0);
        put(block, 14, &root.to_le_bytes());
        put(block, 16, &self.inodes.to_le_bytes());
        put(block, 36, &self.blocks.to_le_bytes());
        put(block, 48, &self.uuid);
        put(block, 80, &(INCOMPAT_DEVICE_TABLE | chunks).to_le_bytes());
        put(block, 86, &1u16.to_le_bytes());
        let slot = SUPERBLOCK_START + DEVICE_SLOT_SIZE;
        put(block, 88, &u16::try_from(slot / DEVICE_SLOT_SIZE).unwrap_or(0).to_le_bytes());
        let device = &mut bytes[slot..];
        put(device, 0, b"tar");
        put(device, 64, &self.tar_blocks.to_le_bytes());
        put(device, 68, &self.tar_start.to_le_bytes());
        bytes
    }
}

/// An inode with its attributes, without what follows inline.
pub(super) fn inode(inode: &Inode, number: u32, size: u64, links: u32, layout: Layout, xattrs: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let (code, place) = match layout {
        Layout::Plain(start) => (0u16, start),
        Layout::Inline => (2, 0),
        Layout::Chunks(bits) => (4, bits - BLOCK_BITS),
    };
    let place = match inode.kind() {
        kind::CHARACTER | kind::BLOCK | kind::FIFO => u32::try_from(inode.data).unwrap_or(0),
        _ => place,
    };
    let xattr_count = if xattrs.is_empty() { 0 } else { 1 + (xattrs.len() - XATTR_HEADER_SIZE) / 4 };
    put(&mut bytes, 0, &(1 | code << 1).to_le_bytes());
    put(&mut bytes, 2, &u16::try_from(xattr_count).unwrap_or(0).to_le_bytes());
    put(&mut bytes, 4, &inode.mode.to_le_bytes());
    put(&mut bytes, 8, &size.to_le_bytes());
    put(&mut bytes, 16, &place.to_le_bytes());
    put(&mut bytes, 20, &number.to_le_bytes());
    put(&mut bytes, 24, &inode.uid.to_le_bytes());
    put(&mut bytes, 28, &inode.gid.to_le_bytes());
    put(&mut bytes, 32, &inode.seconds.to_le_bytes());
    put(&mut bytes, 40, &inode.nanoseconds.to_le_bytes());
    put(&mut bytes, 44, &links.to_le_bytes());
    bytes.extend_from_slice(xattrs);
    bytes
}

const XATTR_HEADER_SIZE: usize = 12;

/// The attributes behind an inode; empty without any.
pub(super) fn xattrs(xattrs: &Xattrs, opaque: bool) -> Result<Vec<u8>> {
    let mut bytes = vec![0; XATTR_HEADER_SIZE];
    for (name, value) in xattrs {
        xattr(&mut bytes, name, value)?;
    }
    if opaque {
        xattr(&mut bytes, b"trusted.overlay.opaque", b"y")?;
    }
    if bytes.len() == XATTR_HEADER_SIZE {
        bytes.clear();
    }
    if bytes.len() / 4 > usize::from(u16::MAX) - 4 {
        return Err(Error::invalid("the attributes of a member are too long together"));
    }
    Ok(bytes)
}

fn xattr(bytes: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<()> {
    const PREFIXES: [(&[u8], u8); 5] = [
        (b"user.", 1),
        (b"system.posix_acl_access", 2),
        (b"system.posix_acl_default", 3),
        (b"trusted.", 4),
        (b"security.", 6),
    ];
    let unknown = || {
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        Error::invalid(format!("the attribute `{name}` has no place in an image"))
    };
    let (rest, index) = PREFIXES
        .iter()
        .find_map(|(prefix, index)| name.strip_prefix(*prefix).map(|rest| (rest, *index)))
        .ok_or_else(unknown)?;
    let is_acl = matches!(index, 2 | 3);
    if rest.is_empty() != is_acl {
        return Err(unknown());
    }
    bytes.push(u8::try_from(rest.len()).map_err(|_| unknown())?);
    bytes.push(index);
    bytes.extend_from_slice(&u16::try_from(value.len()).map_err(|_| unknown())?.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(())
}

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirent<'t> {
    pub(super) name: &'t [u8],
    pub(super) number: u64,
    pub(super) kind: u16,
}

/// How many of the entries whose names have these lengths go into one block, and the bytes that takes.
pub(super) fn block_of(lengths: impl Iterator<Item = usize>) -> (usize, usize) {
    let (mut count, mut used) = (0, 0);
    for length in lengths {
        if used + DIRENT_SIZE + length > 1 << BLOCK_BITS {
            break;
        }
        used += DIRENT_SIZE + length;
        count += 1;
    }
    (count, used)
}

/// A directory's content: blocks of entries, each followed by its names. The last block ends with its last name.
pub(super) fn directory(mut entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !entries.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(1 << BLOCK_BITS), 0);
        let (count, _) = block_of(entries.iter().map(|entry| entry.name.len()));
        let (block, rest) = entries.split_at(count);
        let mut name_start = count * DIRENT_SIZE;
        for entry in block {
            bytes.extend_from_slice(&entry.number.to_le_bytes());
            bytes.extend_from_slice(&u16::try_from(name_start).unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(&[file_type(entry.kind), 0]);
            name_start += entry.name.len();
        }
        for entry in block {
            bytes.extend_from_slice(entry.name);
        }
        entries = rest;
    }
    bytes
}

fn file_type(kind: u16) -> u8 {
    match kind {
        kind::FILE => 1,
        kind::DIRECTORY => 2,
        kind::CHARACTER => 3,
        kind::BLOCK => 4,
        kind::FIFO => 5,
        kind::SYMLINK => 7,
        _ => 0,
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

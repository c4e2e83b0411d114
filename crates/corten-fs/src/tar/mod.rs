//! Tar archives, read and written as streams: ustar, GNU (long names, sparse files, base-256 numbers) and PAX.
//!
//! Where readers of the world disagree about an archive (a directory with content, a `size` that a global header sets,
//! content behind a lone zero block), it is refused: two programs must never see two trees in one digest.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::Archive;
pub use writer::{Builder, Member};

/// Bytes of a header, and what content is padded to.
pub const BLOCK_SIZE: usize = 512;

/// What an archive may ask of its reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Members of one archive.
    pub entries_max: u64,
    /// Bytes of a path or link target.
    pub path_length_max: usize,
    /// Bytes of one member's extended headers.
    pub extension_size_bytes_max: u64,
    /// Data segments of one sparse file.
    pub segments_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 2_000_000,
            path_length_max: 4096,
            extension_size_bytes_max: 1024 * 1024,
            segments_max: 256 * 1024,
        }
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A regular file with holes: where its stored bytes belong.
    Sparse(Vec<Segment>),
    /// A second name of the member at this path.
    HardLink(Vec<u8>),
    /// A symlink with this content.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// A time stamp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Since 1970, UTC.
    pub seconds: i64,
    /// Below a billion.
    pub nanoseconds: u32,
}

/// One member of an archive, names and numbers as they were written (bounded, without NUL, otherwise unchecked).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last modification.
    pub mtime: Time,
    /// Size of the file; for a sparse file with its holes.
    pub size: u64,
    /// Bytes of content that follow in the archive.
    pub stored_size: u64,
    /// Extended attributes, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

//! EROFS images that are an index of a tar: written here, mounted by the kernel from the file.
//!
//! ```text
//! index              what the kernel mounts
//!   0      1024      nothing
//!   1024   128       superblock; blocks of 512 bytes, so that every member of a tar starts at one
//!   1152   128       one device slot: the tar, whose blocks are addressed behind those of the index
//!   4096             inodes of 64 bytes with their attributes; short directories and symlinks follow their inode
//!   …                blocks of longer directories and symlinks, maps of sparse files
//!   …                what of sparse files does not lie block by block in the tar
//! tar                the layer as it came, uncompressed: the content of the files
//! ```
//!
//! A [`Tree`] takes members one by one, resolves their paths as after chroot(2), and is written at the end
//! ([`Tree::write`]). Its memory is bounded by a [`Budget`] that trees share. The format is the kernel's
//! (`fs/erofs/erofs_fs.h`); nothing of it is read here: the kernel mounts only what this module wrote.

mod budget;
mod format;
mod image;
mod mount;
mod resolve;
mod share;
mod sparse;
mod tree;

pub use budget::Budget;
pub use image::Written;
pub use mount::{is_known, is_supported, mount};
pub use share::mount_shared;
pub use tree::{Attributes, Content, Tree};

/// Bits of a block's size: what content in a tar is aligned to.
const BLOCK_BITS: u32 = 9;
/// Bytes of a block.
const BLOCK_SIZE: u64 = 1 << BLOCK_BITS;

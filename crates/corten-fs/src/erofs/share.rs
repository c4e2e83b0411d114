//! One file system per image for all who mount it.
//!
//! The kernel makes a new file system for every mount of an image from a file, each with a page cache of its own: what ten
//! containers read of one layer would be in memory ten times. So whoever mounts an image notes its process and descriptor
//! in the file `mounted` beside it, and the next one clones that mount. Nothing is attached anywhere, and what is noted of
//! a process that ended is found to be gone.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use corten_types::Result;
use rustix::fs::{CWD, Mode, OFlags, fstatfs, fstatvfs};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::format::{MAGIC, UUID_START};
use super::mount;
use crate::Root;
use crate::atomic::{self, Durability};

/// Name of the notes.
const NOTES: &str = "mounted";
/// Bytes of them that are read.
const NOTES_SIZE_BYTES_MAX: u64 = 4096;
/// Mounts that are noted: enough that one of them outlives the others.
const NOTES_MAX: usize = 6;

/// Mounts the image `index` with the content `tar`, as [`mount`], on the file system that another process has of it
/// already, if one is found. Others find this mount as long as its descriptor is open.
pub fn mount_shared(index: &Path, tar: &Path) -> Result<OwnedFd> {
    let notes = index.with_file_name(NOTES);
    let text = crate::root::read_ambient(&notes, NOTES_SIZE_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut alive: Vec<&str> = text.lines().take(NOTES_MAX).collect();
    let id = file_system_id(index);
    let mut found = None;
    while let Some(first) = alive.first() {
        found = id.and_then(|id| clone_noted(first, id));
        if found.is_some() {
            break;
        }
        alive.remove(0);
    }
    let shared = found.is_some();
    let mount = match found {
        Some(mount) => mount,
        None => mount(index, tar)?,
    };
    if !shared || alive.len() < NOTES_MAX {
        let own = format!("{} {}", std::process::id(), mount.as_raw_fd());
        alive.push(&own);
        // Without the note only memory is lost.
        drop(note(index, &alive.join("\n")));
    }
    Ok(mount)
}

fn note(index: &Path, text: &str) -> Result<()> {
    let directory = Root::open_ambient(index.parent().unwrap_or(Path::new("/")))?;
    atomic::replace(&directory, NOTES, text.as_bytes(), 0o600, Durability::Volatile)
}

/// A clone of the mount that a line of the notes names, where that is still one of the file system `id`.
fn clone_noted(line: &str, id: u64) -> Option<OwnedFd> {
    let (process, descriptor) = line.split_once(' ')?;
    let (process, descriptor) = (process.parse::<u32>().ok()?, descriptor.parse::<u32>().ok()?);
    if process == std::process::id() {
        // The number may be one of ours by now, of another mount; a new one costs little.
        return None;
    }
    let path = format!("/proc/{process}/fd/{descriptor}");
    let noted = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The process or its descriptor may be another one by now.
    let is_erofs = u32::try_from(fstatfs(noted.as_fd()).ok()?.f_type).is_ok_and(|magic| magic == MAGIC);
    if !is_erofs || fstatvfs(noted.as_fd()).ok()?.f_fsid != id {
        return None;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(noted.as_fd(), c"", flags).ok()
}

/// What statvfs(3) says of a mount of this image: made of its random identifier.
fn file_system_id(index: &Path) -> Option<u64> {
    let file: File = rustix::fs::openat(CWD, index, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?.into();
    let mut halves = [[0u8; 8]; 2];
    file.read_exact_at(&mut halves[0], UUID_START).ok()?;
    file.read_exact_at(&mut halves[1], UUID_START + 8).ok()?;
    Some(u64::from_le_bytes(halves[0]) ^ u64::from_le_bytes(halves[1]))
}

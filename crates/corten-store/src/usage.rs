//! What the store takes on the disk, as `du` counts it.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::{Digest, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::image::Image;
use crate::store::Store;

/// What the store takes on the disk, bytes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Blobs and unpacked layers, with what is on its way in and out.
    pub images: u64,
    /// Writable layers, by the container that has each.
    pub snapshots: BTreeMap<String, u64>,
    /// What each image takes, and what of that no other image has.
    pub by_image: Vec<ImageUsage>,
}

/// What an image takes on the disk, bytes.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// All its blobs and unpacked layers.
    pub size: u64,
    /// What of that other images need too.
    pub shared: u64,
}

impl Store {
    /// Counts what lies on the disk.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let root = self.disk().root().open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut seen = HashSet::new();
        let mut by_part: BTreeMap<String, u64> = BTreeMap::new();
        for (name, stat) in entries(&root)? {
            let path = name.to_string_lossy().into_owned();
            if path == "snapshots" || path == "layers" || path == "blobs" {
                continue;
            }
            usage.images += disk_size(&root, &name, &stat, &mut seen)?;
        }
        for part in ["layers", "blobs/sha256", "blobs/sha512"] {
            let dir = self.disk().root().open(part, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            usage.images += blocks(&fstat(&dir).call(|| "fstat")?);
            for (name, stat) in entries(&dir)? {
                let size = disk_size(&dir, &name, &stat, &mut seen)?;
                usage.images += size;
                // A plain layer and its blob have one name.
                *by_part.entry(name.to_string_lossy().into_owned()).or_default() += size;
            }
        }
        let snapshots = self.disk().root().open("snapshots", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        for (name, stat) in entries(&snapshots)? {
            let size = disk_size(&snapshots, &name, &stat, &mut seen)?;
            usage.snapshots.insert(name.to_string_lossy().into_owned(), size);
        }
        let images = self.images()?;
        let parts: Vec<HashSet<String>> = images.iter().map(|image| self.parts(image)).collect::<Result<_>>()?;
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        for part in parts.iter().flatten() {
            *users.entry(part).or_default() += 1;
        }
        for (image, parts) in images.into_iter().zip(&parts) {
            let size_of = |part: &String| by_part.get(part).copied().unwrap_or(0);
            let shared = parts.iter().filter(|part| users.get(part.as_str()).is_some_and(|users| *users > 1));
            let (size, shared) = (parts.iter().map(size_of).sum(), shared.map(size_of).sum());
            usage.by_image.push(ImageUsage { image, size, shared });
        }
        Ok(usage)
    }

    /// Names of the blobs and layers that a target needs, as they lie in their directories.
    fn parts(&self, image: &Image) -> Result<HashSet<String>> {
        let mut parts: HashSet<String> = self.database().blobs_below(&image.target)?.iter().map(Digest::hex).collect();
        for image in self.images_of(&image.target)? {
            // A layer is under one of its two names.
            parts.extend(image.layers.iter().flat_map(|layer| [layer.diff_id.hex(), layer.chain_id.hex()]));
        }
        Ok(parts)
    }
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

fn entries(dir: &OwnedFd) -> Result<Vec<(std::ffi::OsString, Stat)>> {
    use std::os::unix::ffi::OsStringExt;
    let mut found = Vec::new();
    for entry in Dir::read_from(dir.as_fd()).call(|| "getdents")? {
        let entry = entry.call(|| "getdents")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((std::ffi::OsString::from_vec(name.to_bytes().to_vec()), stat)),
            // It went meanwhile.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).call(|| format!("statat({name:?})")),
        }
    }
    Ok(found)
}

/// Bytes that `name` in `dir` and all below it take; a file with several names counts once.
fn disk_size(dir: &OwnedFd, name: &std::ffi::OsStr, stat: &Stat, seen: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !is_directory {
        let counts = stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino));
        return Ok(if counts { blocks(stat) } else { 0 });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(0),
        result => result.call(|| format!("openat({name:?})"))?,
    };
    let mut total = blocks(stat);
    for (name, stat) in entries(&below)? {
        total += disk_size(&below, &name, &stat, seen)?;
    }
    Ok(total)
}

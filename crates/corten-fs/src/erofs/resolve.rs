//! Paths in a tree, as after chroot(2): symlinks are followed, absolute ones and `..` stop at the root.

use std::collections::VecDeque;

use corten_types::{Error, Result};

use super::tree::{ROOT, Tree, implicit_directory, kind};

/// As the kernel's.
const SYMLINKS_MAX: u32 = 40;
/// Bytes of names that are still to be resolved.
const PENDING_BYTES_MAX: usize = 4096 * 8;

impl Tree {
    /// The directory at `path`, made with everything missing on the way.
    pub(super) fn resolve_directory(&mut self, path: &[u8]) -> Result<u32> {
        let mut todo = components(path);
        // How many of the names still to come are the path's own; a symlink's names come before them and make nothing.
        let mut here = ROOT;
        let mut symlinks = 0;
        let mut from_links = 0usize;
        while let Some(name) = todo.pop_front() {
            let in_link = from_links > 0;
            from_links = from_links.saturating_sub(1);
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    here = self.inodes[here as usize].parent();
                    continue;
                }
                _ => {}
            }
            let found = match self.find(here, &name) {
                Some(found) => found,
                None if in_link => {
                    let path = String::from_utf8_lossy(path).escape_debug().to_string();
                    return Err(Error::invalid(format!("`{path}` is a symlink to nowhere in this layer")));
                }
                None => {
                    let made = self.add_inode(implicit_directory(here))?;
                    self.put(here, &name, made)?;
                    made
                }
            };
            let inode = self.inodes[found as usize];
            match inode.kind() {
                kind::DIRECTORY => here = found,
                kind::SYMLINK => {
                    symlinks += 1;
                    from_links += self.follow(found, &mut todo, &mut here, symlinks)?;
                }
                _ => return Err(Error::invalid("a file is where a directory is needed: Not a directory")),
            }
        }
        Ok(here)
    }

    /// What `path` names; a last symlink is not followed. `None` where something on the way is missing.
    pub(super) fn lookup(&self, path: &[u8]) -> Result<Option<u32>> {
        let mut todo = components(path);
        let mut here = ROOT;
        let mut symlinks = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    here = self.inodes[here as usize].parent();
                    continue;
                }
                _ => {}
            }
            let Some(found) = self.find(here, &name) else { return Ok(None) };
            if todo.is_empty() {
                return Ok(Some(found));
            }
            match self.inodes[found as usize].kind() {
                kind::DIRECTORY => here = found,
                kind::SYMLINK => {
                    symlinks += 1;
                    self.follow(found, &mut todo, &mut here, symlinks)?;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Puts a symlink's names before those still to come; how many.
    fn follow(&self, symlink: u32, todo: &mut VecDeque<Vec<u8>>, here: &mut u32, symlinks: u32) -> Result<usize> {
        let target = self.target(&self.inodes[symlink as usize]);
        let pending: usize = todo.iter().map(Vec::len).sum();
        if symlinks > SYMLINKS_MAX || pending + target.len() > PENDING_BYTES_MAX {
            return Err(Error::invalid("its path has too many levels of symbolic links"));
        }
        if target.first() == Some(&b'/') {
            *here = ROOT;
        }
        let names = components(target);
        let count = names.len();
        for name in names.into_iter().rev() {
            todo.push_front(name);
        }
        Ok(count)
    }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

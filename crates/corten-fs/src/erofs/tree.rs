//! The tree of a layer in memory: inodes, and names that point to them.
//!
//! A name is found by (directory, text) in one table. What is removed stays in memory, unreachable, until the tree goes:
//! few archives name a member twice.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use corten_types::{Error, ErrorKind, Result};

use super::budget::{Budget, Share};
use crate::tar::{Segment, Time};

/// Number of the root's inode.
pub(super) const ROOT: u32 = 0;
/// No inode: the name is free.
pub(super) const GONE: u32 = u32::MAX;
/// Longest name of a file system.
const NAME_LENGTH_MAX: usize = 255;
/// What an entry of the table takes, at its emptiest.
const SLOT_BYTES: usize = 12;

/// Types of inodes, as `st_mode` says them.
pub(super) mod kind {
    pub(crate) const MASK: u16 = 0o170_000;
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHARACTER: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const FILE: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
}

/// Extended attributes by name.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What every inode has.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification.
    pub mtime: Time,
    /// Extended attributes, by full name.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Where a file's bytes lie.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Their first byte in the tar.
    pub offset: u64,
    /// Size of the file, holes included.
    pub size: u64,
    /// The runs of data of a file with holes, one after the other in the tar.
    pub segments: Option<&'a [Segment]>,
}

/// One inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    /// A file's content: offset in the tar. A symlink's: offset in `texts`. A device's: its number. A directory's: its
    /// parent. A sparse file's: its place in `sparse`.
    pub(super) data: u64,
    pub(super) size: u64,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its place in `xattrs`; 0 has none.
    pub(super) xattrs: u32,
    pub(super) mode: u16,
    pub(super) opaque: bool,
    pub(super) sparse: bool,
    /// A directory that no member describes.
    pub(super) implicit: bool,
}

impl Inode {
    pub(super) fn kind(&self) -> u16 {
        self.mode & kind::MASK
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == kind::DIRECTORY
    }

    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == kind::CHARACTER && self.data == 0
    }

    pub(super) fn parent(&self) -> u32 {
        u32::try_from(self.data).unwrap_or(ROOT)
    }
}

/// One name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) directory: u32,
    pub(super) inode: u32,
    text: u32,
    length: u8,
}

/// A file with holes.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) offset: u64,
    pub(super) segments: Box<[Segment]>,
}

/// A layer's tree, in the making.
#[derive(Debug)]
pub struct Tree {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: Vec<Name>,
    pub(super) texts: Vec<u8>,
    pub(super) xattrs: Vec<Xattrs>,
    pub(super) sparse: Vec<Sparse>,
    known_xattrs: HashMap<Xattrs, u32>,
    /// Open addressing; 0 is free, otherwise one more than the place in `names`.
    table: Vec<u32>,
    hasher: RandomState,
    /// Bytes of attributes and segments.
    extra_bytes: usize,
    share: Share,
    /// The directory that the last member lay in.
    last_parent: Option<(Vec<u8>, u32)>,
}

impl Tree {
    /// An empty tree; its root belongs to root until [`Tree::root`] says otherwise.
    pub fn new(budget: &Budget) -> Self {
        let mut tree = Self {
            inodes: Vec::new(),
            names: Vec::new(),
            texts: Vec::new(),
            xattrs: vec![Xattrs::new()],
            sparse: Vec::new(),
            known_xattrs: HashMap::new(),
            table: vec![0; 1024],
            hasher: RandomState::new(),
            extra_bytes: 0,
            share: Share::new(budget),
            last_parent: None,
        };
        tree.inodes.push(implicit_directory(ROOT));
        tree.inodes[0].implicit = false;
        tree
    }

    /// Whether the tree, and what writing it takes, is still within the budget. Asked between members.
    pub fn fits(&mut self) -> bool {
        // Numbers, order and places of every inode and name while the image is written.
        let inodes = self.inodes.len() * (size_of::<Inode>() + 16);
        let names = self.names.len() * (size_of::<Name>() + SLOT_BYTES + 4);
        self.share.hold(inodes + names + self.texts.len() + self.extra_bytes)
    }

    /// Says what the root looks like.
    pub fn root(&mut self, attributes: &Attributes<'_>) -> Result<()> {
        self.describe(ROOT, attributes)
    }

    /// A directory. One that is there already keeps its content.
    pub fn directory(&mut self, path: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        let (parent, text) = self.place(path)?;
        let found = self.find(parent, text);
        let was_whiteout = found.is_some_and(|inode| self.inodes[inode as usize].is_whiteout());
        let inode = match found {
            Some(inode) if self.inodes[inode as usize].is_directory() => inode,
            _ => {
                let inode = self.add_inode(implicit_directory(parent))?;
                self.put(parent, text, inode)?;
                inode
            }
        };
        self.inodes[inode as usize].implicit = false;
        self.inodes[inode as usize].opaque |= was_whiteout;
        self.last_parent = Some((path.to_vec(), inode));
        self.describe(inode, attributes)
    }

    /// A regular file.
    pub fn file(&mut self, path: &[u8], attributes: &Attributes<'_>, content: &Content<'_>) -> Result<()> {
        let mut inode = self.new_inode(kind::FILE, attributes)?;
        inode.size = content.size;
        inode.data = content.offset;
        if let Some(segments) = content.segments {
            inode.sparse = true;
            inode.data = self.sparse.len() as u64;
            self.extra_bytes += size_of_val(segments) + size_of::<Sparse>();
            self.sparse.push(Sparse { offset: content.offset, segments: segments.into() });
        }
        self.insert(path, inode)
    }

    /// A symlink.
    pub fn symlink(&mut self, path: &[u8], attributes: &Attributes<'_>, target: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a symlink leads nowhere"));
        }
        let mut inode = self.new_inode(kind::SYMLINK, attributes)?;
        inode.mode = kind::SYMLINK | 0o777;
        inode.size = target.len() as u64;
        inode.data = u64::from(self.add_text(target)?);
        self.insert(path, inode)
    }

    /// A character device.
    pub fn character_device(&mut self, path: &[u8], attributes: &Attributes<'_>, number: (u32, u32)) -> Result<()> {
        self.node(path, kind::CHARACTER, attributes, device(number)?)
    }

    /// A block device.
    pub fn block_device(&mut self, path: &[u8], attributes: &Attributes<'_>, number: (u32, u32)) -> Result<()> {
        self.node(path, kind::BLOCK, attributes, device(number)?)
    }

    /// A named pipe.
    pub fn fifo(&mut self, path: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        self.node(path, kind::FIFO, attributes, 0)
    }

    fn node(&mut self, path: &[u8], kind: u16, attributes: &Attributes<'_>, number: u64) -> Result<()> {
        let mut inode = self.new_inode(kind, attributes)?;
        inode.data = number;
        self.insert(path, inode)
    }

    /// A second name for what `target` names; a last symlink there is not followed.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let (parent, text) = self.place(path)?;
        let inode = self.lookup(target)?.ok_or_else(|| {
            let target = String::from_utf8_lossy(target).escape_debug().to_string();
            Error::invalid(format!("its link target `{target}` is not in the layer"))
        })?;
        if self.inodes[inode as usize].is_directory() {
            return Err(Error::invalid("its link target is a directory"));
        }
        self.put(parent, text, inode)
    }

    /// Hides `name` of the layers below: overlay's whiteout. A directory of this layer hides what lies below it instead.
    pub fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<()> {
        let directory = self.enter(parent)?;
        match self.find(directory, name) {
            Some(inode) if self.inodes[inode as usize].is_directory() => {
                self.inodes[inode as usize].opaque = true;
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                let attributes =
                    Attributes { mode: 0, uid: 0, gid: 0, mtime: Time::default(), xattrs: Default::default() };
                let inode = self.new_inode(kind::CHARACTER, &attributes)?;
                let inode = self.add_inode(inode)?;
                self.put(directory, name, inode)
            }
        }
    }

    /// Hides everything below the directory `path`.
    pub fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let directory = self.enter(path)?;
        self.inodes[directory as usize].opaque = true;
        Ok(())
    }

    /// The directories that no member describes, by path.
    pub fn implicit(&self) -> Vec<Vec<u8>> {
        let mut inodes: Vec<u32> = self.names.iter().map(|name| name.inode).filter(|inode| *inode != GONE).collect();
        inodes.retain(|inode| self.inodes[*inode as usize].implicit);
        let mut texts = HashMap::new();
        for (index, name) in self.names.iter().enumerate() {
            if name.inode != GONE && self.inodes[name.inode as usize].is_directory() {
                texts.insert(name.inode, index);
            }
        }
        let mut paths: Vec<Vec<u8>> = inodes.into_iter().filter_map(|inode| self.path(inode, &texts)).collect();
        paths.sort();
        paths
    }

    /// The path of a directory; `None` where it was removed with one above it.
    fn path(&self, mut inode: u32, texts: &HashMap<u32, usize>) -> Option<Vec<u8>> {
        let mut parts = Vec::new();
        while inode != ROOT {
            let name = self.names[*texts.get(&inode)?];
            parts.push(self.text(&name));
            inode = name.directory;
        }
        parts.reverse();
        Some(parts.join(&b'/'))
    }

    /// Gives a directory that no member describes the looks that it has below.
    pub fn look(&mut self, path: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        match self.lookup(path)? {
            Some(inode) if self.inodes[inode as usize].implicit => self.describe(inode, attributes),
            _ => Ok(()),
        }
    }

    fn insert(&mut self, path: &[u8], inode: Inode) -> Result<()> {
        let (parent, text) = self.place(path)?;
        let inode = self.add_inode(inode)?;
        self.put(parent, text, inode)
    }

    /// The directory that `path` lies in, made where missing, and its last name.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<(u32, &'p [u8])> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        Ok((self.enter(parent)?, name))
    }

    fn enter(&mut self, path: &[u8]) -> Result<u32> {
        if let Some((last, inode)) = &self.last_parent
            && last == path
        {
            return Ok(*inode);
        }
        let inode = self.resolve_directory(path)?;
        self.last_parent = Some((path.to_vec(), inode));
        Ok(inode)
    }

    fn describe(&mut self, inode: u32, attributes: &Attributes<'_>) -> Result<()> {
        let mut new = self.new_inode(kind::DIRECTORY, attributes)?;
        let old = self.inodes[inode as usize];
        if old.xattrs != 0 {
            // As setting them one by one on a directory that is there.
            let mut merged = self.xattrs[old.xattrs as usize].clone();
            for (name, value) in attributes.xattrs {
                merged.retain(|(known, _)| known != name);
                merged.push((name.clone(), value.clone()));
            }
            new.xattrs = self.add_xattrs(&merged)?;
        }
        (new.data, new.opaque, new.implicit) = (old.data, old.opaque, old.implicit);
        self.inodes[inode as usize] = new;
        Ok(())
    }

    fn new_inode(&mut self, kind: u16, attributes: &Attributes<'_>) -> Result<Inode> {
        Ok(Inode {
            data: 0,
            size: 0,
            seconds: attributes.mtime.seconds,
            nanoseconds: attributes.mtime.nanoseconds,
            uid: attributes.uid,
            gid: attributes.gid,
            xattrs: self.add_xattrs(attributes.xattrs)?,
            mode: kind | u16::try_from(attributes.mode & 0o7777).unwrap_or(0),
            opaque: false,
            sparse: false,
            implicit: false,
        })
    }

    fn add_xattrs(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<u32> {
        if xattrs.is_empty() {
            return Ok(0);
        }
        if let Some(known) = self.known_xattrs.get(xattrs) {
            return Ok(*known);
        }
        if let Some((name, _)) = xattrs.iter().find(|(_, value)| value.len() > usize::from(u16::MAX)) {
            let name = String::from_utf8_lossy(name).escape_debug().to_string();
            return Err(Error::invalid(format!("the attribute `{name}` is too long")));
        }
        let number = narrow(self.xattrs.len())?;
        let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        self.extra_bytes += 2 * bytes + 80;
        self.xattrs.push(xattrs.to_vec());
        self.known_xattrs.insert(xattrs.to_vec(), number);
        Ok(number)
    }

    pub(super) fn add_inode(&mut self, inode: Inode) -> Result<u32> {
        let number = narrow(self.inodes.len())?;
        self.inodes.push(inode);
        Ok(number)
    }

    fn add_text(&mut self, text: &[u8]) -> Result<u32> {
        let offset = narrow(self.texts.len())?;
        self.texts.extend_from_slice(text);
        Ok(offset)
    }

    pub(super) fn text(&self, name: &Name) -> &[u8] {
        let start = name.text as usize;
        &self.texts[start..start + usize::from(name.length)]
    }

    pub(super) fn target(&self, symlink: &Inode) -> &[u8] {
        let start = usize::try_from(symlink.data).unwrap_or(0);
        &self.texts[start..start + usize::try_from(symlink.size).unwrap_or(0)]
    }

    /// The inode of a name.
    pub(super) fn find(&self, directory: u32, text: &[u8]) -> Option<u32> {
        let slot = self.slot(directory, text);
        let name = self.table[slot].checked_sub(1)?;
        Some(self.names[name as usize].inode).filter(|inode| *inode != GONE)
    }

    /// Points a name at an inode, whatever it pointed to.
    pub(super) fn put(&mut self, directory: u32, text: &[u8], inode: u32) -> Result<()> {
        let slot = self.slot(directory, text);
        if let Some(name) = self.table[slot].checked_sub(1) {
            let old = std::mem::replace(&mut self.names[name as usize].inode, inode);
            let leads_on = |inode: &Inode| matches!(inode.kind(), kind::DIRECTORY | kind::SYMLINK);
            if old != inode && old != GONE && leads_on(&self.inodes[old as usize]) {
                // The last parent may have been reached through it.
                self.last_parent = None;
            }
            return Ok(());
        }
        let length = u8::try_from(text.len()).map_err(|_| {
            Error::invalid(format!("a name is longer than {NAME_LENGTH_MAX} bytes: File name too long"))
        })?;
        let name = Name { directory, inode, text: self.add_text(text)?, length };
        self.names.push(name);
        self.table[slot] = narrow(self.names.len())?;
        if self.names.len() * 4 > self.table.len() * 3 {
            self.grow();
        }
        Ok(())
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        for index in 0..self.names.len() {
            let name = self.names[index];
            let slot = self.slot(name.directory, self.text(&name));
            self.table[slot] = u32::try_from(index + 1).unwrap_or(0);
        }
    }

    /// Where a name is in the table, or would be.
    fn slot(&self, directory: u32, text: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = usize::try_from(self.hasher.hash_one((directory, text)) & 0xffff_ffff).unwrap_or(0) & mask;
        while let Some(name) = self.table[slot].checked_sub(1) {
            let name = &self.names[name as usize];
            if name.directory == directory && self.text(name) == text {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }
}

/// A directory as `mkdir` makes it, until a member or the layers below say more.
pub(super) fn implicit_directory(parent: u32) -> Inode {
    Inode {
        data: u64::from(parent),
        size: 0,
        seconds: 0,
        nanoseconds: 0,
        uid: 0,
        gid: 0,
        xattrs: 0,
        mode: kind::DIRECTORY | 0o755,
        opaque: false,
        sparse: false,
        implicit: true,
    }
}

/// The kernel's 32-bit form of a device number.
fn device((major, minor): (u32, u32)) -> Result<u64> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Error::invalid(format!("there is no device {major}:{minor}")));
    }
    Ok(u64::from(minor & 0xff | major << 8 | (minor & !0xff) << 12))
}

fn narrow(count: usize) -> Result<u32> {
    u32::try_from(count)
        .ok()
        .filter(|count| *count < GONE)
        .ok_or_else(|| Error::new(ErrorKind::Exhausted, "layer has too many members"))
}

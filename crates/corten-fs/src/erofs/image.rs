//! A tree as an image: places first, then bytes, front to back.

use std::fs::File;
use std::io::{BufWriter, Write};

use corten_types::{Context, Error, ErrorKind, Result};

use super::format::{self, DIRENT_SIZE, Dirent, INODE_SIZE, INODES_START, Layout, SLOT_SIZE, Superblock};
use super::tree::{GONE, Inode, ROOT, Tree, kind};
use super::{BLOCK_BITS, BLOCK_SIZE, sparse};

const BUFFER_SIZE: usize = 256 * 1024;

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Bytes of the index, copies of sparse files included.
    pub size_bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
}

/// Where everything goes.
struct Plan {
    /// Names by directory and text.
    order: Vec<u32>,
    /// Inodes in the order of the image.
    sequence: Vec<u32>,
    /// By inode: its number (0 is not in the image), its names, and the first block of content outside of it.
    numbers: Vec<u32>,
    links: Vec<u32>,
    starts: Vec<u32>,
    /// First blocks behind the inodes, behind directories and symlinks, and behind the copies of sparse files.
    content_start: u32,
    copies_start: u32,
    end: u32,
}

/// How one inode is stored.
struct Stored {
    layout: Layout,
    size: u64,
    xattrs: Vec<u8>,
    /// Bytes behind the attributes: content or a map.
    tail: u64,
}

impl Tree {
    /// Writes the image into the empty file `index`; the content of files is in the blocks of `tar`. `None` where the
    /// format has no room for it.
    pub fn write(self, index: &File, tar: &File, tar_size: u64, uuid: [u8; 16]) -> Result<Option<Written>> {
        let Some(plan) = self.plan()? else { return Ok(None) };
        let tar_blocks = u32::try_from(tar_size.div_ceil(BLOCK_SIZE)).ok();
        let Some(tar_blocks) = tar_blocks.filter(|blocks| plan.end.checked_add(*blocks).is_some_and(|end| end < GONE))
        else {
            return Ok(None);
        };
        let superblock = Superblock {
            inodes: plan.sequence.len() as u64,
            blocks: plan.end,
            tar_blocks,
            tar_start: plan.end,
            has_chunks: !self.sparse.is_empty(),
            uuid,
        };
        self.write_all(&plan, &superblock, index, tar).context(|| "cannot write the layer's index")?;
        Ok(Some(Written { size_bytes: u64::from(plan.end) << BLOCK_BITS, inodes: superblock.inodes }))
    }

    fn plan(&self) -> Result<Option<Plan>> {
        let mut order: Vec<u32> = Vec::with_capacity(self.names.len());
        order.extend((0..self.names.len()).filter_map(|name| u32::try_from(name).ok()));
        order.retain(|name| self.names[*name as usize].inode != GONE);
        order.sort_unstable_by(|one, two| {
            let (one, two) = (&self.names[*one as usize], &self.names[*two as usize]);
            one.directory.cmp(&two.directory).then_with(|| self.text(one).cmp(self.text(two)))
        });
        let count = self.inodes.len();
        let mut plan = Plan {
            order,
            sequence: vec![ROOT],
            numbers: vec![0; count],
            links: vec![0; count],
            starts: vec![0; count],
            content_start: 0,
            copies_start: 0,
            end: 0,
        };
        // Directories in the order in which they are met, the names of each together: what is listed together lies
        // together. An inode is placed where its first name is met.
        plan.links[ROOT as usize] = 2;
        let mut next = 0;
        while let Some(directory) = plan.sequence.get(next).copied() {
            next += 1;
            if !self.inodes[directory as usize].is_directory() {
                continue;
            }
            for place in plan.range(self, directory) {
                let inode = self.names[plan.order[place] as usize].inode;
                plan.links[inode as usize] += 1;
                if plan.links[inode as usize] == 1 {
                    plan.sequence.push(inode);
                }
                if self.inodes[inode as usize].is_directory() {
                    plan.links[inode as usize] += 1;
                    plan.links[directory as usize] += 1;
                }
            }
        }
        self.lay_out(&mut plan).map(|fits| fits.then_some(plan))
    }

    /// Gives every inode its number, and content outside of inodes its blocks; whether there is room.
    fn lay_out(&self, plan: &mut Plan) -> Result<bool> {
        let mut position = INODES_START;
        // Blocks that follow the inodes, counted from there until the end of the inodes is known.
        let mut content = 0u64;
        let mut copies = 0u64;
        for index in 0..plan.sequence.len() {
            let number = plan.sequence[index];
            let inode = &self.inodes[number as usize];
            let stored = self.stored(plan, number)?;
            position = placed(position, &stored);
            plan.numbers[number as usize] = match u32::try_from(position / SLOT_SIZE) {
                Ok(slot) => slot,
                Err(_) => return Ok(false),
            };
            position += INODE_SIZE + stored.xattrs.len() as u64 + stored.tail;
            if inode.sparse {
                let Layout::Chunks(bits) = stored.layout else { return Ok(false) };
                copies += sparse::copied_blocks(self.holes(inode)?, inode.size, bits);
            } else if matches!(stored.layout, Layout::Plain(_)) && stored.size > 0 && inode.kind() != kind::FILE {
                let Ok(start) = u32::try_from(content) else { return Ok(false) };
                plan.starts[number as usize] = start;
                content += stored.size.div_ceil(BLOCK_SIZE);
            }
        }
        let content_start = position.div_ceil(BLOCK_SIZE);
        let blocks = [content_start, content_start + content, content_start + content + copies];
        let [Ok(content_start), Ok(copies_start), Ok(end)] = blocks.map(u32::try_from) else { return Ok(false) };
        (plan.content_start, plan.copies_start, plan.end) = (content_start, copies_start, end);
        Ok(true)
    }

    /// How an inode is stored; the first block of content is not known before everything is placed.
    fn stored(&self, plan: &Plan, number: u32) -> Result<Stored> {
        let inode = &self.inodes[number as usize];
        let xattrs = format::xattrs(&self.xattrs[inode.xattrs as usize], inode.opaque && number != ROOT)?;
        let size = match inode.kind() {
            kind::DIRECTORY => self.directory_size(plan, number),
            _ => inode.size,
        };
        let (layout, tail) = match inode.kind() {
            kind::FILE if inode.sparse => match sparse::chunk_bits(size) {
                Some(bits) => (Layout::Chunks(bits), size.div_ceil(1 << bits) * 4),
                None => (Layout::Plain(0), 0),
            },
            kind::DIRECTORY | kind::SYMLINK if INODE_SIZE + xattrs.len() as u64 + size <= BLOCK_SIZE => {
                (Layout::Inline, size)
            }
            _ => (Layout::Plain(0), 0),
        };
        Ok(Stored { layout, size, xattrs, tail })
    }

    fn directory_size(&self, plan: &Plan, directory: u32) -> u64 {
        let names = plan.range(self, directory);
        let lengths = names.map(|place| self.text(&self.names[plan.order[place] as usize]));
        // `.` and `..` have their place in the order.
        let mut size = 0u64;
        let mut used = 0u64;
        for length in with_dots(lengths, |text| *text)
            .map(|text| (DIRENT_SIZE + text.map_or_else(|dots| dots.len(), <[u8]>::len)) as u64)
        {
            if used + length > BLOCK_SIZE {
                size += BLOCK_SIZE;
                used = 0;
            }
            used += length;
        }
        size + used
    }

    fn holes(&self, inode: &Inode) -> Result<&super::tree::Sparse> {
        let index = usize::try_from(inode.data).unwrap_or(usize::MAX);
        self.sparse.get(index).ok_or_else(|| Error::new(ErrorKind::Internal, "a sparse file without its map"))
    }

    fn write_all(&self, plan: &Plan, superblock: &Superblock, index: &File, tar: &File) -> Result<()> {
        let mut out = Output { writer: BufWriter::with_capacity(BUFFER_SIZE, index), position: 0 };
        out.write(&superblock.encode())?;
        let mut next_copy = plan.copies_start;
        for number in &plan.sequence {
            let inode = &self.inodes[*number as usize];
            let mut stored = self.stored(plan, *number)?;
            out.pad_to(u64::from(plan.numbers[*number as usize]) * SLOT_SIZE)?;
            if let Layout::Plain(start) = &mut stored.layout {
                *start = self.start(plan, superblock, *number)?;
            }
            let slot = plan.numbers[*number as usize];
            let links = plan.links[*number as usize];
            out.write(&format::inode(inode, slot, stored.size, links, stored.layout, &stored.xattrs))?;
            match stored.layout {
                Layout::Plain(_) => {}
                Layout::Inline => out.write(&self.content(plan, *number))?,
                Layout::Chunks(bits) => {
                    let holes = self.holes(inode)?;
                    let map = sparse::map(holes, inode.size, bits, superblock.tar_start, &mut next_copy, (index, tar))?;
                    out.write(&map)?;
                }
            }
        }
        out.pad_to(u64::from(plan.content_start) << BLOCK_BITS)?;
        for number in &plan.sequence {
            let inode = &self.inodes[*number as usize];
            if !matches!(inode.kind(), kind::DIRECTORY | kind::SYMLINK) {
                continue;
            }
            if matches!(self.stored(plan, *number)?.layout, Layout::Plain(_)) {
                out.pad_to(u64::from(plan.content_start + plan.starts[*number as usize]) << BLOCK_BITS)?;
                out.write(&self.content(plan, *number))?;
            }
        }
        out.pad_to(u64::from(plan.copies_start) << BLOCK_BITS)?;
        out.writer.flush()?;
        index.set_len(u64::from(plan.end) << BLOCK_BITS)?;
        Ok(())
    }

    /// The first block of an inode's content.
    fn start(&self, plan: &Plan, superblock: &Superblock, number: u32) -> Result<u32> {
        let inode = &self.inodes[number as usize];
        if inode.kind() != kind::FILE {
            return Ok(plan.content_start + plan.starts[number as usize]);
        }
        if inode.size == 0 {
            return Ok(0);
        }
        let block =
            u32::try_from(inode.data >> BLOCK_BITS).ok().and_then(|block| block.checked_add(superblock.tar_start));
        block.filter(|_| inode.data.is_multiple_of(BLOCK_SIZE)).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("content at {} of a tar is at no block", inode.data))
        })
    }

    /// What a directory or a symlink contains.
    fn content(&self, plan: &Plan, number: u32) -> Vec<u8> {
        let inode = &self.inodes[number as usize];
        if !inode.is_directory() {
            return self.target(inode).to_vec();
        }
        let names = plan.range(self, number).map(|place| &self.names[plan.order[place] as usize]);
        let entries: Vec<Dirent<'_>> = with_dots(names, |name| self.text(name))
            .map(|entry| match entry {
                Ok(name) => {
                    let kind = self.inodes[name.inode as usize].kind();
                    Dirent { name: self.text(name), number: u64::from(plan.numbers[name.inode as usize]), kind }
                }
                Err(dots) => {
                    let target = if dots.len() == 1 { number } else { inode.parent() };
                    Dirent { name: dots, number: u64::from(plan.numbers[target as usize]), kind: kind::DIRECTORY }
                }
            })
            .collect();
        format::directory(&entries)
    }
}

impl Plan {
    /// Where the names of a directory are in `order`.
    fn range(&self, tree: &Tree, directory: u32) -> std::ops::Range<usize> {
        let start = self.order.partition_point(|name| tree.names[*name as usize].directory < directory);
        let length = self.order[start..].partition_point(|name| tree.names[*name as usize].directory == directory);
        start..start + length
    }
}

/// Sorted names with `.` and `..` (as errors) where they belong.
fn with_dots<'t, N>(
    names: impl Iterator<Item = N>,
    text: impl Fn(&N) -> &'t [u8],
) -> impl Iterator<Item = Result<N, &'static [u8]>> {
    let mut names = names.peekable();
    let mut dots: &'static [&'static [u8]] = &[b".", b".."];
    std::iter::from_fn(move || match (dots.split_first(), names.peek()) {
        (Some((first, rest)), next) if next.is_none_or(|name| text(name) > *first) => {
            dots = rest;
            Some(Err(*first))
        }
        _ => names.next().map(Ok),
    })
}

/// The first place from `position` on where an inode lies within a block, and what follows it inline too.
fn placed(position: u64, stored: &Stored) -> u64 {
    let position = position.next_multiple_of(SLOT_SIZE);
    let whole = match stored.layout {
        Layout::Inline => INODE_SIZE + stored.xattrs.len() as u64 + stored.tail,
        _ => INODE_SIZE,
    };
    if position % BLOCK_SIZE + whole > BLOCK_SIZE { position.next_multiple_of(BLOCK_SIZE) } else { position }
}

struct Output<'f> {
    writer: BufWriter<&'f File>,
    position: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, position: u64) -> Result<()> {
        let mut missing = position
            .checked_sub(self.position)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an image overlaps itself"))?;
        while missing > 0 {
            let count = missing.min(BLOCK_SIZE);
            self.write(&[0; 1 << BLOCK_BITS][..usize::try_from(count).unwrap_or(0)])?;
            missing -= count;
        }
        Ok(())
    }
}

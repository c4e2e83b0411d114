//! Files with holes: a map of chunks, each a hole, a place in the tar, or a copy in the image where its bytes do not lie
//! in the tar as one aligned piece.

use std::fs::File;
use std::os::unix::fs::FileExt;

use corten_types::{Context, Error, ErrorKind, Result};

use super::format::HOLE;
use super::tree::Sparse;
use super::{BLOCK_BITS, BLOCK_SIZE};
use crate::tar::Segment;

/// Chunks are at least a page.
const CHUNK_BITS_MIN: u32 = 12;
/// The format has five bits for what a chunk's size exceeds a block's by.
const CHUNK_BITS_MAX: u32 = BLOCK_BITS + 31;
/// Most chunks of one file.
const CHUNKS_MAX: u64 = 64 * 1024;
const COPY_SIZE: usize = 128 * 1024;

/// The size of a file's chunks; `None` where no map is long enough.
pub(super) fn chunk_bits(size: u64) -> Option<u32> {
    (CHUNK_BITS_MIN..=CHUNK_BITS_MAX).find(|bits| size.div_ceil(1 << bits) <= CHUNKS_MAX)
}

/// Where the bytes of one chunk lie.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    Hole,
    /// Offset in the tar.
    InTar(u64),
    /// Pieces: place in the chunk, offset in the tar, length.
    Copied(Vec<(u64, u64, u64)>),
}

/// A walk over a file's chunks.
struct Chunks<'s> {
    segments: &'s [Segment],
    /// Offset in the tar of the first of `segments`.
    offset: u64,
    bits: u32,
    size: u64,
    next: u64,
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let start = self.next << self.bits;
        if start >= self.size {
            return None;
        }
        self.next += 1;
        let end = (start + (1 << self.bits)).min(self.size);
        let mut pieces: Vec<(u64, u64, u64)> = Vec::new();
        while let Some(segment) = self.segments.first() {
            let segment_end = segment.offset + segment.length;
            let (from, to) = (segment.offset.max(start), segment_end.min(end));
            if from < to {
                let at = self.offset + (from - segment.offset);
                match pieces.last_mut() {
                    Some((place, tar, length)) if *place + *length == from - start && *tar + *length == at => {
                        *length += to - from;
                    }
                    _ => pieces.push((from - start, at, to - from)),
                }
            }
            if segment_end > end {
                break;
            }
            self.offset += segment.length;
            self.segments = &self.segments[1..];
        }
        Some(match pieces.as_slice() {
            [] => Chunk::Hole,
            [(0, tar, length)] if *length == end - start && tar.is_multiple_of(BLOCK_SIZE) => Chunk::InTar(*tar),
            _ => Chunk::Copied(pieces),
        })
    }
}

fn chunks(sparse: &Sparse, size: u64, bits: u32) -> Chunks<'_> {
    Chunks { segments: &sparse.segments, offset: sparse.offset, bits, size, next: 0 }
}

/// Blocks that the copies of a file take in the image.
pub(super) fn copied_blocks(sparse: &Sparse, size: u64, bits: u32) -> u64 {
    let copied = chunks(sparse, size, bits).filter(|chunk| matches!(chunk, Chunk::Copied(_))).count();
    (copied as u64) << (bits - BLOCK_BITS)
}

/// The map of a file, its copies written to `image` from the block `next` on, which moves behind them.
pub(super) fn map(
    sparse: &Sparse,
    size: u64,
    bits: u32,
    tar_start: u32,
    next: &mut u32,
    (image, tar): (&File, &File),
) -> Result<Vec<u8>> {
    let mut map = Vec::new();
    let mut buffer = vec![0; COPY_SIZE];
    for chunk in chunks(sparse, size, bits) {
        let address = match chunk {
            Chunk::Hole => HOLE,
            Chunk::InTar(offset) => {
                let block = u32::try_from(offset >> BLOCK_BITS).ok().and_then(|block| block.checked_add(tar_start));
                block.ok_or_else(|| Error::new(ErrorKind::Internal, "a chunk lies behind the tar"))?
            }
            Chunk::Copied(pieces) => {
                for (place, offset, length) in pieces {
                    copy(tar, offset, image, (u64::from(*next) << BLOCK_BITS) + place, length, &mut buffer)?;
                }
                let address = *next;
                *next += u32::try_from(1u64 << (bits - BLOCK_BITS)).unwrap_or(0);
                address
            }
        };
        map.extend_from_slice(&address.to_le_bytes());
    }
    Ok(map)
}

fn copy(from: &File, mut at: u64, to: &File, mut place: u64, mut left: u64, buffer: &mut [u8]) -> Result<()> {
    while left > 0 {
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        from.read_exact_at(&mut buffer[..count], at).context(|| "cannot read the layer's tar")?;
        to.write_all_at(&buffer[..count], place).context(|| "cannot write the layer's image")?;
        (at, place, left) = (at + count as u64, place + count as u64, left - count as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_holes_pieces_of_the_tar_or_copies() {
        let segment = |offset, length| Segment { offset, length };
        let sparse = Sparse {
            offset: 1024,
            segments: [segment(0, 4096), segment(8192, 100), segment(12288, 5000), segment(20480, 0)].into(),
        };
        let found: Vec<Chunk> = chunks(&sparse, 20480, 12).collect();
        assert_eq!(
            found,
            [
                Chunk::InTar(1024),
                Chunk::Hole,
                Chunk::Copied(vec![(0, 5120, 100)]),
                Chunk::Copied(vec![(0, 5220, 4096)]),
                Chunk::Copied(vec![(0, 9316, 904)]),
            ]
        );
        assert_eq!(copied_blocks(&sparse, 20480, 12), 24);
        assert_eq!((chunk_bits(1), chunk_bits(1 << 30), chunk_bits(u64::MAX)), (Some(12), Some(14), None));
    }
}

//! Files with holes: GNU's old headers, and its three formats on top of PAX.

use corten_types::{Error, ErrorKind, Result};

use super::header::unsigned;
use super::{BLOCK_SIZE, Segment};

/// Appends the `(offset, length)` fields of an old GNU sparse header or one of its continuation blocks.
pub(super) fn old_segments(fields: &[u8], segments: &mut Vec<Segment>, segments_max: usize) -> Result<()> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        push(
            segments,
            Segment { offset: unsigned(&pair[..12], "offset")?, length: unsigned(&pair[12..], "numbytes")? },
            segments_max,
        )?;
    }
    Ok(())
}

/// A continuation block: 21 segments, and whether another follows.
pub(super) fn continuation(block: &[u8; BLOCK_SIZE]) -> (&[u8], bool) {
    (&block[..504], block[504] != 0)
}

pub(super) fn push(segments: &mut Vec<Segment>, segment: Segment, segments_max: usize) -> Result<()> {
    if segments.len() >= segments_max {
        return Err(Error::new(ErrorKind::Exhausted, format!("sparse file has more than {segments_max} segments")));
    }
    segments.push(segment);
    Ok(())
}

/// Segments must ascend, not overlap, end within `size`, and hold exactly the stored bytes.
pub(super) fn check(segments: &[Segment], size: u64, stored_size: u64) -> Result<()> {
    let mut end = 0u64;
    let mut stored = 0u64;
    for segment in segments {
        let next = segment.offset.checked_add(segment.length);
        match next {
            Some(next) if segment.offset >= end && next <= size => end = next,
            _ => return Err(Error::invalid("segments of a sparse file overlap or leave it")),
        }
        stored += segment.length;
    }
    if stored != stored_size {
        return Err(Error::invalid(format!(
            "segments of a sparse file hold {stored} bytes where the archive has {stored_size}"
        )));
    }
    Ok(())
}

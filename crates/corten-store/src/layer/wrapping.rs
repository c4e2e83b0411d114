//! Archives that come compressed as no layer of an image is: xz and bzip2. They are read, and kept in another form.

use std::io::{self, BufRead, BufReader, Read};

use corten_types::Result;

use super::decode::{BUFFER_SIZE, read_start};

/// Memory that an xz stream may ask for, KiB: what `xz -9` needs.
const XZ_MEMORY_KIB_MAX: u32 = 96 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    Xz,
    Bzip2,
}

fn sniff(start: &[u8]) -> Option<Wrapping> {
    match start {
        [0xfd, b'7', b'z', b'X', ..] => Some(Wrapping::Xz),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Wrapping::Bzip2),
        _ => None,
    }
}

/// Whether what starts so is such an archive.
pub(crate) fn is_wrapped(start: &[u8]) -> bool {
    sniff(start).is_some()
}

/// The input without xz or bzip2 around it, and whether one was there.
pub(crate) fn unwrap<'a>(mut input: impl BufRead + Send + 'a) -> Result<(Box<dyn Read + Send + 'a>, bool)> {
    let mut start = [0; 4];
    let length = read_start(&mut input, &mut start)?;
    let wrapping = sniff(&start[..length]);
    let input = BufReader::with_capacity(BUFFER_SIZE, io::Cursor::new(start).take(length as u64).chain(input));
    let reader: Box<dyn Read + Send + 'a> = match wrapping {
        None => Box::new(input),
        Some(Wrapping::Xz) => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB_MAX)),
        Some(Wrapping::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    };
    Ok((reader, wrapping.is_some()))
}

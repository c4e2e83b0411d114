//! A layer's blob as a plain tar: decompressed, counted, and hashed a second time for its diff id.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

use corten_types::digest::Algorithm;
use corten_types::image_spec::Compression;
use corten_types::{Digest, Error, ErrorKind, Result};

use super::wrapping;
use crate::blob::Hasher;
use crate::disk::storing;

/// Bytes that are hashed and parsed at a time.
pub(super) const BUFFER_SIZE: usize = 256 * 1024;
/// Bytes that are decompressed ahead at a time, and how many such pieces there are.
const AHEAD_SIZE: usize = 512 * 1024;
const AHEAD_COUNT: usize = 3;

/// Members of which a compressed stream must have some bytes each, beyond a number that is soon made.
const MEMBERS_FREE: u64 = 16_384;
const MEMBER_SIZE_BYTES_MIN: u64 = 4;

/// How far a layer may unfold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the plain tar.
    pub size_bytes_max: u64,
    /// Plain bytes for one compressed byte, beyond `ratio_free_bytes`.
    pub ratio_max: u64,
    /// Plain bytes at which the ratio starts to count: a file of zeros is no attack.
    pub ratio_free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size_bytes_max: 1 << 40, ratio_max: 200, ratio_free_bytes: 1 << 30 }
    }
}

/// The compression that the first bytes show.
pub fn sniff(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        // A zstd frame, or one of the skippable frames that zstd:chunked starts with.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Reads the plain bytes of something that may be compressed.
pub fn plain<'a>(mut input: impl BufRead + Send + 'a) -> Result<(Box<dyn Read + Send + 'a>, Compression)> {
    let mut start = [0; 4];
    let length = read_start(&mut input, &mut start)?;
    let compression = sniff(&start[..length]);
    let input = BufReader::with_capacity(BUFFER_SIZE, io::Cursor::new(start).take(length as u64).chain(input));
    let reader: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            // 128 MiB, what the zstd program accepts by itself; a frame may ask for more memory than there is.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
    };
    Ok((reader, compression))
}

pub(crate) fn read_start(input: &mut impl Read, start: &mut [u8; 4]) -> Result<usize> {
    let mut length = 0;
    while length < start.len() {
        match input.read(&mut start[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(Error::from)),
        }
    }
    Ok(length)
}

/// The plain tar of a layer, hashed as it is read, and written where it is kept.
pub struct Decoder<'a> {
    source: Source<'a>,
    compression: Compression,
    /// Whether more bytes may come out than went in.
    unfolds: bool,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    hasher: Option<Hasher>,
    copy: Option<File>,
    read: u64,
    compressed: Arc<AtomicU64>,
    limits: Limits,
}

/// Where plain bytes come from.
enum Source<'a> {
    /// Decompressed when they are asked for.
    Inline(Box<dyn Read + Send + 'a>),
    /// Decompressed ahead, by a thread.
    Ahead(Ahead),
}

impl<'a> Decoder<'a> {
    /// Starts to decode `input`. `known` is the digest of a plain input, which needs no second hash then.
    pub fn new(input: impl Read + Send + 'a, known_plain: bool, limits: Limits) -> Result<Self> {
        let compressed = Arc::new(AtomicU64::new(0));
        let counted = Counted { input, count: Arc::clone(&compressed) };
        let (reader, compression) = plain(BufReader::with_capacity(BUFFER_SIZE, counted))?;
        let unfolds = compression != Compression::None;
        let hashed = unfolds || !known_plain;
        Ok(Self {
            source: Source::Inline(reader),
            compression,
            unfolds,
            buffer: vec![0; BUFFER_SIZE],
            start: 0,
            end: 0,
            hasher: hashed.then(|| Hasher::new(Algorithm::Sha256)),
            copy: None,
            read: 0,
            compressed,
            limits,
        })
    }

    /// Starts to decode a whole archive, which may be in xz or bzip2 too; it is not hashed.
    pub(crate) fn of_archive(input: impl Read + Send + 'a, limits: Limits) -> Result<Self> {
        let compressed = Arc::new(AtomicU64::new(0));
        let counted = Counted { input, count: Arc::clone(&compressed) };
        let (reader, is_wrapped) = wrapping::unwrap(BufReader::with_capacity(BUFFER_SIZE, counted))?;
        let (reader, compression) = plain(BufReader::with_capacity(BUFFER_SIZE, reader))?;
        Ok(Self {
            source: Source::Inline(reader),
            compression,
            unfolds: is_wrapped || compression != Compression::None,
            buffer: vec![0; BUFFER_SIZE],
            start: 0,
            end: 0,
            hasher: None,
            copy: None,
            read: 0,
            compressed,
            limits,
        })
    }

    /// All plain bytes are written to the empty file `copy` too.
    #[must_use]
    pub fn with_copy(self, copy: File) -> Self {
        Self { copy: Some(copy), ..self }
    }

    /// How the input was compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Plain bytes that were taken.
    pub fn position(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// Refuses a stream that makes more of names than any tree does: thousands of members of no bytes. Whoever makes
    /// something of members asks now and then.
    pub(crate) fn check_members(&self, members: u64) -> Result<()> {
        let compressed = self.compressed.load(Ordering::Relaxed);
        if self.unfolds && members > MEMBERS_FREE && compressed / members < MEMBER_SIZE_BYTES_MIN {
            let message = format!("layer unfolds to more than {members} members from {compressed} bytes");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        Ok(())
    }

    /// The digest of everything read, where it was hashed. Call it at the end of the stream.
    pub fn finish(self) -> Result<Option<Digest>> {
        self.hasher.map(Hasher::finish).transpose()
    }

    /// The next plain bytes into the buffer; how many.
    fn read_more(&mut self) -> io::Result<usize> {
        let reader = match &mut self.source {
            Source::Ahead(ahead) => return ahead.next(&mut self.buffer),
            Source::Inline(reader) => reader,
        };
        loop {
            match reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn check_limits(&self) -> Result<()> {
        let limits = self.limits;
        if self.read > limits.size_bytes_max {
            let message = format!("layer unfolds to more than {} bytes", limits.size_bytes_max);
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        let compressed = self.compressed.load(Ordering::Relaxed);
        let counts = self.unfolds && self.read > limits.ratio_free_bytes;
        if counts && self.read / compressed.max(1) > limits.ratio_max {
            let message =
                format!("layer unfolds more than {} times: {} bytes from {compressed}", limits.ratio_max, self.read);
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        Ok(())
    }
}

impl Decoder<'static> {
    /// Decompression runs in a thread of its own from here on, beside hashing and writing. The thread ends with the
    /// decoder, or at the end of the input.
    pub fn ahead(mut self) -> Result<Self> {
        if self.compression != Compression::None
            && let Source::Inline(reader) = self.source
        {
            self.source = Source::Ahead(Ahead::start(reader)?);
        }
        Ok(self)
    }
}

/// A thread that reads ahead, and the buffers that go round between it and its reader.
struct Ahead {
    full: Receiver<io::Result<(Vec<u8>, usize)>>,
    empty: Sender<Vec<u8>>,
}

impl Ahead {
    fn start(mut reader: Box<dyn Read + Send>) -> Result<Self> {
        let (empty, empties) = channel::<Vec<u8>>();
        let (fulls, full) = sync_channel(AHEAD_COUNT);
        for _ in 0..AHEAD_COUNT {
            empty.send(vec![0; AHEAD_SIZE]).unwrap_or_default();
        }
        let work = move || {
            for mut buffer in empties {
                buffer.resize(AHEAD_SIZE, 0);
                let result = fill(&mut reader, &mut buffer);
                let ended = !matches!(result, Ok(count) if count > 0);
                if fulls.send(result.map(|count| (buffer, count))).is_err() || ended {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn(work)
            .map_err(|error| Error::from(error).context("cannot start a thread"))?;
        Ok(Self { full, empty })
    }

    /// Puts the next bytes in place of `buffer`; how many, none at the end.
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let Ok(next) = self.full.recv() else { return Ok(0) };
        let (next, count) = next?;
        let used = std::mem::replace(buffer, next);
        // Nobody waits for it behind the end.
        self.empty.send(used).unwrap_or_default();
        Ok(count)
    }
}

/// Large pieces, whatever the decompressor gives at a time; less than a whole one only at the end.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Decoder<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            let count = self.read_more()?;
            (self.start, self.end) = (0, count);
            self.read += count as u64;
            self.check_limits().map_err(io::Error::other)?;
            let bytes = &self.buffer[..count];
            if let Some(copy) = &mut self.copy {
                let written = copy.write_all(bytes);
                written.map_err(|error| io::Error::other(storing(error.into(), "a layer")))?;
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

//! The reader: one member after the other from a stream that is never rewound.

use std::io::{self, BufRead, Read};

use corten_types::{Error, ErrorKind, Result};

use super::header::Header;
use super::pax::{self, Extensions};
use super::{BLOCK_SIZE, Entry, Kind, Limits, Segment, Time, sparse};

/// A tar archive that is being read.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    limits: Limits,
    entries: u64,
    /// Content of the current member that was not read yet, and its padding.
    remaining: u64,
    padding: u64,
    ended: bool,
}

impl<R: BufRead> Archive<R> {
    /// Starts to read.
    pub fn new(reader: R, limits: Limits) -> Self {
        Self { reader, limits, entries: 0, remaining: 0, padding: 0, ended: false }
    }

    /// The next member; what was not read of the current one is skipped. `None` at the end, with the stream read to its
    /// end so that whoever counts or hashes it has seen all of it.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        let entry = self.read_entry()?;
        if entry.is_none() {
            self.ended = true;
            drain(&mut self.reader, u64::MAX)?;
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            let limit = self.limits.entries_max;
            return Err(Error::new(ErrorKind::Exhausted, format!("archive has more than {limit} members")));
        }
        Ok(entry)
    }

    /// The next bytes of the current member's content, as the archive stores them; empty at its end. Take them with
    /// [`Archive::consume`].
    pub fn fill(&mut self) -> Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let remaining = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        // A loop over EINTR would hold the borrow; `fill_buf` of our readers retries by itself.
        let buffer = self.reader.fill_buf().map_err(reading)?;
        if buffer.is_empty() {
            return Err(truncated());
        }
        Ok(&buffer[..buffer.len().min(remaining)])
    }

    /// Takes `count` bytes of what [`Archive::fill`] showed.
    pub fn consume(&mut self, count: usize) {
        self.remaining = self.remaining.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        self.reader.consume(count);
    }

    /// The current member's content as a reader.
    pub fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// The stream.
    pub fn get_ref(&self) -> &R {
        &self.reader
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> R {
        self.reader
    }

    fn skip_content(&mut self) -> Result<()> {
        let rest = self.remaining + self.padding;
        (self.remaining, self.padding) = (0, 0);
        if drain(&mut self.reader, rest)? == rest { Ok(()) } else { Err(truncated()) }
    }

    /// A whole block; `None` where the stream ends at its first byte.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_SIZE]>> {
        let mut block = [0; BLOCK_SIZE];
        let mut length = 0;
        while length < BLOCK_SIZE {
            match self.reader.read(&mut block[length..]) {
                Ok(0) if length == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(reading(error)),
            }
        }
        Ok(Some(block))
    }

    fn read_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut extension_bytes = 0u64;
        let mut long_path = None;
        let mut long_link = None;
        loop {
            let Some(block) = self.block()? else {
                return if extension_bytes == 0 { Ok(None) } else { Err(truncated()) };
            };
            let Some(header) = Header::parse(&block)? else {
                if extension_bytes != 0 {
                    return Err(Error::invalid("archive ends behind an extended header"));
                }
                return self.end();
            };
            match header.kind() {
                kind @ (b'x' | b'X' | b'g' | b'L' | b'K') => {
                    let content = self.extension(&header, &mut extension_bytes)?;
                    match kind {
                        b'L' => long_path = Some(self.long_name(content)?),
                        b'K' => long_link = Some(self.long_name(content)?),
                        b'g' => pax::check_global(&content)?,
                        _ => extensions.add(&content)?,
                    }
                }
                // A volume's label is no member.
                b'V' => {
                    let size = header.size()?;
                    let size = size.checked_next_multiple_of(BLOCK_SIZE as u64).ok_or_else(truncated)?;
                    if drain(&mut self.reader, size)? != size {
                        return Err(truncated());
                    }
                }
                _ => return self.member(&header, extensions, long_path, long_link).map(Some),
            }
        }
    }

    /// Behind the first block of zeros: another one or the end of the stream, nothing else.
    fn end(&mut self) -> Result<Option<Entry>> {
        match self.block()? {
            Some(block) if block.iter().any(|byte| *byte != 0) => {
                Err(Error::invalid("archive goes on behind a lone block of zeros, which readers take differently"))
            }
            _ => Ok(None),
        }
    }

    fn extension(&mut self, header: &Header<'_>, extension_bytes: &mut u64) -> Result<Vec<u8>> {
        let size = header.size()?;
        let limit = self.limits.extension_size_bytes_max;
        *extension_bytes = extension_bytes.saturating_add(size).saturating_add(BLOCK_SIZE as u64);
        if *extension_bytes > limit + BLOCK_SIZE as u64 {
            let message = format!("extended headers of one member are larger than {limit} bytes");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        let mut content = Vec::new();
        (&mut self.reader).take(size).read_to_end(&mut content).map_err(reading)?;
        let padding = padded(size) - size;
        if content.len() as u64 != size || drain(&mut self.reader, padding)? != padding {
            return Err(truncated());
        }
        Ok(content)
    }

    fn long_name(&self, mut content: Vec<u8>) -> Result<Vec<u8>> {
        let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
        content.truncate(end);
        self.check_length(&content)?;
        Ok(content)
    }

    fn check_length(&self, path: &[u8]) -> Result<()> {
        let limit = self.limits.path_length_max;
        if path.len() > limit {
            return Err(Error::new(ErrorKind::Exhausted, format!("a path is longer than {limit} bytes")));
        }
        Ok(())
    }

    fn member(
        &mut self,
        header: &Header<'_>,
        mut extensions: Extensions,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = extensions.sparse.name.take().or(extensions.path.take()).or(long_path);
        let path = path.unwrap_or_else(|| header.path());
        let link = extensions.link.take().or(long_link).unwrap_or_else(|| header.link().to_vec());
        let named = || format!("member `{}`", String::from_utf8_lossy(&path).escape_debug());
        self.check_length(&path).and_then(|()| self.check_length(&link)).map_err(|error| error.context(named()))?;

        let mut stored_size = match extensions.size {
            Some(size) => size,
            None => header.size().map_err(|error| error.context(named()))?,
        };
        let device = || header.device().map_err(|error| error.context(named()));
        let kind = match header.kind() {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let kind = char::from(other).escape_default();
                let message = format!("{} is of type `{kind}`, which is not supported", named());
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        match kind {
            Kind::File => {}
            // Old writers repeat the file's size here; no reader expects content.
            Kind::HardLink(_) => stored_size = 0,
            _ if stored_size != 0 && header.kind() != b'D' => {
                let message = format!("{} has content though it is no file, which readers take differently", named());
                return Err(Error::invalid(message));
            }
            _ => {}
        }
        self.remaining = stored_size;
        self.padding = padded(stored_size).checked_sub(stored_size).ok_or_else(|| Error::invalid("size overflows"))?;

        let mut size = stored_size;
        let kind = if kind == Kind::File {
            self.sparse(header, &extensions, &mut size).map_err(|error| error.context(named()))?
        } else {
            kind
        };
        let entry = Entry {
            kind,
            mode: u32::try_from(header.mode()? & 0o7777).unwrap_or(0),
            uid: extensions.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extensions.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: match extensions.mtime {
                Some(time) => time,
                None => Time { seconds: header.mtime()?, nanoseconds: 0 },
            },
            size,
            stored_size: self.remaining,
            xattrs: extensions.xattrs,
            path,
        };
        Ok(entry)
    }

    /// Whether a file has holes, by any of the four formats; moves past a map that lies in the content.
    fn sparse(&mut self, header: &Header<'_>, extensions: &Extensions, size: &mut u64) -> Result<Kind> {
        let segments = if header.kind() == b'S' {
            let (fields, mut more, real_size) = header.old_sparse()?;
            *size = real_size;
            let mut segments = Vec::new();
            sparse::old_segments(fields, &mut segments, self.limits.segments_max)?;
            while more {
                let block = self.block()?.ok_or_else(truncated)?;
                let (fields, next) = sparse::continuation(&block);
                let before = segments.len();
                sparse::old_segments(fields, &mut segments, self.limits.segments_max)?;
                if segments.len() == before && next {
                    return Err(Error::invalid("a sparse file's header block is empty"));
                }
                more = next;
            }
            segments
        } else {
            let described = &extensions.sparse;
            let segments = match (described.major, described.minor) {
                (Some(1), Some(0)) => self.map_in_content()?,
                (None | Some(0), None | Some(0 | 1)) => match &described.map {
                    Some(map) if map.len() <= self.limits.segments_max => map.clone(),
                    Some(_) => return Err(Error::new(ErrorKind::Exhausted, "sparse file has too many segments")),
                    None if described.real_size.is_some() => Vec::new(),
                    None => return Ok(Kind::File),
                },
                _ => return Err(Error::new(ErrorKind::Unsupported, "this format of sparse files is not supported")),
            };
            *size = described.real_size.ok_or_else(|| Error::invalid("a sparse file without its real size"))?;
            segments
        };
        sparse::check(&segments, *size, self.remaining)?;
        Ok(Kind::Sparse(segments))
    }

    /// Format 1.0: the map is decimal numbers, one a line, at the start of the content and padded to whole blocks.
    fn map_in_content(&mut self) -> Result<Vec<Segment>> {
        let mut numbers = MapNumbers::default();
        let mut expected = None;
        let mut segments = Vec::new();
        let mut offset = None;
        loop {
            if self.remaining < BLOCK_SIZE as u64 {
                return Err(Error::invalid("a sparse file's map leaves its content"));
            }
            let block = self.block()?.ok_or_else(truncated)?;
            self.remaining -= BLOCK_SIZE as u64;
            for byte in block {
                let Some(number) = numbers.push(byte)? else { continue };
                match (expected, offset.take()) {
                    (None, _) => expected = Some(number),
                    (Some(_), None) => offset = Some(number),
                    (Some(_), Some(offset)) => {
                        let segment = Segment { offset, length: number };
                        sparse::push(&mut segments, segment, self.limits.segments_max)?;
                    }
                }
                if expected == Some(segments.len() as u64) && offset.is_none() {
                    return Ok(segments);
                }
            }
        }
    }
}

/// Decimal numbers that end in newlines, fed byte by byte.
#[derive(Default)]
struct MapNumbers {
    digits: Vec<u8>,
}

impl MapNumbers {
    fn push(&mut self, byte: u8) -> Result<Option<u64>> {
        if byte == b'\n' {
            let number = pax::decimal(&self.digits)?.ok_or_else(|| Error::invalid("an empty number in a map"))?;
            self.digits.clear();
            return Ok(Some(number));
        }
        if !byte.is_ascii_digit() || self.digits.len() >= 20 {
            return Err(Error::invalid("a sparse file's map is malformed"));
        }
        self.digits.push(byte);
        Ok(None)
    }
}

/// The current member's content; see [`Archive::content`].
#[derive(Debug)]
pub struct Content<'a, R>(&'a mut Archive<R>);

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.0.fill().map_err(io::Error::other)?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.0.consume(count);
        Ok(count)
    }
}

fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK_SIZE as u64).unwrap_or(0)
}

/// Reads and forgets up to `count` bytes; how many there were.
fn drain(reader: &mut impl BufRead, count: u64) -> Result<u64> {
    let mut left = count;
    while left > 0 {
        let available = match reader.fill_buf() {
            Ok([]) => break,
            Ok(buffer) => buffer.len(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(reading(error)),
        };
        let taken = available.min(usize::try_from(left).unwrap_or(usize::MAX));
        reader.consume(taken);
        left -= taken as u64;
    }
    Ok(count - left)
}

fn truncated() -> Error {
    Error::invalid("archive ends in the middle of a member").hint("the file or the stream was cut short")
}

/// An error of the stream: one of ours that passed through `io::Error` comes out whole.
fn reading(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::from(error).context("cannot read the archive"),
    }
}

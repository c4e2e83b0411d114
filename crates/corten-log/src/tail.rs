//! Where in a file the last so many records begin: read from its end, so that a long log costs what is asked of it.

use crate::{Form, local};

/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 64 * 1024;

/// A file that can be read at any place.
pub trait Backwards {
    /// Reads exactly `buffer.len()` bytes at `offset`.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Where the first of the wanted records begins.
    pub offset: u64,
    /// How many there are from there on.
    pub count: usize,
}

impl Tail {
    /// Looks for the last `wanted` records in the first `size_bytes` of a file; `None` where it cannot be read backwards.
    pub fn find(form: Form, file: &mut dyn Backwards, size_bytes: u64, wanted: usize) -> std::io::Result<Option<Self>> {
        match form {
            Form::Json | Form::Kubernetes => lines(file, size_bytes, wanted).map(Some),
            Form::Local => numbered(file, size_bytes, wanted),
        }
    }
}

/// The first `size_bytes` of a file without a record that was cut off at their end.
pub fn whole_size_bytes(form: Form, file: &mut dyn Backwards, size_bytes: u64) -> std::io::Result<u64> {
    if form != Form::Local {
        // Where the records begin that follow the last end of a line.
        return lines(file, size_bytes, 0).map(|tail| tail.offset);
    }
    if numbered(file, size_bytes, 1)?.is_some() {
        return Ok(size_bytes);
    }
    let (mut offset, mut length) = (0, [0; 4]);
    while offset + length.len() as u64 <= size_bytes {
        file.read_at(&mut length, offset)?;
        let end = local::whole(&length).map_or(u64::MAX, |whole| offset.saturating_add(whole as u64));
        if end > size_bytes {
            break;
        }
        offset = end;
    }
    Ok(offset)
}

/// Each record is a line; what follows the last line feed is none yet.
fn lines(file: &mut dyn Backwards, size_bytes: u64, wanted: usize) -> std::io::Result<Tail> {
    let mut buffer = vec![0; READ_SIZE_BYTES];
    let (mut end, mut ends_seen) = (size_bytes, 0);
    while end > 0 {
        let length = READ_SIZE_BYTES.min(usize::try_from(end).unwrap_or(READ_SIZE_BYTES));
        end -= length as u64;
        file.read_at(&mut buffer[..length], end)?;
        for place in memchr::memrchr_iter(b'\n', &buffer[..length]) {
            // The end before the wanted ones is where they begin.
            if ends_seen == wanted {
                return Ok(Tail { offset: end + place as u64 + 1, count: wanted });
            }
            ends_seen += 1;
        }
    }
    Ok(Tail { offset: 0, count: ends_seen })
}

/// Each record has its length at its end too.
fn numbered(file: &mut dyn Backwards, size_bytes: u64, wanted: usize) -> std::io::Result<Option<Tail>> {
    let (mut offset, mut count) = (size_bytes, 0);
    let mut window = Window { buffer: Vec::new(), start: size_bytes };
    while offset > 0 && count < wanted {
        let Some(place) = offset.checked_sub(local::TRAILER_SIZE_BYTES as u64) else { return Ok(None) };
        let behind = window.four(file, place)?;
        let begin = local::whole(&behind).and_then(|whole| offset.checked_sub(whole as u64));
        // A record that a crash cut off has another end: then the file is read from its front.
        let Some(begin) = begin else { return Ok(None) };
        if window.four(file, begin)? != behind {
            return Ok(None);
        }
        offset = begin;
        count += 1;
    }
    Ok(Some(Tail { offset, count }))
}

/// A piece of the file, taken from its end towards its front.
struct Window {
    buffer: Vec<u8>,
    start: u64,
}

impl Window {
    fn four(&mut self, file: &mut dyn Backwards, at: u64) -> std::io::Result<[u8; 4]> {
        let inside = |window: &Self| {
            let from = usize::try_from(at.checked_sub(window.start)?).ok()?;
            window.buffer.get(from..from + 4)?.try_into().ok()
        };
        if let Some(found) = inside(self) {
            return Ok(found);
        }
        self.start = (at + 4).saturating_sub(READ_SIZE_BYTES as u64);
        self.buffer.resize(usize::try_from(at + 4 - self.start).unwrap_or(READ_SIZE_BYTES), 0);
        file.read_at(&mut self.buffer, self.start)?;
        Ok(inside(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoder, LogStream, Piece};
    use corten_types::shim::{LogDriver, LogOptions};

    impl Backwards for &[u8] {
        fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            let from = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self[from..from + buffer.len()]);
            Ok(())
        }
    }

    #[test]
    fn the_last_records_are_found_from_behind_in_every_form() {
        for driver in [LogDriver::JsonFile, LogDriver::K8sFile, LogDriver::Local] {
            let encoder = Encoder::of(&LogOptions { driver, ..LogOptions::default() }).unwrap();
            let (mut bytes, mut begins) = (Vec::new(), Vec::new());
            let common = encoder.common(LogStream::Stdout, (1, 2));
            for number in 0..3000 {
                begins.push(bytes.len() as u64);
                let text = format!("{}{number}\n", "x".repeat(number % 97));
                let piece = Piece { stream: LogStream::Stdout, bytes: text.as_bytes(), time: (1, 2) };
                encoder.encode(&mut bytes, &common, piece);
            }
            begins.push(bytes.len() as u64);
            let form = Form::of(driver).unwrap();
            for wanted in [0, 1, 2, 500, 2999, 3000, 4000] {
                let found = Tail::find(form, &mut bytes.as_slice(), bytes.len() as u64, wanted).unwrap().unwrap();
                let count = wanted.min(3000);
                assert_eq!(found, Tail { offset: begins[3000 - count], count }, "{driver:?} {wanted}");
            }
            // What a crash cut off.
            let cut = bytes.len() - 3;
            let whole = |size: usize| whole_size_bytes(form, &mut bytes.as_slice(), size as u64).unwrap();
            assert_eq!((whole(cut), whole(bytes.len()), whole(0)), (begins[2999], bytes.len() as u64, 0));
            let found = Tail::find(form, &mut &bytes[..cut], cut as u64, 2).unwrap();
            match form {
                Form::Local => assert_eq!(found, None),
                _ => assert_eq!(found.unwrap().offset, begins[2997]),
            }
        }
    }
}

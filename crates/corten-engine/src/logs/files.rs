//! The files of one log, oldest first, and the one that grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use corten_fs::Root;
use corten_log::{Backwards, Form, Records, Tail};
use corten_sys::Call;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

/// Most files of one log that are looked for.
const FILES_MAX: u32 = 10_000;
/// How often the files are opened again because they were rotated meanwhile.
const ATTEMPTS_MAX: usize = 16;

/// One file.
enum Part {
    /// As it was written, and which it is.
    Plain(File, (u64, u64)),
    /// Set aside and compressed.
    Compressed(Box<flate2::read::GzDecoder<File>>),
}

impl Part {
    fn source(&mut self) -> &mut dyn Read {
        match self {
            Self::Plain(file, _) => file,
            Self::Compressed(decoder) => decoder,
        }
    }

    fn identity(&self) -> Option<(u64, u64)> {
        match self {
            Self::Plain(_, identity) => Some(*identity),
            Self::Compressed(_) => None,
        }
    }
}

/// A file that is read from its end.
struct FromEnd<'a>(&'a File);

impl Backwards for FromEnd<'_> {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// The files of one log.
pub(super) struct Files {
    directory: Root,
    name: String,
    parts: std::collections::VecDeque<Part>,
}

impl Files {
    pub(super) fn open(directory: Root, name: String) -> Result<Self> {
        let mut files = Self { directory, name, parts: std::collections::VecDeque::new() };
        files.open_parts()?;
        Ok(files)
    }

    /// Opens every file; begins again where one was rotated in between.
    fn open_parts(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            self.parts.clear();
            let before = identity_of(&self.directory, &self.name)?;
            let mut older = Vec::new();
            for number in 1..FILES_MAX {
                match self.open_one(&format!("{}.{number}", self.name))? {
                    Some(part) => older.push(part),
                    None => match self.open_one(&format!("{}.{number}.gz", self.name))? {
                        Some(part) => older.push(part),
                        None => break,
                    },
                }
            }
            self.parts.extend(older.into_iter().rev());
            self.parts.extend(self.open_one(&self.name)?);
            if identity_of(&self.directory, &self.name)? == before {
                break;
            }
        }
        Ok(())
    }

    fn open_one(&self, name: &str) -> Result<Option<Part>> {
        match self.directory.open(name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file).call(|| format!("fstat(<{name}>)"))?;
                let file = File::from(file);
                Ok(Some(match name.ends_with(".gz") {
                    true => Part::Compressed(Box::new(flate2::read::GzDecoder::new(file))),
                    false => Part::Plain(file, (stat.st_dev, stat.st_ino)),
                }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Passes over all but the last `count` records; how many are still to be left out at the front of what is read then.
    ///
    /// A file is read from its end, and none before those that are wanted; only what is compressed is read twice.
    pub(super) fn skip_to_tail(&mut self, form: Form, count: usize) -> Result<usize> {
        let mut needed = count;
        for index in (0..self.parts.len()).rev() {
            let found = match &mut self.parts[index] {
                Part::Plain(file, _) => seek_tail(form, file, needed)?,
                Part::Compressed(_) => None,
            };
            let (total, left_out) = match found {
                Some(total) => (total, 0),
                None => {
                    let total = self.count(form, index)?;
                    (total, total.saturating_sub(needed))
                }
            };
            needed = needed.saturating_sub(total);
            if needed == 0 {
                self.parts.drain(..index);
                return Ok(left_out);
            }
        }
        Ok(0)
    }

    /// How many records a file has; it is at its front again afterwards.
    fn count(&mut self, form: Form, index: usize) -> Result<usize> {
        let (mut records, mut total) = (Records::new(form), 0);
        while records.fill(self.parts[index].source()).context(|| "cannot read the log")? {
            while records.skip() {
                total += 1;
            }
        }
        let mut again = || match &mut self.parts[index] {
            Part::Plain(file, _) => file.rewind(),
            Part::Compressed(decoder) => {
                let mut file = decoder.get_ref().try_clone()?;
                file.rewind()?;
                **decoder = flate2::read::GzDecoder::new(file);
                Ok(())
            }
        };
        again().map_err(|error: std::io::Error| Error::from(error).context("cannot read the log"))?;
        Ok(total)
    }

    /// Reads more; false where there is nothing now.
    pub(super) fn read_into(&mut self, records: &mut Records) -> Result<bool> {
        loop {
            let several = self.parts.len() > 1;
            let Some(part) = self.parts.front_mut() else {
                // The log was not made yet.
                let Some(part) = self.open_one(&self.name)? else { return Ok(false) };
                self.parts.push_back(part);
                continue;
            };
            if records.fill(part.source()).context(|| "cannot read the log")? {
                return Ok(true);
            }
            if several {
                records.end_file();
                self.parts.pop_front();
                continue;
            }
            // The newest file: has it been set aside, everything in it was written before.
            let held = part.identity();
            if held == identity_of(&self.directory, &self.name)? {
                return Ok(false);
            }
            if records.fill(part.source()).context(|| "cannot read the log")? {
                return Ok(true);
            }
            self.find_successors(held)?;
            if self.parts.len() == 1 {
                return Ok(false);
            }
        }
    }

    /// What came after the file that was set aside.
    fn find_successors(&mut self, held: Option<(u64, u64)>) -> Result<()> {
        let mut number = 1;
        for candidate in 1..FILES_MAX {
            match identity_of(&self.directory, &format!("{}.{candidate}", self.name))? {
                found if found.is_some() && found == held => {
                    number = candidate;
                    break;
                }
                None if candidate > 8 => break,
                _ => {}
            }
        }
        for newer in (1..number).rev() {
            let part = self.open_one(&format!("{}.{newer}", self.name))?;
            self.parts.extend(part);
        }
        let part = self.open_one(&self.name)?;
        self.parts.extend(part);
        Ok(())
    }
}

/// Puts a file to where its last `wanted` records begin; how many there are, or `None` where it has to be counted.
fn seek_tail(form: Form, file: &mut File, wanted: usize) -> Result<Option<usize>> {
    let found = (|| {
        let size_bytes = file.metadata()?.len();
        let Some(tail) = Tail::find(form, &mut FromEnd(file), size_bytes, wanted)? else { return Ok(None) };
        file.seek(SeekFrom::Start(tail.offset)).map(|_| Some(tail.count))
    })();
    found.map_err(|error: std::io::Error| Error::from(error).context("cannot read the log"))
}

fn identity_of(directory: &Root, name: &str) -> Result<Option<(u64, u64)>> {
    match directory.stat_nofollow(name) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

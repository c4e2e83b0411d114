//! The files of one log, oldest first, and the one that grows.

use std::fs::File;
use std::io::Read;

use corten_fs::Root;
use corten_sys::Call;
use corten_types::{Context, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

use super::records::{Form, Records};

/// Most files of one log that are looked for.
const FILES_MAX: u32 = 10_000;
/// How often the files are opened again because they were rotated meanwhile.
const ATTEMPTS_MAX: usize = 16;

/// One file.
struct Part {
    source: Box<dyn Read>,
    identity: Option<(u64, u64)>,
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
                    true => Part { source: Box::new(flate2::read::GzDecoder::new(file)), identity: None },
                    false => Part { source: Box::new(file), identity: Some((stat.st_dev, stat.st_ino)) },
                }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many records to leave out so that the last `count` remain; the files before them are let go of.
    pub(super) fn skip_to_tail(&mut self, form: Form, count: usize) -> Result<usize> {
        let mut counts = Vec::new();
        for part in &mut self.parts {
            let mut records = Records::new(form);
            let mut total = 0;
            while records.fill(&mut part.source).context(|| "cannot read the log")? {
                total += records.count_entries();
            }
            counts.push(total);
        }
        self.open_parts()?;
        let mut needed = count;
        let mut first = counts.len();
        while first > 0 && needed > 0 {
            first -= 1;
            needed = needed.saturating_sub(counts[first]);
        }
        let kept: usize = counts[first..].iter().sum();
        // Rotated in between: the tail may begin a little earlier then, never later.
        if counts.len() == self.parts.len() {
            self.parts.drain(..first.min(self.parts.len().saturating_sub(1)));
            let dropped_all = first == counts.len() && first > 0;
            return Ok(if dropped_all { counts[first - 1] } else { kept.saturating_sub(count) });
        }
        Ok(counts.iter().sum::<usize>().saturating_sub(count))
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
            if records.fill(&mut part.source).context(|| "cannot read the log")? {
                return Ok(true);
            }
            if several {
                records.end_file();
                self.parts.pop_front();
                continue;
            }
            // The newest file: has it been set aside, everything in it was written before.
            let held = part.identity;
            if held == identity_of(&self.directory, &self.name)? {
                return Ok(false);
            }
            if records.fill(&mut part.source).context(|| "cannot read the log")? {
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

fn identity_of(directory: &Root, name: &str) -> Result<Option<(u64, u64)>> {
    match directory.stat_nofollow(name) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

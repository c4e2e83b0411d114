//! A layer's bytes from their start, whether the file is whole or still being written: what unpacks reads behind what
//! receives, so that both are done at nearly the same time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use corten_types::{Error, ErrorKind, Result};

use crate::blob::FileReader;

/// New bytes that are worth waking a reader for.
const WAKE_SIZE_BYTES: u64 = 128 * 1024;

/// A layer's bytes.
#[derive(Debug, Clone)]
pub(crate) enum LayerBytes {
    /// All there, and known to have their digest.
    Whole(Arc<File>),
    /// Still coming.
    Growing(Arc<Growing>),
}

impl LayerBytes {
    /// Reads them from the start. The end is reached only once all of them were verified.
    pub(crate) fn reader(&self) -> Box<dyn Read + Send> {
        match self {
            Self::Whole(file) => Box::new(FileReader::new(Arc::clone(file))),
            Self::Growing(growing) => Box::new(Behind { growing: Arc::clone(growing), offset: 0 }),
        }
    }

    /// Waits until all of them are there and have the digest that was expected: nothing made of them may be kept before.
    pub(crate) fn verified(&self) -> Result<()> {
        match self {
            Self::Whole(_) => Ok(()),
            Self::Growing(growing) => growing.wait_for_end(),
        }
    }
}

/// A file that one thread writes and others read.
#[derive(Debug)]
pub(crate) struct Growing {
    file: Arc<File>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug)]
struct Progress {
    written: u64,
    announced: u64,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Verified,
    Failed,
}

impl Growing {
    pub(crate) fn new(file: Arc<File>, written: u64) -> Arc<Self> {
        let progress = Mutex::new(Progress { written, announced: written, end: None });
        Arc::new(Self { file, progress, changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes up to `written` are in the file.
    pub(crate) fn grown(&self, written: u64) {
        let mut progress = self.lock();
        progress.written = written;
        if written - progress.announced >= WAKE_SIZE_BYTES {
            progress.announced = written;
            self.changed.notify_all();
        }
    }

    /// All bytes are there and verified, or never will be.
    pub(crate) fn end(&self, verified: bool) {
        let mut progress = self.lock();
        if progress.end.is_none() {
            progress.end = Some(if verified { End::Verified } else { End::Failed });
        }
        self.changed.notify_all();
    }

    fn wait_for_end(&self) -> Result<()> {
        let mut progress = self.lock();
        loop {
            match progress.end {
                Some(End::Verified) => return Ok(()),
                Some(End::Failed) => return Err(broken_off()),
                None => progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Bytes that are there behind `offset`, waiting for some; 0 at the verified end.
    fn available(&self, offset: u64) -> Result<u64> {
        let mut progress = self.lock();
        loop {
            match progress.end {
                Some(End::Failed) => return Err(broken_off()),
                Some(End::Verified) => return Ok(progress.written - offset),
                None if progress.announced > offset => return Ok(progress.written - offset),
                None => progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn broken_off() -> Error {
    Error::new(ErrorKind::Corrupt, "its bytes did not all arrive, or are not what was expected")
}

/// Reads behind the writer.
struct Behind {
    growing: Arc<Growing>,
    offset: u64,
}

impl Read for Behind {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.growing.available(self.offset).map_err(io::Error::other)?;
        let wanted = buffer.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let count = self.growing.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::other(Error::new(ErrorKind::Corrupt, "the file in `ingest` was shortened")));
        }
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_follows_and_ends_only_when_all_is_verified() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let growing = Growing::new(Arc::clone(&file), 0);
        let bytes = LayerBytes::Growing(Arc::clone(&growing));
        let reader = std::thread::spawn(move || {
            let mut content = Vec::new();
            bytes.reader().read_to_end(&mut content).map(|_| content)
        });
        let part = vec![7; 300 * 1024];
        for number in 0..10u64 {
            file.write_all_at(&part, number * part.len() as u64).unwrap();
            growing.grown((number + 1) * part.len() as u64);
        }
        growing.end(true);
        assert_eq!(reader.join().unwrap().unwrap().len(), part.len() * 10);

        let growing = Growing::new(file, 1000);
        growing.end(false);
        let bytes = LayerBytes::Growing(growing);
        assert!(bytes.reader().read(&mut [0; 10]).is_err() && bytes.verified().is_err());
    }
}

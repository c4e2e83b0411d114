//! A blob from its registry to a sink, in order: one stream, or several ranges beside each other where one is slow.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corten_types::image_spec::Descriptor;
use corten_types::{Error, ErrorKind, Result};

use super::blob::BlobReader;
use super::session::Session;

/// Ranges that come at once.
const RANGES_AT_ONCE: usize = 3;
/// Bytes that go to the sink at a time.
const PIECE: usize = 256 * 1024;

/// From when on a blob is fetched in ranges beside each other.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// Blobs of which more than this is missing, bytes.
    pub from_bytes: u64,
    /// Bytes of one range; as much is fetched in one stream first, to see how fast it is.
    pub range_bytes: u64,
    /// One stream that is this fast stays alone: more would only cost.
    pub fast_bytes_per_second: u64,
}

impl Default for Split {
    fn default() -> Self {
        Self { from_bytes: 32 << 20, range_bytes: 4 << 20, fast_bytes_per_second: 80 << 20 }
    }
}

/// Where bytes go.
pub(crate) type Sink<'k> = &'k mut dyn FnMut(&[u8]) -> Result<()>;

impl Session<'_> {
    /// Every byte of `blob` from `offset` on.
    pub(crate) fn transfer(&self, blob: &Descriptor, offset: u64, sink: Sink<'_>) -> Result<()> {
        let split = self.client.options().split;
        if blob.size.saturating_sub(offset) <= split.from_bytes.max(split.range_bytes) {
            return drain(&mut self.blob(blob, offset), sink).map(drop);
        }
        let middle = offset + split.range_bytes;
        let mut first = self.blob_part(blob, offset, middle);
        let time = drain(&mut first, sink)?;
        if first.is_whole() {
            return Ok(());
        }
        let fast = Duration::from_micros(split.range_bytes * 1_000_000 / split.fast_bytes_per_second.max(1));
        if time <= fast {
            return drain(&mut self.blob(blob, middle), sink).map(drop);
        }
        drop(first);
        self.ranges(blob, middle, split.range_bytes, sink)
    }

    /// The rest of a blob, in ranges of `size` bytes.
    fn ranges(&self, blob: &Descriptor, start: u64, size: u64, sink: Sink<'_>) -> Result<()> {
        let count = (blob.size - start).div_ceil(size);
        let queue = Queue::default();
        std::thread::scope(|scope| {
            // However this ends, the threads do.
            let _ended = EndOf(&queue);
            for _ in 0..RANGES_AT_ONCE {
                scope.spawn(|| {
                    while let Some(index) = queue.next(count) {
                        let from = start + index * size;
                        let part = self.part(blob, from, (from + size).min(blob.size));
                        queue.put(index, part);
                    }
                });
            }
            for index in 0..count {
                let part = queue.take(index)?;
                for piece in part.chunks(PIECE) {
                    sink(piece)?;
                }
            }
            Ok(())
        })
    }

    fn part(&self, blob: &Descriptor, from: u64, to: u64) -> Result<Vec<u8>> {
        let size = usize::try_from(to - from).map_err(|_| Error::new(ErrorKind::Exhausted, "a range is too large"))?;
        let mut content = vec![0; size];
        let mut reader = self.blob_part(blob, from, to).strict();
        reader.read_exact(&mut content).map_err(|error| error.downcast::<Error>().unwrap_or_else(Error::from))?;
        Ok(content)
    }
}

/// Reads to the end; the time that was spent on reading alone.
fn drain(reader: &mut BlobReader<'_>, sink: Sink<'_>) -> Result<Duration> {
    let mut piece = vec![0; PIECE];
    let mut time = Duration::ZERO;
    loop {
        let start = Instant::now();
        let count = reader.read(&mut piece).map_err(|error| error.downcast::<Error>().unwrap_or_else(Error::from))?;
        time += start.elapsed();
        if count == 0 {
            return Ok(time);
        }
        sink(&piece[..count])?;
    }
}

/// Ranges in work and done, at most a few ahead of who takes them.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    started: u64,
    taken: u64,
    done: HashMap<u64, Result<Vec<u8>>>,
    ended: bool,
}

impl Queue {
    fn next(&self, count: u64) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.ended && state.started < count && state.started >= state.taken + RANGES_AT_ONCE as u64 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended || state.started >= count {
            return None;
        }
        state.started += 1;
        Some(state.started - 1)
    }

    fn put(&self, index: u64, part: Result<Vec<u8>>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).done.insert(index, part);
        self.changed.notify_all();
    }

    fn take(&self, index: u64) -> Result<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(part) = state.done.remove(&index) {
                state.taken = index + 1;
                self.changed.notify_all();
                return part;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct EndOf<'q>(&'q Queue);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.0.changed.notify_all();
    }
}

//! Threads beside an import: layers are unpacked and synced while the next ones are still read.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use corten_types::{Digest, Result};

use crate::blob::Staged;
use crate::growing::LayerBytes;
use crate::layer::{Layers, Unpacked};

/// Most threads that unpack.
const THREADS_MAX: usize = 4;

/// Hands layers to the threads and collects what they made.
pub(crate) struct Unpacker<'l> {
    layers: &'l Layers<'l>,
    jobs: Sender<(Digest, LayerBytes)>,
    syncs: Sender<Arc<Staged>>,
    results: &'l Results,
}

/// What was unpacked; `None` while it is in work.
#[derive(Default)]
struct Results {
    map: Mutex<HashMap<Digest, Option<Result<Unpacked>>>>,
    done: Condvar,
    abandoned: AtomicBool,
}

impl Results {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Option<Result<Unpacked>>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` with threads beside it; they end with it.
pub(crate) fn with_unpacker<T>(layers: &Layers<'_>, work: impl FnOnce(&Unpacker<'_>) -> Result<T>) -> Result<T> {
    let results = Results::default();
    let (jobs, job_receiver) = channel::<(Digest, LayerBytes)>();
    let (syncs, sync_receiver) = channel::<Arc<Staged>>();
    let job_receiver = Mutex::new(job_receiver);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().clamp(1, THREADS_MAX));
        for _ in 0..threads {
            scope.spawn(|| unpack_all(layers, &job_receiver, &results));
        }
        scope.spawn(move || {
            for staged in sync_receiver {
                // Only a head start: the commit syncs again, sees any error, and stops.
                rustix::fs::fdatasync(&*staged.file).unwrap_or_default();
            }
        });
        let unpacker = Unpacker { layers, jobs, syncs, results: &results };
        let result = work(&unpacker);
        results.abandoned.store(true, Ordering::Relaxed);
        drop(unpacker);
        result
    })
}

fn unpack_all(layers: &Layers<'_>, jobs: &Mutex<Receiver<(Digest, LayerBytes)>>, results: &Results) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((digest, bytes)) = job else { return };
        if results.abandoned.load(Ordering::Relaxed) {
            continue;
        }
        let result = layers.unpack(&digest, &bytes);
        results.lock().insert(digest, Some(result));
        results.done.notify_all();
    }
}

impl Unpacker<'_> {
    /// The layers of the store.
    pub(crate) fn layers(&self) -> &Layers<'_> {
        self.layers
    }

    /// Starts to unpack what may be a layer.
    pub(crate) fn start(&self, staged: &Arc<Staged>) {
        self.start_bytes(&staged.digest, LayerBytes::Whole(Arc::clone(&staged.file)));
    }

    /// Starts to unpack the layer `digest`, which may still be coming.
    pub(crate) fn start_bytes(&self, digest: &Digest, bytes: LayerBytes) {
        let mut results = self.results.lock();
        if results.contains_key(digest) {
            return;
        }
        // The threads live as long as `self`.
        if self.jobs.send((*digest, bytes)).is_ok() {
            results.insert(*digest, None);
        }
    }

    /// As [`Unpacker::start_bytes`], once more where an earlier try failed.
    pub(crate) fn start_again(&self, digest: &Digest, bytes: LayerBytes) {
        let mut results = self.results.lock();
        while let Some(None) = results.get(digest) {
            results = self.results.done.wait(results).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(Some(Err(_))) = results.get(digest) {
            results.remove(digest);
        }
        drop(results);
        self.start_bytes(digest, bytes);
    }

    /// Starts to write out what will be a blob.
    pub(crate) fn sync(&self, staged: &Arc<Staged>) {
        self.syncs.send(Arc::clone(staged)).unwrap_or_default();
    }

    /// The diff id of `blob`, unpacking it now if nobody started; the result stays for [`Unpacker::take`].
    pub(crate) fn diff_id(&self, blob: &Digest, file: impl FnOnce() -> Result<Arc<File>>) -> Result<Digest> {
        let unpacked = self.take(blob, file)?;
        let diff_id = unpacked.diff_id();
        self.results.lock().insert(*blob, Some(Ok(unpacked)));
        Ok(diff_id)
    }

    /// What unpacking `blob` gave; does it now if nobody started. A result is taken once.
    pub(crate) fn take(&self, blob: &Digest, file: impl FnOnce() -> Result<Arc<File>>) -> Result<Unpacked> {
        let mut results = self.results.lock();
        loop {
            match results.get_mut(blob) {
                None => break,
                Some(None) => results = self.results.done.wait(results).unwrap_or_else(PoisonError::into_inner),
                Some(Some(_)) => match results.remove(blob).flatten() {
                    Some(result) => return result,
                    None => break,
                },
            }
        }
        drop(results);
        self.layers.unpack(blob, &LayerBytes::Whole(file()?))
    }
}

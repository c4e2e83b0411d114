//! What a transfer tells whoever watches it.

use corten_types::Digest;

/// A step of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It waits to come.
    Waiting,
    /// It is here already.
    Exists,
    /// Bytes came.
    Downloading {
        /// So far.
        current: u64,
        /// Of.
        total: u64,
    },
    /// All came, and they are what was announced.
    Downloaded,
    /// It is unpacked and part of an image.
    Complete,
    /// It waits to go out.
    Preparing,
    /// The registry has it already.
    There,
    /// Bytes went out.
    Pushing {
        /// So far.
        current: u64,
        /// Of.
        total: u64,
    },
    /// All went out, and the registry has it.
    Pushed,
    /// The registry had it in another repository.
    Mounted {
        /// That repository.
        from: String,
    },
    /// It is not distributed: whoever pulls gets it elsewhere.
    Skipped,
}

/// Hears of steps, from several threads.
pub type Watch<'w> = &'w (dyn Fn(&Digest, Step) + Send + Sync);

//! The records of a container's log: written by its supervisor, read by the engine, both here, so that they agree.
//!
//! ```text
//! json.rs         docker's `json-file`: a JSON object a line
//! kubernetes.rs   CRI's: `TIME STREAM P|F TEXT`
//! local.rs        compact: numbers and bytes, readable from either end
//! lines.rs        lines out of a stream that arrives in any pieces
//! encoder.rs      lines -> records
//! records.rs      bytes of a file -> records
//! tail.rs         where in a file the last so many records begin
//! ```

use corten_types::shim::LogDriver;

mod encoder;
mod entry;
mod json;
mod kubernetes;
mod lines;
mod local;
mod records;
mod tail;

pub use encoder::Encoder;
pub use entry::{LogEntry, Stamp};
pub use lines::{Lines, PIECE_SIZE_BYTES_MAX, Piece};
pub use records::Records;
pub use tail::{Backwards, Tail, whole_size_bytes};

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// Its name in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Docker's json-file.
    Json,
    /// The compact one.
    Local,
    /// CRI's.
    Kubernetes,
}

impl Form {
    /// The form of a driver's files; `None` where it keeps none.
    pub fn of(driver: LogDriver) -> Option<Self> {
        match driver {
            LogDriver::JsonFile => Some(Self::Json),
            LogDriver::Local => Some(Self::Local),
            LogDriver::K8sFile => Some(Self::Kubernetes),
            LogDriver::Journald | LogDriver::Syslog | LogDriver::None => None,
        }
    }
}

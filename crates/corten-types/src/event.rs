//! What happened to containers and images, as the lines of the event log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the log under the engine's root; `events.log.1` is what was there before.
pub const EVENTS: &str = "events.log";
/// The log is set aside at this size, bytes.
pub const EVENTS_SIZE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// One line of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventRecord {
    /// Seconds and nanoseconds since 1970.
    pub time: (i64, u32),
    /// `container`, `image`, ….
    pub kind: String,
    /// Docker's word: `create`, `start`, `die`, ….
    pub action: String,
    /// What it happened to.
    pub id: String,
    /// What else is known.
    pub attributes: BTreeMap<String, String>,
    /// What docker's events do not tell: why it happened, and the numbers of that moment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

impl EventRecord {
    /// Something that happens to a container at this moment.
    pub fn container(id: &str, action: impl Into<String>, attributes: BTreeMap<String, String>) -> Self {
        Self {
            time: crate::time::now(),
            kind: "container".to_owned(),
            action: action.into(),
            id: id.to_owned(),
            attributes,
            details: BTreeMap::new(),
        }
    }
}

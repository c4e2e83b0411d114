//! Where a container is in its life, as its supervisor records it.

use serde::{Deserialize, Serialize};

/// Where a container is in its life, and what became of its last run: the content of [`super::LIFE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifeRecord {
    /// The state's word.
    pub state: String,
    /// The first process on the host; 0 while there is none.
    pub pid: i32,
    /// The supervisor; 0 while there is none.
    pub shim_pid: i32,
    /// Exit code of the last run.
    pub exit_code: u8,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Why the last start failed, else empty.
    pub error: String,
    /// Seconds and nanoseconds since 1970; `None` if never.
    pub started_at: Option<(i64, u32)>,
    /// Seconds and nanoseconds since 1970; `None` if never.
    pub finished_at: Option<(i64, u32)>,
    /// How often its policy started it again since the user did.
    pub restart_count: u32,
    /// The user ended it: `unless-stopped` leaves it so.
    pub manually_stopped: bool,
    /// What its checks said; `None` without checks.
    pub health: Option<Health>,
    /// Lines that the log could not take in time (`mode=non-blocking`).
    pub log_drops: u64,
}

/// What checks say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// None has succeeded yet, and the grace is not over.
    #[default]
    Starting,
    /// The last one succeeded.
    Healthy,
    /// As many as allowed failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A container's health.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<CheckResult>,
}

/// One check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Seconds and nanoseconds since 1970.
    pub start: (i64, u32),
    /// Seconds and nanoseconds since 1970.
    pub end: (i64, u32),
    /// Of the command; -1 where it ran out of time or could not start.
    pub exit_code: i32,
    /// What it printed, cut.
    pub output: String,
}

//! Images as users work with them: where containers and images touch.

mod changes;
mod export;
mod import;
mod remove;
mod usage;

pub use import::ImportRequest;
pub use remove::{PruneRequest, Pruned, RemoveRequest};
pub use usage::DiskUsage;

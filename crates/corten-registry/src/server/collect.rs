//! Housekeeping beside the requests: idle sessions are closed, abandoned ones removed, and what nobody needs collected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corten_store::Store;
use corten_store::repository::{CollectedLinks, Keep};
use corten_types::Result;
use tokio::sync::watch;

use super::Registry;
use super::config::Collection;

/// How often sessions are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Collects once; beside uploads, pulls and starts of containers, and in any process.
pub(super) fn collect(store: &Store, config: &Collection) -> Result<CollectedLinks> {
    let keep = Keep { blobs_for: config.grace.0, untagged_for: config.untagged_after.map(|span| span.0) };
    let collected = store.collect_repositories(keep)?;
    store.empty_trash()?;
    Ok(collected)
}

/// Sweeps and collects until the server stops.
pub(super) async fn background(registry: Arc<Registry>, mut stop: watch::Receiver<bool>) {
    let interval = registry.config.collection.interval.0;
    let mut collected = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let is_due = !interval.is_zero() && collected.elapsed() >= interval;
        let done = registry.blocking(move |registry| {
            registry.sessions.sweep(registry.config.limits.session_timeout.0)?;
            if is_due {
                registry.forget_unused()?;
                let links = collect(&registry.store, &registry.config.collection)?;
                registry.metrics.collected_blobs.inc_by(links.store.blobs.len() as u64);
                registry.metrics.collected_bytes.inc_by(links.store.bytes);
                registry.log.note(&format!(
                    "collected {} blobs, {} bytes given back",
                    links.store.blobs.len(),
                    links.store.bytes
                ));
            }
            Ok(())
        });
        if is_due {
            collected = Instant::now();
        }
        if let Err(failure) = done.await {
            let cause = failure.cause.map_or_else(|| failure.status.to_string(), |error| error.one_line());
            registry.log.note(&format!("housekeeping failed: {cause}"));
        }
    }
}

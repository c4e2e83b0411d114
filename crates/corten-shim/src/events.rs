//! Lines of the engine's event log that only a supervisor can write.

use std::collections::BTreeMap;

use corten_fs::{Root, append};
use corten_types::event::{EVENTS_SIZE_BYTES_MAX, EventRecord};
use corten_types::shim::Launch;

/// Tells what happened. A disk that is full costs the line, never the container.
pub(crate) fn tell(launch: &Launch, action: impl Into<String>, more: &[(&str, String)]) {
    explain(launch, action, more, &[]);
}

/// As [`tell`], with what docker's events do not say and `corten why` does.
pub(crate) fn explain(launch: &Launch, action: impl Into<String>, more: &[(&str, String)], details: &[(&str, String)]) {
    let mut attributes: BTreeMap<String, String> = launch.attributes.clone();
    attributes.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let mut record = EventRecord::container(&launch.id, action, attributes);
    record.details.extend(details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let (Some(parent), Some(name)) = (launch.events.parent(), launch.events.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    let Ok(json) = serde_json::to_vec(&record) else { return };
    Root::open_ambient(parent).and_then(|root| append::line(&root, name, &json, EVENTS_SIZE_BYTES_MAX)).ok();
}

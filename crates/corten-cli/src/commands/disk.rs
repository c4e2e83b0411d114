//! `corten system df`, `corten system prune`, and the store's background work.

use corten_docker::disk::{summary, verbose};
use corten_docker::units::human_size;
use corten_types::{Error, Result};

use super::prune::{confirm, deleted, request};
use super::{Context, now};
use crate::Failure;
use crate::command_line::Parsed;

/// Shows what is on the disk.
pub(crate) fn usage(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let format = parsed.last("format").filter(|format| !format.is_empty());
    if parsed.is_on("verbose") && format.is_some() {
        return Err(Error::invalid("the verbose form has no `--format`").hint("leave one of the two out").into());
    }
    let usage = context.engine()?.disk_usage()?;
    let text = if parsed.is_on("verbose") { verbose(&usage, now()) } else { summary(&usage, format)? };
    context.print(&text)?;
    Ok(0)
}

/// Removes stopped containers, then images that nobody needs.
pub(crate) fn prune(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let request = request(parsed, parsed.is_on("all"))?;
    if !parsed.is_on("force") {
        let images = if request.all {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        };
        let warning = format!("WARNING! This will remove:\n  - all stopped containers\n  - {images}\n\n");
        confirm(context, &warning, "system prune")?;
    }
    let engine = context.engine()?;
    let sizes = engine.disk_usage()?.containers;
    let (mut bytes, mut text) = (0, String::new());
    for (container, size) in sizes.iter().filter(|(container, _)| !container.life.state.is_alive()) {
        let labels = &container.config.labels;
        let has = |(name, value): &(String, Option<String>)| {
            labels.get(name).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        let created = container.config.created.parse().ok();
        let is_old = request.until.is_none_or(|until| created.is_some_and(|created: jiff::Timestamp| created < until));
        if !is_old || !request.labels.iter().all(has) || request.labels_not.iter().any(has) {
            continue;
        }
        if text.is_empty() {
            text.push_str("Deleted Containers:\n");
        }
        match engine.remove(&container.config.id, false) {
            Ok(()) => {
                text.push_str(&format!("{}\n", container.config.id));
                bytes += size;
            }
            // Started or removed meanwhile.
            Err(error) => context.report(&error),
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let pruned = engine.prune_images(&request)?;
    engine.do_chores_in_background()?;
    text.push_str(&deleted(&pruned));
    text.push_str(&format!("Total reclaimed space: {}\n", human_size(bytes + pruned.bytes, 4)));
    context.print(&text)?;
    Ok(0)
}

/// Does the store's background work; a process of its own that another command starts.
pub(crate) fn chores(context: &mut Context<'_>, _: &Parsed) -> Result<u8, Failure> {
    context.engine()?.store().do_chores()?;
    Ok(0)
}

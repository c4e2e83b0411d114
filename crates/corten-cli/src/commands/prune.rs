//! `corten image prune`

use corten_docker::filter::{Filters, boolean, until};
use corten_docker::units::human_size;
use corten_engine::{PruneRequest, Pruned};
use corten_types::{Error, Result};

use super::{Context, now};
use crate::Failure;
use crate::command_line::Parsed;
use crate::terminal::is_terminal;

/// What may be filtered by.
const FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];

/// Removes images that nobody needs.
pub(crate) fn images(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let request = request(parsed, parsed.is_on("all"))?;
    let what = match request.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    if !parsed.is_on("force") {
        confirm(context, &format!("WARNING! This will remove {what}.\n"), "image prune")?;
    }
    let engine = context.engine()?;
    let pruned = engine.prune_images(&request)?;
    engine.do_chores_in_background()?;
    let mut text = deleted(&pruned);
    text.push_str(&format!("Total reclaimed space: {}\n", human_size(pruned.bytes, 4)));
    context.print(&text)?;
    Ok(0)
}

/// What the flags ask for.
pub(super) fn request(parsed: &Parsed, all: bool) -> Result<PruneRequest> {
    // `label!=x` reads as the name `label!`.
    let filters = Filters::parse(&parsed.list("filter"), &FILTERS, &[])?;
    let mut request = PruneRequest {
        all,
        until: filters.values("until").map(|value| until(value, now())).last().transpose()?,
        labels: filters.labels("label"),
        labels_not: filters.labels("label!"),
    };
    if let Some(dangling) = filters.values("dangling").last() {
        request.all = !boolean("dangling", dangling)?;
    }
    Ok(request)
}

/// The list of what went, with an empty line behind it; nothing for nothing.
pub(super) fn deleted(pruned: &Pruned) -> String {
    if pruned.removed.is_empty() {
        return String::new();
    }
    let mut text = "Deleted Images:\n".to_owned();
    for removed in &pruned.removed {
        for reference in &removed.untagged {
            text.push_str(&format!("untagged: {}\n", reference.familiar()));
        }
        if let Some(digest) = &removed.deleted {
            text.push_str(&format!("deleted: {digest}\n"));
        }
    }
    text.push('\n');
    text
}

/// Asks, as docker does; anything but yes is an error.
pub(super) fn confirm(context: &mut Context<'_>, warning: &str, what: &str) -> Result<()> {
    context.print(&format!("{warning}Are you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Error::from(error).context("cannot read the answer"))?;
    if !is_terminal(rustix::stdio::stdin()) {
        context.print("\n")?;
    }
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::invalid(format!("{what} has been cancelled")).hint("`--force` asks nothing")),
    }
}

//! `corten ps`

use corten_docker::containers::{FILTERS, FILTERS_LATER, Selection, View, check, list};
use corten_docker::filter::Filters;
use corten_types::{Error, Result};

use super::{Context, now};
use crate::command_line::Parsed;
use crate::run::values::integer;
use crate::{Failure, WRONG_FLAGS};

/// Lists containers.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let last = parsed.read_last("last", integer).map_err(|error| Failure::with_code(error, WRONG_FLAGS))?;
    let last = last.and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let selection = Selection {
        all: parsed.is_on("all"),
        last: last.or_else(|| parsed.is_on("latest").then_some(1)),
        filters: Filters::parse(&parsed.list("filter"), &FILTERS, &FILTERS_LATER)?,
    };
    let format = parsed.last("format").filter(|format| !format.is_empty()).map(str::to_owned);
    let mut view = View {
        format,
        quiet: parsed.is_on("quiet"),
        no_trunc: parsed.is_on("no-trunc"),
        has_sizes: parsed.is_on("size"),
        ..View::default()
    };
    if view.quiet && view.format.is_some() {
        context.warn("WARNING: Ignoring custom format, because both --format and --quiet are set.");
    }
    // A wrong format is an error also where there is nothing to list.
    check(&view).map_err(relabel)?;
    let engine = context.engine()?;
    let ids = |image: &str| engine.store().resolve(image).map(|image| vec![image.id.to_string()]).unwrap_or_default();
    let containers = selection.select(engine.containers()?, ids)?;
    if view.shows_sizes() {
        for container in &containers {
            let written = engine.written_bytes(container)?;
            view.sizes.insert(container.config.id.clone(), (written, engine.image_bytes(container) + written));
        }
    }
    let text = list(&containers, &view, now()).map_err(relabel)?;
    context.print(&text)?;
    Ok(0)
}

/// Docker's words for `ps` differ from those of its other commands.
fn relabel(error: Error) -> Error {
    match error.message().strip_prefix("template parsing error: ") {
        Some(rest) if rest.contains(": executing ") => Error::invalid(format!("failed to execute template: {rest}")),
        Some(rest) => Error::invalid(format!("failed to parse template: {rest}")),
        None => error,
    }
}

//! `corten images`

use std::collections::BTreeMap;

use corten_docker::filter::Filters;
use corten_docker::images::{FILTERS, FILTERS_LATER, View, list, select};
use corten_types::Result;

use super::{Context, now};
use crate::Failure;
use crate::command_line::Parsed;

/// Lists images.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut filters = Filters::parse(&parsed.list("filter"), &FILTERS, &FILTERS_LATER)?;
    if let Some(name) = parsed.operands.first() {
        filters.push("reference", name);
    }
    let format = parsed.last("format").filter(|format| !format.is_empty()).map(str::to_owned);
    let view = View {
        format,
        quiet: parsed.is_on("quiet"),
        no_trunc: parsed.is_on("no-trunc"),
        digests: parsed.is_on("digests"),
    };
    let engine = context.engine()?;
    let images = select(engine.store().images()?, &filters)?;
    let mut users = BTreeMap::new();
    for container in engine.containers()? {
        *users.entry(container.config.image_id).or_insert(0) += 1;
    }
    let text = list(&images, &users, &view, now())?;
    context.print(&text)?;
    Ok(0)
}

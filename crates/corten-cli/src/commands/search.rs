//! `corten search`

use corten_docker::filter::Filters;
use corten_docker::search::{FILTERS, View, list};
use corten_types::{Error, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::registries;

/// Docker's number of results.
const LIMIT: u32 = 25;

/// Searches a registry that offers it.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let filters = Filters::parse(&parsed.list("filter"), &FILTERS, &[])?;
    let limit = match parsed.last("limit").filter(|text| !text.is_empty() && *text != "0") {
        None => LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=100).contains(limit))
            .ok_or_else(|| Error::invalid(format!("Limit {text} is outside the range of [1, 100]")))?,
    };
    let view = View {
        format: parsed.last("format").filter(|format| !format.is_empty()).map(str::to_owned),
        no_trunc: parsed.is_on("no-trunc"),
    };
    let client = registries::client(context.environment, parsed)?;
    let found = client.search(&parsed.operands[0], limit)?;
    let rows = found.into_iter().map(|found| corten_docker::search::Row {
        name: found.name,
        description: found.description,
        stars: found.star_count,
        official: found.is_official,
        automated: found.is_automated,
    });
    let text = list(rows.collect(), &filters, &view)?;
    context.print(&text)?;
    Ok(0)
}

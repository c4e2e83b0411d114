//! `corten images`

use std::collections::BTreeMap;

use corten_docker::filter::Filters;
use corten_docker::images::{FILTERS, TreeRow, View, list, select, tree};
use corten_engine::Engine;
use corten_engine::store::{Image, platform};
use corten_types::{Error, Result};

use super::{Context, now};
use crate::Failure;
use crate::command_line::Parsed;

/// Lists images.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut filters = Filters::parse(&parsed.list("filter"), &FILTERS, &[])?;
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
    let images = select(engine.store().images()?, &filters, now())?;
    let mut users = BTreeMap::new();
    for container in engine.containers()? {
        *users.entry(container.config.image_id).or_insert(0) += 1;
    }
    if parsed.is_on("tree") {
        if view.quiet || view.no_trunc || view.digests || view.format.is_some() {
            return Err(Error::invalid("--tree cannot be used with --quiet, --no-trunc, --digests or --format").into());
        }
        let text = tree(&rows(&engine, &images, &users)?);
        context.print(&text)?;
        return Ok(0);
    }
    let text = list(&images, &users, &view, now())?;
    context.print(&text)?;
    Ok(0)
}

/// Each image with its platforms below it.
fn rows(engine: &Engine, images: &[Image], users: &BTreeMap<String, usize>) -> Result<Vec<TreeRow>> {
    let row = |image: &Image, names: Vec<String>, id: String| TreeRow {
        names,
        id,
        disk: image.size,
        content: image.layers.iter().map(|layer| layer.blob.size).sum(),
        in_use: users.contains_key(&image.id.to_string()),
        platforms: Vec::new(),
    };
    let mut rows = Vec::new();
    for image in images {
        let platforms: Vec<TreeRow> = engine
            .store()
            .images_of(&image.target)?
            .iter()
            .map(|image| row(image, vec![platform::text(&image.config.platform)], image.id.short()))
            .collect();
        let names = image.repo_tags.iter().map(|name| name.familiar()).collect();
        let mut whole = row(image, names, image.target.short());
        whole.disk = platforms.iter().map(|platform| platform.disk).sum();
        whole.content = platforms.iter().map(|platform| platform.content).sum();
        whole.in_use = platforms.iter().any(|platform| platform.in_use);
        rows.push(TreeRow { platforms, ..whole });
    }
    Ok(rows)
}

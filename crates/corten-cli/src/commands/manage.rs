//! `corten update`, `events`, `top`, `container prune`.

use std::collections::BTreeMap;

use corten_docker::filter::Filters;
use corten_docker::table::ListFormat;
use corten_docker::template::Value;
use corten_docker::units::human_size;
use corten_engine::{EventFilter, EventRecord, State, UpdateRequest};
use corten_types::{Error, Result};

use super::{Context, now};
use crate::Failure;
use crate::command_line::Parsed;
use crate::run::limits::resources;
use crate::run::time::when;
use crate::run::{labels, supervision, variables};

/// `update`
pub(crate) fn update(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let labels = crate::run::key_values::map(&labels(parsed, context.environment)?);
    let request = UpdateRequest {
        resources: resources(parsed)?,
        restart: supervision::restart(parsed)?,
        health: supervision::health(parsed)?,
        labels,
        env: variables(parsed, context.environment)?,
    };
    if request == UpdateRequest::default() {
        return Err(Error::invalid("you must provide one or more flags when using this command").into());
    }
    let engine = context.engine()?;
    let mut code = 0;
    for name in &parsed.operands {
        match engine.update(name, request.clone()) {
            Ok(later) => {
                context.print(&format!("{name}\n"))?;
                later.iter().for_each(|what| context.warn(&format!("WARNING: {name}: {what}")));
            }
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// `top`: the host's `ps`, never a program of the container; without a name every container in a terminal.
pub(crate) fn top(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let Some((name, options)) = parsed.operands.split_first() else {
        return Ok(super::monitor::run(context)?);
    };
    let text = context.engine()?.top(name, options)?;
    context.print(&text)?;
    Ok(0)
}

/// `container prune`
pub(crate) fn prune(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let filters = Filters::parse(&parsed.list("filter"), &["label", "label!", "until"], &[])?;
    if !parsed.is_on("force") {
        context
            .print("WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(Error::from)?;
        if !matches!(answer.trim(), "y" | "Y") {
            return Ok(0);
        }
    }
    let until = filters.values("until").last().map(|text| when(text, now())).transpose();
    let until = until.map_err(Error::invalid)?.map(|(seconds, nanos)| corten_types::time::rfc3339(seconds, nanos));
    let engine = context.engine()?;
    let ended = |state| matches!(state, State::Created | State::Exited | State::Dead);
    let unwanted = |labels: &BTreeMap<String, String>| {
        filters.values("label!").any(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    };
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for container in engine.containers()? {
        let config = &container.config;
        if ended(container.life.state)
            && filters.match_labels(&config.labels)
            && !unwanted(&config.labels)
            && until.as_ref().is_none_or(|until| config.created < *until)
        {
            let written = engine.written_bytes(&container)?;
            // What was started or removed meanwhile stays.
            if engine.remove(&config.id, false).is_ok() {
                removed.push(config.id.clone());
                bytes += written;
            }
        }
    }
    if !removed.is_empty() {
        context.print(&format!("Deleted Containers:\n{}\n\n", removed.join("\n")))?;
    }
    context.print(&format!("Total reclaimed space: {}\n", human_size(bytes, 4)))?;
    Ok(0)
}

/// `events`
pub(crate) fn events(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let moment = |name: &str| {
        let text = parsed.last(name).filter(|text| !text.is_empty());
        text.map(|text| when(text, now())).transpose().map_err(|why| Error::invalid(format!("invalid --{name}: {why}")))
    };
    let known = ["container", "event", "image", "label", "type"];
    let filters = Filters::parse(&parsed.list("filter"), &known, &["daemon", "network", "plugin", "scope", "volume"])?;
    let format = parsed.last("format").filter(|format| !format.is_empty());
    let format = format.map(ListFormat::parse).transpose()?;
    let filter = EventFilter { since: moment("since")?, until: moment("until")? };
    let engine = context.engine()?;
    let mut followed = engine.events(filter)?;
    loop {
        loop {
            let records = followed.take()?;
            if records.is_empty() {
                break;
            }
            for record in records.iter().filter(|record| is_wanted(&filters, record)) {
                let text = match &format {
                    Some(format) => format.render(&Value::map(Vec::new()), &[document(record)])?,
                    None => line(record),
                };
                context.print(&text)?;
            }
        }
        let left = match filter.until {
            Some(until) => match left_until(until) {
                Some(left) => Some(left),
                None => return Ok(0),
            },
            None => None,
        };
        followed.wait(left)?;
    }
}

fn left_until(until: (i64, u32)) -> Option<std::time::Duration> {
    let moment = std::time::UNIX_EPOCH + std::time::Duration::new(u64::try_from(until.0).ok()?, until.1);
    moment.duration_since(std::time::SystemTime::now()).ok().filter(|left| !left.is_zero())
}

fn is_wanted(filters: &Filters, record: &EventRecord) -> bool {
    let attribute = |name: &str| record.attributes.get(name).map_or("", String::as_str);
    // `exec_create` means every `exec_create: …`.
    let action = record.action.split(':').next().unwrap_or_default();
    filters.any("type", |kind| kind == record.kind)
        && filters.any("event", |wanted| wanted == record.action || wanted == action)
        && filters.any("image", |wanted| wanted == attribute("image"))
        && filters.any("container", |wanted| record.id.starts_with(wanted) || wanted == attribute("name"))
        && filters.match_labels(&record.attributes)
}

/// `TIME container start ID (image=…, name=…)`
fn line(record: &EventRecord) -> String {
    let time = corten_types::time::rfc3339(record.time.0, record.time.1);
    let words: Vec<_> = record.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{time} {} {} {} ({})\n", record.kind, record.action, record.id, words.join(", "))
}

fn document(record: &EventRecord) -> Value {
    let text = |value: &str| Value::from(value);
    let field = |name: &str, value: Value| (name.to_owned(), value);
    let nanoseconds = i128::from(record.time.0) * 1_000_000_000 + i128::from(record.time.1);
    let image = record.attributes.get("image").map_or("", String::as_str);
    let actor = Value::document(vec![
        field("ID", text(&record.id)),
        field("Attributes", Value::string_map(&record.attributes)),
    ]);
    Value::document(vec![
        field("status", text(&record.action)),
        field("id", text(&record.id)),
        field("from", text(image)),
        field("Type", text(&record.kind)),
        field("Action", text(&record.action)),
        field("Actor", actor),
        field("scope", text("local")),
        field("time", Value::Int(record.time.0.into())),
        field("timeNano", Value::Int(nanoseconds)),
    ])
}

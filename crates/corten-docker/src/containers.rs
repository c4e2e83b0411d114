//! `docker ps`: rows, states in words, filters.

use std::collections::BTreeMap;

use corten_engine::{Container, HealthStatus, MountSource, State};
use corten_types::{Error, Reference, Result};
use jiff::Timestamp;

use crate::filter::{Filters, Pattern};
use crate::table::{ListFormat, field, header};
use crate::template::Value;
use crate::template::format::quote;
use crate::units::{go_time, human_size, moment, since};

/// Filters of `ps`.
pub const FILTERS: [&str; 11] =
    ["ancestor", "before", "exited", "health", "id", "label", "name", "network", "since", "status", "volume"];
/// Docker's filters for what does not exist here yet.
pub const FILTERS_LATER: [&str; 3] = ["expose", "is-task", "publish"];

const TABLE: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
const RAW: &str = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n\
    state: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\nnames: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\n\
    ports: {{- pad .Ports 1 0}}\n";
const GO_TYPE: &str = "*formatter.ContainerContext";

/// Which containers `ps` shows.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `-a`
    pub all: bool,
    /// `-n`, `-l`: the newest so many in any state.
    pub last: Option<usize>,
    /// `--filter`
    pub filters: Filters,
}

impl Selection {
    /// The containers of `containers` (newest first) that are shown. `image_ids` gives the ids that an `ancestor` means.
    pub fn select(
        &self,
        containers: Vec<Container>,
        image_ids: impl Fn(&str) -> Vec<String>,
    ) -> Result<Vec<Container>> {
        let criteria = Criteria::new(&self.filters, &containers, image_ids)?;
        let all = self.all || self.last.is_some() || self.filters.has("status") || self.filters.has("exited");
        let shown = containers.into_iter().filter(|container| all || container.life.state.is_alive());
        let shown = shown.filter(|container| criteria.accepts(&self.filters, container));
        Ok(shown.take(self.last.unwrap_or(usize::MAX)).collect())
    }
}

struct Criteria {
    names: Vec<Pattern>,
    ids: Vec<Pattern>,
    exit_codes: Vec<i64>,
    before: Option<String>,
    since: Option<String>,
    ancestors: Vec<(String, Vec<String>)>,
}

impl Criteria {
    fn new(filters: &Filters, containers: &[Container], image_ids: impl Fn(&str) -> Vec<String>) -> Result<Self> {
        let patterns = |name| filters.values(name).map(Pattern::parse).collect::<Result<Vec<_>>>();
        if let Some(status) = filters.values("status").find(|status| !STATES.contains(status)) {
            return Err(Error::invalid(format!(
                "invalid filter 'status={status}': invalid value for state ({status}): must be one of {}",
                STATES.join(", ")
            )));
        }
        let exit_code = |code: &str| {
            code.parse().map_err(|_| Error::invalid(format!("invalid filter 'exited={code}': not a number")))
        };
        Ok(Self {
            names: patterns("name")?,
            ids: patterns("id")?,
            exit_codes: filters.values("exited").map(exit_code).collect::<Result<_>>()?,
            before: created(filters, "before", containers)?,
            since: created(filters, "since", containers)?,
            ancestors: filters.values("ancestor").map(|image| (familiar(image), image_ids(image))).collect(),
        })
    }

    fn accepts(&self, filters: &Filters, container: &Container) -> bool {
        let (config, life) = (&container.config, &container.life);
        let one_of = |patterns: &[Pattern], texts: &[&str]| {
            patterns.is_empty() || patterns.iter().any(|pattern| texts.iter().any(|text| pattern.is_match(text)))
        };
        let ended = life.state == State::Exited && !life.started_at.is_empty();
        one_of(&self.names, &[&config.name, &format!("/{}", config.name)])
            && one_of(&self.ids, &[&config.id])
            && (self.exit_codes.is_empty() || (ended && self.exit_codes.contains(&life.exit_code.into())))
            && self.before.as_ref().is_none_or(|before| config.created < *before)
            && self.since.as_ref().is_none_or(|since| config.created > *since)
            && (self.ancestors.is_empty()
                || self
                    .ancestors
                    .iter()
                    .any(|(name, ids)| ids.contains(&config.image_id) || *name == familiar(&config.image)))
            && filters.any("status", |status| status == state_word(life.state))
            && filters.any("health", |health| health == health_word(container))
            && filters.any("network", |wanted| wanted == network(container))
            && filters
                .any("volume", |volume| mounts(container).any(|(source, target)| source == volume || target == volume))
            && filters.match_labels(&config.labels)
    }
}

const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

fn created(filters: &Filters, name: &str, containers: &[Container]) -> Result<Option<String>> {
    let Some(wanted) = filters.values(name).last() else { return Ok(None) };
    let found = containers.iter().find(|container| {
        let config = &container.config;
        config.name == wanted.trim_start_matches('/') || (!wanted.is_empty() && config.id.starts_with(wanted))
    });
    match found {
        Some(container) => Ok(Some(container.config.created.clone())),
        None => Err(Error::new(corten_types::ErrorKind::NotFound, format!("No such container: {wanted}"))),
    }
}

/// Sources and destinations of what is mounted from outside the container.
fn mounts(container: &Container) -> impl Iterator<Item = (String, String)> + '_ {
    container.config.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { path, .. } => Some((path.display().to_string(), mount.destination.clone())),
        MountSource::Volume(name) => Some((name.clone().unwrap_or_default(), mount.destination.clone())),
        MountSource::Tmpfs(_) => None,
    })
}

/// Docker's word for what the checks say.
pub(crate) fn health_word(container: &Container) -> &'static str {
    match &container.life.health {
        Some(health) if container.life.state.is_alive() => health.status.as_str(),
        Some(health) => health.status.as_str(),
        None => "none",
    }
}

/// Docker's word for a state; it has none for a container that is about to run.
pub(crate) fn state_word(state: State) -> &'static str {
    if state == State::Starting { "created" } else { state.as_str() }
}

/// `Up 2 hours`, `Exited (0) 5 seconds ago`.
pub fn status(container: &Container, now: Timestamp) -> String {
    let life = &container.life;
    let ago = |text: &str| moment(text).map(|moment| since(moment, now)).unwrap_or_default();
    match life.state {
        State::Running => match &life.health {
            Some(health) => {
                let word =
                    if health.status == HealthStatus::Starting { "health: starting" } else { health.status.as_str() };
                format!("Up {} ({word})", ago(&life.started_at))
            }
            None => format!("Up {}", ago(&life.started_at)),
        },
        State::Paused => format!("Up {} (Paused)", ago(&life.started_at)),
        State::Restarting => format!("Restarting ({}) {} ago", life.exit_code, ago(&life.finished_at)),
        State::Removing => "Removal In Progress".to_owned(),
        State::Dead => "Dead".to_owned(),
        State::Created | State::Starting => "Created".to_owned(),
        State::Exited if life.started_at.is_empty() => "Created".to_owned(),
        State::Exited if moment(&life.finished_at).is_none() => String::new(),
        State::Exited => format!("Exited ({}) {} ago", life.exit_code, ago(&life.finished_at)),
    }
}

/// How `ps` shows its rows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `--format`
    pub format: Option<String>,
    /// `-q`
    pub quiet: bool,
    /// `--no-trunc`
    pub no_trunc: bool,
    /// `-s`
    pub has_sizes: bool,
    /// Bytes written and bytes in all, by id; filled where the format shows them.
    pub sizes: BTreeMap<String, (u64, u64)>,
}

impl View {
    /// Whether sizes are to be shown, which takes a walk through every container's layer.
    pub fn shows_sizes(&self) -> bool {
        !self.quiet && (self.has_sizes || self.format.as_deref().is_some_and(|format| format.contains(".Size")))
    }
}

/// The text of `ps`.
pub fn list(containers: &[Container], view: &View, now: Timestamp) -> Result<String> {
    let sized = format!("{TABLE}\t{{{{.Size}}}}");
    let format = match (view.quiet, view.format.as_deref().unwrap_or("table")) {
        (true, "raw") => "container_id: {{.ID}}",
        (true, _) => "{{.ID}}",
        (false, "table" | "") if view.has_sizes => sized.as_str(),
        (false, "table" | "") => TABLE,
        (false, "raw") => RAW,
        (false, custom) => custom,
    };
    let rows: Vec<Value> = containers.iter().map(|container| row(container, view, now)).collect();
    ListFormat::parse(format)?.render(&titles(), &rows)
}

/// Whether the format can be rendered, also where there is nothing to list.
pub fn check(view: &View) -> Result<()> {
    let nothing = Container {
        config: corten_engine::ContainerConfig::default(),
        life: corten_engine::Life::default(),
        directory: std::path::PathBuf::new(),
        log_path: std::path::PathBuf::new(),
    };
    list(&[nothing], view, Timestamp::UNIX_EPOCH).map(drop)
}

fn titles() -> Value {
    header(&[
        ("ID", "CONTAINER ID"),
        ("Names", "NAMES"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("HealthStatus", "HEALTH STATUS"),
    ])
}

fn row(container: &Container, view: &View, now: Timestamp) -> Value {
    let truncates = !view.no_trunc;
    let config = &container.config;
    let short = |text: String, length| if truncates { ellipsis(&text, length) } else { text };
    let created = moment(&config.created);
    let labels = config.labels.clone();
    let all_labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let sources: Vec<_> = mounts(container).map(|(source, _)| short(source, 15)).collect();
    let label = Value::method(move |arguments| match arguments {
        [Value::String(name)] => Ok(Value::from(labels.get(&**name).map_or("", String::as_str))),
        _ => Err(format!("wrong number of args for Label: want 1 got {}", arguments.len())),
    });
    let id = if truncates { container.short_id() } else { &config.id };
    Value::row(
        GO_TYPE,
        vec![
            field("ID", id),
            field("Names", config.name.as_str()),
            field("Image", image_name(container, truncates)),
            field("Command", quote(&short(command_line(container), 20))),
            field("CreatedAt", created.map(go_time).unwrap_or_default()),
            field("RunningFor", created.map(|created| format!("{} ago", since(created, now))).unwrap_or_default()),
            field("Ports", ""),
            field("State", state_word(container.life.state)),
            field("Status", status(container, now)),
            field("Size", size(view.sizes.get(&config.id).copied().unwrap_or_default())),
            field("Labels", all_labels.join(",")),
            field("Mounts", sources.join(",")),
            field("LocalVolumes", "0"),
            field("Networks", network(container)),
            field("Platform", Value::Nil),
            field("Label", label),
        ],
    )
}

/// `2B (virtual 4.2MB)`
fn size((written, whole): (u64, u64)) -> String {
    let written = human_size(written, 3);
    if whole == 0 { written } else { format!("{written} (virtual {})", human_size(whole, 3)) }
}

/// The network that a container is on: until bridges exist, the default is none.
pub(crate) fn network(container: &Container) -> &'static str {
    match container.config.network.as_str() {
        "default" => "none",
        other => other,
    }
}

fn image_name(container: &Container, truncates: bool) -> String {
    let name = &container.config.image;
    if name.is_empty() {
        return "<no image>".to_owned();
    }
    if !truncates {
        return name.clone();
    }
    let short_id = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect::<String>();
    if !container.config.image_id.is_empty() && short_id(&container.config.image_id) == short_id(name) {
        return short_id(name);
    }
    match Reference::parse_name(name) {
        Ok(reference) if reference.digest().is_some() => {
            let repository = reference.familiar_repository();
            reference.tag().map_or(repository.clone(), |tag| format!("{repository}:{tag}"))
        }
        Ok(reference) => reference.familiar(),
        Err(_) => name.clone(),
    }
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// Program and arguments in one line, as docker writes it: words with a space in single quotes.
fn command_line(container: &Container) -> String {
    let args = container.config.args();
    let quoted = args
        .iter()
        .enumerate()
        .map(|(index, word)| if index > 0 && word.contains(' ') { format!("'{word}'") } else { word.clone() });
    quoted.collect::<Vec<_>>().join(" ")
}

fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

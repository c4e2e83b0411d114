//! Containers and images as users know them, for every front end alike.
//!
//! The engine is synchronous and linked into the command line: no daemon. It decides (image, writable layer,
//! configuration), starts one supervisor a container (`corten shim`) and speaks to it; it never links the runtime.
//!
//! ```text
//! ROOT/containers/ID/config.json    what was asked and decided; durable
//! ROOT/containers/ID/state.json     where it is in its life, how it ended; the shim writes it
//! ROOT/containers/ID/hostname …     files bound into the container; ID-json.log is its output
//! ROOT/names/NAME                   a link to containers/ID/id, which holds the ID: a name is taken once
//! ROOT/usage.log                    what ended runs used, a line each; kept when containers go
//! ROOT/events.log                   what happened, a line each; every process adds to it and may follow it
//! RUN/containers/ID/alive           locked by the shim for as long as it lives
//! RUN/containers/ID/{config.json,rootfs}   the bundle
//! RUN/runtime/ID                    state of the runtime
//! ```

mod attach;
mod cdi;
mod container;
mod create;
mod detach_keys;
mod engine;
mod events;
mod exec;
mod health;
mod image;
mod image_mount;
mod info;
mod launch;
mod life;
mod lifecycle;
mod log_options;
mod logs;
mod names;
mod namespaces;
mod random;
mod remove;
mod request;
mod resources;
mod rootless;
pub mod security;
mod spec;
mod start;
mod state;
mod usage;
mod why;

pub use attach::{Console, Exit, Parted, Running, Signals};
pub use cdi::is_name as is_cdi_name;
pub use container::{Container, ContainerConfig, Life};
pub use corten_store as store;
pub use corten_store::Form as LayerForm;
pub use corten_types::event::EventRecord;
pub use corten_types::runtime_spec::DeviceRule;
pub use corten_types::shim::{
    Attach, Health, HealthCheck, HealthStatus, LogDriver, LogOptions, RestartPolicy, RootMount, UnhealthyAction,
};
pub use corten_types::usage::Usage;
pub use detach_keys::DetachKeys;
pub use engine::{Created, Engine, EngineOptions};
pub use events::{EventFilter, Followed};
pub use exec::ExecRequest;
pub use image::{DiskUsage, ImportRequest, PruneRequest, Pruned, RemoveRequest};
pub use image_mount::ImageMount;
pub use info::{Info, Version};
pub use lifecycle::UpdateRequest;
pub use log_options::parse as parse_log_options;
pub use logs::{LogEntry, LogQuery, LogStream, Stamp};
pub use namespaces::{NamespaceChoice, NamespaceMode, Namespaces};
pub use request::{
    Access, CreateRequest, DeviceRequest, Given, HealthRequest, ImageSource, Mount, MountSource, NetworkMode,
    Propagation, Recursion, Relabel, Seccomp, SecurityOptions, StartRequest, Stdio, TmpfsOptions, Ulimit,
};
pub use resources::{DeviceRate, Resources};
pub use rootless::{Rootless, enter as enter_rootless};
pub use state::{BadTransition, Event, State, next};
pub use usage::UsageTotal;
pub use why::{Step, Story};

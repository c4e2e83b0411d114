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
//! RUN/containers/ID/alive           locked by the shim for as long as it lives
//! RUN/containers/ID/{config.json,rootfs}   the bundle
//! RUN/runtime/ID                    state of the runtime
//! ```

mod attach;
mod container;
mod create;
mod engine;
mod image;
mod image_mount;
mod info;
mod launch;
mod life;
mod names;
mod random;
mod remove;
mod request;
mod rootless;
pub mod security;
mod spec;
mod start;
mod state;

pub use attach::{Exit, Running, Signals, Terminal};
pub use container::{Container, ContainerConfig, Life};
pub use corten_store as store;
pub use corten_store::Form as LayerForm;
pub use engine::{Created, Engine, EngineOptions};
pub use image::{DiskUsage, ImportRequest, PruneRequest, Pruned};
pub use image_mount::ImageMount;
pub use info::{Info, Version};
pub use request::{
    Access, CreateRequest, DeviceRequest, ImageSource, Mount, MountSource, NetworkMode, Propagation, Relabel,
    Resources, Seccomp, SecurityOptions, StartRequest, Stdio, TmpfsOptions, Ulimit,
};
pub use rootless::{Rootless, enter as enter_rootless};
pub use state::{BadTransition, Event, State, next};

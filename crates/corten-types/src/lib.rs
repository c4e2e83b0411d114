//! Words that every crate shares: errors with a kind and hints, and the documents of the OCI specifications.

pub mod capability;
pub mod digest;
mod error;
pub mod event;
pub mod identifier;
pub mod image_spec;
pub mod kernel;
pub mod reference;
pub mod runtime_spec;
pub mod shim;
pub mod time;
pub mod usage;

pub use digest::Digest;
pub use error::{Context, Error, ErrorKind, Result};
pub use identifier::{ContainerId, ContainerName};
pub use reference::Reference;

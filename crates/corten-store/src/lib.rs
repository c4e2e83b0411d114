//! Blobs, images, layers, snapshots and references: everything of an image that lies on disk.
//!
//! ```text
//! ROOT/blobs/sha256/HEX     content, each file verified to have the digest that is its name
//! ROOT/leases/              what is being brought in and not named by any row yet, one file per holder
//! ROOT/ingest/              blobs and layers in the making, each locked by its maker; what is unlocked is stale
//! ROOT/layers/HEX/           one unpacked layer, by diff id or chain id; complete or absent:
//!   fs                      a directory in overlay's form, or
//!   tar, index.erofs        an EROFS image
//! ROOT/snapshots/KEY/       a container's writable layer: upper, work, and the digest of its image
//! ROOT/trash/               what was removed and waits to be deleted in the background
//! ROOT/locks/               one file per blob being fetched or unpacked; the directory itself is the lock of collection
//! ROOT/reserve/           room and names that removals use up on a full disk
//! ROOT/quarantine/          what `fsck` found damaged; made when it first is
//! ROOT/names              each reference and its digest once more, for a database that cannot be read any more
//! ROOT/db.sqlite            images, indexes, artifacts, references with their history, layers, pins, a registry's repositories
//! ```
//!
//! Several processes use one root at once. A kill at any instruction leaves a state that the next [`Store::open`] repairs.

pub mod add;
mod blob;
mod cache;
mod check;
mod compare;
mod compress;
mod content;
mod database;
mod disk;
pub mod export;
mod garbage;
mod growing;
mod hello;
mod host;
pub mod image;
pub mod import;
pub mod layer;
mod lease;
mod lock;
mod lookup;
mod partial;
mod receive;
mod remove;
pub mod repository;
pub mod snapshot;
pub mod store;
mod usage;
mod view;

pub use add::{NewImageRequest, RawDocument, Unpack};
pub use blob::{Ingest, Staged};
pub use check::{Checked, Damage, Outcome};
pub use compare::{Change, Difference};
pub use compress::Compress;
pub use corten_fs::overlay::Overlay;
pub use database::{Kind, Move, RepositoryManifest, RepositoryUsage};
pub use export::{SaveRequest, Scratch};
pub use garbage::Collected;
pub use image::{Image, Layer, Target};
pub use import::{LoadedImage, RootfsRequest, Source, platform};
pub use layer::form::Form;
pub use lease::Lease;
pub use partial::PartialIngest;
pub use receive::{Incoming, Receiver, Turn};
pub use remove::Removed;
pub use repository::Repository;
pub use snapshot::{Base, PrepareRequest, Snapshot};
pub use store::{Options, Store};
pub use usage::{ImageUsage, Usage};
pub use view::View;

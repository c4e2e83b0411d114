//! Docker's shapes: what its command line prints and takes, made from the engine's values.

pub mod containers;
pub mod disk;
pub mod filter;
pub mod history;
pub mod images;
pub mod inspect;
pub mod registry;
pub mod search;
pub mod system;
pub mod table;
pub mod template;
pub mod units;

pub use table::align;
pub use template::quote;

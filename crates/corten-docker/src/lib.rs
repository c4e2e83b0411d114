//! Docker's shapes: what its command line prints and takes, made from the engine's values.

/// A document with fields in the order given.
macro_rules! document {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::template::Value::document(vec![$($crate::table::field($name, $value)),*])
    };
}

pub mod containers;
pub mod disk;
pub mod filter;
pub mod history;
mod host_config;
pub mod images;
pub mod inspect;
pub mod registry;
pub mod search;
pub mod stats;
pub mod system;
pub mod table;
pub mod template;
pub mod units;

pub use table::align;
pub use template::quote;

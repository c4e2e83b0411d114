//! The OCI distribution protocol, as client and as server.

pub mod client;
mod der;
pub mod server;

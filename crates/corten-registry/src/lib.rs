//! The OCI distribution protocol, as client and as server.

pub mod client;
pub mod server;

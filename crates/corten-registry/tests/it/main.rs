//! The registry client and server against real stores, and against registries that mean harm.
#![expect(clippy::unwrap_used, reason = "a test panics")]

mod client_auth;
mod client_faults;
mod client_policy;
mod client_proxy;
mod client_pull;
mod client_push;
mod client_tls;
mod server_api;
mod server_auth;
mod server_hostile;
mod server_many;
mod server_support;
mod server_upstream;
mod support;

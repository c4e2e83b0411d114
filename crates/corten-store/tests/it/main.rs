//! The store over real directories, real archives and the real kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod check;
mod crash;
mod forms;
mod hostile;
mod load;
mod mutated;
mod oracle;
mod property;
mod receive;
mod rootless;
mod support;
mod upgrade;

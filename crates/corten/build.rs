//! Tells the linker which functions to lay together (`hot.ld`).
#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts by their environment")]

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=hot.ld");
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    // The list was made of this architecture's release build with glibc; elsewhere it is not tried.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        let directory = var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=corten=-Wl,-T,{directory}/hot.ld");
    }
}

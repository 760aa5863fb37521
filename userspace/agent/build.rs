//! Embeds the eBPF object, so that the agent is one file to ship.

use std::path::PathBuf;
use std::{env, fs};

/// Names another object than the one `cargo xtask build` makes.
const OBJECT: &str = "DIOLKOS_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let built = manifest.join("../../target/ebpf/dataplane.o");
    let object = env::var_os(OBJECT).map_or(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    // Without the object the agent still builds; loading then says what is missing.
    let bytes = if object.exists() { fs::read(&object)? } else { Vec::new() };
    let output = PathBuf::from(env::var("OUT_DIR")?).join("dataplane.o");
    fs::write(output, bytes)?;
    Ok(())
}

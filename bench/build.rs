//! Compiles the reference's contract.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/hello.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files).context("generating code")
}

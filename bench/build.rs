//! Compiles the references' contracts. In `OUT_DIR`: `hello.rs`, `bench.v1.rs`, its JSON by pbjson in
//! `bench.v1.serde.rs`, and `descriptors.bin` with all options, for the gateways.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=../gateway/proto");
    let mut compiler = protox::Compiler::new(["proto", "../gateway/proto"])?;
    compiler.include_imports(true).open_files(["hello.proto", "gateway.proto"])?;
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), &descriptors)?;
    pbjson_build::Builder::new().register_descriptors(&descriptors)?.build(&[".bench.v1"])?;

    let mut files = compiler.file_descriptor_set();
    // Of google.api only the gateways have use.
    files.file.retain(|file| file.package() != "google.api");
    let config = tonic_prost_build::configure().build_transport(false);
    // Not prost's own Timestamp but pbjson's, which has JSON.
    let config = config.compile_well_known_types(true).extern_path(".google.protobuf", "::pbjson_types");
    config.compile_fds(files).context("generating code")
}

//! Compiles the contract. From `proto/`, and the options of the gateway in `gateway/proto/`, come, in `OUT_DIR`:
//!
//! - `descriptors.bin`: the descriptor set with all options, for reflection, the gateway and the API pages;
//! - `proto.rs`: messages, clients and servers;
//! - `rules.rs`: the policy of every method and the catalogue of permissions;
//! - `reasons.rs`: how each error reason is answered;
//! - `swagger-ui.css.gz`, `swagger-ui-bundle.js.gz`: the API page;
//! - `validators.rs`: the validation that the contract declares, and debug prints that leave secrets out.
//!
//! A method without a policy, a permission that the catalogue lacks, a validation rule that is not enforced, and an HTTP
//! rule that the gateway refuses, fail the build.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use prost_reflect::DescriptorPool;

#[path = "build/docs.rs"]
mod docs;
#[path = "build/reasons.rs"]
mod reasons;
#[path = "build/rules.rs"]
mod rules;
#[path = "build/validators.rs"]
mod validators;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=gateway/proto");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=migrations");

    let out = PathBuf::from(env::var("OUT_DIR")?);
    docs::unpack(&out)?;
    let mut compiler = protox::Compiler::new(["proto", "gateway/proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(proto_files(Path::new("proto"))?)?;

    // prost's own option types drop extensions, so everything that reads options reads this.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &encoded)?;
    let pool = DescriptorPool::decode(encoded.as_slice())?;
    // A route that the gateway would refuse at start is refused here.
    rialto_gateway::Gateway::builder(&encoded).build(()).context("the HTTP rules of the contract")?;

    fs::write(out.join("rules.rs"), rules::generate(&pool)?)?;
    fs::write(out.join("reasons.rs"), reasons::generate(&pool)?)?;
    fs::write(out.join("validators.rs"), validators::generate(&pool)?)?;

    let mut files = compiler.file_descriptor_set();
    // google.protobuf is known to prost; of google.api and buf.validate only the build has use, but for HttpBody.
    files.file.retain(|file| {
        let package = file.package();
        package.starts_with("rialto.") || package == "google.protobuf" || file.name() == "google/api/httpbody.proto"
    });
    let mut config = tonic_prost_build::configure()
        .codec_path("crate::kernel::codec::Codec")
        .build_transport(false)
        .include_file("proto.rs");
    for message in validators::messages_with_secrets(&pool)? {
        config = config.skip_debug([format!(".{message}")]);
    }
    config.compile_fds(files).context("generating code from the contract")
}

/// The `.proto` files below a folder.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

//! Rialto: one server behind a product. `ARCHITECTURE.md` is the way in.

pub mod dev;
pub mod domains;
pub mod gate;
pub mod kernel;
pub mod proxy;
pub mod schema;
pub mod server;

/// The code that the build makes of the contract.
pub mod proto {
    #![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

    include!(concat!(env!("OUT_DIR"), "/proto.rs"));

    /// The descriptor set of the contract, with all options.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

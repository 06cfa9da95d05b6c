#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod answer;
mod builder;
pub mod codec;
mod details;
mod editions;
mod error;
mod event;
mod frame;
mod headers;
pub mod openapi;
mod params;
mod route;
mod service;
mod stream;

pub use builder::{BuildError, Builder};
pub use editions::descriptor_pool;
pub use error::{ErrorCode, ErrorCodes, ErrorRenderer};
pub use service::Gateway;

pub use prost_reflect;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod answer;
mod body;
mod builder;
pub mod codec;
mod conditional;
mod details;
mod download;
mod error;
mod event;
mod frame;
mod headers;
mod http_body;
pub mod openapi;
mod params;
mod patch;
mod rest;
mod route;
mod service;
mod stream;
mod upstream;
mod websocket;

pub use builder::{BuildError, Builder};
pub use error::{ErrorBody, ErrorCode, ErrorCodes, ErrorRenderer, ErrorReport};
pub use service::Gateway;
pub use websocket::Socket;

pub use prost_reflect;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

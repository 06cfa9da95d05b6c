#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod answer;
mod body;
mod builder;
mod client_stream;
pub mod codec;
mod conditional;
mod connect;
mod details;
mod disposition;
mod download;
mod editions;
mod error;
mod event;
mod frame;
mod headers;
mod http_body;
mod json_stream;
mod multipart;
pub mod openapi;
mod params;
mod patch;
mod rest;
mod route;
mod service;
mod split;
mod stream;
mod upload;
mod upstream;
mod websocket;

pub use builder::{BuildError, Builder};
pub use connect::connect_error;
pub use editions::descriptor_pool;
pub use error::{ErrorBody, ErrorCode, ErrorCodes, ErrorRenderer, ErrorReport};
pub use headers::grpc_timeout;
pub use service::Gateway;
pub use websocket::Socket;

pub use prost_reflect;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

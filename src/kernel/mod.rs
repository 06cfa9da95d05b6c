//! What every domain leans on. Imports no domain.

pub mod abilities;
pub mod app;
pub mod bus;
pub mod caller;
pub mod clock;
pub mod codec;
pub mod config;
pub mod db;
pub mod error;
pub mod hub;
pub mod jobs;
pub mod mail;
pub mod metrics;
pub mod pages;
pub mod personal_data;
pub mod policy;
pub mod rates;
pub mod redis;
pub mod rng;
pub mod seal;
pub mod secret;
pub mod security;
pub mod telemetry;
pub mod trail;
pub mod validate;
pub mod wire;

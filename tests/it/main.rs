//! The integration tests: the real stack on a real port, on real Postgres and Redis, spoken to by real clients.
//!
//! `make test` runs them. To run one by hand: `rialto services --volatile -- cargo test --test it <name>`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod accounts;
mod auth;
mod command;
mod contract;
mod documents;
mod gate;
mod harness;
mod jobs;
mod limits;
mod live;
mod mail;
mod messaging;
mod nodes;
mod proxy;
mod roles;
mod round_trips;
mod sessions;
mod signing_keys;
mod smtp;
mod tokens;
mod two_factor;
mod users;
mod users_admin;
mod users_privacy;
mod web;
mod websocket;

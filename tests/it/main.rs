//! The integration tests: the real stack on a real port, on real Postgres and Redis, spoken to by real clients.
//!
//! `make test` runs them. To run one by hand: `rialto services --volatile -- cargo test --test it <name>`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod account;
mod accounts;
mod audit;
mod auth;
mod command;
mod contract;
mod conversations;
mod cookies;
mod database;
mod documents;
mod email_change;
mod enumeration;
mod gate;
mod harness;
mod hostile;
mod jobs;
mod keys;
mod limits;
mod live;
mod mail;
mod messaging;
mod messaging_encrypted;
mod messaging_history;
mod messaging_retention;
mod messaging_scheduled;
mod messaging_search;
mod nodes;
mod passkeys;
mod privacy;
mod proxy;
mod ranks;
mod roles;
mod round_trips;
mod security;
mod sessions;
mod signing_keys;
mod smtp;
mod throttle;
mod tokens;
mod two_factor;
mod users;
mod users_admin;
mod users_privacy;
mod web;
mod websocket;

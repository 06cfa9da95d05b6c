//! The integration tests: the real stack on a real port, on real Postgres and Redis, spoken to by real clients.
//!
//! `make test` runs them. To run one by hand: `rialto services --volatile -- cargo test --test it <name>`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod accounts;
mod audit;
mod auth;
mod command;
mod contract;
<<<<<<< HEAD
mod cookies;
mod email_change;
mod enumeration;
=======
mod documents;
>>>>>>> proofs
mod gate;
mod harness;
mod hostile;
mod jobs;
mod limits;
mod live;
mod mail;
mod messaging;
mod nodes;
mod passkeys;
mod privacy;
mod proxy;
mod ranks;
mod roles;
<<<<<<< HEAD
mod security;
=======
mod round_trips;
>>>>>>> proofs
mod sessions;
mod signing_keys;
mod smtp;
<<<<<<< HEAD
mod throttle;
=======
mod tokens;
>>>>>>> proofs
mod two_factor;
mod users;
mod users_admin;
mod users_privacy;
mod web;
mod websocket;

//! Logs: JSON lines in production, for people in dev.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::kernel::config::{Log, LogFormat};

/// Starts logging to standard error. Standard output belongs to what a command prints.
pub fn start(config: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Json => {
            let json = layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
            registry.with(json.with_writer(std::io::stderr)).try_init()?;
        }
        LogFormat::Pretty => {
            let colours = std::io::stderr().is_terminal();
            registry.with(layer().compact().with_ansi(colours).with_writer(std::io::stderr)).try_init()?;
        }
    }
    Ok(())
}

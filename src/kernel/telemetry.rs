//! Logs, to standard error: JSON lines in production, for people in dev. Standard output belongs to what a command prints.

use std::fmt::{Debug, Write as _};
use std::io::{BufWriter, IsTerminal, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::kernel::clock::Clock;
use crate::kernel::config::{Log, LogFormat};

/// The field of a request's span that stands in each of its lines.
const REQUEST_ID: &str = "request_id";

/// Starts logging. What is still on its way is written when the guard is dropped.
pub fn start(config: &Log) -> anyhow::Result<WorkerGuard> {
    // A thread of its own writes whatever lines are ready at once; a request does not wait for the disk. Nothing is lost:
    // when the thread can't keep up, the requests do wait.
    let colours = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(BufWriter::new(std::io::stderr()));
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(&config.filter)?);
    match config.format {
        LogFormat::Json => registry.with(JsonLines { writer, clock: Clock::default() }).try_init()?,
        LogFormat::Pretty => registry.with(layer().compact().with_ansi(colours).with_writer(writer)).try_init()?,
    }
    Ok(guard)
}

/// One JSON object a line: timestamp, level, target, the event's fields, and the id of the request.
///
/// The JSON format of tracing-subscriber takes a quarter of the instructions of a small call, most of them to read the
/// span's fields back out of JSON.
struct JsonLines {
    writer: NonBlocking,
    clock: Clock,
}

/// A request's id, kept with its span.
struct RequestId(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = FindRequestId(None);
        attributes.record(&mut found);
        if let (Some(request_id), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(RequestId(request_id));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line { bytes: Vec::with_capacity(512), text: String::new() };
        let metadata = event.metadata();
        line.bytes.push(b'{');
        let time = self.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        line.string("timestamp", &time);
        line.string("level", metadata.level().as_str());
        line.string("target", metadata.target());
        event.record(&mut line);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(RequestId(id)) = span.extensions().get() {
                line.string(REQUEST_ID, id);
            }
        }
        line.bytes.extend_from_slice(b"}\n");
        // There is nowhere to report that the log can't be written.
        let _ = self.writer.clone().write_all(&line.bytes);
    }
}

struct FindRequestId(Option<String>);

impl Visit for FindRequestId {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == REQUEST_ID {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

struct Line {
    bytes: Vec<u8>,
    /// Where values are printed before they are escaped.
    text: String,
}

impl Line {
    fn name(&mut self, name: &str) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        // Names are identifiers of our own code.
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, value);
    }

    fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.bytes, "{value}");
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let _ = write!(text, "{value:?}");
        self.string(field.name(), &text);
        self.text = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_with_the_id_of_its_request() {
        #[derive(Clone, Default)]
        struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(kept.clone());
        let subscriber = tracing_subscriber::registry().with(JsonLines { writer, clock: Clock::default() });
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", request_id = %"r-1");
            let _in_span = span.enter();
            tracing::info!(status = 200, text = "a\"b\n", address = %"::1", good = true, "said");
        });
        drop(guard);
        let line: serde_json::Value = serde_json::from_slice(&kept.0.lock().unwrap()).unwrap();
        for (name, value) in [
            ("level", serde_json::json!("INFO")),
            ("message", serde_json::json!("said")),
            ("status", serde_json::json!(200)),
            ("text", serde_json::json!("a\"b\n")),
            ("address", serde_json::json!("::1")),
            ("good", serde_json::json!(true)),
            ("request_id", serde_json::json!("r-1")),
        ] {
            assert_eq!(line[name], value, "{line}");
        }
    }
}

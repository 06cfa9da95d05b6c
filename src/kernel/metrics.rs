//! Counters in the Prometheus text format.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The counters of this process.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<MethodLabels, Histogram>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Account streams that are open.
    pub account_streams: Gauge,
    /// Connections of the database pool that are open.
    pub database_connections: Gauge,
    /// Those of them that nobody uses.
    pub database_idle_connections: Gauge,
    security_events: Family<KindLabel, Counter>,
    /// Security events whose details were not kept.
    pub security_events_dropped: Counter,
    /// Jobs that failed too often.
    pub jobs_dead: Gauge,
    /// For how many seconds the oldest job that could run has been waiting.
    pub jobs_delay_seconds: Gauge,
    messages_deleted: Counter,
    /// How many seconds ago the oldest partition of messages began.
    pub messages_oldest_partition_seconds: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    transport: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabels {
    transport: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// From half a millisecond to ten seconds.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let connections = Gauge::default();
        // The registry adds `_total` to counters.
        registry.register("http_requests", "Requests by transport, method and status", requests.clone());
        registry.register("http_request_duration_seconds", "Time to the end of the answer's head", durations.clone());
        registry.register("connections_open", "Client connections", connections.clone());
        Self {
            registry,
            requests,
            durations,
            connections,
            account_streams: Gauge::default(),
            database_connections: Gauge::default(),
            database_idle_connections: Gauge::default(),
            security_events: Family::default(),
            security_events_dropped: Counter::default(),
            jobs_dead: Gauge::default(),
            jobs_delay_seconds: Gauge::default(),
            messages_deleted: Counter::default(),
            messages_oldest_partition_seconds: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Those of a node that has a database.
    pub fn with_database() -> Self {
        let mut metrics = Self::default();
        let (open, idle) = (metrics.database_connections.clone(), metrics.database_idle_connections.clone());
        metrics.registry.register("database_connections_open", "Connections to Postgres", open);
        metrics.registry.register("database_connections_idle", "Connections to Postgres that nobody uses", idle);
        let streams = metrics.account_streams.clone();
        metrics.registry.register("account_streams_open", "Account streams", streams);
        let (dead, delay) = (metrics.jobs_dead.clone(), metrics.jobs_delay_seconds.clone());
        metrics.registry.register("jobs_dead", "Jobs that failed too often", dead);
        metrics.registry.register("jobs_delay_seconds", "How long the oldest job that is due has waited", delay);
        let (deleted, oldest) = (metrics.messages_deleted.clone(), metrics.messages_oldest_partition_seconds.clone());
        let help = "Messages that were deleted because they are no longer kept, by all servers together";
        metrics.registry.register("messages_retention_deleted", help, deleted);
        let help = "How long ago the oldest partition of messages began";
        metrics.registry.register("messages_oldest_partition_seconds", help, oldest);
        let (events, dropped) = (metrics.security_events.clone(), metrics.security_events_dropped.clone());
        metrics.registry.register("security_events", "Security events by kind", events);
        let help = "Security events whose subject, address or very existence was not written";
        metrics.registry.register("security_events_dropped", help, dropped);
        metrics
    }

    /// Notes how many messages retention has deleted altogether.
    pub fn messages_deleted(&self, count: u64) {
        self.messages_deleted.inner().store(count, std::sync::atomic::Ordering::Relaxed);
    }

    /// Counts a security event of a kind of the contract.
    pub fn security_event(&self, kind: &'static str) {
        self.security_events.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts a request. `method` is the contract's name or another from a fixed set, never what the client sent.
    pub fn request(&self, transport: &'static str, method: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { transport, method, status }).inc();
        self.durations.get_or_create(&MethodLabels { transport, method }).observe(took.as_secs_f64());
    }

    /// All of them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

//! The legs that go over a socket: what is loaded, in rounds, and how it compares.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

use super::caller::{Caller, Method, Way};
use super::orders::{DESCRIPTORS, LISTED, list, order};
use super::{Bench, peers};
use crate::WARM_UP;
use crate::load::{Sample, Subjects, closed_loop, open_loop};
use crate::process::{Pid, Server};
use crate::report::{self, Comparison, Measured, Section, cpu, p99, rate, ratios, two_digits};

/// How the last column of the comparisons was measured.
const BY_RATE: &str = "ratio by calls/s";

/// A kind of load on a server.
struct Load<'a> {
    title: String,
    server: &'a Server,
    /// What the server stands in front of.
    upstream: Option<&'a Server>,
    way: Way,
    method: Method,
    /// Connections that share the calls at once, over HTTP/2.
    connections: usize,
    /// Calls a second; as many as are answered unless given.
    offered: Option<f64>,
}

impl Bench {
    /// In process: REST and gRPC to the same server.
    pub(super) async fn native(&self) -> Result<Section> {
        let server = self.cores.on_server(peers::start_orders)?;
        let (alone, shared) = (self.flags.in_flight, self.flags.connections);
        let ways = [
            ("REST on HTTP/1.1", Way::Http1, alone),
            ("gRPC, a connection a call", Way::Grpc, alone),
            ("REST on HTTP/2, shared connections", Way::Http2, shared),
            ("gRPC, shared connections", Way::Grpc, shared),
        ];
        let mut loads = Vec::new();
        for method in Method::ALL {
            for (title, way, connections) in ways {
                let title = format!("{}, {title}", method.title());
                loads.push(Load { title, server: &server, upstream: None, way, method, connections, offered: None });
            }
        }
        self.warm_up(&loads).await?;
        let mut measured = none_yet(&loads);
        for round in 1..=self.flags.rounds {
            self.round(round, &loads, &mut measured).await?;
        }
        let mut compared = Vec::new();
        for (of_method, wanted) in measured.chunks(ways.len()).zip([1.2, 0.8]) {
            let [http1, grpc_alone, http2, grpc_shared] = of_method else { continue };
            compared.push(by_cpu(http1, grpc_alone, Some(wanted)));
            compared.push(by_cpu(http2, grpc_shared, None));
            compared.push(by_cpu(http1, grpc_shared, None));
        }
        Ok(Section { text: tables(&measured, &compared), versions: Vec::new() })
    }

    /// As a process of its own, with Envoy: the server under test is the proxy.
    pub(super) async fn envoy(&self) -> Result<Section> {
        let program = match peers::install("envoy") {
            Ok(program) => program,
            Err(why) => return Ok(Section::skipped(&why)),
        };
        let folder = tempfile::tempdir()?;
        // Beside the load generator: the proxy has its core for itself.
        let upstream = peers::start_orders()?;
        let gateway =
            self.cores.on_server(|| peers::start_gateway(self.flags.rialto.as_deref(), folder.path(), &upstream))?;
        let envoy = self.cores.on_server(|| peers::start_envoy(&program, folder.path(), &upstream))?;
        let proxies = [("gateway", &gateway), ("Envoy", &envoy)];
        let load = |method: Method, (name, server), offered| Load {
            title: format!("{}, {name}", method.title()),
            server,
            upstream: Some(&upstream),
            way: Way::Http1,
            method,
            connections: 0,
            offered,
        };
        let mut loads = Vec::new();
        for method in Method::ALL {
            let full = proxies.map(|proxy| load(method, proxy, None));
            let rates = self.warm_up(&full).await?;
            // What both can do with ease, in this run on this machine.
            let least = rates.into_iter().fold(f64::INFINITY, f64::min);
            let offered = two_digits(least / 2.0);
            loads.extend(full);
            loads.extend(proxies.map(|proxy| {
                let load = load(method, proxy, Some(offered));
                Load { title: format!("{}, offered {offered}/s", load.title), ..load }
            }));
        }
        let mut measured = none_yet(&loads);
        let mut memory = [Vec::new(), Vec::new()];
        for round in 1..=self.flags.rounds {
            self.round(round, &loads, &mut measured).await?;
            for ((_, server), memory) in proxies.iter().zip(&mut memory) {
                memory.push(server.pid().resident()? as f64 / f64::from(1 << 20));
            }
        }
        let mut compared = Vec::new();
        for of_method in measured.chunks(4) {
            let [gateway, envoy, gateway_offered, envoy_offered] = of_method else { continue };
            compared.push(by_cpu(gateway, envoy, Some(4.0)));
            compared.push(Comparison {
                target: format!("p99, lower is better: {} : {}", envoy_offered.title, gateway_offered.title),
                ratios: ratios(&envoy_offered.figures(p99), &gateway_offered.figures(p99)),
                wanted: Some(1.0),
                otherwise: Vec::new(),
            });
        }
        let [ours, theirs] = memory;
        compared.push(Comparison {
            target: "memory after the load, less is better: Envoy : gateway".to_owned(),
            ratios: ratios(&theirs, &ours),
            wanted: Some(1.0),
            otherwise: Vec::new(),
        });
        let [ours, theirs] = [ours, theirs].map(|memory| report::Spread::of(&memory).median);
        let text = format!(
            "{}\nThe gateway is `rialto gateway`. Resident memory after the load: gateway {ours:.1} MiB, Envoy {theirs:.1} MiB.\n",
            tables(&measured, &compared),
        );
        Ok(Section { text, versions: vec![peers::envoy_version(&program)] })
    }

    /// In process, with servers on Node.js that have the same JSON in memory.
    pub(super) async fn node(&self) -> Result<Section> {
        let installed = match peers::install("node") {
            Ok(installed) => installed,
            Err(why) => return Ok(Section::skipped(&why)),
        };
        let answers = tempfile::tempdir()?;
        let node = |script: &[&str]| self.cores.on_server(|| peers::start_node(&installed, answers.path(), script));
        let servers = [
            ("gateway in process", self.cores.on_server(peers::start_orders)?),
            ("fastify", node(&["fastify.js"])?),
            ("NestJS on fastify", node(&["nest.js", "fastify"])?),
            ("NestJS on express", node(&["nest.js", "express"])?),
        ];
        let mut loads = Vec::new();
        for method in Method::ALL {
            for (name, server) in &servers {
                let title = format!("{}, {name}", method.title());
                let way = Way::Http1;
                loads.push(Load { title, server, upstream: None, way, method, connections: 0, offered: None });
            }
        }
        self.warm_up(&loads).await?;
        let mut measured = none_yet(&loads);
        for round in 1..=self.flags.rounds {
            self.round(round, &loads, &mut measured).await?;
        }
        let mut compared = Vec::new();
        for of_method in measured.chunks(servers.len()) {
            let Some((gateway, others)) = of_method.split_first() else { continue };
            compared
                .extend(others.iter().zip([2.0, 2.5, 8.0]).map(|(other, wanted)| by_cpu(gateway, other, Some(wanted))));
        }
        Ok(Section { text: tables(&measured, &compared), versions: peers::node_versions(&["@nestjs/", "fastify"])? })
    }

    /// Checks that everybody answers the same, and gives them time to get fast. Returns their rates.
    async fn warm_up(&self, loads: &[Load<'_>]) -> Result<Vec<f64>> {
        let mut rates = Vec::new();
        for load in loads {
            let mut callers = Caller::connect(load.server.address, load.way, load.method, 1, 1).await?;
            for caller in &mut callers {
                let answer = caller.call().await?;
                check(load.way, load.method, &answer).with_context(|| format!("the answer of {}", load.title))?;
            }
            rates.push(self.load(load, WARM_UP).await?.rate);
        }
        Ok(rates)
    }

    async fn round(&self, round: usize, loads: &[Load<'_>], measured: &mut [Measured]) -> Result<()> {
        for index in report::order(round, loads.len()) {
            let sample = self.load(&loads[index], self.wall()).await?;
            let Measured { title, samples } = &mut measured[index];
            let (rounds, cpu) = (self.flags.rounds, cpu(&sample));
            eprintln!("round {round}/{rounds}: {title}: {:.0} calls/s, {cpu:.1} µs CPU a call", sample.rate);
            samples.push(sample);
        }
        Ok(())
    }

    async fn load(&self, load: &Load<'_>, wall: std::time::Duration) -> Result<Sample> {
        let Load { server, way, method, connections, .. } = *load;
        let mut callers = Caller::connect(server.address, way, method, self.flags.in_flight, connections).await?;
        let first = callers.first_mut().context("there are no callers")?;
        let bytes = first.call().await?.len();
        let callers = callers.into_iter().map(|mut caller| {
            async move || {
                let answer = caller.call().await?;
                ensure!(answer.len() == bytes, "another answer: {}", String::from_utf8_lossy(&answer));
                Ok(())
            }
        });
        let beside: Option<Pid> = load.upstream.map(Server::pid);
        let subjects = Subjects { server: Some(server.pid()), beside, ..Subjects::default() };
        let sample = match load.offered {
            None => closed_loop(callers, wall, subjects).await,
            Some(rate) => open_loop(callers, rate, wall, subjects).await,
        };
        sample.with_context(|| load.title.clone())
    }
}

fn none_yet(loads: &[Load<'_>]) -> Vec<Measured> {
    loads.iter().map(|load| Measured { title: load.title.clone(), samples: Vec::new() }).collect()
}

/// By CPU time a call, which is throughput per core also where something else limits the rate.
fn by_cpu(subject: &Measured, reference: &Measured, wanted: Option<f64>) -> Comparison {
    Comparison {
        target: format!("{} : {}", subject.title, reference.title),
        ratios: ratios(&reference.figures(cpu), &subject.figures(cpu)),
        wanted,
        otherwise: ratios(&subject.figures(rate), &reference.figures(rate)),
    }
}

fn tables(measured: &[Measured], compared: &[Comparison]) -> String {
    format!("{}\n{}", report::loads(measured, false), report::comparisons(compared, BY_RATE))
}

/// What a method answers, encoded.
fn expected(method: Method) -> (&'static str, Vec<u8>) {
    match method {
        Method::Get => ("bench.v1.Order", order(0).encode_to_vec()),
        Method::List => ("bench.v1.ListResponse", list(LISTED).encode_to_vec()),
    }
}

/// The same in JSON, by prost-reflect, which has nothing to do with any of those that are measured.
pub(super) fn expected_json(method: Method) -> Result<Value> {
    let (message, encoded) = expected(method);
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let message = pool.get_message_by_name(message).context("no such message")?;
    Ok(serde_json::to_value(DynamicMessage::decode(message, encoded.as_slice())?)?)
}

fn check(way: Way, method: Method, answer: &Bytes) -> Result<()> {
    let right = match way {
        Way::Grpc => *answer == expected(method).1,
        Way::Http1 | Way::Http2 => serde_json::from_slice::<Value>(answer)? == expected_json(method)?,
    };
    ensure!(right, "is not the expected one: {}", String::from_utf8_lossy(answer));
    Ok(())
}

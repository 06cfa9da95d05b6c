//! The codec alone, in this process, in turns with others, each for a millisecond at a time.

use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use rialto_gateway::codec::Codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};

use super::orders::{DESCRIPTORS, LISTED, list, order};
use super::{Bench, floor};
use crate::report::{self, Comparison, Section, Spread, ratios};

/// Who takes turns. The first is ours, the second the floor.
const NAMES: [&str; 5] = ["gateway", "serde_json", "serde_json, times parsed", "pbjson", "prost-reflect"];
const TURN: Duration = Duration::from_millis(1);
/// The clock is read once for so many conversions.
const BATCH: u32 = 8;

/// The conversion of one message in one direction, by each of [`NAMES`].
type Conversions<'a> = [&'a mut dyn FnMut(); NAMES.len()];

/// What was measured so far.
#[derive(Default)]
struct Findings {
    lines: String,
    compared: Vec<Comparison>,
}

impl Bench {
    pub(super) fn codec(&self) -> Result<Section> {
        let mut findings = Findings::default();
        let (one, many) = ("bench.v1.Order", "bench.v1.ListResponse");
        let found = &mut findings;
        self.both_ways::<_, floor::Order<String>, floor::Order<Timestamp>>(found, "one", one, &order(0), true)?;
        // 30 of them have 9 KB.
        self.both_ways::<_, floor::List<String>, floor::List<Timestamp>>(found, "list of 30", many, &list(30), true)?;
        let listed = list(LISTED);
        self.both_ways::<_, floor::List<String>, floor::List<Timestamp>>(found, "list of 100", many, &listed, false)?;
        let Findings { lines, compared } = findings;
        let text = format!(
            "Microseconds a conversion, median of rounds. Out: to JSON; in: from JSON. The gateway, pbjson and prost-reflect \
             convert from and to protobuf's wire format, serde_json from and to structs.\n\n\
             | conversion | {} |\n|---|{}\n{lines}\n{}",
            NAMES.join(" | "),
            "---:|".repeat(NAMES.len()),
            report::comparisons(&compared, "with times parsed"),
        );
        Ok(Section { text, versions: Vec::new() })
    }

    fn both_ways<M, Plain, Parsed>(
        &self,
        findings: &mut Findings,
        title: &str,
        name: &str,
        message: &M,
        judged: bool,
    ) -> Result<()>
    where
        M: Message + Default + PartialEq + Serialize + DeserializeOwned,
        Plain: Serialize + DeserializeOwned,
        Parsed: Serialize + DeserializeOwned,
    {
        let pool = DescriptorPool::decode(DESCRIPTORS)?;
        let codec = Codec::new(&pool);
        let id = codec.message(name).context("no such message")?;
        let descriptor = pool.get_message_by_name(name).context("no such message")?;
        let wire = message.encode_to_vec();
        let mut json = Vec::new();
        codec.wire_to_json(id, &wire, &mut json)?;
        let plain: Plain = serde_json::from_slice(&json)?;
        let parsed: Parsed = serde_json::from_slice(&json)?;

        // All do the same. Of what pbjson prints that does not hold: it writes times with an offset instead of `Z`.
        let reflected = DynamicMessage::decode(descriptor.clone(), wire.as_slice())?;
        ensure!(serde_json::from_slice::<Value>(&json)? == serde_json::to_value(&reflected)?, "our JSON is wrong");
        ensure!(
            serde_json::to_vec(&plain)? == json && serde_json::to_vec(&parsed)? == json,
            "the floor has other JSON"
        );
        ensure!(M::decode(codec.json_to_wire(id, &json)?.as_slice())? == *message, "our message is wrong");
        ensure!(serde_json::from_slice::<M>(&json)? == *message, "pbjson's message is wrong");

        let out: Conversions<'_> = [
            &mut || {
                // As the gateway does it for an answer.
                let mut json = Vec::with_capacity(wire.len() * 3 + 64);
                let written = codec.wire_to_json(id, black_box(&wire), &mut json);
                drop(black_box((written, json)));
            },
            &mut || drop(black_box(serde_json::to_vec(black_box(&plain)))),
            &mut || drop(black_box(serde_json::to_vec(black_box(&parsed)))),
            &mut || drop(black_box(M::decode(black_box(wire.as_slice())).map(|message| serde_json::to_vec(&message)))),
            &mut || {
                let message = DynamicMessage::decode(descriptor.clone(), black_box(wire.as_slice()));
                drop(black_box(message.map(|message| serde_json::to_vec(&message))));
            },
        ];
        self.findings(findings, &format!("{title}, {} bytes, out", json.len()), out, judged.then_some(0.9));

        let text = json.as_slice();
        let into: Conversions<'_> = [
            &mut || drop(black_box(codec.json_to_wire(id, black_box(text)))),
            &mut || drop(black_box(serde_json::from_slice::<Plain>(black_box(text)))),
            &mut || drop(black_box(serde_json::from_slice::<Parsed>(black_box(text)))),
            &mut || {
                let message = serde_json::from_slice::<M>(black_box(text));
                drop(black_box(message.map(|message| message.encode_to_vec())));
            },
            &mut || {
                let mut from = Deserializer::from_slice(black_box(text));
                let message = DynamicMessage::deserialize(descriptor.clone(), &mut from);
                drop(black_box(message.map(|message| message.encode_to_vec())));
            },
        ];
        self.findings(findings, &format!("{title}, {} bytes, in", json.len()), into, judged.then_some(0.8));
        Ok(())
    }

    /// Lets them take turns, and adds what that says.
    fn findings(&self, to: &mut Findings, title: &str, mut conversions: Conversions<'_>, wanted: Option<f64>) {
        let mut rounds: [Vec<f64>; NAMES.len()] = Default::default();
        for round in 1..=self.flags.rounds {
            eprintln!("round {round}/{}: {title}", self.flags.rounds);
            for (rounds, time) in rounds.iter_mut().zip(turns(&mut conversions, self.wall())) {
                rounds.push(time);
            }
        }
        // Writing to a string does not fail.
        let _ = write!(to.lines, "| {title} |");
        for times in &rounds {
            let _ = write!(to.lines, " {:.3} |", Spread::of(times).median);
        }
        to.lines.push('\n');
        let [ours, plain, parsed, pbjson, reflect] = &rounds;
        let mut compare = |other: &str, times: &[f64], wanted, otherwise| {
            let target = format!("{title}: gateway : {other}");
            to.compared.push(Comparison { target, ratios: ratios(times, ours), wanted, otherwise });
        };
        compare(NAMES[1], plain, wanted, ratios(parsed, ours));
        compare(NAMES[3], pbjson, None, Vec::new());
        compare(NAMES[4], reflect, None, Vec::new());
    }
}

/// The median of what each took for a conversion, in microseconds.
fn turns(conversions: &mut Conversions<'_>, wall: Duration) -> [f64; NAMES.len()] {
    let mut times: [Vec<f64>; NAMES.len()] = Default::default();
    let begin = Instant::now();
    while begin.elapsed() < wall {
        for (convert, times) in conversions.iter_mut().zip(&mut times) {
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < TURN {
                (0..BATCH).for_each(|_| convert());
                count += BATCH;
            }
            times.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(count));
        }
    }
    times.map(|times| Spread::of(&times).median)
}

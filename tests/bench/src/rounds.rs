//! The run: rounds in which the targets take turns, so that a noisy minute falls on all of them.

use std::{collections::BTreeMap, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    idle,
    load::{
        json,
        stream::{self, Shape},
    },
    stats::{Latencies, Percentiles, median},
    target::{Fleet, Kind, Started},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Load {
    Json,
    Sse,
    Idle,
}

/// What is run, and for how long.
pub struct Plan {
    json: Option<(usize, json::Shape)>,
    streams: Vec<(usize, Shape)>,
    idle: Option<(usize, Duration)>,
}

/// Descriptors that are not a stream's: logs, listeners, pools.
const SPARE_DESCRIPTORS: usize = 500;

impl Plan {
    pub fn new(quick: bool, only: Option<Load>, rate: Option<u32>, idle_streams: usize, descriptors: usize) -> Self {
        let wants = |load| only.is_none_or(|only| only == load);
        let rounds = |full: usize, quickly: usize| if quick { quickly } else { full };
        let shape = |streams, period_ms| Shape {
            streams,
            events: 100,
            period: Duration::from_millis(period_ms),
        };
        // Both shapes are 20,000 events a second: what two cores carry without the mock falling behind.
        let shapes = [(rounds(5, 2), shape(200, 10)), (rounds(2, 1), shape(2_000, 100))];
        let requests = json::Shape {
            window: Duration::from_secs(if quick { 2 } else { 3 }),
            rate,
        };
        // The generator's end and the mock's end of a stream are both in this process.
        let room = descriptors.saturating_sub(SPARE_DESCRIPTORS) / 2;
        Self {
            json: wants(Load::Json).then_some((rounds(5, 2), requests)),
            streams: if wants(Load::Sse) { shapes.to_vec() } else { Vec::new() },
            idle: wants(Load::Idle).then_some((idle_streams.min(room), Duration::from_secs(if quick { 4 } else { 8 }))),
        }
    }
}

/// Everything that was found, target by target.
#[derive(Default, Serialize)]
pub struct Measured {
    pub json: Vec<JsonFigures>,
    pub streams: Vec<StreamTable>,
    pub idle: Vec<IdleFigures>,
}

#[derive(Serialize)]
pub struct JsonFigures {
    pub target: Kind,
    pub per_second: f64,
    pub per_second_best: f64,
    #[serde(flatten)]
    pub latency: Percentiles,
    pub cpu_us_per_request: Option<f64>,
    pub cpu_us_by_thread: BTreeMap<String, f64>,
    pub target_busy_percent: Option<f64>,
    pub generator_busy_percent: f64,
}

#[derive(Serialize)]
pub struct StreamTable {
    pub streams: usize,
    pub period_ms: u64,
    pub rows: Vec<StreamFigures>,
}

#[derive(Serialize)]
pub struct StreamFigures {
    pub target: Kind,
    pub complete: usize,
    pub chunks_per_second: f64,
    #[serde(flatten)]
    pub latency: Percentiles,
    pub cpu_us_per_chunk: Option<f64>,
    pub generator_busy_percent: f64,
}

#[derive(Serialize)]
pub struct IdleFigures {
    pub target: Kind,
    pub streams: usize,
    pub resident_mb_before: f64,
    pub resident_mb_with: f64,
    pub kb_per_stream: f64,
    pub cpu_percent: f64,
}

pub fn measure(fleet: &Fleet, plan: &Plan) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    if plan.json.is_some() || !plan.streams.is_empty() {
        let targets = fleet
            .kinds
            .iter()
            .map(|&kind| Ok((kind, fleet.start(kind)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if let Some((rounds, shape)) = plan.json {
            measured.json = json_rounds(&targets, rounds, shape)?;
        }
        for &(rounds, shape) in &plan.streams {
            measured.streams.push(stream_rounds(&targets, rounds, shape)?);
        }
    }
    if let Some((streams, window)) = plan.idle {
        measured.idle = idle_round(fleet, streams, window)?;
    }
    Ok(measured)
}

/// Runs `one` on each target in turn, `rounds` times.
fn take_turns<R>(
    targets: &[(Kind, Started)],
    rounds: usize,
    one: impl Fn(&Started) -> anyhow::Result<R>,
) -> anyhow::Result<Vec<(Kind, Vec<R>)>> {
    let mut all: Vec<(Kind, Vec<R>)> = targets.iter().map(|(kind, _)| (*kind, Vec::new())).collect();
    for round in 1..=rounds {
        for ((kind, target), (_, runs)) in targets.iter().zip(&mut all) {
            eprintln!("  round {round}/{rounds}: {}", kind.as_str());
            runs.push(one(target)?);
        }
    }
    Ok(all)
}

fn json_rounds(targets: &[(Kind, Started)], rounds: usize, shape: json::Shape) -> anyhow::Result<Vec<JsonFigures>> {
    eprintln!("JSON 1 kB -> 1 kB, {} connections", json::CONNECTIONS);
    let all = take_turns(targets, rounds, |target| json::run(&target.endpoint, shape))?;
    Ok(all
        .into_iter()
        .map(|(target, runs)| json_figures(target, runs))
        .collect())
}

fn json_figures(target: Kind, runs: Vec<json::Run>) -> JsonFigures {
    let rates: Vec<_> = runs
        .iter()
        .map(|run| run.requests as f64 / run.window.as_secs_f64())
        .collect();
    let requests: usize = runs.iter().map(|run| run.requests).sum();
    let window: Duration = runs.iter().map(|run| run.window).sum();
    let target_cpu: Option<Duration> = runs.iter().map(|run| run.target_cpu).sum();
    let generator_cpu: Duration = runs.iter().map(|run| run.generator_cpu).sum();
    let mut cpu_us_by_thread = BTreeMap::new();
    for (name, cpu) in runs.iter().flat_map(|run| &run.threads_cpu) {
        *cpu_us_by_thread.entry(name.clone()).or_default() += us_each(*cpu, requests);
    }
    JsonFigures {
        cpu_us_by_thread,
        target,
        per_second_best: rates.iter().copied().fold(0.0, f64::max),
        per_second: median(rates),
        latency: merged(runs.into_iter().map(|run| run.latencies)),
        cpu_us_per_request: target_cpu.map(|cpu| us_each(cpu, requests)),
        target_busy_percent: target_cpu.map(|cpu| percent(cpu, window)),
        generator_busy_percent: percent(generator_cpu, window),
    }
}

fn stream_rounds(targets: &[(Kind, Started)], rounds: usize, shape: Shape) -> anyhow::Result<StreamTable> {
    let period_ms = shape.period.as_millis() as u64;
    eprintln!(
        "SSE, {} streams x {} chunks, one each {period_ms} ms",
        shape.streams, shape.events
    );
    let all = take_turns(targets, rounds, |target| stream::run(&target.endpoint, shape))?;
    let rows = all
        .into_iter()
        .map(|(target, runs)| stream_figures(target, runs))
        .collect();
    Ok(StreamTable {
        streams: shape.streams,
        period_ms,
        rows,
    })
}

fn stream_figures(target: Kind, runs: Vec<stream::Run>) -> StreamFigures {
    let chunks: usize = runs.iter().map(|run| run.latencies.len()).sum();
    let window: Duration = runs.iter().map(|run| run.window).sum();
    let target_cpu: Option<Duration> = runs.iter().map(|run| run.target_cpu).sum();
    let generator_cpu: Duration = runs.iter().map(|run| run.generator_cpu).sum();
    StreamFigures {
        target,
        complete: runs.iter().map(|run| run.complete).sum(),
        chunks_per_second: chunks as f64 / window.as_secs_f64(),
        latency: merged(runs.into_iter().map(|run| run.latencies)),
        cpu_us_per_chunk: target_cpu.map(|cpu| us_each(cpu, chunks)),
        generator_busy_percent: percent(generator_cpu, window),
    }
}

/// A fresh process for each target: memory that an earlier load left behind is not a stream's.
fn idle_round(fleet: &Fleet, streams: usize, window: Duration) -> anyhow::Result<Vec<IdleFigures>> {
    eprintln!("{streams} idle streams, one chunk each 2 s");
    let mut figures = Vec::new();
    for &kind in fleet.kinds.iter().filter(|kind| **kind != Kind::Direct) {
        eprintln!("  {}", kind.as_str());
        let target = fleet.start(kind)?;
        figures.push(idle_figures(kind, idle::run(&target.endpoint, streams, window)?));
    }
    Ok(figures)
}

fn idle_figures(target: Kind, run: idle::Run) -> IdleFigures {
    const MB: f64 = 1024.0 * 1024.0;
    let grown = run.resident_with.saturating_sub(run.resident_before) as f64;
    IdleFigures {
        target,
        streams: run.streams,
        resident_mb_before: run.resident_before as f64 / MB,
        resident_mb_with: run.resident_with as f64 / MB,
        kb_per_stream: grown / 1024.0 / run.streams.max(1) as f64,
        cpu_percent: percent(run.cpu, run.window),
    }
}

fn merged(all: impl Iterator<Item = Latencies>) -> Percentiles {
    let mut merged = Latencies::default();
    all.for_each(|latencies| merged.extend(latencies));
    merged.percentiles()
}

fn us_each(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn percent(cpu: Duration, window: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / window.as_secs_f64()
}

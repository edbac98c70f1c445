//! What was measured, as Markdown for people and as JSON for programs, beside the bars it has to clear.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    rounds::Measured,
    target::{Fleet, Kind},
};

/// Where and on what it was measured.
#[derive(Serialize)]
pub struct Setting {
    cores: usize,
    kernel: String,
    load_before: String,
    versions: Vec<String>,
}

impl Setting {
    pub fn look(fleet: &Fleet) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            versions: fleet.versions(),
        }
    }
}

/// One thing the gateway has to reach, relative to nginx where `unit` is ×.
#[derive(Serialize)]
pub struct Bar {
    name: &'static str,
    unit: &'static str,
    value: f64,
    must_reach: f64,
    next: f64,
    aim: f64,
    more_is_better: bool,
}

#[derive(Serialize)]
pub struct Verdict(Vec<Bar>);

impl Bar {
    fn is_met(&self) -> bool {
        if self.more_is_better {
            self.value >= self.must_reach
        } else {
            self.value <= self.must_reach
        }
    }

    fn sign(&self) -> &'static str {
        if self.more_is_better { "≥" } else { "≤" }
    }
}

impl Verdict {
    /// The bars for which both sides were measured.
    pub fn of(measured: &Measured) -> Self {
        let json = |kind| measured.json.iter().find(|row| row.target == kind);
        let streams = |kind| measured.streams.first()?.rows.iter().find(|row| row.target == kind);
        let idle = measured.idle.iter().find(|row| row.target == Kind::Gateway);
        let request = json(Kind::Gateway).zip(json(Kind::Nginx));
        let chunk = streams(Kind::Gateway).zip(streams(Kind::Nginx));
        let cpu_request = request.and_then(|(ours, nginx)| ratio(ours.cpu_us_per_request?, nginx.cpu_us_per_request?));
        let rate = request.and_then(|(ours, nginx)| ratio(ours.per_second, nginx.per_second));
        let cpu_chunk = chunk.and_then(|(ours, nginx)| ratio(ours.cpu_us_per_chunk?, nginx.cpu_us_per_chunk?));
        let p50_chunk = chunk.and_then(|(ours, nginx)| ratio(ours.latency.p50_us, nginx.latency.p50_us));
        let bars = [
            bar("CPU per small request", "× nginx", cpu_request, [2.0, 1.6, 1.35], false),
            bar("throughput, 64 connections", "× nginx", rate, [0.5, 0.62, 0.75], true),
            bar(
                "CPU per SSE chunk, 200 streams",
                "× nginx",
                cpu_chunk,
                [1.3, 1.15, 1.0],
                false,
            ),
            bar(
                "p50 per chunk, 200 streams",
                "× nginx",
                p50_chunk,
                [1.7, 1.3, 1.1],
                false,
            ),
            bar(
                "memory per idle stream",
                "kB",
                idle.map(|row| row.kb_per_stream),
                [35.0, 25.0, 20.0],
                false,
            ),
        ];
        Self(bars.into_iter().flatten().collect())
    }

    pub fn missed(&self) -> bool {
        self.0.iter().any(|bar| !bar.is_met())
    }
}

fn bar(
    name: &'static str,
    unit: &'static str,
    value: Option<f64>,
    [must_reach, next, aim]: [f64; 3],
    more_is_better: bool,
) -> Option<Bar> {
    value.map(|value| Bar {
        name,
        unit,
        value,
        must_reach,
        next,
        aim,
        more_is_better,
    })
}

fn ratio(ours: f64, nginx: f64) -> Option<f64> {
    (nginx > 0.0).then(|| ours / nginx)
}

pub fn json(setting: &Setting, measured: &Measured, verdict: &Verdict) -> Value {
    json!({ "setting": setting, "measured": measured, "bars": verdict })
}

pub fn markdown(setting: &Setting, measured: &Measured, verdict: &Verdict) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_markdown(&mut out, setting, measured, verdict);
    out
}

fn write_markdown(out: &mut String, setting: &Setting, measured: &Measured, verdict: &Verdict) -> std::fmt::Result {
    let Setting {
        cores,
        kernel,
        load_before,
        versions,
    } = setting;
    writeln!(
        out,
        "{cores} cores, Linux {kernel}, load before {load_before}; {}\n",
        versions.join("; ")
    )?;
    write_json(out, measured)?;
    write_streams(out, measured)?;
    write_idle(out, measured)?;
    write_bars(out, verdict)
}

fn write_json(out: &mut String, measured: &Measured) -> std::fmt::Result {
    if measured.json.is_empty() {
        return Ok(());
    }
    let nginx = measured.json.iter().find(|row| row.target == Kind::Nginx);
    writeln!(out, "**JSON 1 kB → 1 kB, 64 connections, keep-alive**\n")?;
    writeln!(
        out,
        "| target | requests/s, median (best) | p50 / p99 µs | CPU µs/request | target busy | generator busy | requests/s ÷ nginx | CPU ÷ nginx |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for row in &measured.json {
        let rate = nginx.and_then(|nginx| ratio(row.per_second, nginx.per_second));
        let cpu = nginx.and_then(|nginx| ratio(row.cpu_us_per_request?, nginx.cpu_us_per_request?));
        writeln!(
            out,
            "| {} | {:.0} ({:.0}) | {:.0} / {:.0} | {} | {} | {:.0} % | {} | {} |",
            row.target.as_str(),
            row.per_second,
            row.per_second_best,
            row.latency.p50_us,
            row.latency.p99_us,
            figure(row.cpu_us_per_request, 1),
            row.target_busy_percent
                .map_or("-".to_owned(), |busy| format!("{busy:.0} %")),
            row.generator_busy_percent,
            figure(rate, 2),
            figure(cpu, 2),
        )?;
    }
    for row in measured.json.iter().filter(|row| row.cpu_us_by_thread.len() > 1) {
        let threads = row.cpu_us_by_thread.iter().filter(|(_, us)| **us >= 0.1);
        let threads: Vec<_> = threads.map(|(name, us)| format!("{name} {us:.1}")).collect();
        writeln!(
            out,
            "\n{}, CPU µs/request by thread: {}",
            row.target.as_str(),
            threads.join(", ")
        )?;
    }
    writeln!(out)
}

fn write_streams(out: &mut String, measured: &Measured) -> std::fmt::Result {
    for table in &measured.streams {
        let of = |kind| table.rows.iter().find(|row| row.target == kind);
        let (nginx, direct) = (of(Kind::Nginx), of(Kind::Direct));
        writeln!(
            out,
            "**SSE, {} streams × 100 chunks of 120 B, one each {} ms**\n",
            table.streams, table.period_ms
        )?;
        writeln!(
            out,
            "| target | streams complete | chunks/s | p50 / p99 µs | added p50 µs | CPU µs/chunk | p50 ÷ nginx | CPU ÷ nginx |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for row in &table.rows {
            let added = direct.map(|direct| row.latency.p50_us - direct.latency.p50_us);
            let p50 = nginx.and_then(|nginx| ratio(row.latency.p50_us, nginx.latency.p50_us));
            let cpu = nginx.and_then(|nginx| ratio(row.cpu_us_per_chunk?, nginx.cpu_us_per_chunk?));
            writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} / {:.0} | {} | {} | {} | {} |",
                row.target.as_str(),
                row.complete,
                row.chunks_per_second,
                row.latency.p50_us,
                row.latency.p99_us,
                figure(added, 0),
                figure(row.cpu_us_per_chunk, 1),
                figure(p50, 2),
                figure(cpu, 2),
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_idle(out: &mut String, measured: &Measured) -> std::fmt::Result {
    let Some(first) = measured.idle.first() else {
        return Ok(());
    };
    let nginx = measured.idle.iter().find(|row| row.target == Kind::Nginx);
    writeln!(
        out,
        "**{} idle streams, one chunk each 2 s, fresh process**\n",
        first.streams
    )?;
    writeln!(
        out,
        "| target | memory before → with, MB | kB per stream | CPU | kB ÷ nginx |\n|---|---|---|---|---|"
    )?;
    for row in &measured.idle {
        let memory = nginx.and_then(|nginx| ratio(row.kb_per_stream, nginx.kb_per_stream));
        writeln!(
            out,
            "| {} | {:.0} → {:.0} | {:.1} | {:.1} % | {} |",
            row.target.as_str(),
            row.resident_mb_before,
            row.resident_mb_with,
            row.kb_per_stream,
            row.cpu_percent,
            figure(memory, 2),
        )?;
    }
    writeln!(out)
}

fn write_bars(out: &mut String, verdict: &Verdict) -> std::fmt::Result {
    if verdict.0.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "| bar | measured | must reach | | next step | aim |\n|---|---|---|---|---|---|"
    )?;
    for bar in &verdict.0 {
        let (sign, met) = (bar.sign(), if bar.is_met() { "ok" } else { "**missed**" });
        let Bar {
            name,
            unit,
            value,
            must_reach,
            next,
            aim,
            ..
        } = bar;
        writeln!(
            out,
            "| {name} | {value:.2} {unit} | {sign} {must_reach} | {met} | {sign} {next} | {sign} {aim} |"
        )?;
    }
    Ok(())
}

fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

// SPDX-License-Identifier: Apache-2.0
//! Servers in containers, under load from the other end of a cable.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    contest::{self, Figure, Samples},
    debian::Debian,
    interleave::{Contender, Plan, Sampler, interleave},
    launch::{self, Launcher},
    results::{Measure, Unit},
    runner::Finished,
    session::Session,
    system::System,
    wire::{End, INNER, Wire},
};

/// Ids of the rates; of all of them more is better.
pub(crate) const RATES: [&str; 6] =
    ["redis-1", "redis-16", "nginx-requests", "nginx-connections", "iperf-in", "iperf-out"];

const FIGURES: [Figure; 6] = [
    of_server(
        "redis-1",
        "Network: redis GET, 50 clients, pipeline 1 (more is better)",
        "redis-benchmark over a veth.",
        Unit::PerSecond,
    ),
    of_server(
        "redis-16",
        "Network: redis GET, 50 clients, pipeline 16 (more is better)",
        "redis-benchmark over a veth.",
        Unit::PerSecond,
    ),
    of_server(
        "nginx-requests",
        "Network: nginx, requests with keep-alive (more is better)",
        "wrk with 32 connections over a veth; a page of 612 bytes on a tmpfs of the container.",
        Unit::PerSecond,
    ),
    of_server(
        "nginx-connections",
        "Network: nginx, a connection for each request (more is better)",
        "wrk with 16 connections and `Connection: close` over a veth.",
        Unit::PerSecond,
    ),
    of_server(
        "iperf-in",
        "Network: iperf3, one stream into the container (more is better)",
        "iperf3 over a veth, what the receiver got.",
        Unit::MebibytesPerSecond,
    ),
    of_server(
        "iperf-out",
        "Network: iperf3, one stream out of the container (more is better)",
        "iperf3 -R over a veth, what the receiver got.",
        Unit::MebibytesPerSecond,
    ),
];

const NGINX: &str = "\
    mkdir -p /tmp/www; head -c 612 /dev/zero | tr '\\0' x > /tmp/www/page; \
    echo 'daemon off; master_process off; user root; pid /tmp/pid; error_log /tmp/log; \
      events { worker_connections 512; } \
      http { access_log off; keepalive_requests 1000000; client_body_temp_path /tmp/1; \
        proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; \
        scgi_temp_path /tmp/5; server { listen 8080; root /tmp/www; } }' > /tmp/nginx.conf; \
    exec nginx -c /tmp/nginx.conf";

/// The server takes whoever asked whether it listens for a client, and may be busy with it for a
/// moment.
macro_rules! iperf_script {
    ($flag:literal) => {
        concat!(
            "for turn in 1 2 3 4 5; do \
               iperf3 --client $1 --port $2 --time $3 --json ",
            $flag,
            " > /tmp/report || true; \
               grep -q 'server is busy' /tmp/report || break; sleep 0.2; \
             done; cat /tmp/report"
        )
    };
}

/// A server, and what loads it.
struct Server {
    name: &'static str,
    script: &'static str,
    port: u16,
    loads: [Load; 2],
}

/// A load, and how to read what it prints.
struct Load {
    figure: &'static str,
    client: &'static str,
    /// `$1` is the address, `$2` the port, `$3` seconds and `$4` thousands of requests.
    script: &'static str,
    read_fn: fn(&str) -> Result<f64>,
}

const SERVERS: [Server; 3] = [
    Server {
        name: "redis",
        script: "exec redis-server --save '' --appendonly no --protected-mode no --bind 0.0.0.0 \
                 --dir /tmp",
        port: 6379,
        loads: [
            Load {
                figure: "redis-1",
                client: "redis-benchmark",
                script: "redis-benchmark -h $1 -p $2 -c 50 -P 1 -n ${4}000 -t get --csv",
                read_fn: redis,
            },
            Load {
                figure: "redis-16",
                client: "redis-benchmark",
                script: "redis-benchmark -h $1 -p $2 -c 50 -P 16 -n ${4}0000 -t get --csv",
                read_fn: redis,
            },
        ],
    },
    Server {
        name: "nginx",
        script: NGINX,
        port: 8080,
        loads: [
            Load {
                figure: "nginx-requests",
                client: "wrk",
                script: "wrk -t 1 -c 32 -d ${3}s http://$1:$2/page",
                read_fn: wrk,
            },
            Load {
                figure: "nginx-connections",
                client: "wrk",
                script: "wrk -t 1 -c 16 -d ${3}s -H 'Connection: close' http://$1:$2/page",
                read_fn: wrk,
            },
        ],
    },
    Server {
        name: "iperf",
        script: "exec iperf3 --server",
        port: 5201,
        loads: [
            Load {
                figure: "iperf-in",
                client: "iperf3",
                script: iperf_script!(""),
                read_fn: iperf,
            },
            Load {
                figure: "iperf-out",
                client: "iperf3",
                script: iperf_script!("--reverse"),
                read_fn: iperf,
            },
        ],
    },
];

const fn of_server(
    id: &'static str,
    title: &'static str,
    method: &'static str,
    unit: Unit,
) -> Figure {
    Figure { name: id, id, title, method, unit }
}

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let launchers = session.launchers()?;
    let runs = if session.args.quick { 1 } else { 3 };
    let is_interrupted = || session.runner.is_interrupted();
    let mut measures = vec![];
    for server in &SERVERS {
        let contenders = session.args.systems.iter().map(|system| {
            let launcher = launch::of(&launchers, *system);
            let debian = session.debian.as_ref().map_err(Clone::clone);
            let sample = debian.and_then(|debian| {
                let launcher = launcher?.cloned().map(Launcher::with_network);
                Ok(sampler(session, debian, *system, launcher, server))
            });
            Contender { system: *system, label: contest::label(*system), sample }
        });
        let results = interleave(contenders.collect(), Plan { warmups: 0, runs }, is_interrupted)?;
        let of_server =
            |figure: &&Figure| server.loads.iter().any(|load| load.figure == figure.name);
        let figures: Vec<Figure> = FIGURES.iter().filter(of_server).copied().collect();
        measures.extend(contest::measures(&figures, &results));
    }
    Ok(measures)
}

fn sampler<'a>(
    session: &'a Session,
    debian: &'a Debian,
    system: System,
    launcher: Option<Launcher>,
    server: &'a Server,
) -> Sampler<'a, Samples> {
    let mut count = 0;
    Box::new(move || {
        count += 1;
        let id = format!("{}-{count}", server.name);
        let mut wire = Wire::lay(session)?;
        let Some(launcher) = &launcher else {
            let mut chroot = wire.command(End::Pod, "chroot".as_ref());
            debian.set_up(&mut chroot);
            chroot.arg(debian.plain()).args(["/bin/bash", "-c", server.script]);
            wire.spawn(session, &mut chroot)?;
            return load(session, debian, &wire, server);
        };
        let name = format!("{}-{system}", server.name);
        let container = debian.container(&name, &["/bin/bash", "-c", server.script]);
        let bundle = container.with_network(wire.pod()).bundle(&session.scratch)?;
        let started = session.runner.succeed(&mut launcher.run_detached(&bundle, &id));
        let loaded = started.and_then(|_| load(session, debian, &wire, server));
        session.runner.tidy(&mut launcher.delete(&id));
        session.runner.reap();
        loaded
    })
}

/// Waits for a server, and puts its loads on it, one after the other.
fn load(session: &Session, debian: &Debian, wire: &Wire, server: &Server) -> Result<Samples> {
    let (seconds, thousands) = if session.args.quick { ("1", "1") } else { ("2", "30") };
    let port = server.port.to_string();
    let mut wait = wire.command(End::Outside, &session.rootfs.path.join("workload"));
    session.runner.succeed(wait.args(["await", &format!("{INNER}:{port}")]))?;
    let mut samples = Samples::new();
    for load in &server.loads {
        let mut client = wire.command(End::Outside, "chroot".as_ref());
        debian.set_up(&mut client);
        client.arg(debian.plain()).args(["/bin/bash", "-c", load.script, load.client]);
        client.args([INNER, &port, seconds, thousands]);
        let printed = succeed(session, &mut client, load)?;
        let value = (load.read_fn)(&String::from_utf8_lossy(&printed.stdout))
            .with_context(|| format!("{} says nothing of use", load.client))?;
        samples.insert(load.figure.to_owned(), vec![value]);
    }
    Ok(samples)
}

fn succeed(session: &Session, client: &mut Command, load: &Load) -> Result<Finished> {
    session.runner.succeed(client).with_context(|| format!("{} failed", load.client))
}

/// Reads `"GET","12345.67",...` below a line of titles.
fn redis(output: &str) -> Result<f64> {
    let line = output.lines().find(|line| line.starts_with("\"GET")).context("no line of GET")?;
    let rate = line.split(',').nth(1).context("no rate")?;
    Ok(rate.trim_matches('"').parse()?)
}

/// Reads `Requests/sec:  12345.67`.
fn wrk(output: &str) -> Result<f64> {
    let after = |key: &str| output.lines().find_map(|line| line.trim().strip_prefix(key));
    if let Some(errors) = after("Non-2xx or 3xx responses:").or(after("Socket errors:")) {
        bail!("there were errors: {}", errors.trim());
    }
    Ok(after("Requests/sec:").context("no rate")?.trim().parse()?)
}

/// Reads the report, into MiB per second.
fn iperf(output: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(output).context("what it printed is no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("{error}");
    }
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().context("no rate")?;
    ensure!(bits > 0.0, "nothing arrived");
    Ok(bits / 8.0 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_clients_are_read() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"71428.57\",\"0.4\"\n";
        let wrk_text = "  2 threads\nRequests/sec:  31337.50\nTransfer/sec:      2.00MB\n";
        let json = r#"{ "end": { "sum_received": { "bits_per_second": 8388608.0 } } }"#;

        assert_eq!(redis(csv).expect("it is sound"), 71428.57);
        assert_eq!(wrk(wrk_text).expect("it is sound"), 31337.5);
        assert_eq!(iperf(json).expect("it is sound"), 1.0);
    }

    #[test]
    fn reports_of_errors_are_no_rates() {
        let errors = "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec: 1.0\n";

        assert!(wrk(errors).is_err());
        assert!(redis("ERR").is_err());
        assert!(iperf(r#"{ "error": "no route" }"#).is_err());
    }

    #[test]
    fn every_load_has_a_figure_and_a_target() {
        let loads = SERVERS.iter().flat_map(|server| &server.loads);
        let names: Vec<_> = loads.map(|load| load.figure).collect();

        assert_eq!(names, RATES);
        assert_eq!(names, FIGURES.map(|figure| figure.name));
    }
}

//! The table of what Towline must reach beside the others, from paired repetitions of one run.

use towline_report::schema::{Check, Client, Interval, Level, Point};
use towline_report::stats::median;

/// All rows; those that this run did not measure say so.
pub(crate) fn compute(points: &[Point]) -> Vec<Check> {
    let on_p50 = |client| Row { client, level: Level::On, clients: 1, ..Row::default() };
    let on_rate = |client| Row { client, level: Level::On, clients: 32, ..Row::default() };
    let peer = |system, level, clients| Row { system, level, clients, ..Row::default() };
    let library = |level, clients| Row {
        system: LIBRARIES,
        level,
        clients,
        client: Client::Embedded,
        ..Row::default()
    };
    let alone = |level, clients| Row {
        client: Client::Embedded,
        level,
        clients,
        standbys: Some(0),
        ..Row::default()
    };
    let socket_note = "a connection for each client on both sides";
    vec![
        most(
            points,
            "p50 on, 1 client, socket",
            &on_p50(Client::Socket),
            &peer("postgres", Level::On, 1),
            0.5,
            socket_note,
        ),
        most(
            points,
            "p50 on, 1 client, embedded",
            &on_p50(Client::Embedded),
            &peer("postgres", Level::On, 1),
            0.4,
            "",
        ),
        least(
            points,
            "on, 32 clients, socket",
            &on_rate(Client::Socket),
            &peer("postgres", Level::On, 32),
            4.0,
            socket_note,
        ),
        least(
            points,
            "on, 32 clients, socket",
            &on_rate(Client::Socket),
            &peer("etcd", Level::On, 32),
            8.0,
            socket_note,
        ),
        least(
            points,
            "on, 32 clients, socket",
            &on_rate(Client::Socket),
            &peer("redis", Level::RemoteWrite, 32),
            4.0,
            "a connection for each client on both sides; Redis promises less: WAIT counts replicas that have it in memory",
        ),
        least(
            points,
            "on, 32 clients, embedded",
            &on_rate(Client::Embedded),
            &peer("postgres", Level::On, 32),
            5.0,
            "",
        ),
        least(
            points,
            "local, 32 writers, no standby",
            &Row { threads: Some(32), ..alone(Level::Local, 32) },
            &library(Level::Local, 32),
            1.5,
            "a thread for each writer on both sides",
        ),
        least(
            points,
            "off, one thread",
            &alone(Level::Off, 1),
            &library(Level::Off, 1),
            4.0,
            "off survives a clean stop; a library without a sync leaves its writes to the kernel, which survives SIGKILL too",
        ),
    ]
}

/// Which points a figure comes from.
#[derive(Clone, Copy)]
struct Row {
    system: &'static str,
    client: Client,
    level: Level,
    clients: u32,
    standbys: Option<u32>,
    threads: Option<u32>,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            system: "towline",
            client: Client::Socket,
            level: Level::On,
            clients: 1,
            standbys: None,
            threads: None,
        }
    }
}

impl Row {
    fn holds(&self, point: &Point) -> bool {
        let system = if self.system == LIBRARIES {
            LIBRARY_NAMES.contains(&point.system.as_str())
        } else {
            point.system == self.system
        };
        let clients = match point.load.arrival {
            towline_report::schema::Arrival::Closed(clients) => clients == self.clients,
            towline_report::schema::Arrival::OpenPerS(_) => false,
        };
        // Rows of one connection for all clients stand beside the others and decide nothing.
        let connections = point.connections.is_none_or(|connections| connections == self.clients);
        system
            && clients
            && connections
            && point.client == self.client
            && point.level == self.level
            && self.standbys.is_none_or(|standbys| point.standbys == standbys)
            && self.threads.is_none_or(|threads| point.load.threads == Some(threads))
    }

    /// The figure in each repetition, the best where several systems are meant.
    fn figures(
        &self,
        points: &[Point],
        figure: fn(&Point) -> f64,
        better: fn(f64, f64) -> f64,
    ) -> Vec<Option<f64>> {
        let repetitions = points.iter().map(|point| point.repetition + 1).max().unwrap_or(0);
        (0..repetitions)
            .map(|repetition| {
                let own = points.iter().filter(|point| point.repetition == repetition && self.holds(point));
                own.map(figure).reduce(better)
            })
            .collect()
    }
}

fn least(points: &[Point], what: &str, towline: &Row, other: &Row, bar: f64, note: &str) -> Check {
    let ratios = ratios(points, towline, other, |point| point.achieved_per_s, f64::max);
    let name = if other.system == LIBRARIES { "the best log library" } else { other.system };
    check(
        format!("commits/s {what}, against {name}"),
        format!("≥ {bar} ×"),
        &ratios,
        |value| value >= bar,
        note,
    )
}

fn most(points: &[Point], what: &str, towline: &Row, other: &Row, bar: f64, note: &str) -> Check {
    let ratios = ratios(points, towline, other, |point| point.latency_ns.p50 as f64, f64::min);
    check(
        format!("{what}, against {}", other.system),
        format!("≤ {bar} ×"),
        &ratios,
        |value| value <= bar,
        note,
    )
}

fn ratios(
    points: &[Point],
    towline: &Row,
    other: &Row,
    figure: fn(&Point) -> f64,
    better: fn(f64, f64) -> f64,
) -> Vec<f64> {
    let pairs =
        towline.figures(points, figure, better).into_iter().zip(other.figures(points, figure, better));
    pairs.filter_map(|(own, theirs)| Some(own? / theirs.filter(|theirs| *theirs > 0.0)?)).collect()
}

fn check(measure: String, bar: String, ratios: &[f64], met: impl Fn(f64) -> bool, note: &str) -> Check {
    let value = median(ratios);
    let (low, high) =
        ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
    Check {
        measure,
        bar,
        value,
        unit: "×".into(),
        spread: value.map(|_| Interval { low, high }),
        floor: None,
        met: value.map(met),
        note: (!note.is_empty()).then(|| note.to_owned()),
    }
}

const LIBRARIES: &str = "the best log library";
const LIBRARY_NAMES: [&str; 3] = ["raft-engine", "okaywal", "walrus"];

//! Systems side by side, by what their acknowledgement survives: rows of different promises are never ranked together.

use crate::groups::{Row, rows};
use crate::schema::{Client, Level, Report};

/// Everything that makes the same promise.
pub(crate) struct Class<'a> {
    pub(crate) level: Level,
    pub(crate) durable: bool,
    pub(crate) survives: &'a str,
    /// By load, the lightest first; the fastest first in each.
    pub(crate) loads: Vec<(String, Vec<Row<'a>>)>,
}

impl<'a> Class<'a> {
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row<'a>> {
        self.loads.iter().flat_map(|(_, rows)| rows)
    }

    /// A system with what tells it from its other rows here, as `Towline, embedded`.
    pub(crate) fn name(&self, row: &Row<'_>) -> String {
        let point = row.point;
        let own = || self.rows().map(|row| row.point).filter(|other| other.system == point.system);
        let mut name = system_words(&point.system).to_owned();
        if own().any(|other| other.client != point.client) {
            name.push_str(if point.client == Client::Socket { ", socket" } else { ", embedded" });
        }
        if own().any(|other| other.standbys != point.standbys) && point.standbys == 0 {
            name.push_str(", alone");
        }
        let kinds =
            || own().filter(|other| other.load.arrival == point.load.arrival && other.client == point.client);
        if let Some(connections) =
            point.connections.filter(|own| kinds().any(|other| other.connections != Some(*own)))
            && connections == 1
        {
            name.push_str(", 1 conn.");
        }
        if point.load.threads.is_some() && kinds().any(|other| other.load.threads.is_none()) {
            name.push_str(", threads");
        }
        name
    }
}

/// A system as its makers write it, from its name in `report.json`.
pub(crate) fn system_words(name: &str) -> &str {
    match name {
        "towline" => "Towline",
        "postgres" => "PostgreSQL",
        "redis" => "Redis",
        "nats" => "NATS JetStream",
        "walrus" => "Walrus",
        other => other,
    }
}

/// The classes of a comparison: durable ones first, the stronger promise first.
pub(crate) fn classes(report: &Report) -> Vec<Class<'_>> {
    let mut classes: Vec<Class<'_>> = Vec::new();
    for row in rows(report.experiment("compare")) {
        let point = row.point;
        let (durable, survives) =
            (point.durable.unwrap_or(false), point.survives.as_deref().unwrap_or("not said"));
        let same = |class: &Class<'_>| {
            (class.level, class.durable, class.survives) == (point.level, durable, survives)
        };
        let load = match point.load.arrival {
            crate::schema::Arrival::Closed(1) => "1 client".into(),
            crate::schema::Arrival::Closed(clients) => format!("{clients} clients"),
            crate::schema::Arrival::OpenPerS(_) => row.load_label(),
        };
        let class = match classes.iter().position(same) {
            Some(index) => &mut classes[index],
            None => {
                classes.push(Class { level: point.level, durable, survives, loads: Vec::new() });
                let last = classes.len() - 1;
                &mut classes[last]
            }
        };
        match class.loads.iter_mut().find(|(name, _)| *name == load) {
            Some((_, rows)) => rows.push(row),
            None => class.loads.push((load, vec![row])),
        }
    }
    for (_, rows) in classes.iter_mut().flat_map(|class| &mut class.loads) {
        rows.sort_by(|a, b| a.p50().median.total_cmp(&b.p50().median));
    }
    let clients = |rows: &[Row<'_>]| match rows[0].point.load.arrival {
        crate::schema::Arrival::Closed(clients) => clients,
        crate::schema::Arrival::OpenPerS(_) => u32::MAX,
    };
    classes.iter_mut().for_each(|class| class.loads.sort_by_key(|(_, rows)| clients(rows)));
    classes.sort_by(|a, b| (b.durable, b.level, a.survives).cmp(&(a.durable, a.level, b.survives)));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::full_report;

    #[test]
    fn promises_are_kept_apart_and_the_fastest_stands_first() {
        let report = full_report(3);
        let classes = classes(&report);
        let kinds: Vec<_> = classes.iter().map(|class| (class.level, class.durable)).collect();
        assert_eq!(
            kinds,
            [(Level::On, true), (Level::RemoteWrite, true), (Level::Local, true), (Level::On, false)]
        );
        let on = &classes[0];
        assert_eq!(
            on.loads.iter().map(|(load, _)| load.as_str()).collect::<Vec<_>>(),
            ["1 client", "32 clients"]
        );
        let names: Vec<String> = on.loads[0].1.iter().map(|row| on.name(row)).collect();
        assert_eq!(names, ["Towline, embedded", "Towline, socket", "PostgreSQL", "etcd"]);
        assert!(on.rows().all(|row| row.repetitions.len() == 3 && row.point.system != "nats"));
    }
}

//! Promotion, hand-over and demotion among whole nodes, as scripts: one claim per script, said in its first line.
//!
//! The first node of `cluster` is a fresh primary with id 1, the others are its standbys, with ids 2, 3, …. Records are
//! named by numbers. Regenerate with `UPDATE_GOLDENFILES=1`, then read the difference.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::error::Error;
use std::path::Path;

use cluster::Cluster;
use goldenscript::{Command, Context, Runner};
use towline_core::node::{Input, PromoteRequest, StartRole};

struct World(Cluster);

impl Runner for World {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let cluster = &mut self.0;
        let mut shown = String::new();
        match command.name.as_str() {
            // cluster RULE PRIMARY STANDBY...
            "cluster" => {
                let rule = args.next_pos().ok_or("rule is missing")?.to_owned();
                let names: Vec<String> = std::iter::from_fn(|| args.next_pos()).map(str::to_owned).collect();
                cluster.found(&names, &rule);
            }
            // join NODE: an empty standby that nobody ships to yet.
            "join" => cluster.join(args.next_pos().ok_or("node is missing")?),
            // append NODE RECORD LEVEL
            "append" => {
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                let ticket = args.next_pos().ok_or("record is missing")?.parse()?;
                cluster.append(node, ticket, args.next_pos().ok_or("level is missing")?.parse()?);
            }
            // promote NODE OTHER... [rule=RULE] [force=] [timeout=MS] [later=]
            "promote" => {
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                let later = args.take_key("later").is_some();
                let timeout_ms: u64 = args.take_key("timeout").unwrap_or("1000").parse()?;
                let request = PromoteRequest {
                    request: 1,
                    rule: args.take_key("rule").map(str::to_owned),
                    force: args.take_key("force").is_some(),
                    timeout_ns: timeout_ms * 1_000_000,
                    standbys: std::iter::from_fn(|| args.next_pos()).map(str::to_owned).collect(),
                };
                cluster.input(node, Input::Promote(request));
                if !later {
                    cluster.pass_until_answered();
                }
            }
            // rule NODE RULE: what it wants from now on.
            "rule" => {
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                let rule = args.next_pos().ok_or("rule is missing")?.to_owned();
                cluster.input(node, Input::SetRule { request: 3, rule });
            }
            // handover NODE [ms=LIMIT]: it takes no more appends.
            "handover" => {
                let limit_ms: u64 = args.take_key("ms").unwrap_or("1000").parse()?;
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                cluster.input(node, Input::Pause { request: 2, limit_ns: limit_ms * 1_000_000 });
            }
            "resume" => {
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                cluster.input(node, Input::Resume);
            }
            // start NODE [standby=] [primary=OTHERS,...]
            "start" => {
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                if let Some(others) = args.take_key("primary") {
                    let others = others.split(',').map(str::to_owned).collect();
                    cluster.configure(node, |config| {
                        (config.role, config.standbys) = (StartRole::Primary, others);
                    });
                } else if args.take_key("standby").is_some() {
                    cluster.configure(node, |config| {
                        (config.role, config.standbys) = (StartRole::Standby, Vec::new());
                    });
                }
                cluster.start(node);
            }
            // wipe NODE: it goes with its disk; started again it is an empty directory of the same name.
            "wipe" => {
                let node = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                cluster.wipe(node);
            }
            "tick" => cluster.pass(args.next_pos().ok_or("milliseconds are missing")?.parse()?),
            "show" => shown = cluster.show(),
            "cut" | "heal" | "compare" => {
                let one = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                let other = cluster.index(args.next_pos().ok_or("node is missing")?)?;
                if command.name == "compare" {
                    shown = cluster.compare(one, other);
                } else {
                    cluster.cut(one, other, command.name == "cut");
                }
            }
            "kill" | "pause" | "wake" | "hold" | "flush" => {
                while let Some(name) = args.next_pos() {
                    let node = cluster.index(name)?;
                    match command.name.as_str() {
                        "kill" => cluster.kill(node),
                        "pause" | "wake" => cluster.pause(node, command.name == "pause"),
                        _ => cluster.hold(node, command.name == "hold"),
                    }
                }
            }
            other => return Err(format!("no command '{other}'").into()),
        }
        args.reject_next()?;
        Ok(format!("{}{shown}", cluster.take_said()))
    }
}

#[test]
fn every_script_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/promotion");
    let mut scripts: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 12, "scripts are missing: {}", scripts.len());
    for script in scripts {
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(text.starts_with("# "), "{} does not say its claim", script.display());
        goldenscript::run(&mut World(Cluster::new()), &script).unwrap();
    }
}

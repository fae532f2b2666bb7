//! `towline status`: what a node tells about itself, as tables or JSON.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use towline::Lsn;
use towline::client::{Client, ClientOptions};
use towline_core::node::{NodeStatus, PeerStatus, RoleStatus};
use towline_core::types::Position;
use towline_runtime::ShardStatus;

use super::Target;
use crate::exit::{Failure, Outcome};
use crate::out;
use crate::units::show_bytes;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline status
  towline status --address 10.0.0.2:7401
  towline status --json | jq '.shards[0].node.watermarks'

Lag is what a standby has not flushed of the log. Exposure is acknowledged payload that the sync rule has not made safe: \
what would be gone if the primary's disk vanished now. 'sync' says whether a standby counts: 'candidate' by the rule in \
force while it streams, 'in the rule' while it does not, 'async' when it is not in the rule, 'excluded' when it lost durable data.")]
pub(crate) struct StatusArgs {
    /// The node's address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7401")]
    address: String,
    /// Only this shard [default: all]
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Everything the node says, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(args: StatusArgs) -> Outcome {
    let shards = match args.shard {
        Some(shard) => vec![ask(&args.address, shard)?.0],
        None => {
            let (first, count) = ask(&args.address, 0)?;
            let mut shards = vec![first];
            for shard in 1..count {
                shards.push(ask(&args.address, shard)?.0);
            }
            shards
        }
    };
    let mut stdout = out::stdout();
    if args.json {
        let all = serde_json::json!({ "address": args.address, "shards": shards });
        writeln!(stdout, "{all:#}")?;
    } else {
        for shard in &shards {
            write!(stdout, "{}", describe_shard(shard))?;
        }
    }
    stdout.flush()?;
    Ok(())
}

/// One shard's status, and how many shards the node serves.
fn ask(address: &str, shard: u16) -> Result<(ShardStatus, u16), Failure> {
    let target = Target { address: address.to_owned(), shard };
    let mut client = target.connect(ClientOptions { name: "status".to_owned(), ..Default::default() })?;
    Ok((parse(&client.status()?)?, client.shards()))
}

/// What a connection's shard says of itself.
pub(crate) fn shard_status(client: &mut Client) -> Result<ShardStatus, Failure> {
    parse(&client.status()?)
}

fn parse(json: &str) -> Result<ShardStatus, Failure> {
    let status =
        serde_json::from_str(json).context("the node's status cannot be read; is it of another version?")?;
    Ok(status)
}

fn describe_shard(shard: &ShardStatus) -> String {
    let node = &shard.node;
    let role = node.role_text();
    let mut text = format!("\nshard {}: {role}, log {}, node {}\n", shard.shard, shard.log, shard.node_id);
    text.push_str(&rule_line(node));
    text.push_str(&format!("{}\n", watermarks(node)));
    if matches!(node.role, RoleStatus::Primary(_)) {
        text.push_str(&exposure_line(node));
    }
    if !node.standbys.is_empty() {
        text.push_str(&format!("{}\n", standbys(node)));
        for peer in node.standbys.iter().filter(|peer| !peer.why.is_empty()) {
            text.push_str(&format!("standby '{}': {}\n", peer.name, peer.why));
        }
    }
    if let Some(why) = &node.full {
        text.push_str(&format!("appends WAIT for room: {why}\n"));
    }
    let driver = &shard.driver;
    text.push_str(&format!(
        "{} acks, {} indeterminate, {} degraded; {} flushes of {}, {} deep, {}; arena {} of {} used{}\n",
        driver.acks,
        driver.indeterminate,
        driver.degraded_acks,
        driver.flushes,
        show_bytes(driver.flushed_bytes),
        driver.flush_depth,
        driver.primitive,
        show_bytes(driver.arena_used_bytes),
        show_bytes(driver.arena_bytes),
        if driver.arena_registered { "" } else { ", not registered" },
    ));
    text
}

fn rule_line(node: &NodeStatus) -> String {
    let gate = &node.gate;
    if !matches!(node.role, RoleStatus::Primary(_)) {
        return String::new();
    }
    let rule = match gate.rule.rule.as_str() {
        "" => "no sync rule: remote levels behave as local".to_owned(),
        rule => format!("sync rule {rule} (version {})", gate.rule.version),
    };
    let pending =
        gate.pending.as_ref().map(|pending| format!(", changing to '{}'", pending.rule)).unwrap_or_default();
    let state = match (gate.degraded, gate.unmet_since_ns) {
        (true, _) => ", DEGRADED: acks say local",
        (false, Some(_)) => ", NOT MET: remote levels wait",
        (false, None) => "",
    };
    format!("{rule}{pending}{state}\n")
}

fn watermarks(node: &NodeStatus) -> Table {
    let marks = &node.watermarks;
    let mut table = new_table(&["watermark", "LSN", "behind the end", "records before", "payload before"]);
    let end = marks.end.lsn;
    let mut row = |name: &str, lsn: Lsn, counts: Option<&Position>| {
        let count =
            |get: fn(&Position) -> u64| counts.map(|position| get(position).to_string()).unwrap_or_default();
        table.add_row([
            name.to_owned(),
            lsn.to_string(),
            show_bytes(end.bytes_since(lsn)),
            count(|position| position.records),
            count(|position| position.payload_bytes),
        ]);
    };
    row("end", end, Some(&marks.end));
    row("flushed", marks.flushed.lsn, Some(&marks.flushed));
    row("safe", marks.safe, None);
    if matches!(node.role, RoleStatus::Standby) {
        row("applied", marks.applied, None);
    }
    row("start", marks.log_start, None);
    table
}

fn exposure_line(node: &NodeStatus) -> String {
    let gate = &node.gate;
    let stages = ["written", "flushed", "applied"].into_iter().zip(gate.exposure_bytes);
    let exposure: Vec<String> = stages
        .map(|(stage, bytes)| format!("{} past {stage}", bytes.map_or("undefined".to_owned(), show_bytes)))
        .collect();
    let exposure =
        if gate.rule.rule.is_empty() { "not bounded (no rule)".to_owned() } else { exposure.join(", ") };
    format!(
        "exposure: {exposure}; {} tickets wait, {} of them for a window\n",
        gate.waiting, gate.waiting_for_window
    )
}

fn standbys(node: &NodeStatus) -> Table {
    let mut table = new_table(&["standby", "state", "sync", "sent", "written", "flushed", "applied", "lag"]);
    for peer in &node.standbys {
        let marks = &peer.watermarks;
        table.add_row([
            peer.name.clone(),
            peer.state.clone(),
            sync_state(node, peer).to_owned(),
            peer.sent.to_string(),
            marks.written.lsn.to_string(),
            marks.flushed.lsn.to_string(),
            marks.applied.lsn.to_string(),
            show_bytes(peer.lag_bytes),
        ]);
    }
    table
}

fn sync_state(node: &NodeStatus, peer: &PeerStatus) -> &'static str {
    let in_gate = node.gate.standbys.iter().find(|standby| standby.peer == peer.peer);
    match in_gate {
        _ if peer.excluded => "excluded",
        // Only who leads counts anybody.
        _ if !matches!(node.role, RoleStatus::Primary(_)) => "-",
        Some(standby) if standby.candidate && peer.state == "streaming" => "candidate",
        Some(standby) if standby.candidate => "in the rule",
        _ => "async",
    }
}

pub(crate) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

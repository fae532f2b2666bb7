//! Long-running nodes: start, say ready, serve until told to stop, stop cleanly.

mod flags;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use towline::{AppliedBatch, Apply, ApplyError, Lsn, NodeOptions, Role, StartError};
use towline_core::node::RoleStatus;
use towline_runtime::{ApplyFactory, RunningNode};

pub(crate) use self::flags::parse_standby;
use self::flags::{NodeFlags, Plan, PrimaryFlags, StandbyFlags, plan_primary, plan_standby, role_name};
use crate::exit::{Code, Failure, Outcome};
use crate::out;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline primary --dir data/p --retain 256M
  towline primary --dir data/p --standby a=10.0.0.2:7401 --standby b=10.0.0.3:7401 \\
      --sync-rule 'ANY 1 (a, b)'
  towline primary --config primary.toml

A configuration file has the long flags as keys:
  dir = \"data/p\"
  standby = [\"a=10.0.0.2:7401\", \"b=10.0.0.3:7401\"]
  sync-rule = \"ANY 1 (a, b)\"
  degrade-after = \"10s\"

When it serves, it prints one line on standard output: ready address=IP:PORT name=NAME role=ROLE; the role is \
'standby' where another node leads in a higher term by then. Events are lines on standard error. SIGTERM and SIGINT stop it cleanly: everything accepted is flushed and sealed.")]
pub(crate) struct PrimaryArgs {
    /// Read flags from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    node: NodeFlags,
    #[command(flatten)]
    own: PrimaryFlags,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline standby --dir data/a --name a --listen 0.0.0.0:7401
  towline standby --dir data/b --name b --standby c=10.0.0.4:7401     (ships on: cascading)

A configuration file (--config) has the long flags as keys:
  dir = \"data/a\"
  name = \"a\"
  listen = \"0.0.0.0:7401\"
  apply-safe = true

An empty directory adopts the log that the first primary offers; a directory that holds another log refuses it. \
When it serves, it prints one line on standard output: ready address=IP:PORT name=NAME role=ROLE.")]
pub(crate) struct StandbyArgs {
    /// Read flags from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    node: NodeFlags,
    #[command(flatten)]
    own: StandbyFlags,
}

pub(crate) fn run_primary(args: PrimaryArgs) -> Outcome {
    let plan = plan_primary(args.config.as_deref(), args.node, args.own)?;
    if plan.options.alone {
        out::note(
            "towline: --alone: leading without asking the standbys; what they hold and this log lacks is lost, and a \
             standby that was promoted meanwhile would make two logs of one",
        );
    }
    if let Some(retain) = plan.retain_bytes {
        out::note(&format!(
            "towline: --retain {retain}: trimming by itself what lies farther behind the flushed end"
        ));
    }
    serve(plan)
}

pub(crate) fn run_standby(args: StandbyArgs) -> Outcome {
    serve(plan_standby(args.config.as_deref(), args.node, args.own)?)
}

/// Starts the node and keeps it until a signal comes.
fn serve(plan: Plan) -> Outcome {
    let Plan { mut options, retain_bytes, until_input_ends, applies } = plan;
    warn_of_open_port(&options);
    let (name, role, shards) = (options.name.clone(), options.role, options.shards);
    let standbys: Vec<String> = options.standbys.iter().map(|standby| standby.name.clone()).collect();
    options.on_event = Some(Arc::new(move |shard, event| {
        out::note(&format!("towline: shard {shard}: {}", event.line(&standbys)));
    }));
    // Before the start: a signal that comes while the log is recovered must not be lost.
    let stops = stops(until_input_ends)?;
    let node = RunningNode::start(options, applies.then(discard)).map_err(start_failure)?;
    if role == Role::Primary {
        // A new log, and one without a sync rule, takes appends in an instant; one that waits for its standbys is
        // ready to be asked about it.
        (0..shards).filter_map(|shard| node.handle(shard)).all(|handle| handle.wait_leading(LEADING_LIMIT));
    }
    if let Some(address) = node.metrics_address() {
        out::note(&format!(
            "towline: metrics at http://{address}/metrics, the status page at http://{address}/"
        ));
    }
    if let Some(address) = node.listen_address() {
        let role = role_name(role_now(&node, role, shards));
        // Whoever started this node may have gone; that is no reason not to serve.
        let _ = out::line(&format!("ready address={address} name={name} role={role}"));
    }
    let mut trimmer =
        retain_bytes.map(|retain_bytes| Trimmer { retain_bytes, trimmed: vec![0; usize::from(shards)] });
    let why = loop {
        match stops.recv_timeout(TRIM_EVERY) {
            Ok(why) => break why,
            Err(RecvTimeoutError::Timeout) if !node.is_running() => break "a shard has ended by itself",
            Err(RecvTimeoutError::Timeout) => trimmer.iter_mut().for_each(|trimmer| trimmer.turn(&node)),
            Err(RecvTimeoutError::Disconnected) => break "no signal can arrive any more",
        }
    };
    out::note(&format!("towline: {why}: flushing and sealing; a signal now ends it at once"));
    node.stop().map_err(|error| Failure::new(Code::Failed, error))?;
    out::note("towline: stopped cleanly");
    Ok(())
}

/// The role a node has come to: a primary that met a higher term follows it, and serves no appends.
fn role_now(node: &RunningNode, started: Role, shards: u16) -> Role {
    let status = |shard| node.handle(shard)?.status();
    let follows = (0..shards).filter_map(status).any(|status| status.node.role == RoleStatus::Standby);
    if follows { Role::Standby } else { started }
}

/// The application of a standby that has none: records are read back and handed over, and nothing is made of them,
/// so that `remote_apply` means and costs what it does for a real one.
struct Discard;

impl Apply for Discard {
    fn apply(&mut self, _batch: &AppliedBatch<'_>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn reset(&mut self, _from: Lsn) {}
}

fn discard() -> ApplyFactory {
    Box::new(|_shard| Box::new(Discard))
}

/// Trims for an application that is not there.
struct Trimmer {
    retain_bytes: u64,
    trimmed: Vec<u64>,
}

impl Trimmer {
    fn turn(&mut self, node: &RunningNode) {
        for (shard, trimmed) in self.trimmed.iter_mut().enumerate() {
            let Some(handle) = node.handle(shard as u16) else { continue };
            let below = handle.snapshot().flushed.lsn.bytes_since(Lsn(self.retain_bytes));
            // A trim is a meta write: not for every block.
            if below > *trimmed + self.retain_bytes / 8 && handle.trim(Lsn(below)).is_ok() {
                *trimmed = below;
            }
        }
    }
}

/// Why to stop arrives in the channel; a second signal ends the process without more ado.
fn stops(until_input_ends: bool) -> Result<Receiver<&'static str>, Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| Failure::new(Code::Failed, error))?;
    let (sender, receiver) = channel();
    let input = until_input_ends.then(|| sender.clone());
    let watch_signals = move || {
        let mut count = 0;
        for signal in &mut signals {
            count += 1;
            if count > 1 {
                std::process::exit(128 + signal);
            }
            // The receiver lives as long as the process.
            let _ = sender.send(if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
        }
    };
    let watch_input = move || {
        let Some(sender) = input else { return };
        // An error ends the input too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send("standard input has ended");
    };
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(run)
    };
    spawn("signals", Box::new(watch_signals)).map_err(|error| Failure::new(Code::Failed, error))?;
    if until_input_ends {
        spawn("input", Box::new(watch_input)).map_err(|error| Failure::new(Code::Failed, error))?;
    }
    Ok(receiver)
}

fn warn_of_open_port(options: &NodeOptions) {
    for (what, address) in [("--listen", options.listen), ("--metrics", options.metrics)] {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            out::note(&format!(
                "towline: warning: {what} {address} is not a loopback address, and there is no authentication: whoever \
                 reaches the port can read and write the log"
            ));
        }
    }
}

/// The exit code of a start that failed: what a script should do next.
fn start_failure(error: StartError) -> Failure {
    let code = match &error {
        StartError::Options(_) => Code::Usage,
        StartError::Open { source, .. } => match source.exit_code() {
            2 => Code::Usage,
            3 => Code::Corrupt,
            _ => Code::Failed,
        },
        _ => Code::Failed,
    };
    // Its text holds that of its sources: as a chain they would be said twice.
    Failure::new(code, anyhow::Error::msg(error.to_string()))
}

/// How long "ready" waits for a primary to lead.
const LEADING_LIMIT: Duration = Duration::from_secs(1);
/// How often a node that trims by itself looks.
const TRIM_EVERY: Duration = Duration::from_millis(200);

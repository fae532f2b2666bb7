//! `towline promote` and `towline switchover`: who leads is decided by the nodes; this asks, shard by shard, and says
//! what came of it.

mod check;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use towline::Lsn;
use towline::client::{Client, ClientOptions, PromoteOptions, Promotion};
use towline_core::node::{NodeStatus, RoleStatus};

use crate::client::{new_table, shard_status};
use crate::exit::{Code, Failure, Outcome};
use crate::node::parse_standby;
use crate::out;
use crate::units::parse_duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline promote 127.0.0.1:7411 --standbys b=127.0.0.1:7412,p=127.0.0.1:7401
  towline promote 127.0.0.1:7411 --standbys b=127.0.0.1:7412,p=127.0.0.1:7401 \\
      --sync-rule 'ANY 1 (b, p)'

It leads when n - k + 1 of the n standbys, itself included, have adopted the new term, for k synchronous ones: whatever \
was acknowledged at a remote level is then in its log, and the former primary can acknowledge nothing more there. It is \
refused, with what to do instead, when one of them has a longer log or too few answer. Name the former primary too: when \
it comes back it follows, and what nobody else has is cut from it, with a copy kept in its directory.

While the rule is not met, appends at remote levels wait, and this says so. A rule that names the former primary alone, as \
--sync-rule 'ANY 1 (p)' does, is met once it is back as a standby.

A restarted node takes the role that its command line gives it: start a promoted one as 'towline primary' from then on.")]
pub(crate) struct PromoteArgs {
    /// The standby to promote
    #[arg(value_name = "HOST:PORT")]
    address: String,
    #[command(flatten)]
    set: SetFlags,
    /// Lead without the quorum, also where there is no sync rule: says what may be lost
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  towline switchover --from 127.0.0.1:7401 --to 127.0.0.1:7411 \\
      --standbys b=127.0.0.1:7412,p=127.0.0.1:7401 --sync-rule 'ANY 1 (b, p)'

The primary takes no more appends (clients are told 'unavailable'), its log is flushed, the standby catches up to its end \
and is promoted, and the old primary follows it. If anything fails before that, the old primary takes appends again, also \
when this command is killed: its pause ends by itself.

Refused before the pause (exit code 2): --standbys without the old primary, which would be left behind; and a rule, the \
log's own where none is given, that the new standbys cannot meet: it often names the one that is to lead.")]
pub(crate) struct SwitchoverArgs {
    /// The present primary
    #[arg(long, value_name = "HOST:PORT")]
    from: String,
    /// The standby that is to lead
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    #[command(flatten)]
    set: SetFlags,
}

#[derive(Args)]
struct SetFlags {
    /// The other nodes, the former primary among them: the new primary ships to them
    #[arg(long, value_name = "NAME=HOST:PORT,...", value_delimiter = ',', required = true)]
    standbys: Vec<String>,
    /// The sync rule of the new primary [default: the one in the log]. One that asks for fewer standbys comes into force
    /// only once the old rule agrees, and one of its standbys now leads: keep the number, or use --force
    #[arg(long, value_name = "RULE")]
    sync_rule: Option<String>,
    /// Give up after so long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,
}

impl SetFlags {
    fn options(&self, force: bool) -> Result<PromoteOptions, Failure> {
        let parse = |text: &String| parse_standby(text).map(|standby| (standby.name, standby.address));
        Ok(PromoteOptions {
            standbys: self.standbys.iter().map(parse).collect::<Result<_, _>>()?,
            rule: self.sync_rule.clone(),
            force,
            timeout: self.timeout,
        })
    }
}

pub(crate) fn promote(args: PromoteArgs) -> Outcome {
    let options = args.set.options(args.force)?;
    let mut done = Vec::new();
    let mut failed = None;
    let mut clients = connect_all(&args.address)?;
    for (shard, client) in clients.iter_mut().enumerate() {
        match client.promote(&options) {
            Ok(promotion) => done.push((shard, promotion)),
            Err(error) => {
                failed = Some((shard, error));
                break;
            }
        }
    }
    print_promotions(&done)?;
    note_unmet(&mut clients[..done.len()])?;
    match failed {
        None => Ok(()),
        Some((shard, error)) => {
            let Failure { code, error } = error.into();
            let so_far = match done.len() {
                0 => String::new(),
                count => format!("; it leads the {count} shards before"),
            };
            Err(Failure::new(code, anyhow!("shard {shard} of {}: {error}{so_far}", args.address)))
        }
    }
}

pub(crate) fn switchover(args: SwitchoverArgs) -> Outcome {
    let options = args.set.options(false)?;
    let deadline = Instant::now() + args.set.timeout;
    let mut from = connect_all(&args.from)?;
    let mut to = connect_all(&args.to)?;
    if from.len() != to.len() || from.iter().zip(&to).any(|(from, to)| from.log_id() != to.log_id()) {
        let why = format!("{} and {} do not serve the same logs", args.from, args.to);
        return Err(Failure::usage(why));
    }
    if from.iter().zip(&to).any(|(from, to)| from.node_id() == to.node_id()) {
        return Err(Failure::usage(format!("--from and --to are one node, {}", args.from)));
    }
    if to.iter_mut().all(leads) {
        let text = format!("{} leads already; nothing was changed", args.to);
        return Err(Failure::new(Code::Failed, anyhow!(text)));
    }
    check::hand_over(&args.from, &mut from, &args.to, &mut to, &options)?;
    let mut done = Vec::new();
    let handed = hand_over(&mut from, &mut to, &options, deadline, &mut done);
    print_promotions(&done)?;
    if let Err(failure) = handed {
        return Err(take_back(failure, &args, &mut from, done.len()));
    }
    // Appends go on at the new primary by now; this is for the operator.
    let follows = wait_until(deadline.max(Instant::now() + FOLLOW_LIMIT), || {
        let all = from.iter_mut().map(|client| shard_status(client).map(|status| status.node.follows));
        Ok(all.collect::<Result<Vec<_>, Failure>>()?.into_iter().all(|follows| follows))
    });
    match follows {
        Ok(true) => out::line(&format!("{} leads, {} follows it", args.to, args.from))?,
        _ => out::line(&format!(
            "{} leads; {} does not follow it yet: look at its status, and that --standbys names it",
            args.to, args.from
        ))?,
    }
    note_unmet(&mut to)
}

/// Appends at the default level wait while the rule is not met: said, when it is not met within a moment.
fn note_unmet(led: &mut [Client]) -> Outcome {
    for (shard, client) in led.iter_mut().enumerate() {
        let is_met = |node: &NodeStatus| node.gate.unmet_since_ns.is_none();
        let met = wait_until(Instant::now() + MET_LIMIT, || Ok(is_met(&shard_status(client)?.node)));
        let (Ok(false), Ok(status)) = (met, shard_status(client)) else { continue };
        let missing = status.node.standbys.iter().filter(|peer| peer.state != "streaming");
        let missing: Vec<&str> = missing.map(|peer| peer.name.as_str()).collect();
        out::line(&format!(
            "note (shard {shard}): the sync rule '{}' is NOT MET yet: appends at remote levels ('on' is the default) wait \
             until enough of its standbys follow; not here: {}",
            status.node.gate.rule.rule,
            missing.join(", ")
        ))?;
    }
    Ok(())
}

/// Pauses every shard, waits until the standby has each log's end on its disk, and promotes it.
fn hand_over(
    from: &mut [Client],
    to: &mut [Client],
    options: &PromoteOptions,
    deadline: Instant,
    done: &mut Vec<(usize, Promotion)>,
) -> Outcome {
    let mut ends: Vec<Lsn> = Vec::new();
    for client in from.iter_mut() {
        // The promotion ends before the pause does: they never overlap.
        ends.push(client.pause(2 * options.timeout + PAUSE_MARGIN)?);
    }
    for (client, end) in to.iter_mut().zip(ends) {
        let caught_up =
            wait_until(deadline, || Ok(shard_status(client)?.node.watermarks.flushed.lsn >= end))?;
        if !caught_up {
            let why = format!("{} has not reached {end} in time: is it streaming?", client.address());
            return Err(Failure::new(Code::Unavailable, anyhow!(why)));
        }
    }
    for (shard, client) in to.iter_mut().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST_LEFT);
        let promotion =
            client.promote(&PromoteOptions { timeout: left.min(options.timeout), ..options.clone() })?;
        done.push((shard, promotion));
    }
    Ok(())
}

/// What the old primary still leads, it leads on.
fn take_back(failure: Failure, args: &SwitchoverArgs, from: &mut [Client], done: usize) -> Failure {
    let Failure { code, error } = failure;
    let mut unreached = 0;
    for client in from.iter_mut().skip(done) {
        unreached += usize::from(client.resume().is_err());
    }
    let state = match (unreached, from.iter_mut().skip(done).all(leads)) {
        (0, true) if done == 0 => format!("{} takes appends again", args.from),
        (0, true) => format!("{} leads the first {done} shards, {} the others", args.to, args.from),
        (0, false) => format!("{} does not lead any more: promote a standby", args.from),
        _ => format!("{} cannot be reached: its pause ends by itself", args.from),
    };
    Failure::new(code, anyhow!("not switched over: {error}; {state}"))
}

fn leads(client: &mut Client) -> bool {
    shard_status(client).is_ok_and(|status| matches!(status.node.role, RoleStatus::Primary(_)))
}

/// A connection to every shard of a node.
fn connect_all(address: &str) -> Result<Vec<Client>, Failure> {
    let connect = |shard| {
        let options = ClientOptions { name: "promote".to_owned(), ..ClientOptions::default() };
        Client::connect_with(address, shard, options)
    };
    let first = connect(0)?;
    let shards = first.shards();
    let mut clients = vec![first];
    for shard in 1..shards {
        clients.push(connect(shard)?);
    }
    Ok(clients)
}

fn wait_until(
    deadline: Instant,
    mut reached: impl FnMut() -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    loop {
        if reached()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}

fn print_promotions(done: &[(usize, Promotion)]) -> Outcome {
    if done.is_empty() {
        return Ok(());
    }
    let mut stdout = out::stdout();
    let mut table = new_table(&["shard", "term", "starts at", "adopted before by"]);
    for (shard, promotion) in done {
        let adopters =
            if promotion.adopters.is_empty() { "-".to_owned() } else { promotion.adopters.join(", ") };
        table.add_row([shard.to_string(), promotion.term.to_string(), promotion.start.to_string(), adopters]);
    }
    writeln!(stdout, "{table}")?;
    for (shard, promotion) in done {
        for warning in &promotion.warnings {
            writeln!(stdout, "note (shard {shard}): {warning}")?;
        }
    }
    stdout.flush()?;
    Ok(())
}

/// How long standbys are given to be met by their new primary before it is worth a note.
const MET_LIMIT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
const LEAST_LEFT: Duration = Duration::from_millis(500);
const PAUSE_MARGIN: Duration = Duration::from_secs(5);
/// How long the old primary is given to be met by the new one.
const FOLLOW_LIMIT: Duration = Duration::from_secs(3);

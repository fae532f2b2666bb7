//! The `towline` program: nodes, clients, and the tools around a log.

mod advise;
mod bench;
mod client;
mod exit;
mod log;
mod node;
mod out;
mod probe;
mod promote;
mod report;
mod sim;
mod survive;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{Code, Failure, Outcome};
use towline_uring::floor::peer_main;

#[derive(Parser)]
#[command(
    name = "towline",
    version,
    about = "A durable log shipped to standbys, with a commit level for each append",
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
What this machine can do (three minutes, prints tables and leaves a page to open):
  towline bench

What to ask for, from what was measured:
  towline advise --survive primary-disk-loss --p99 2ms

A first log, in three terminals:
  towline standby --dir data/a --name a --listen 127.0.0.1:7411
  towline primary --dir data/p --name p --standby a=127.0.0.1:7411 --sync-rule 'ANY 1 (a)' --retain 256M
  seq 1 1000 | towline append --level on | tail -1
  towline status

When that primary is gone (or, planned and without a loss: towline switchover):
  towline promote 127.0.0.1:7411 --standbys p=127.0.0.1:7401 --sync-rule 'ANY 1 (p)'
and once its machine is back (until then appends at remote levels wait):
  towline standby --dir data/p --name p

Commit levels, weakest first: off (has its place), local (flushed here), remote_write (also in \
a standby's memory), on (also flushed there), remote_apply (also visible there).

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration (also a path that does not exist), 3 damaged log (survive: a loss that is \
due was not seen), 4 unavailable or outcome not known, 130 interrupted (143 by SIGTERM).";

#[derive(Subcommand)]
enum Command {
    /// Measure what each commit level and window costs on this machine
    Bench(bench::BenchArgs),
    /// Measure a directory's device: ways to make writes durable, and floors
    Probe(probe::ProbeArgs),
    /// Run a primary: it orders appends, writes the log and ships it to its standbys
    Primary(node::PrimaryArgs),
    /// Run a standby: it receives a primary's log, flushes it and reports
    Standby(node::StandbyArgs),
    /// Append records from standard input; prints LSN and achieved level of each
    Append(client::AppendArgs),
    /// Print the records of a log, and follow it
    Tail(client::TailArgs),
    /// Watermarks, lag, exposure and the sync state of each standby
    Status(client::StatusArgs),
    /// Make a standby the primary: the others adopt its term, and none of them has a longer log
    Promote(promote::PromoteArgs),
    /// Hand the leadership over to a standby, planned and without a loss
    Switchover(promote::SwitchoverArgs),
    /// Change the sync rule of a running primary
    Rule(client::RuleArgs),
    /// Let a running primary recycle what lies below an LSN
    Trim(client::TrimArgs),
    /// Look at a directory without opening it as a node, or repair a damaged log
    Log(log::LogArgs),
    /// Make failures happen to real nodes, and count what each level lost
    Survive(survive::SurviveArgs),
    /// Simulated worlds of the very node that ships: replay one, search many
    Sim(sim::SimArgs),
    /// Show a run again: tables, and the page written anew
    Report(report::ReportArgs),
    /// Name the weakest level and widest window that survive a failure within a p99, on this machine's figures
    Advise(advise::AdviseArgs),
    /// The second process of a measurement
    #[command(name = probe::PEER_COMMAND, hide = true)]
    FloorPeer {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    if let Some(arguments) = bench::compare::arguments() {
        return bench::compare::become_it(arguments).report();
    }
    let outcome = match Args::try_parse() {
        Ok(args) => run(args.command),
        Err(error) => return out::clap_message(&error),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let done: Outcome = match command {
        // Its exit codes have meanings of their own.
        Command::Survive(args) => return survive::survive(args).map(ExitCode::from),
        Command::Primary(args) => node::run_primary(args),
        Command::Standby(args) => node::run_standby(args),
        Command::Append(args) => client::append(args),
        Command::Tail(args) => client::tail(args),
        Command::Status(args) => client::status(args),
        Command::Promote(args) => promote::promote(args),
        Command::Switchover(args) => promote::switchover(args),
        Command::Rule(args) => client::rule(args),
        Command::Trim(args) => client::trim(args),
        Command::Bench(args) => bench::bench(args),
        Command::Probe(args) => probe::probe(args),
        Command::Log(args) => log::log(args),
        Command::Sim(args) => sim::sim(args),
        Command::Report(args) => report::report(args),
        Command::Advise(args) => advise::advise(args),
        Command::FloorPeer { arguments } => {
            peer_main(&arguments).map_err(|error| Failure::new(Code::Failed, error))
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

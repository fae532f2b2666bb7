//! Measures other systems beside Towline, durability for durability: `towline bench compare` runs this program.
//!
//! Every system is started, configured, loaded through its client crate, stopped and cleaned up here, on loopback,
//! with its data on the same disk. What it never does: rank rows whose acknowledgements survive different things, or
//! leave a process or a folder behind. Start at [`run::run`] and [`systems::System`].

mod agree;
mod checks;
mod interrupt;
mod load;
mod process;
mod run;
mod systems;

use clap::Parser;
use process::Ports;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(
    name = "towline-compare",
    bin_name = "towline bench compare",
    version,
    about = "Measures other systems beside Towline, durability for durability",
    max_term_width = 110,
    after_help = "\
Systems: postgres, etcd, nats, redis, raft-engine, okaywal, walrus; Towline always stands beside them. One that is not
installed is left out, with how to get it. On Debian: apt-get install postgresql etcd-server nats-server redis-server

Exit codes: 0 done, 1 a system failed (the others are measured), 2 wrong usage, 130 interrupted (what was measured is
kept)."
)]
struct Args {
    /// Which systems; without names all that are there
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(systems::NAMES))]
    systems: Vec<String>,
    /// The towline program [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Where the data lives while it runs; emptied again
    #[arg(long, value_name = "DIR", default_value = "data")]
    dir: PathBuf,
    /// Where run folders go
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Clients of the closed loops
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8, 32, 128], value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: Vec<u32>,
    /// Payload bytes of a record
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=65536))]
    record_bytes: u32,
    /// Measured milliseconds of each point
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(50..=60000))]
    duration_ms: u32,
    /// Milliseconds of load before that
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u32).range(0..=60000))]
    warm_up_ms: u32,
    /// How often each point is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// First of the ports to use [default: any that are free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..))]
    first_port: Option<u16>,
    /// Leave out what is measured at the end: agreement with pgbench, fio and pg_test_fsync, the price of the instrument
    #[arg(long)]
    no_agreement: bool,
    /// Minutes after which no further repetition begins, once there are three
    #[arg(long, value_name = "MINUTES", default_value_t = 19, value_parser = clap::value_parser!(u32).range(1..=1440))]
    at_most: u32,
    /// Decides the order of systems and points
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(towline_bench::PEER_SUBCOMMAND) => {
            return ended(towline_uring::floor::peer_main(&arguments[2..]).map_err(anyhow::Error::from));
        }
        Some(systems::CHILD_COMMAND) => return ended(systems::child_main(&arguments[2..])),
        _ => {}
    }
    let args = Args::parse();
    let options = match options(args, arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run::run(&options) {
        Ok(outcome) => {
            println!("page: {}", outcome.folder.join("report.html").display());
            match (outcome.interrupted, outcome.failures.is_empty()) {
                (true, _) => ExitCode::from(130),
                (false, true) => ExitCode::SUCCESS,
                (false, false) => ExitCode::FAILURE,
            }
        }
        Err(error) => ended(Err(error)),
    }
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: Args, arguments: Vec<String>) -> anyhow::Result<run::Options> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("towline"));
    let program = args.program.or_else(beside).filter(|program| program.is_file()).ok_or_else(|| {
        anyhow::anyhow!(
            "the towline program is not beside this one: run `towline bench compare`, or give --program"
        )
    })?;
    // As a user types it.
    let mut command = vec!["towline".to_owned(), "bench".into(), "compare".into()];
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        if argument == "--program" {
            rest.next();
        } else if !argument.starts_with("--program=") {
            command.push(argument);
        }
    }
    Ok(run::Options {
        systems: args.systems.into_iter().filter(|name| name != "towline").collect(),
        program,
        dir: args.dir,
        results: args.results,
        clients: args.clients,
        record_bytes: args.record_bytes as usize,
        warm_up: Duration::from_millis(args.warm_up_ms.into()),
        duration: Duration::from_millis(args.duration_ms.into()),
        repetitions: args.repetitions,
        ports: args.first_port.map_or(Ports::Free, Ports::From),
        seed: args.seed,
        agreement: !args.no_agreement,
        at_most: Duration::from_secs(60 * u64::from(args.at_most)),
        command,
    })
}

//! The link emulator as a program: it prints the address it listens on and takes orders on standard input.

use anyhow::{Context, Result, bail};
use clap::Parser;
use linkem::{Direction, Link, LinkConfig, LinkControl, parse_rate};
use std::io::{BufRead, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU64;
use std::time::Duration;

/// Forwards TCP connections to a target and gives the link a delay, a rate, a stall or a cut.
///
/// Prints `listening on HOST:PORT`, then reads orders from standard input, one a line:
///   delay MICROSECONDS [DIR]      one-way, of what comes from now on
///   rate BYTES_PER_S|none [DIR]   shared by all connections
///   stall [MILLISECONDS] [DIR]    nothing is delivered until resume, or so long
///   resume [DIR]                  ends a stall
///   cut [DIR]                     nothing passes and no end is heard, until heal
///   sever                         connections are reset, new ones too, until heal
///   drop                          connections are reset, new ones are served
///   heal                          ends stalls, cuts and sever; delay and rate stay
///   stats, quit
/// DIR is up (towards the target), down, or both (the default).
/// At the end of standard input it keeps forwarding until it is killed.
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Args {
    /// Where connections are forwarded to
    #[arg(long, value_name = "HOST:PORT")]
    target: String,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// One-way delay of each direction, in microseconds
    #[arg(long, value_name = "N", default_value_t = 0)]
    delay_us: u64,
    /// Bytes per second of each direction, as 125000, 125k, 10M or 1G; none for no limit
    #[arg(long, value_parser = parse_rate, default_value = "none")]
    rate: Rate,
    /// Bytes each direction of a connection may hold
    #[arg(long, value_name = "N", default_value_t = 16 << 20)]
    buffer_bytes: usize,
}

/// Under a name of its own: clap would take a bare `Option` for a flag that may be left out.
type Rate = Option<NonZeroU64>;

fn main() -> Result<()> {
    let args = Args::parse();
    let target = args
        .target
        .to_socket_addrs()
        .with_context(|| format!("--target {}: not HOST:PORT", args.target))?
        .next()
        .with_context(|| format!("--target {}: the name has no address", args.target))?;
    let mut config = LinkConfig::new(target).with_rtt(2 * Duration::from_micros(args.delay_us));
    config.listen = args.listen;
    config.up.rate_bytes_per_s = args.rate;
    config.down.rate_bytes_per_s = args.rate;
    config.buffer_bytes = args.buffer_bytes;
    let link = Link::start(config)?;
    writeln!(std::io::stdout(), "listening on {}", link.local_addr()).context("standard output")?;
    let control = link.control();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("standard input")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["quit"] {
            return print_stats(&control);
        }
        if let Err(error) = obey(&control, &words) {
            eprintln!("linkem: '{line}': {error}");
        }
    }
    loop {
        std::thread::park();
    }
}

fn obey(control: &LinkControl, words: &[&str]) -> Result<()> {
    let direction = |word: Option<&&str>| -> Result<Direction> { Ok(word.unwrap_or(&"both").parse()?) };
    match words {
        [] => {}
        ["delay", delay_us, rest @ ..] if rest.len() < 2 => {
            control.set_delay(direction(rest.first())?, Duration::from_micros(delay_us.parse()?));
        }
        ["rate", rate, rest @ ..] if rest.len() < 2 => {
            control.set_rate(direction(rest.first())?, parse_rate(rate)?);
        }
        ["stall", millis, rest @ ..] if millis.parse::<u64>().is_ok() && rest.len() < 2 => {
            control.stall_for(direction(rest.first())?, Duration::from_millis(millis.parse()?));
        }
        ["stall", rest @ ..] if rest.len() < 2 => control.stall(direction(rest.first())?),
        ["resume", rest @ ..] if rest.len() < 2 => control.resume(direction(rest.first())?),
        ["cut", rest @ ..] if rest.len() < 2 => control.cut(direction(rest.first())?),
        ["sever"] => control.sever(),
        ["drop"] => control.drop_connections(),
        ["heal"] => control.heal(),
        ["stats"] => print_stats(control)?,
        _ => bail!("unknown order; --help lists them"),
    }
    Ok(())
}

fn print_stats(control: &LinkControl) -> Result<()> {
    let stats = control.stats();
    // Not `println!`: a closed standard output must not end the link.
    let mut out = std::io::stdout().lock();
    for (name, path) in [("up", stats.up), ("down", stats.down)] {
        writeln!(
            out,
            "{name}: {} bytes, {} held, {} deliveries, late {} ns mean, {} ns max",
            path.bytes, path.held_bytes, path.deliveries, path.late_mean_ns, path.late_max_ns
        )?;
    }
    writeln!(
        out,
        "connections: {} open, {} accepted, {} without a target",
        stats.connections_open, stats.connections_total, stats.connections_failed
    )?;
    Ok(())
}

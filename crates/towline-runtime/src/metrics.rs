//! Prometheus text, and a small responder that serves it with a status page on a port of its own.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use towline_core::node::RoleStatus;

use crate::exposure::EXPOSURE_BOUNDS_BYTES;
use crate::listen::ACCEPT_PAUSE;
use crate::status::{ShardStatus, Status};

/// The status as [Prometheus text](https://prometheus.io/docs/instrumenting/exposition_formats/).
pub(crate) fn prometheus(status: &Status) -> String {
    let mut text = Text(String::with_capacity(8192));
    let shards = &status.shards;
    text.family("towline_leading", "gauge", "Whether the shard leads.", shards, |s| {
        u64::from(s.is_leading())
    });
    for (name, help, of) in POSITIONS {
        text.family(name, "gauge", help, shards, of);
    }
    for (name, help, of) in COUNTERS {
        text.family(name, "counter", help, shards, of);
    }
    for (name, help, of) in GAUGES {
        text.family(name, "gauge", help, shards, of);
    }
    text.exposure(shards);
    text.exposure_at_acks(shards);
    text.standbys(shards);
    text.0
}

const STAGES: [&str; 3] = ["written", "flushed", "applied"];

type Read1 = fn(&ShardStatus) -> u64;

const POSITIONS: [(&str, &str, Read1); 5] = [
    ("towline_log_start_bytes", "Where the log starts.", |s| s.node.watermarks.log_start.0),
    ("towline_log_end_bytes", "End of the last batch.", |s| s.node.watermarks.end.lsn.0),
    ("towline_flushed_bytes", "Flushed here up to this LSN.", |s| s.node.watermarks.flushed.lsn.0),
    ("towline_safe_bytes", "Safe by the sync rule up to this LSN.", |s| s.node.watermarks.safe.0),
    ("towline_applied_bytes", "Applied here up to this LSN.", |s| s.node.watermarks.applied.0),
];

const COUNTERS: [(&str, &str, Read1); 17] = [
    ("towline_records_total", "Records in the log.", |s| s.node.watermarks.end.records),
    ("towline_payload_bytes_total", "Payload bytes in the log.", |s| s.node.watermarks.end.payload_bytes),
    ("towline_turns_total", "Turns of the shard loop.", |s| s.driver.turns),
    ("towline_ring_enters_total", "Calls of io_uring_enter.", |s| s.driver.enters),
    ("towline_ring_waits_total", "Calls of io_uring_enter that might sleep.", |s| s.driver.waits),
    ("towline_ring_submissions_total", "Operations submitted.", |s| s.driver.submissions),
    ("towline_ring_completions_total", "Completions.", |s| s.driver.completions),
    ("towline_flushes_total", "Durable writes.", |s| s.driver.flushes),
    ("towline_flushed_bytes_total", "Bytes written durably.", |s| s.driver.flushed_bytes),
    ("towline_batches_total", "Batches sealed here.", |s| s.driver.batches),
    ("towline_acks_total", "Acknowledgements.", |s| s.driver.acks),
    ("towline_indeterminate_total", "Tickets that ended without one.", |s| s.driver.indeterminate),
    ("towline_waited_for_window_total", "Acks that waited for their window.", |s| s.driver.waited_for_window),
    ("towline_degraded_acks_total", "Acks weaker than asked for.", |s| s.driver.degraded_acks),
    ("towline_sent_bytes_total", "Bytes sent to nodes.", |s| s.driver.sent_bytes),
    ("towline_received_bytes_total", "Bytes received from nodes.", |s| s.driver.received_bytes),
    ("towline_catch_up_bytes_total", "Bytes read from segments for late standbys.", |s| {
        s.driver.catch_up_bytes
    }),
];

const GAUGES: [(&str, &str, Read1); 8] = [
    ("towline_sessions", "Open sessions with nodes.", |s| s.driver.sessions),
    ("towline_clients", "Open client connections.", |s| s.driver.clients),
    ("towline_arena_bytes", "Size of the arena.", |s| s.driver.arena_bytes),
    ("towline_arena_used_bytes", "Arena bytes in use.", |s| s.driver.arena_used_bytes),
    ("towline_writes_in_flight", "Durable writes in flight.", |s| s.driver.writes_in_flight),
    ("towline_tickets_waiting", "Tickets that wait.", |s| s.node.gate.waiting),
    ("towline_tickets_waiting_for_window", "Of them, flushed and waiting for their window.", |s| {
        s.node.gate.waiting_for_window
    }),
    ("towline_degraded", "Whether the sync rule is not met and acks say local.", |s| {
        u64::from(s.node.gate.degraded)
    }),
];

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, shards: &[ShardStatus], of: Read1) {
        self.head(name, kind, help);
        for shard in shards {
            let _ = writeln!(self.0, "{name}{{shard=\"{}\"}} {}", shard.shard, of(shard));
        }
    }

    /// Undefined where the safe position is: then there is no sample.
    fn exposure(&mut self, shards: &[ShardStatus]) {
        let name = "towline_exposure_bytes";
        self.head(name, "gauge", "Acknowledged payload past the safe position, by stage.");
        for shard in shards {
            for (stage, bytes) in STAGES.iter().zip(shard.node.gate.exposure_bytes) {
                if let Some(bytes) = bytes {
                    let _ = writeln!(self.0, "{name}{{shard=\"{}\",stage=\"{stage}\"}} {bytes}", shard.shard);
                }
            }
        }
    }

    /// Cumulative buckets, as the text format wants them.
    fn exposure_at_acks(&mut self, shards: &[ShardStatus]) {
        let name = "towline_exposure_at_acks_bytes";
        self.head(
            name,
            "histogram",
            "Acknowledged payload past the safe position, by stage, after each turn with acknowledgements.",
        );
        for shard in shards {
            for (stage, histogram) in STAGES.iter().zip(&shard.driver.exposure_at_acks) {
                let labels = format!("shard=\"{}\",stage=\"{stage}\"", shard.shard);
                let mut count = 0;
                let bounds = EXPOSURE_BOUNDS_BYTES.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
                for (bound, in_bucket) in bounds.zip(histogram.counts) {
                    count += in_bucket;
                    let _ = writeln!(self.0, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
                }
                let _ = writeln!(self.0, "{name}_sum{{{labels}}} {}", histogram.sum_bytes);
                let _ = writeln!(self.0, "{name}_count{{{labels}}} {count}");
            }
        }
    }

    fn standbys(&mut self, shards: &[ShardStatus]) {
        type OfStandby = fn(&towline_core::node::PeerStatus) -> u64;
        let families: [(&str, &str, OfStandby); 6] = [
            ("towline_standby_streaming", "Whether the standby follows the live tail.", |p| {
                u64::from(p.state == "streaming")
            }),
            ("towline_standby_sent_bytes", "Shipped to the standby up to this LSN.", |p| p.sent.0),
            ("towline_standby_written_bytes", "Written by the standby up to this LSN.", |p| {
                p.watermarks.written.lsn.0
            }),
            ("towline_standby_flushed_bytes", "Flushed by the standby up to this LSN.", |p| {
                p.watermarks.flushed.lsn.0
            }),
            ("towline_standby_applied_bytes", "Applied by the standby up to this LSN.", |p| {
                p.watermarks.applied.lsn.0
            }),
            (
                "towline_standby_lag_bytes",
                "Bytes between the log's end and what the standby has flushed.",
                |p| p.lag_bytes,
            ),
        ];
        for (name, help, of) in families {
            self.head(name, "gauge", help);
            for shard in shards {
                for standby in &shard.node.standbys {
                    let name_label = escape(&standby.name);
                    let value = of(standby);
                    let _ = writeln!(
                        self.0,
                        "{name}{{shard=\"{}\",standby=\"{name_label}\"}} {value}",
                        shard.shard
                    );
                }
            }
        }
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Serves `/metrics`, `/status` (JSON) and a page for people. One request per connection, one at a time.
pub(crate) struct Responder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    pub(crate) fn start(
        address: SocketAddr,
        status: impl Fn() -> Status + Send + 'static,
    ) -> std::io::Result<Responder> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("towline-metrics".to_owned()).spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                match socket {
                    // A caller that goes away has its answer or does not want it.
                    Ok(socket) => drop(answer(socket, &status)),
                    // No descriptor is left: at once, the port would be found as it is.
                    Err(_) => std::thread::sleep(ACCEPT_PAUSE),
                }
            }
        })?;
        Ok(Responder { address, stop, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accept. If it fails the thread ends with the next caller, or with the process.
        let woken = TcpStream::connect_timeout(&self.address, REQUEST_LIMIT).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            let _ = thread.join();
        }
    }
}

fn answer(mut socket: TcpStream, status: &impl Fn() -> Status) -> std::io::Result<()> {
    socket.set_read_timeout(Some(REQUEST_LIMIT))?;
    socket.set_write_timeout(Some(REQUEST_LIMIT))?;
    let mut request = [0; MAX_REQUEST_BYTES];
    let mut len = 0;
    let asked = Instant::now();
    while len < request.len() && !request[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        if asked.elapsed() > REQUEST_LIMIT {
            // Others wait: byte by byte, one caller would keep them off for hours.
            return Err(ErrorKind::TimedOut.into());
        }
        match socket.read(&mut request[len..])? {
            0 => break,
            count => len += count,
        }
    }
    let line = request[..len].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (code, kind, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => ("200 OK", "text/plain; version=0.0.4", prometheus(&status())),
        (b"GET" | b"HEAD", b"/status") => {
            let json = serde_json::to_string_pretty(&status()).unwrap_or_else(|error| format!("\"{error}\""));
            ("200 OK", "application/json", json)
        }
        (b"GET" | b"HEAD", b"/") => ("200 OK", "text/html; charset=utf-8", page(&status())),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "text/plain", "try /, /status or /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    if method == b"GET" {
        socket.write_all(body.as_bytes())?;
    }
    Ok(())
}

/// A role in words.
fn page(status: &Status) -> String {
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>{name}</title><style>body{{font:15px sans-serif;margin:2em}}\
         td,th{{padding:.2em .8em;text-align:right;border-bottom:1px solid #ccc}}\
         td:first-child,th:first-child{{text-align:left}}</style><h1>{name}</h1>",
        name = html(&status.name)
    );
    for shard in &status.shards {
        let marks = &shard.node.watermarks;
        let _ = write!(
            page,
            "<h2>Shard {}: {}</h2><p>log {} · start {} · end {} · flushed {} · safe {}{}</p>",
            shard.shard,
            html(&shard.node.role_text()),
            shard.log,
            marks.log_start,
            marks.end.lsn,
            marks.flushed.lsn,
            marks.safe,
            match shard.node.role {
                RoleStatus::Standby => format!(" · applied {}", marks.applied),
                // What it orders is applied where it was made.
                _ => String::new(),
            }
        );
        if !shard.node.standbys.is_empty() {
            page.push_str(
                "<table><tr><th>standby<th>state<th>written<th>flushed<th>applied<th>lag, bytes</tr>",
            );
            for standby in &shard.node.standbys {
                let w = &standby.watermarks;
                let _ = write!(
                    page,
                    "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                    html(&standby.name),
                    html(&standby.state),
                    w.written.lsn,
                    w.flushed.lsn,
                    w.applied.lsn,
                    standby.lag_bytes
                );
            }
            page.push_str("</table>");
        }
        page.push_str("<ul>");
        for event in shard.events.iter().rev() {
            let _ = write!(page, "<li>{}", html(event));
        }
        page.push_str("</ul>");
    }
    page
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// For a whole request, and for each read and write of it.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
const MAX_REQUEST_BYTES: usize = 4096;

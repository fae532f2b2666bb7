//! The link's thread: one poll loop over the listener and every connection.
//!
//! One thread and not two per connection: with two cores a hop through another thread costs more than it saves, and
//! the due times of all connections live in one place. It sleeps in `ppoll` with a nanosecond timeout and a timer
//! slack of 1 ns until shortly before the next due time, and polls, yielding its core, only for the rest: sleeping
//! alone wakes 50 µs and more too late on a virtual machine, spinning alone would take one of two cores.

use crate::config::{LinkConfig, LinkError};
use crate::connection::{Connection, Fate};
use crate::control::{LinkControl, Settings, Shared, Stall};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How far a rate-limited path reads ahead of its line: the queue of the emulated network card.
const QUEUE_NS: u64 = 2_000_000;
/// Pieces of a rate-limited path: what leaves in half a millisecond, within these bounds.
const PIECE_BYTES: std::ops::RangeInclusive<u64> = 1_448..=65_536;
/// Reads from one socket before the others have their turn.
const READS_PER_TURN: usize = 4;

/// A running link. Dropping it resets its connections and ends its thread.
pub struct Link {
    address: SocketAddr,
    control: LinkControl,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Listens and starts the link's thread.
    ///
    /// # Errors
    /// [`LinkError`]: a setting outside its range, a port that cannot be had, a thread that cannot be made. A target
    /// that does not answer is no error: its connections are reset and counted.
    pub fn start(config: LinkConfig) -> Result<Self, LinkError> {
        config.check()?;
        let listen_error = |source| LinkError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|errno| LinkError::Start(errno.into()))?;
        let shared = Arc::new(Shared::new(config.up, config.down, wake));
        let control = LinkControl { shared: shared.clone() };
        let thread = std::thread::Builder::new()
            .name("linkem".into())
            .spawn(move || Loop::new(config, listener, shared).run())
            .map_err(LinkError::Start)?;
        Ok(Self { address, control, thread: Some(thread) })
    }

    /// Where to connect instead of the target.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle that changes the link while it runs.
    pub fn control(&self) -> LinkControl {
        self.control.clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.control.shared.stop.store(true, SeqCst);
        self.control.shared.changed();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    config: LinkConfig,
    listener: TcpListener,
    shared: Arc<Shared>,
    settings: Settings,
    seen_version: u64,
    start: Instant,
    connections: Vec<Connection>,
    /// When the line of each path is free again, under a rate limit.
    free_at_ns: [u64; 2],
    events: Vec<Event>,
}

/// Frees those who wait for a change, however the thread ends.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.applied.store(u64::MAX, SeqCst);
    }
}

/// What one entry of the poll set stands for.
#[derive(Clone, Copy)]
enum Event {
    Wake,
    Accept,
    Connected(usize),
    Readable(usize, usize),
    Writable(usize, usize),
}

impl Loop {
    fn new(config: LinkConfig, listener: TcpListener, shared: Arc<Shared>) -> Self {
        let settings = shared.settings();
        Self {
            config,
            listener,
            shared,
            settings,
            seen_version: 0,
            start: Instant::now(),
            connections: Vec::new(),
            free_at_ns: [0; 2],
            events: Vec::new(),
        }
    }

    fn run(mut self) {
        let _ended = Ended(self.shared.clone());
        // Without it the kernel may wake a sleeper 50 µs late to save power. Refused only on ancient kernels.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        while !self.shared.stop.load(SeqCst) {
            self.wait();
            // Events found under old settings are forgotten: the next poll finds them again, if they still count.
            if !self.take_settings() {
                self.handle_events();
            }
            self.deliver();
        }
        for connection in self.connections.drain(..) {
            connection.reset();
        }
    }

    /// Returns whether they changed.
    fn take_settings(&mut self) -> bool {
        let now = Instant::now();
        let changed = self.shared.version.load(SeqCst) != self.seen_version;
        if changed {
            // Drained before the version is read: a change in between leaves a wake-up behind.
            let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
            let version = self.shared.version.load(SeqCst);
            let resets_before = self.settings.resets;
            self.settings = self.shared.settings();
            if self.settings.resets != resets_before {
                for connection in self.connections.drain(..) {
                    connection.reset();
                }
            }
            self.seen_version = version;
            self.shared.applied.store(version, SeqCst);
        }
        for path in &mut self.settings.paths {
            if matches!(path.stall, Stall::Until(end) if end <= now) {
                path.stall = Stall::No;
            }
        }
        changed
    }

    /// Sleeps until something can be done: a socket is ready, a byte is due, a stall ends, or a setting changed.
    fn wait(&mut self) {
        let now_ns = self.now_ns();
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        events.push(Event::Wake);
        if self.may_accept() {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
            events.push(Event::Accept);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            for path in 0..2 {
                if self.settings.paths[path].cut {
                    continue;
                }
                if connection.wants_read(path) && self.line_is_free(path, now_ns) {
                    fds.push(PollFd::from_borrowed_fd(connection.source(path), PollFlags::IN));
                    events.push(Event::Readable(index, path));
                }
                if connection.halves[path].blocked {
                    fds.push(PollFd::from_borrowed_fd(connection.destination(path), PollFlags::OUT));
                    events.push(Event::Writable(index, path));
                }
            }
            if connection.connecting {
                fds.push(PollFd::from_borrowed_fd(connection.destination(crate::config::UP), PollFlags::OUT));
                events.push(Event::Connected(index));
            }
        }
        let timeout = self.timeout(now_ns);
        let _ = poll(&mut fds, timeout.as_ref());
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        events.retain(|_| ready.next().unwrap_or(false));
        drop(ready);
        drop(fds);
        if timeout == Some(Timespec { tv_sec: 0, tv_nsec: 0 }) && events.is_empty() {
            rustix::thread::sched_yield();
        }
        self.events = events;
    }

    fn handle_events(&mut self) {
        let events = std::mem::take(&mut self.events);
        let mut reset = Vec::new();
        let mut accept = false;
        for &event in &events {
            match event {
                Event::Wake => {
                    let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
                }
                Event::Accept => accept = true,
                Event::Connected(index) => {
                    if !self.connections[index].finish_connect() {
                        self.shared.counters.connections_failed.fetch_add(1, Relaxed);
                        reset.push(index);
                    }
                }
                Event::Writable(index, path) => self.connections[index].halves[path].blocked = false,
                Event::Readable(index, path) => {
                    if self.take_in(index, path) == Fate::Reset {
                        reset.push(index);
                    }
                }
            }
        }
        reset.dedup();
        for index in reset.into_iter().rev() {
            self.connections.swap_remove(index).reset();
        }
        if accept {
            self.accept();
        }
        self.events = events;
    }

    /// Moves what is due to where it goes, and drops the connections that ended.
    fn deliver(&mut self) {
        let mut index = 0;
        while index < self.connections.len() {
            let mut fate = Fate::Alive;
            for path in 0..2 {
                let settings = &self.settings.paths[path];
                if settings.cut || !matches!(settings.stall, Stall::No) {
                    self.connections[index].hold_up(path);
                    continue;
                }
                let now_ns = self.now_ns();
                let connection = &mut self.connections[index];
                if fate == Fate::Alive && connection.next_due_ns(path).is_some_and(|due_ns| due_ns <= now_ns)
                {
                    fate = connection.deliver(path, now_ns, &self.shared.counters);
                }
            }
            match fate {
                Fate::Alive => index += 1,
                Fate::Done => drop(self.connections.swap_remove(index)),
                Fate::Reset => self.connections.swap_remove(index).reset(),
            }
        }
        let counters = &self.shared.counters;
        counters.connections_open.store(self.connections.len() as u64, Relaxed);
        for path in 0..2 {
            let held_bytes = self.connections.iter().map(|connection| connection.held_bytes(path)).sum();
            counters.paths[path].held_bytes.store(held_bytes, Relaxed);
        }
    }

    fn take_in(&mut self, index: usize, path: usize) -> Fate {
        let config = self.settings.paths[path].config;
        let delay_ns = config.delay.as_nanos() as u64;
        let rate = config.rate_bytes_per_s.map(|rate| rate.get());
        let piece = rate.map_or(usize::MAX, |rate| {
            (rate / 2_000).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end()) as usize
        });
        let reads = if rate.is_some() { usize::MAX } else { READS_PER_TURN };
        for _ in 0..reads {
            let now_ns = self.now_ns();
            if !self.line_is_free(path, now_ns) {
                break;
            }
            let free_at_ns = &mut self.free_at_ns[path];
            let mut place = |len: usize| match rate {
                None => now_ns + delay_ns,
                Some(rate) => {
                    let spent_ns = (len as u128 * 1_000_000_000 / u128::from(rate)) as u64;
                    *free_at_ns = now_ns.max(*free_at_ns) + spent_ns;
                    *free_at_ns + delay_ns
                }
            };
            match self.connections[index].read(path, piece, &mut place) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fate) => return fate,
            }
        }
        Fate::Alive
    }

    fn accept(&mut self) {
        while self.may_accept() {
            let Ok((client, _)) = self.listener.accept() else { return };
            if self.settings.severed {
                let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
                continue;
            }
            self.shared.counters.connections_total.fetch_add(1, Relaxed);
            match self.open(client) {
                Ok(connection) => self.connections.push(connection),
                Err(client) => {
                    self.shared.counters.connections_failed.fetch_add(1, Relaxed);
                    let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
                }
            }
        }
    }

    /// Dials the target without waiting for it.
    fn open(&self, client: TcpStream) -> Result<Connection, TcpStream> {
        let family = if self.config.target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let dial = || -> Result<(OwnedFd, bool), Errno> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let target = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            sockopt::set_tcp_nodelay(&target, true)?;
            sockopt::set_tcp_nodelay(&client, true)?;
            match rustix::net::connect(&target, &self.config.target) {
                Ok(()) => Ok((target, false)),
                Err(Errno::INPROGRESS) => Ok((target, true)),
                Err(errno) => Err(errno),
            }
        };
        match dial() {
            Ok((target, connecting)) => {
                Ok(Connection::new(client.into(), target, connecting, self.config.buffer_bytes))
            }
            Err(_) => Err(client),
        }
    }

    /// How long to sleep: zero shortly before a due time, `None` when only a socket or a setting can wake the loop.
    fn timeout(&self, now_ns: u64) -> Option<Timespec> {
        let spin_ns = self.config.spin.as_nanos() as u64;
        let mut wake_ns: Option<u64> = None;
        let mut consider = |at_ns: u64| wake_ns = Some(wake_ns.map_or(at_ns, |earlier| earlier.min(at_ns)));
        for (path, settings) in self.settings.paths.iter().enumerate() {
            if settings.cut {
                continue;
            }
            match settings.stall {
                Stall::Until(end) => consider(end.saturating_duration_since(self.start).as_nanos() as u64),
                Stall::UntilTold => {}
                Stall::No => {
                    let due =
                        self.connections.iter().filter_map(|connection| connection.next_due_ns(path)).min();
                    if let Some(due_ns) = due {
                        consider(due_ns.saturating_sub(spin_ns));
                    }
                }
            }
            let reading = self.connections.iter().any(|connection| connection.wants_read(path));
            if reading && !self.line_is_free(path, now_ns) {
                consider(self.free_at_ns[path] - QUEUE_NS);
            }
        }
        let wait_ns = wake_ns?.saturating_sub(now_ns);
        Some(Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 })
    }

    fn line_is_free(&self, path: usize, now_ns: u64) -> bool {
        self.settings.paths[path].config.rate_bytes_per_s.is_none()
            || self.free_at_ns[path] <= now_ns + QUEUE_NS
    }

    /// A handshake needs both directions: a cut of either leaves new connections unanswered.
    fn may_accept(&self) -> bool {
        self.connections.len() < self.config.max_connections
            && self.settings.paths.iter().all(|path| !path.cut)
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

//! One port per node: the hello names the role and the shard, then the socket goes to the shard.
//!
//! Nothing is allocated from a peer's number before its hello, a connection has three seconds and 4 KiB for it, and
//! only so many may be without one at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use towline_core::format::{
    Decoded, Frame, Hello, HelloRole, RefusalCode, WireError, decode_frame, encode_frame,
};
use towline_core::types::limits::MAX_HELLO_BYTES;
use towline_uring::EventFd;

use crate::handle::shared::{Command, NewConnection, ShardShared};

/// The listening thread. Dropping it closes the port.
pub(crate) struct Listener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(crate) fn start(address: SocketAddr, shards: Vec<Arc<ShardShared>>) -> std::io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(EventFd::new()?);
        let door =
            Door { listener, shards, waiting: Vec::new(), stop: Arc::clone(&stop), wake: Arc::clone(&wake) };
        let thread =
            std::thread::Builder::new().name("towline-listen".to_owned()).spawn(move || door.run())?;
        Ok(Listener { address, stop, wake, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A thread that cannot be woken looks by itself within its poll's limit.
        let _ = self.wake.write();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Door {
    listener: TcpListener,
    shards: Vec<Arc<ShardShared>>,
    waiting: Vec<Stranger>,
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
}

/// A connection without a hello.
struct Stranger {
    socket: TcpStream,
    bytes: Vec<u8>,
    until: Instant,
}

/// What a look at a stranger gave.
enum Look {
    Wait,
    Hello(Box<Hello>),
    Refuse(RefusalCode, String),
    Gone,
}

impl Door {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let ready = self.poll();
            if ready.first() == Some(&true) {
                self.accept();
            }
            self.look(&ready[1.min(ready.len())..]);
        }
    }

    /// Which of the listener and the strangers have something.
    fn poll(&mut self) -> Vec<bool> {
        let mut fds = Vec::with_capacity(self.waiting.len() + 2);
        fds.push(PollFd::new(&*self.wake, PollFlags::IN));
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        fds.extend(self.waiting.iter().map(|stranger| PollFd::new(&stranger.socket, PollFlags::IN)));
        let limit = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
        if poll(&mut fds, Some(&limit)).is_err() {
            return Vec::new();
        }
        fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect()
    }

    fn accept(&mut self) {
        for _ in 0..MAX_STRANGERS {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) =>
                {
                    continue;
                }
                // No descriptor is left: the port stays readable, and a look at once would find it so again.
                Err(_) => return std::thread::sleep(ACCEPT_PAUSE),
            };
            if self.waiting.len() >= MAX_STRANGERS {
                // The oldest has had its chance: a flood of silent connections keeps nobody out for long.
                self.waiting.remove(0);
            }
            if socket.set_nonblocking(true).is_ok() {
                let until = Instant::now() + HELLO_LIMIT;
                self.waiting.push(Stranger { socket, bytes: Vec::new(), until });
            }
        }
    }

    fn look(&mut self, ready: &[bool]) {
        let now = Instant::now();
        let mut at = 0;
        let mut slot = 0;
        while at < self.waiting.len() {
            let has_bytes = ready.get(slot).copied().unwrap_or(true);
            slot += 1;
            let stranger = &mut self.waiting[at];
            let look = if has_bytes { stranger.read() } else { Look::Wait };
            match look {
                Look::Wait if now < stranger.until => at += 1,
                Look::Wait => {
                    let stranger = self.waiting.remove(at);
                    stranger.refuse(RefusalCode::Protocol, &format!("no hello within {HELLO_LIMIT:?}"));
                }
                Look::Gone => drop(self.waiting.remove(at)),
                Look::Refuse(code, why) => self.waiting.remove(at).refuse(code, &why),
                Look::Hello(hello) => {
                    let stranger = self.waiting.remove(at);
                    self.hand_over(stranger, *hello);
                }
            }
        }
    }

    fn hand_over(&self, stranger: Stranger, hello: Hello) {
        let Some(shard) = self.shards.get(usize::from(hello.shard)) else {
            let why = format!("there is no shard {}: this node has {}", hello.shard, self.shards.len());
            return stranger.refuse(RefusalCode::NoShard, &why);
        };
        if hello.role == HelloRole::Client && (hello.versions.0 > 1 || hello.versions.1 < 1) {
            let why = "this node speaks version 1 with clients".to_owned();
            return stranger.refuse(RefusalCode::Version, &why);
        }
        let socket = OwnedFd::from(stranger.socket);
        let command = Command::Connection(Box::new(NewConnection { socket, hello }));
        if let Err(Command::Connection(new)) = shard.command(command) {
            // The shard is overrun: the other side comes back.
            drop(new);
        }
    }
}

impl Stranger {
    /// Reads no byte beyond the hello: what follows is the shard's.
    fn read(&mut self) -> Look {
        loop {
            let need = match decode_frame(&self.bytes) {
                Ok(Decoded { frame: Frame::Hello(hello), .. }) => return Look::Hello(Box::new(hello)),
                Ok(_) => {
                    return Look::Refuse(RefusalCode::Protocol, "the first frame was no hello".to_owned());
                }
                Err(WireError::NeedMore(need)) => need,
                Err(error) => return Look::Refuse(RefusalCode::Protocol, error.to_string()),
            };
            if need > MAX_HELLO_BYTES {
                return Look::Refuse(
                    RefusalCode::Protocol,
                    "the first frame is too long for a hello".to_owned(),
                );
            }
            let have = self.bytes.len();
            // Eight bytes tell what it speaks: who waits for an answer to less than a frame's header gets one.
            let want = if have < 8 { 8 } else { need.max(have + 1) };
            self.bytes.resize(want, 0);
            match self.socket.read(&mut self.bytes[have..]) {
                Ok(0) => return Look::Gone,
                Ok(count) => self.bytes.truncate(have + count),
                Err(error) => {
                    self.bytes.truncate(have);
                    return match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::Interrupted => Look::Wait,
                        _ => Look::Gone,
                    };
                }
            }
        }
    }

    /// Says why, as far as that leaves at once, and closes.
    fn refuse(mut self, code: RefusalCode, why: &str) {
        let mut bytes = Vec::new();
        let frame = Frame::Refused { code, message: why.to_owned() };
        if encode_frame(&frame, &mut bytes).is_ok() {
            // Best effort: nobody waits for a stranger.
            let _ = self.socket.write(&bytes);
        }
    }
}

const MAX_STRANGERS: usize = 256;
const HELLO_LIMIT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(200);
/// After an accept that failed: what was missing may come back.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

//! The second process of a measurement.

use std::env;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{BLOCK, FILE_LEN, FloorError, Meter, Place, ScratchFile, Waiting, expect_bytes, io};
use crate::buf::BufPool;
use crate::fd::RingFd;
use crate::file::FileMode;
use crate::ops::WritePrimitive;

/// How to start this very program as a peer: the arguments that lead to [`peer_main`].
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Put before the peer's own arguments, for instance the name of a hidden subcommand.
    pub args: Vec<String>,
}

/// What the peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Sends every message back.
    Echo,
    /// Receives all it can, answers with a byte at the end.
    Sink,
    /// Writes each block durably, then answers with a message.
    Flush,
}

impl Peer {
    /// Starts the peer and waits for its connection.
    pub(super) fn start(
        &self,
        role: Role,
        waiting: Waiting,
        place: Option<&Place>,
    ) -> Result<RunningPeer, FloorError> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io("listen on loopback"))?;
        let address = listener.local_addr().map_err(io("listen on loopback"))?;
        let mut command = Command::new(env::current_exe().map_err(io("find this program"))?);
        command.args(&self.args).args([role.name(), waiting.name(), &address.to_string()]);
        if let Some(place) = place {
            command.arg(if place.mode == FileMode::Direct { "direct" } else { "buffered" });
            command.arg(&place.dir);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(io("start the peer process"))?;
        let mut running = RunningPeer { child, stream: None };
        running.stream = Some(accept(&listener, &mut running.child)?);
        Ok(running)
    }
}

/// A peer process with its connection. Dropping it ends the process.
pub(super) struct RunningPeer {
    child: Child,
    /// `None` only while it starts.
    stream: Option<TcpStream>,
}

impl RunningPeer {
    pub(super) fn stream(&self) -> Result<&TcpStream, FloorError> {
        self.stream.as_ref().ok_or_else(|| FloorError::Peer("is not connected".into()))
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        // The end of the stream tells it to go, so that it can remove its file.
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let deadline = Instant::now() + LEAVE_LIMIT;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole life of a peer process: `args` are those that follow [`Peer::args`] on its command line.
///
/// # Errors
/// [`FloorError`]; the measurement on the other side then fails too.
pub fn peer_main(args: &[String]) -> Result<(), FloorError> {
    let bad = || FloorError::Peer(format!("bad arguments {args:?}"));
    let [role, waiting, address, rest @ ..] = args else { return Err(bad()) };
    let role = Role::from_name(role).ok_or_else(bad)?;
    let waiting = Waiting::from_name(waiting).ok_or_else(bad)?;
    let address: SocketAddr = address.parse().map_err(|_| bad())?;
    if !address.ip().is_loopback() {
        return Err(bad());
    }
    let file = match (role, rest) {
        (Role::Flush, [mode, dir]) => {
            let mode = if mode == "direct" { FileMode::Direct } else { FileMode::Buffered };
            Some(ScratchFile::new(&Place::new(Path::new(dir), mode), FILE_LEN)?)
        }
        (Role::Echo | Role::Sink, []) => None,
        _ => return Err(bad()),
    };
    let mut meter = Meter::new(SINK_LEN as usize, waiting)?;
    let stream = TcpStream::connect(address).map_err(io("connect to the parent"))?;
    stream.set_nodelay(true).map_err(io("set TCP_NODELAY"))?;
    let socket = meter.ring.attach(&stream)?;
    match (role, file) {
        (Role::Flush, Some(file)) => flush(&mut meter, socket, &file),
        (Role::Sink, _) => sink(&mut meter, socket),
        _ => echo(&mut meter, socket),
    }
}

fn echo(meter: &mut Meter, socket: RingFd) -> Result<(), FloorError> {
    let pool = BufPool::new(1, MESSAGE);
    let Some(mut buf) = pool.get() else { return Ok(()) };
    loop {
        meter.ring.recv_buf(socket, buf, 0..MESSAGE, 0)?;
        let received = meter.next()?;
        let Some(back) = received.buf else { return Ok(()) };
        let len = match received.result {
            Ok(0) | Err(_) => return Ok(()),
            Ok(len) => len as usize,
        };
        meter.ring.send_buf(socket, back, 0..len, 1)?;
        let sent = meter.next()?;
        expect_bytes("answer", &sent, len as u64)?;
        let Some(back) = sent.buf else { return Ok(()) };
        buf = back;
    }
}

fn sink(meter: &mut Meter, socket: RingFd) -> Result<(), FloorError> {
    loop {
        meter.ring.recv_into_arena(socket, 0..SINK_LEN, false, 0)?;
        match meter.next()?.result {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
    }
    // All is received: that, and not the last send, ends the measurement.
    meter.ring.send(socket, 0..1, false, 1)?;
    expect_bytes("answer", &meter.next()?, 1)
}

fn flush(meter: &mut Meter, socket: RingFd, file: &ScratchFile) -> Result<(), FloorError> {
    const RECEIVED: u64 = 0;
    const ANSWERED: u64 = 2;
    let fd = file.attach(&mut meter.ring)?;
    let message = BLOCK..BLOCK + MESSAGE as u64;
    let mut count = 0;
    meter.ring.recv_into_arena(socket, 0..BLOCK, true, RECEIVED)?;
    loop {
        let completion = meter.next()?;
        match completion.tag {
            RECEIVED => match completion.result {
                Ok(len) if u64::from(len) == BLOCK => {
                    meter.ring.write_durable(fd, file.offset(count), 0..BLOCK, WritePrimitive::Dsync, 1)?;
                    count += 1;
                }
                _ => return Ok(()),
            },
            ANSWERED => expect_bytes("answer", &completion, MESSAGE as u64)?,
            _ => {
                expect_bytes("durable write", &completion, BLOCK)?;
                meter.ring.send(socket, message.clone(), false, ANSWERED)?;
                meter.ring.recv_into_arena(socket, 0..BLOCK, true, RECEIVED)?;
            }
        }
    }
}

/// Waits for the peer's connection, and no longer than the peer lives.
fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream, FloorError> {
    listener.set_nonblocking(true).map_err(io("wait for the peer"))?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(io("wait for the peer"))?;
                stream.set_nodelay(true).map_err(io("set TCP_NODELAY"))?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(source) => return Err(FloorError::Io { what: "wait for the peer", source }),
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(FloorError::Peer(format!("ended before it connected ({status})")));
        }
        if Instant::now() > deadline {
            return Err(FloorError::Peer("did not connect".into()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Sink => "sink",
            Self::Flush => "flush",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Echo, Self::Sink, Self::Flush].into_iter().find(|role| role.name() == name)
    }
}

/// Bytes of a small message.
pub(super) const MESSAGE: usize = 64;
const SINK_LEN: u64 = 256 * 1024;
const START_LIMIT: Duration = Duration::from_secs(15);
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

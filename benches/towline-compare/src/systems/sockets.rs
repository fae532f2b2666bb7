//! Closed loops over connections to a primary, all from one thread, which waits as the client library does.

use anyhow::{Context, Result, bail};
use rustix::event::epoll;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use towline::client::{Client, ClientOptions, Completion, Outcome};
use towline::{Committed, Lsn};
use towline_bench::load::{DRAIN, Payloads, Recorder, Work};

/// So many requests outstanding on each connection, all from this thread. It waits as the client does: it polls for
/// a while, then sleeps.
pub(super) fn over_sockets(
    mut clients: Vec<Client>,
    trimmer: &mut Client,
    outstanding: usize,
    work: &Work<'_>,
) -> Result<Recorder> {
    let mut recorder = Recorder::new();
    let mut payloads = Payloads::of(work, 0);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot poll")?;
    for (index, client) in clients.iter().enumerate() {
        let number = epoll::EventData::new_u64(index as u64);
        epoll::add(&poll, client, number, epoll::EventFlags::IN).context("cannot poll a connection")?;
    }
    let spin = ClientOptions::default().spin;
    // When each connection's requests were issued, by their number.
    let mut issued: Vec<VecDeque<(u64, Instant)>> = clients.iter().map(|_| VecDeque::new()).collect();
    let mut waiting = 0;
    let submit = |client: &mut Client, issued: &mut VecDeque<(u64, Instant)>, payload: &[u8]| -> Result<()> {
        let since = Instant::now();
        let request = client.submit(&[payload], work.level, work.window)?;
        client.flush()?;
        issued.push_back((request, since));
        Ok(())
    };
    for (client, issued) in clients.iter_mut().zip(&mut issued) {
        for _ in 0..outstanding {
            submit(client, issued, payloads.next())?;
            waiting += 1;
        }
    }
    let mut trimmed = Lsn::default();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(clients.len().max(1));
    let mut idle_since = Instant::now();
    // Sending receives, too: what came meanwhile makes no socket readable any more.
    let mut ready: Vec<usize> = (0..clients.len()).collect();
    while waiting > 0 {
        let mut trim_below = None;
        for index in ready.drain(..) {
            while !issued[index].is_empty() {
                let Some(completion) = clients[index].try_recv()? else { break };
                let seen = Instant::now();
                let request = completion.request;
                let committed = committed(completion)?;
                let end = committed.end;
                let place = issued[index].iter().position(|(number, _)| *number == request);
                let (_, since) =
                    place.and_then(|place| issued[index].remove(place)).context("an answer to no request")?;
                recorder.ack(&work.timing, since, seen, Ok(committed));
                if end.bytes_since(trimmed) >= TRIM_EVERY_BYTES {
                    trimmed = end;
                    trim_below = Some(end);
                }
                if work.is_over(seen) {
                    waiting -= 1;
                } else {
                    submit(&mut clients[index], &mut issued[index], payloads.next())?;
                }
                if clients[index].arrived() == 0 {
                    // What comes from now on makes the socket readable.
                    break;
                }
            }
        }
        if let Some(below) = trim_below {
            trimmer.trim(below)?;
        }
        if waiting == 0 {
            break;
        }
        let now = Instant::now();
        let asleep = if now - idle_since < spin { Duration::ZERO } else { Duration::from_millis(100) };
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: asleep.subsec_nanos().into() };
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot poll"),
        }
        if events.is_empty() {
            if now - idle_since > DRAIN {
                bail!("{waiting} requests were not acknowledged for {} s", DRAIN.as_secs());
            }
            std::thread::yield_now();
            continue;
        }
        ready.extend(events.iter().map(|event| event.data.u64() as usize));
        idle_since = Instant::now();
    }
    Ok(recorder)
}

pub(super) fn committed(completion: Completion) -> Result<Committed> {
    match completion.outcome {
        Outcome::Committed(committed) => Ok(committed),
        Outcome::Refused(why) | Outcome::Indeterminate(why) => bail!("an append failed: {why}"),
    }
}

pub(super) fn connect(address: SocketAddr) -> Result<Client> {
    let options = ClientOptions { name: "compare".into(), ..ClientOptions::default() };
    Client::connect_with(address, 0, options).context("cannot connect to the primary")
}

/// Half a segment.
const TRIM_EVERY_BYTES: u64 = 32 << 20;

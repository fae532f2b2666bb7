//! The pair floor: a durable write here in parallel with one at a peer.

use std::time::Instant;

use super::peer::{MESSAGE, Role};
use super::{
    BLOCK, Course, FILE_LEN, FloorError, Limits, Meter, Peer, Place, Samples, ScratchFile, Waiting,
    better_samples, expect_bytes,
};
use crate::ops::WritePrimitive;

/// Commits of a bare pair: this process writes 4 KiB durably while it sends them to a peer process,
/// which writes them durably and answers. A sample ends when both are done.
///
/// # Errors
/// [`FloorError`].
pub fn pair_commit(
    place: &Place,
    peer_place: &Place,
    peer: &Peer,
    limits: Limits,
) -> Result<Samples, FloorError> {
    let file = ScratchFile::new(place, FILE_LEN)?;
    better_samples(|waiting| commits(&file, peer_place, peer, waiting, limits))
}

fn commits(
    file: &ScratchFile,
    peer_place: &Place,
    peer: &Peer,
    waiting: Waiting,
    limits: Limits,
) -> Result<Vec<u64>, FloorError> {
    const WRITTEN: u64 = 0;
    const SENT: u64 = 1;
    let running = peer.start(Role::Flush, waiting, Some(peer_place))?;
    let mut meter = Meter::new(64 * 1024, waiting)?;
    let socket = meter.ring.attach(running.stream()?)?;
    let fd = file.attach(&mut meter.ring)?;
    let answer = BLOCK..BLOCK + MESSAGE as u64;
    let mut count = 0;
    let mut course = Course::new(limits);
    while course.goes_on() {
        let began = Instant::now();
        // The send first: the peer's way is the longer one.
        meter.ring.send(socket, 0..BLOCK, false, SENT)?;
        meter.ring.write_durable(fd, file.offset(count), 0..BLOCK, WritePrimitive::Dsync, WRITTEN)?;
        meter.ring.recv_into_arena(socket, answer.clone(), true, 2)?;
        for _ in 0..3 {
            let completion = meter.next()?;
            match completion.tag {
                WRITTEN => expect_bytes("durable write", &completion, BLOCK)?,
                SENT => expect_bytes("send", &completion, BLOCK)?,
                _ => expect_bytes("answer", &completion, MESSAGE as u64)?,
            }
        }
        count += 1;
        course.sample(began);
    }
    Ok(course.ns)
}

//! Floors of the disk.

use std::time::Instant;

use super::{
    BLOCK, Course, FILE_LEN, FloorError, Limits, Meter, Place, Rate, Samples, ScratchFile, Waiting,
    better_rate, better_samples, expect_bytes,
};
use crate::ops::WritePrimitive;

/// Durable 4 KiB writes, one at a time, over a zero-filled file.
///
/// # Errors
/// [`FloorError`].
pub fn durable_write(place: &Place, limits: Limits) -> Result<Samples, FloorError> {
    let file = ScratchFile::new(place, FILE_LEN)?;
    better_samples(|waiting| Ok(run_at_depth(&file, FlushWay::Dsync, 1, waiting, limits)?.ns))
}

/// As [`durable_write`], `blocks` of 4 KiB (1 to 64) by each write, in a file and with a way to wait that the caller
/// chose: to be held against a program that measures on the same file and waits in the same way.
///
/// # Errors
/// [`FloorError`].
pub fn durable_write_in(
    file: &ScratchFile,
    blocks: u32,
    waiting: Waiting,
    limits: Limits,
) -> Result<Samples, FloorError> {
    Ok(Samples { ns: run(file, FlushWay::Dsync, 1, blocks, waiting, limits)?.ns, waiting })
}

/// Durable 4 KiB writes per second with `depth` of them (at most 64) in flight.
///
/// # Errors
/// [`FloorError`].
pub fn durable_writes_per_s(place: &Place, depth: u32, limits: Limits) -> Result<Rate, FloorError> {
    let file = ScratchFile::new(place, FILE_LEN)?;
    better_rate(|waiting| Ok(run_at_depth(&file, FlushWay::Dsync, depth, waiting, limits)?.per_s))
}

/// Sequential writes of 1 MiB with four in flight, not durable one by one, flushed at the end: bytes per
/// second, the flush included.
///
/// # Errors
/// [`FloorError`].
pub fn sequential_write(place: &Place, limits: Limits) -> Result<Rate, FloorError> {
    const CHUNK: u64 = 1 << 20;
    const DEPTH: u64 = 4;
    const LEN: u64 = 256 << 20;
    let file = ScratchFile::new(place, LEN)?;
    better_rate(|waiting| {
        let mut meter = Meter::new((CHUNK * DEPTH) as usize, waiting)?;
        let fd = file.attach(&mut meter.ring)?;
        let began = Instant::now();
        let (mut started, mut done) = (0u64, 0u64);
        while done < started || (began.elapsed() < limits.time && started < limits.samples as u64) {
            while started - done < DEPTH && began.elapsed() < limits.time && started < limits.samples as u64 {
                let slot = started % DEPTH * CHUNK;
                meter.ring.write_plain(fd, started * CHUNK % LEN, slot..slot + CHUNK, started)?;
                started += 1;
            }
            if done < started {
                expect_bytes("direct write", &meter.next()?, CHUNK)?;
                done += 1;
            }
        }
        file.file.fdatasync()?;
        Ok((done * CHUNK) as f64 / began.elapsed().as_secs_f64())
    })
}

/// What a run at one depth came to.
#[derive(Clone, Debug)]
pub struct DepthRate {
    /// Latency of each write in nanoseconds, warm-up left out.
    pub ns: Vec<u64>,
    /// Writes per second.
    pub per_s: f64,
}

/// How a write is made durable, the split form included, which is no ring primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushWay {
    Dsync,
    Linked,
    /// A write, then fdatasync as a call of its own; one at a time only.
    Split,
}

/// Keeps `depth` durable 4 KiB writes in flight.
pub(crate) fn run_at_depth(
    file: &ScratchFile,
    way: FlushWay,
    depth: u32,
    waiting: Waiting,
    limits: Limits,
) -> Result<DepthRate, FloorError> {
    run(file, way, depth, 1, waiting, limits)
}

fn run(
    file: &ScratchFile,
    way: FlushWay,
    depth: u32,
    blocks: u32,
    waiting: Waiting,
    limits: Limits,
) -> Result<DepthRate, FloorError> {
    let depth = if way == FlushWay::Split { 1 } else { depth.clamp(1, 64) };
    let blocks = u64::from(blocks.clamp(1, 64));
    let len = blocks * BLOCK;
    let mut meter = Meter::new((u64::from(depth) * len).max(64 * BLOCK) as usize, waiting)?;
    let fd = file.attach(&mut meter.ring)?;
    let mut began = vec![Instant::now(); depth as usize];
    let (mut written, mut in_flight) = (0u64, 0u32);
    let mut course = Course::new(limits);
    let mut idle: Vec<u64> = (0..u64::from(depth)).collect();
    loop {
        while course.goes_on()
            && let Some(slot) = idle.pop()
        {
            let range = slot * len..(slot + 1) * len;
            let offset = file.offset(written % (file.blocks / blocks) * blocks);
            began[slot as usize] = Instant::now();
            match way {
                FlushWay::Dsync => {
                    meter.ring.write_durable(fd, offset, range, WritePrimitive::Dsync, slot)?;
                }
                FlushWay::Linked => {
                    meter.ring.write_durable(fd, offset, range, WritePrimitive::WriteThenFsync, slot)?;
                }
                FlushWay::Split => meter.ring.write_plain(fd, offset, range, slot)?,
            }
            written += 1;
            in_flight += 1;
        }
        if in_flight == 0 {
            break;
        }
        let completion = meter.next()?;
        expect_bytes("durable write", &completion, len)?;
        if way == FlushWay::Split {
            file.file.fdatasync()?;
        }
        in_flight -= 1;
        idle.push(completion.tag);
        course.sample(began[completion.tag as usize]);
    }
    Ok(DepthRate { per_s: course.per_s(), ns: course.ns })
}

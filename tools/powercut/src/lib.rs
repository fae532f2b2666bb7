//! A power cut for real processes: a FUSE file system over an ordinary directory that forgets, on command, what was
//! not flushed.
//!
//! The directory below holds what is durable, as plain files and names. What was written and not flushed lies in the
//! memory of this process: written sectors, sizes, and changes of names. A cut drops it, or keeps a random part of
//! it, as a real disk may; SIGKILL of the process is a cut that keeps nothing.
//!
//! What is durable, when:
//!
//! | becomes durable | by |
//! | --- | --- |
//! | the sectors of a write, and the size if they need it | that write, with O_DSYNC, O_SYNC, RWF_DSYNC or RWF_SYNC |
//! | all bytes and the size of a file | fsync or fdatasync of it; *not* sync or syncfs, which FUSE does not pass on |
//! | a name made, removed or renamed | fsync of a directory that it is or was in; fsync of the file does *not* do it |
//! | earlier changes of the same names | together with the later one |
//! | what emptied a directory | together with its removal |
//! | the names of the directories above a renamed thing's new place | together with the rename |
//! | mode, owner, times | at once |
//!
//! A sector of 512 bytes is written whole or not at all; sectors are kept and lost independently of each other, in
//! any order; a rename has happened or not. A new size that is lost takes the sectors past the old one with it; one
//! that is kept shows zeros where sectors were lost.
//!
//! It never makes anything durable that was not asked for, and never shows after a cut what was neither durable nor
//! written. What it does not have: extended attributes, and older versions of a sector that was written twice.
//!
//! Start at [`Mount`] to have one in this process, at [`Remote`] to give orders to one in another.

mod control;
mod disk;
mod faults;
mod fuse;
mod mount;
mod mountpoint;
mod shared;

pub use control::{ControlError, Remote};
pub use disk::{Counts, Cut, CutReport, Status};
pub use faults::{FaultChange, Faults, Trouble};
pub use mount::{CutError, Mount, MountError, MountOptions, Stopper};
pub use mountpoint::{can_mount, clean_dead_mounts};

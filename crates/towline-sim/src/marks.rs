//! Marks on rare paths: a swarm that never reached one has not looked there.

/// Counts that the named path was taken, always or under a condition.
macro_rules! sometimes {
    ($tally:expr, $mark:ident) => {
        $tally.reach($crate::marks::Mark::$mark)
    };
    ($tally:expr, $mark:ident, $when:expr) => {
        if $when {
            $tally.reach($crate::marks::Mark::$mark)
        }
    };
}
pub(crate) use sometimes;

macro_rules! marks {
    ($($name:ident => $text:literal,)*) => {
        /// A path that should be reached now and then.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mark {
            $(#[doc = $text] $name,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &[Mark] = &[$(Mark::$name,)*];

            /// What the path does.
            pub fn text(self) -> &'static str {
                match self {
                    $(Mark::$name => $text,)*
                }
            }
        }
    };
}

marks! {
    CleanEnd => "recovery: clean end",
    TornTail => "recovery: torn tail cut",
    InFlight => "recovery: batches in flight cut",
    Corrupt => "recovery: damaged durable data refused",
    ReadFailed => "recovery: a read failed and the start with it",
    TakenOver => "recovery: batches taken over from shared memory",
    Roll => "a segment was closed by a roll",
    Trim => "segments below a trim went",
    Recycled => "a segment was made from an old one",
    HeldUp => "a segment waited for one before it that could not be made",
    MadeTwice => "a segment was made, and had been asked for again meanwhile",
    CatchUp => "bytes were shipped from segment files",
    Fetch => "a restarted primary fetched a tail",
    Demoted => "a log was cut at the fork point",
    ApplyReset => "an application's state was reset",
    SteppedDown => "a leader stepped down",
    OtherLeader => "another node than before led",
    Promoted => "a running standby was promoted",
    PromotionRefused => "a promotion was refused",
    LaggardAsked => "a standby that lagged was to lead",
    TwoPromoted => "two standbys were to lead at once",
    TwoLeaders => "two nodes called themselves leader at once",
    LateAck => "an old leader acknowledged after a new one led",
    Excluded => "a standby was excluded",
    Resync => "a standby was told to resync",
    Degraded => "a leader degraded",
    Healed => "a leader healed",
    Poisoned => "a log was poisoned",
    Halted => "a damaged node halted",
    DiskDamaged => "something durable was damaged on a disk",
    DamagedStream => "a receiver refused damaged bytes",
    Full => "appends were refused: full",
    WindowWait => "an append waited for its window",
    RuleInForce => "a rule change came into force",
    RuleRefused => "a rule change was refused",
    Cancelled => "a cancelled wait ended as indeterminate",
    LostOff => "records at off were lost",
    LostLocal => "records at local were lost to a promotion",
    LostWindowed => "windowed records were lost, within their window",
    LostWritten => "records at remote_write were lost to power cuts",
    HalfOpen => "a connection was left half open",
    Relayed => "a relay's standby received the log",
    EqualTerms => "two nodes took terms of one number",
    CleanStop => "a node stopped cleanly",
    StartedAnew => "a node began with an empty disk",
}

/// What a world, or many, came by.
#[derive(Clone, Debug)]
pub struct Tally([u64; Mark::ALL.len()]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([0; Mark::ALL.len()])
    }
}

impl Tally {
    /// The path was taken.
    pub fn reach(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// How often.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Takes in another tally.
    pub fn add(&mut self, other: &Tally) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, n)| *sum += n);
    }

    /// Paths that were never taken.
    pub fn missing(&self) -> Vec<Mark> {
        Mark::ALL.iter().copied().filter(|mark| self.count(*mark) == 0).collect()
    }
}

//! The circuits of a client: what each is for, and how it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::setup::Status;
use circuit::table::CircuitKey;

use crate::socks::Credentials;

/// A circuit takes new streams for so long after its first one.
pub(crate) const FRESH: Duration = Duration::from_mins(10);
/// A spare circuit is replaced after so long.
pub(crate) const SPARE_LIFE: Duration = Duration::from_mins(30);
/// A circuit for questions ends so long after the last one: what follows from an answer is asked where that came from.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// What a circuit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nobody yet.
    Spare,
    /// The streams of one application, by its credentials.
    Streams(Option<Credentials>),
    /// Questions about the directory, and nothing else.
    Questions,
    /// A measurement, by its number.
    Test(u64),
}

/// One circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    /// Its relays, entry first.
    pub path: Vec<RelayId>,
    /// What it is for.
    pub purpose: Purpose,
    /// When the setup was sent.
    pub began: Instant,
    /// When the reply came, if it has.
    pub opened: Option<Instant>,
    /// When its first stream was attached, or its last question.
    pub used: Option<Instant>,
    /// When the last cell came.
    pub heard: Instant,
    /// Since when it is silent where it should not be; it takes no new streams then.
    pub silent: Option<Instant>,
    /// Its setup takes so long that another one was begun beside it.
    pub raced: bool,
    /// Cells sent.
    pub sent: u64,
    /// Cells received.
    pub received: u64,
    /// It takes no new streams: a relay of it has left, or new circuits were asked for.
    pub retired: bool,
    /// The most cells received in a second.
    pub(crate) peak: u64,
    /// When the cells of this second began to be counted, and how many there were before.
    pub(crate) counted: (Instant, u64),
    /// How often its grant was repeated since a cell came.
    pub(crate) repeats: u8,
    /// When its exit was asked for a sign of life, and the cells that were sent before.
    pub(crate) probe: Option<(Instant, u64)>,
}

impl Circuit {
    /// A circuit whose setup was sent now.
    pub const fn new(now: Instant, path: Vec<RelayId>, purpose: Purpose) -> Self {
        Self {
            path,
            purpose,
            began: now,
            opened: None,
            used: None,
            heard: now,
            silent: None,
            raced: false,
            sent: 0,
            received: 0,
            retired: false,
            peak: 0,
            counted: (now, 0),
            repeats: 0,
            probe: None,
        }
    }

    /// How long the setup took: a good first guess of the round trip.
    pub fn setup_time(&self) -> Option<Duration> {
        Some(self.opened?.saturating_duration_since(self.began))
    }

    /// How long an answer may take before silence means something.
    pub fn patience(&self) -> Duration {
        (self.setup_time().unwrap_or_default() * 3).max(Duration::from_secs(1))
    }

    /// Whether it takes a new stream of this application (circuit.isolation.1).
    // path.circuit.3
    pub fn takes(&self, now: Instant, isolation: Option<&Credentials>) -> bool {
        let fresh = self.used.is_none_or(|used| now.saturating_duration_since(used) < FRESH);
        let same = match &self.purpose {
            Purpose::Streams(own) => own.as_ref() == isolation,
            // directory.stream.2
            Purpose::Spare | Purpose::Questions | Purpose::Test(_) => false,
        };
        self.opened.is_some() && self.silent.is_none() && !self.retired && fresh && same
    }

    /// Whether it stands and nobody has it.
    pub fn is_spare(&self) -> bool {
        self.purpose == Purpose::Spare && self.opened.is_some() && self.silent.is_none() && !self.retired
    }
}

/// Why a circuit was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// A relay refused.
    Refused(Status),
    /// Nobody answered in time.
    TimedOut,
    /// The entry fell silent.
    Silent,
    /// The link to the entry was lost.
    LinkLost,
    /// The reply was not one that honest relays make.
    BadReply,
    /// A relay ended the circuit.
    Destroyed,
    /// There is no path.
    NoPath,
    /// The client has as many circuits as it may have.
    NotSent,
}

impl Failure {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused(status) => status.as_str(),
            Self::TimedOut => "timed out",
            Self::Silent => "the entry fell silent",
            Self::LinkLost => "link lost",
            Self::BadReply => "bad reply",
            Self::Destroyed => "destroyed",
            Self::NoPath => "no path",
            Self::NotSent => "not sent",
        }
    }
}

/// A series of circuits built for measurement.
#[derive(Clone, Debug)]
pub struct TestRun {
    /// How many are wanted.
    pub asked: usize,
    /// How many at a time.
    pub concurrency: usize,
    /// A relay that each of them is to have.
    pub via: Option<RelayId>,
    /// How many were begun.
    pub begun: usize,
    /// The time of each that stood.
    pub times: Vec<Duration>,
    /// How many failed, and why.
    pub failed: BTreeMap<&'static str, u64>,
    /// When the first began.
    pub started: Instant,
    /// When the last ended, once it has.
    pub ended: Option<Instant>,
}

impl TestRun {
    /// A run of `asked` circuits.
    pub fn new(now: Instant, asked: usize, concurrency: usize) -> Self {
        Self {
            asked,
            concurrency,
            via: None,
            begun: 0,
            times: Vec::new(),
            failed: BTreeMap::new(),
            started: now,
            ended: (asked == 0).then_some(now),
        }
    }

    /// How many have come to an end.
    pub fn done(&self) -> usize {
        let failed: u64 = self.failed.values().sum();
        self.times.len() + usize::try_from(failed).unwrap_or(usize::MAX)
    }

    /// Whether one more may begin now.
    pub fn may_begin(&self) -> bool {
        self.begun < self.asked && self.begun - self.done() < self.concurrency.max(1)
    }

    /// Notes the end of one circuit.
    pub fn note(&mut self, now: Instant, outcome: Result<Duration, Failure>) {
        match outcome {
            Ok(time) => self.times.push(time),
            Err(failure) => *self.failed.entry(failure.as_str()).or_default() += 1,
        }
        if self.done() >= self.asked {
            self.ended = Some(now);
        }
    }
}

/// All circuits by their key.
pub type Pool = BTreeMap<CircuitKey, Circuit>;

//! `diolkos monitor`: packets and system calls as the programs decide on them.

mod decode;
mod record;

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aya::maps::{Array, MapData, RingBuf};
use diolkos_abi::counter::{DropReason, FIRST_DROP, Hook, drop_index};
use diolkos_abi::event::{Control, EVENT_PACKET, Event, watch};
use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};

pub use record::{Filter, Record};

use super::pins::unreadable;
use super::{ObserveError, Pins};
use crate::dataplane::map;

/// What the programs shall tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub drops: bool,
    pub flows: bool,
    /// Of flows, one packet in so many; rounded up to a power of two.
    pub sample: u32,
}

/// The programs tell what they do as long as this lives. There is one at a time: a ring has one reader.
pub struct Monitor {
    control: Array<MapData, Control>,
    ring: RingBuf<MapData>,
    pins: Pins,
    wish: Wish,
    /// The drops counted when the monitor began.
    before: u64,
    /// Drops and others that came by.
    seen: Seen,
    /// What to add to the programs' clock, for the time since 1970.
    epoch: Duration,
    is_abandoned: bool,
    _turn: Flock<File>,
}

/// What came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub drops: u64,
    pub flows: u64,
}

impl Monitor {
    /// Turns the watch on.
    pub fn start(pins: &Pins, wish: Wish) -> Result<Self, ObserveError> {
        let turn = turn(pins)?.ok_or(ObserveError::AnotherMonitor)?;
        let mut control: Array<MapData, Control> = pins.typed(map::CONTROL)?;
        let mut ring: RingBuf<MapData> = pins.typed(map::EVENT)?;
        // What a monitor before this one left unread is of no interest.
        while ring.next().is_some() {}
        let before = drops(pins)?;
        let bits = |wanted, bit| if wanted { bit } else { 0 };
        let sample = wish.sample.clamp(1, 1 << 31).next_power_of_two() - 1;
        let value = Control { watch: bits(wish.drops, watch::DROPS) | bits(wish.flows, watch::FLOWS), sample };
        control.set(0, value, 0).map_err(|error| unreadable(map::CONTROL, &error))?;
        Ok(Self {
            control,
            ring,
            pins: pins.clone(),
            wish,
            before,
            seen: Seen::default(),
            epoch: epoch(),
            is_abandoned: false,
            _turn: turn,
        })
    }

    /// Hands over what has happened since the last call, in its order.
    pub fn drain(&mut self, mut take: impl FnMut(Record)) {
        while let Some(item) = self.ring.next() {
            let Some(event) = event(&item) else { continue };
            match u32::from(event.outcome) < FIRST_DROP {
                true => self.seen.flows += 1,
                false => self.seen.drops += 1,
            }
            if let Some(record) = Record::of(&event, self.epoch) {
                take(record);
            }
        }
    }

    /// Ends as SIGKILL would end it: nothing is turned off. For tests.
    pub fn abandon(mut self) {
        self.is_abandoned = true;
    }

    /// What came by, filtered or not.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Drops that were counted but not told, because the ring was full; `take` gets what came in meanwhile.
    pub fn lost(&mut self, take: impl FnMut(Record)) -> Result<u64, ObserveError> {
        // Counted first and read afterwards: what is on its way is not taken for lost.
        let counted = drops(&self.pins)?.saturating_sub(self.before);
        self.drain(take);
        Ok(if self.wish.drops { counted.saturating_sub(self.seen.drops) } else { 0 })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if self.is_abandoned {
            return;
        }
        if let Err(error) = self.control.set(0, Control::default(), 0) {
            tracing::error!(%error, "the programs go on telling what they do; the agent turns that off within a minute");
        }
    }
}

/// Turns off the watch of a monitor that was killed. True when there was one.
pub fn heal(pins: &Pins) -> Result<bool, ObserveError> {
    let Some(_turn) = turn(pins)? else { return Ok(false) };
    let mut control: Array<MapData, Control> = pins.typed(map::CONTROL)?;
    let failed = |error| unreadable(map::CONTROL, &error);
    if control.get(&0, 0).map_err(failed)?.watch == 0 {
        return Ok(false);
    }
    control.set(0, Control::default(), 0).map_err(failed)?;
    Ok(true)
}

/// A packet in a few words: who sends what to whom.
pub(crate) fn describe(packet: &[u8]) -> String {
    record::describe(packet)
}

/// The right to the watch, which ends with its process; nothing when another has it.
fn turn(pins: &Pins) -> Result<Option<Flock<File>>, ObserveError> {
    let path = pins.maps();
    let failed = |source| ObserveError::Path { operation: "lock", path: path.clone(), source };
    let directory = File::open(&path).map_err(failed)?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(turn) => Ok(Some(turn)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

fn drops(pins: &Pins) -> Result<u64, ObserveError> {
    let counters = pins.counters()?;
    let all = Hook::ALL.into_iter().flat_map(|hook| DropReason::ALL.map(|reason| drop_index(hook, reason)));
    Ok(all.map(|index| counters.get(index as usize).copied().unwrap_or_default()).sum())
}

/// The event of an item of the ring; nothing of another release's.
fn event(bytes: &[u8]) -> Option<Event> {
    let (time, rest) = bytes.split_first_chunk()?;
    let ([hook, outcome], rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (ifindex, packet) = rest.split_first_chunk()?;
    let packet: &[u8; EVENT_PACKET] = packet.try_into().ok()?;
    Some(Event {
        time: u64::from_ne_bytes(*time),
        hook: *hook,
        outcome: *outcome,
        length: u16::from_ne_bytes(*length),
        ifindex: u32::from_ne_bytes(*ifindex),
        packet: *packet,
    })
}

/// What time it was when the monotonic clock began.
fn epoch() -> Duration {
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since_boot)
}

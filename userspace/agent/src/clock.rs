//! The unit of [`diolkos_abi::conntrack::Flow::seen`]: `jiffies >> TIME_SHIFT`. How long that is depends on how the
//! kernel was built.

use std::time::Duration;

use diolkos_abi::conntrack::TIME_SHIFT;
use nix::time::{ClockId, clock_getres, clock_gettime};

/// The length of a jiffy, and with it what time it is for the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    jiffy: Duration,
}

/// Of a kernel that does not say: 250 Hz, as the distributions build it.
const USUAL: Duration = Duration::from_millis(4);
/// The kernel starts to count five minutes before 32 bits wrap around (`INITIAL_JIFFIES`).
const HEAD_START: Duration = Duration::from_secs(300);

impl Clock {
    /// Asks the kernel for its jiffy: the resolution of its coarse clocks.
    pub fn calibrate() -> Self {
        let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
        Self::of(resolution.unwrap_or(USUAL))
    }

    /// A clock of this jiffy, for tests and for what the kernel said. One that cannot be is taken for the usual one.
    pub fn of(jiffy: Duration) -> Self {
        let is_one = (Duration::from_micros(100)..=Duration::from_millis(20)).contains(&jiffy);
        Self { jiffy: if is_one { jiffy } else { USUAL } }
    }

    /// A lifetime in the unit of [`diolkos_abi::conntrack::Flow::seen`], never shorter than asked for: rounded up, and
    /// one more because the first unit has begun already. Zero stays zero.
    pub fn units(self, lifetime: Duration) -> u32 {
        if lifetime.is_zero() {
            return 0;
        }
        let unit = self.jiffy.as_nanos() << TIME_SHIFT;
        u32::try_from(lifetime.as_nanos().div_ceil(unit) + 1).unwrap_or(u32::MAX)
    }

    /// How long about so many units are: what [`Clock::units`] made, without what it rounded up.
    pub fn duration(self, units: u32) -> Duration {
        let unit = self.jiffy.as_nanos() << TIME_SHIFT;
        Duration::from_nanos((u128::from(units.saturating_sub(1)) * unit).try_into().unwrap_or(u64::MAX))
    }

    /// The present time in that unit.
    pub fn now(self) -> u32 {
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default();
        self.at(since_boot)
    }

    fn at(self, since_boot: Duration) -> u32 {
        let jiffies = |time: Duration| (time.as_nanos() / self.jiffy.as_nanos()) as u64;
        let count = (1u64 << 32) - jiffies(HEAD_START) + jiffies(since_boot);
        (count >> TIME_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ_250: Clock = Clock { jiffy: Duration::from_millis(4) };

    #[test]
    fn a_lifetime_is_never_shorter_than_asked_for() {
        assert_eq!(HZ_250.units(Duration::ZERO), 0, "for ever stays for ever");
        assert_eq!(HZ_250.units(Duration::from_millis(1)), 2);
        assert_eq!(HZ_250.units(Duration::from_millis(1024)), 2);
        assert_eq!(HZ_250.units(Duration::from_millis(1025)), 3);
        assert_eq!(Clock::of(Duration::from_millis(1)).units(Duration::from_secs(10)), 41);
        assert_eq!(Clock::of(Duration::from_millis(10)).units(Duration::from_secs(10_800)), 4220);
        assert_eq!(HZ_250.units(Duration::MAX), u32::MAX);
    }

    #[test]
    fn time_begins_five_minutes_before_32_bits_of_jiffies_wrap_around() {
        // Read in /proc/timer_list of a kernel of 250 Hz: 4297955366 jiffies at 12253.09 s.
        let read = (4_297_955_366_u64 >> TIME_SHIFT) as u32;
        assert!(HZ_250.at(Duration::from_millis(12_253_090)).abs_diff(read) <= 1);
        assert_eq!(HZ_250.at(Duration::ZERO), ((0x1_0000_0000_u64 - 75_000) >> TIME_SHIFT) as u32);
    }

    #[test]
    fn a_jiffy_that_cannot_be_is_taken_for_the_usual_one() {
        assert_eq!(Clock::of(Duration::from_nanos(1)), HZ_250);
        assert_eq!(Clock::of(Duration::from_secs(1)), HZ_250);
        assert!(Clock::calibrate().jiffy >= Duration::from_micros(100));
    }
}

//! Ids and extents of slots, each with its quarantine: what is freed rests before it is given out again, so that no
//! program still at work reads the new owner through the old number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Numbers from 1 to a capacity (exclusive). Times are since the agent's start.
#[derive(Debug)]
pub(crate) struct Ids {
    /// The lowest id that was never given out.
    next: u32,
    capacity: u32,
    free: BTreeSet<u32>,
    resting: VecDeque<(Duration, u32)>,
}

impl Ids {
    /// Takes over what an earlier agent gave out: all ids up to the highest known one that are not in use rest until
    /// `until`; those above were never used.
    pub(crate) fn adopt(
        capacity: u32,
        known: impl Iterator<Item = u32>,
        used: &BTreeSet<u32>,
        until: Duration,
    ) -> Self {
        let next = known.max().map_or(1, |highest| highest + 1).min(capacity);
        let resting = (1..next).filter(|id| !used.contains(id)).map(|id| (until, id)).collect();
        Self { next, capacity, free: BTreeSet::new(), resting }
    }

    pub(crate) fn take(&mut self, now: Duration) -> Option<u32> {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.free.extend(self.resting.pop_front().map(|(_, id)| id));
        }
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        let id = self.next;
        (id < self.capacity).then(|| self.next += 1).map(|()| id)
    }

    /// Takes back an id that was never published.
    pub(crate) fn give_back(&mut self, id: u32) {
        self.free.insert(id);
    }

    /// Takes back an id; it rests until `until`, which must not go back from call to call.
    pub(crate) fn release(&mut self, id: u32, until: Duration) {
        self.resting.push_back((until, id));
    }
}

/// A run of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub(crate) base: u32,
    pub(crate) count: u32,
}

impl Extent {
    fn end(self) -> u32 {
        self.base + self.count
    }
}

/// The free extents of the slot map; neighbours are merged, the smallest that fits is given out.
#[derive(Debug)]
pub(crate) struct Extents {
    by_base: BTreeMap<u32, u32>,
    by_count: BTreeSet<(u32, u32)>,
    resting: VecDeque<(Duration, Extent)>,
}

impl Extents {
    /// Takes over the slots of an earlier agent: gaps between the rows in use (sorted by base, without overlap) below
    /// `written` rest until `until`; slots from `written` on were never used.
    pub(crate) fn adopt(capacity: u32, used: &[Extent], written: u32, until: Duration) -> Self {
        let mut extents = Self { by_base: BTreeMap::new(), by_count: BTreeSet::new(), resting: VecDeque::new() };
        let mut base = 0;
        for row in used {
            extents.rest(Extent { base, count: row.base - base }, until);
            base = row.end();
        }
        let written = written.clamp(base, capacity);
        extents.rest(Extent { base, count: written - base }, until);
        extents.insert(Extent { base: written, count: capacity - written });
        extents
    }

    pub(crate) fn take(&mut self, count: u32, now: Duration) -> Option<Extent> {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, extent)) = self.resting.pop_front() {
                self.insert(extent);
            }
        }
        let (found, base) = *self.by_count.range((count, 0)..).next()?;
        self.remove(Extent { base, count: found });
        self.insert(Extent { base: base + count, count: found - count });
        Some(Extent { base, count })
    }

    /// Takes back an extent that was never published.
    pub(crate) fn give_back(&mut self, extent: Extent) {
        self.insert(extent);
    }

    /// Takes back an extent; it rests until `until`, which must not go back from call to call.
    pub(crate) fn rest(&mut self, extent: Extent, until: Duration) {
        if extent.count > 0 {
            self.resting.push_back((until, extent));
        }
    }

    fn insert(&mut self, mut extent: Extent) {
        if extent.count == 0 {
            return;
        }
        if let Some((&base, &count)) = self.by_base.range(..extent.base).next_back()
            && base + count == extent.base
        {
            self.remove(Extent { base, count });
            extent = Extent { base, count: count + extent.count };
        }
        if let Some(&count) = self.by_base.get(&extent.end()) {
            self.remove(Extent { base: extent.end(), count });
            extent.count += count;
        }
        self.by_base.insert(extent.base, extent.count);
        self.by_count.insert((extent.count, extent.base));
    }

    fn remove(&mut self, extent: Extent) {
        self.by_base.remove(&extent.base);
        self.by_count.remove(&(extent.count, extent.base));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REST: Duration = Duration::from_secs(10);

    #[test]
    fn an_id_rests_before_it_is_given_out_again() {
        let mut ids = Ids::adopt(3, [].into_iter(), &BTreeSet::new(), REST);
        assert_eq!(ids.take(Duration::ZERO), Some(1));
        assert_eq!(ids.take(Duration::ZERO), Some(2));
        assert_eq!(ids.take(Duration::ZERO), None);
        ids.release(1, REST);
        assert_eq!(ids.take(REST - Duration::from_nanos(1)), None);
        assert_eq!(ids.take(REST), Some(1));
    }

    #[test]
    fn adopted_gaps_rest_and_the_unused_end_does_not() {
        let mut ids = Ids::adopt(10, [2, 4].into_iter(), &BTreeSet::from([4]), REST);
        assert_eq!(ids.take(Duration::ZERO), Some(5));
        assert_eq!(ids.take(REST), Some(1));
        let mut extents = Extents::adopt(100, &[Extent { base: 10, count: 10 }], 30, REST);
        assert_eq!(extents.take(70, Duration::ZERO), Some(Extent { base: 30, count: 70 }));
        assert_eq!(extents.take(1, Duration::ZERO), None);
        assert_eq!(extents.take(10, REST), Some(Extent { base: 0, count: 10 }));
        assert_eq!(extents.take(10, REST), Some(Extent { base: 20, count: 10 }));
        assert_eq!(extents.take(1, REST), None);
    }

    #[test]
    fn freed_neighbours_make_one_extent_again() {
        let mut extents = Extents::adopt(12, &[], 0, REST);
        let all: Vec<Extent> = (0..3).map(|_| extents.take(4, Duration::ZERO).unwrap()).collect();
        for at in [1, 0, 2] {
            extents.rest(all[at], REST);
        }
        assert_eq!(extents.take(12, REST), Some(Extent { base: 0, count: 12 }));
    }
}

//! Which change comes next: drawn from a seed, of those that a cluster could make.

use super::model::{Change, Life, MAY_BE_EMPTY, Member, Model, PODS, SERVICES};

/// Pods that are serving at every moment, at least.
const SERVING: usize = PODS - 5;
/// Services that a new pod is an endpoint of at once.
const SERVICES_OF_A_NEW_POD: usize = 8;

/// SplitMix64: the same numbers for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `count`, which is not 0.
    pub(super) fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    pub(super) fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    fn one_of(&mut self, of: &[usize]) -> Option<usize> {
        (!of.is_empty()).then(|| of[self.below(of.len())])
    }
}

/// The next change. `ended` are the terminating pods that may be gone now, `rested` those whose address may come back.
pub(super) fn draw(model: &Model, ended: &[usize], rested: &[usize], random: &mut Random) -> Change {
    let drawn = match random.below(100) {
        0..4 => random.one_of(ended).map(|pod| Change::Bury { pod }),
        4..8 => random.one_of(rested).map(|pod| returned(pod, random)),
        8..12 => terminated(model, random),
        12..14 => emptied(model, random),
        _ => None,
    };
    drawn.unwrap_or_else(|| member(model, random))
}

fn returned(pod: usize, random: &mut Random) -> Change {
    let services = (0..SERVICES_OF_A_NEW_POD).map(|_| random.below(SERVICES)).collect();
    Change::Return { pod, services }
}

fn terminated(model: &Model, random: &mut Random) -> Option<Change> {
    let serving: Vec<usize> = (0..PODS).filter(|pod| model.life(*pod) == Life::Serving).collect();
    if serving.len() <= SERVING {
        return None;
    }
    let pod = random.one_of(&serving)?;
    let others: Vec<usize> = serving.into_iter().filter(|other| *other != pod).collect();
    let is_last = |service: &usize| model.row(*service).eq([pod]);
    let replacements = (0..SERVICES).filter(is_last).map(|service| (service, others[random.below(others.len())]));
    Some(Change::Terminate { pod, replacements: replacements.collect() })
}

fn emptied(model: &Model, random: &mut Random) -> Option<Change> {
    let service = random.below(MAY_BE_EMPTY);
    if model.is_empty(service) || has_terminating(model, service) {
        return None;
    }
    let not_ready = model.row(service).filter(|_| random.flip()).collect();
    Some(Change::Empty { service, not_ready })
}

/// While no endpoint is ready, a terminating one that serves would be in the row, and new connections would meet its end.
fn has_terminating(model: &Model, service: usize) -> bool {
    model.endpoints(service).iter().any(|(.., terminating)| *terminating)
}

/// A pod becomes an endpoint of a service, or gets ready or unready, or is one no more.
fn member(model: &Model, random: &mut Random) -> Change {
    loop {
        let (service, pod) = (random.below(SERVICES), random.below(PODS));
        if model.life(pod) != Life::Serving {
            continue;
        }
        let now = match model.member(service, pod) {
            // Seldom, so that services have few endpoints.
            Member::Absent if random.below(4) > 0 => continue,
            Member::Absent => Member::Ready,
            Member::Ready if random.flip() => Member::NotReady,
            Member::NotReady if random.flip() => Member::Ready,
            Member::Ready | Member::NotReady => Member::Absent,
        };
        let empties = now != Member::Ready && model.row(service).eq([pod]);
        if empties && (service >= MAY_BE_EMPTY || has_terminating(model, service)) {
            continue;
        }
        return Change::Member { service, pod, now };
    }
}

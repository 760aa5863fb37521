//! What makes a node better for a pod than another: a table of pure functions.

use crate::cluster::{Place, PodInfo};

/// One way to compare nodes.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    pub name: &'static str,
    pub weight: i64,
    /// From 0 to [`BEST`]; `all` are the nodes that no filter ruled out.
    pub score: fn(&PodInfo, &Place, all: &[&Place]) -> i64,
}

/// The best score of one row.
pub const BEST: i64 = 100;

/// All scores. Spreading outweighs the rest, so that replicas land on different nodes while there are any.
pub const SCORES: [Score; 3] = [
    Score { name: "Spread", weight: 3, score: spread },
    Score { name: "LeastAllocated", weight: 1, score: least_allocated },
    Score { name: "TaintToleration", weight: 1, score: few_soft_taints },
];

/// Fewer pods of the same controller.
fn spread(pod: &PodInfo, place: &Place, all: &[&Place]) -> i64 {
    let most = all.iter().map(|place| place.siblings(pod)).max().unwrap_or(0);
    share(most - place.siblings(pod).min(most), most)
}

/// More cpu and memory left when the pod is there.
fn least_allocated(pod: &PodInfo, place: &Place, _: &[&Place]) -> i64 {
    let free = |name: &str| {
        let asked = pod.requests.get(name).copied().unwrap_or_default();
        let taken = place.requested.get(name).copied().unwrap_or_default() + asked;
        let allocatable = place.node.allocatable.get(name).copied().unwrap_or_default();
        1.0 - taken.share_of(allocatable)
    };
    let mean = f64::midpoint(free("cpu"), free("memory"));
    (mean * BEST as f64).round() as i64
}

/// Fewer taints that ask pods to stay away if they can.
fn few_soft_taints(_: &PodInfo, place: &Place, all: &[&Place]) -> i64 {
    let soft = |place: &Place| place.node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule").count();
    let most = all.iter().map(|place| soft(place)).max().unwrap_or(0);
    share(most - soft(place), most)
}

/// The share as a score; all of nothing is the best.
fn share(part: usize, whole: usize) -> i64 {
    let share = (part * 100).checked_div(whole).and_then(|share| i64::try_from(share).ok());
    share.unwrap_or(BEST)
}

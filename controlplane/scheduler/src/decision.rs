//! Choosing a node for a pod, and saying why.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::{Cluster, Place, PodInfo};
use crate::filter::FILTERS;
use crate::score::SCORES;

/// The outcome for one pod, with its reasons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The node, if any fits.
    pub node: Option<String>,
    /// Nodes that were ruled out: by which filter, and why.
    pub refused: BTreeMap<String, Refusal>,
    /// Nodes that fit: the weighted score of each row, in the order of the table.
    pub scores: BTreeMap<String, Vec<i64>>,
}

/// Why one node was ruled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub filter: &'static str,
    pub reason: String,
}

/// Filters all nodes, scores those that are left, and takes the best; among equals the one with the fewest pods, and
/// then the first by name.
pub fn decide(pod: &PodInfo, cluster: &Cluster) -> Decision {
    let mut decision = Decision::default();
    let mut fitting: Vec<&Place> = Vec::new();
    for place in cluster.places() {
        match refusal(pod, place) {
            Some(refusal) => {
                decision.refused.insert(place.node.name.clone(), refusal);
            }
            None => fitting.push(place),
        }
    }
    for place in &fitting {
        let scores = SCORES.iter().map(|row| row.weight * (row.score)(pod, place, &fitting)).collect();
        decision.scores.insert(place.node.name.clone(), scores);
    }
    let total = |place: &Place| decision.scores.get(&place.node.name).map_or(0, |scores| scores.iter().sum::<i64>());
    let rank = |place: &&&Place| (-total(place), place.pods, place.node.name.clone());
    decision.node = fitting.iter().min_by_key(rank).map(|place| place.node.name.clone());
    decision
}

fn refusal(pod: &PodInfo, place: &Place) -> Option<Refusal> {
    FILTERS.iter().find_map(|filter| (filter.refuses)(pod, place).map(|reason| Refusal { filter: filter.name, reason }))
}

impl fmt::Display for Decision {
    /// "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.", or the node with its scores.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            let scores = self.scores.get(node).map(Vec::as_slice).unwrap_or_default();
            let scores = SCORES.iter().zip(scores).map(|(row, score)| format!("{} {score}", row.name));
            let (fit, all) = (self.scores.len(), self.scores.len() + self.refused.len());
            return write!(formatter, "{node} of {fit}/{all} nodes: {}", scores.collect::<Vec<_>>().join(", "));
        }
        if self.refused.is_empty() {
            return formatter.write_str("no nodes available to schedule pods");
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for refusal in self.refused.values() {
            *counts.entry(&refusal.reason).or_default() += 1;
        }
        let mut reasons: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(formatter, "0/{} nodes are available: {}.", self.refused.len(), reasons.join(", "))
    }
}

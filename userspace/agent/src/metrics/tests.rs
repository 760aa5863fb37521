#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;
use std::time::Duration;

use diolkos_abi::counter::COUNTERS;

use super::*;

fn page() -> String {
    let mut counters = vec![0; COUNTERS as usize];
    counters[verdict_index(Hook::FromContainer, Verdict::Pod) as usize] = 7;
    counters[drop_index(Hook::FromOverlay, DropReason::WrongVni) as usize] = 2;
    let mut state = State::default();
    state.readiness.services = true;
    let census = Census { frontends: 3, refused: [("bad_port", 1)].into(), ..Census::default() };
    state.latency.observe(Duration::from_millis(2));
    state.full_sync = Some(UNIX_EPOCH + Duration::from_secs(1500));
    render(&state, Some(&census), &counters)
}

#[test]
fn counters_are_shown_by_hook_and_outcome() {
    let page = page();
    for line in [
        "diolkos_packets_total{hook=\"from_container\",verdict=\"pod\"} 7",
        "diolkos_drops_total{hook=\"from_overlay\",reason=\"wrong_vni\"} 2",
        "diolkos_ready{check=\"services\"} 1",
        "diolkos_ready{check=\"cni\"} 0",
        "diolkos_map_entries{map=\"frontend\"} 3",
        "diolkos_map_capacity{map=\"frontend\"} 1048576",
        "diolkos_refused_objects{reason=\"bad_port\"} 1",
        "diolkos_sync_duration_seconds_bucket{le=\"0.001\"} 0",
        "diolkos_sync_duration_seconds_bucket{le=\"0.003\"} 1",
        "diolkos_sync_duration_seconds_bucket{le=\"+Inf\"} 1",
        "diolkos_sync_duration_seconds_sum 0.002",
        "diolkos_last_full_sync_timestamp_seconds 1500",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert_eq!(page.matches("diolkos_drops_total{").count(), 1, "what never occurred is left out");
}

#[test]
fn every_metric_is_shown_once_and_no_other() {
    let page = page();
    let shown: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed: Vec<&str> = metric::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(shown, listed);
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), shown.len());
}

#[test]
fn the_documentation_lists_what_is_shown() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let documented = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> = metric::ALL.iter().map(|metric| row(metric)).collect();
    assert_eq!(rows, wanted, "docs/metrics.md and metrics.rs differ; the table should read:\n{}", wanted.join("\n"));
}

fn row(metric: &Metric) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {} | {} | {} |", metric.name, metric.kind, labels.join(", "), metric.help)
}

#[test]
fn what_a_busy_loop_does_not_say_is_left_out_and_not_zero() {
    let page = render(&State::default(), None, &[]);
    assert!(!page.contains("\ndiolkos_services ") && page.contains("\ndiolkos_map_writes_total 0\n"), "{page}");
}

//! Throughput by iperf3, one TCP stream.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A server accepts its next client only a moment after the last one has left.
const BUSY: Duration = Duration::from_secs(3);

/// Arguments of a client that reports as JSON.
pub fn arguments(address: &str, seconds: u32) -> Vec<String> {
    let seconds = seconds.to_string();
    ["--client", address, "--time", &seconds, "--json", "--connect-timeout", "3000"].map(str::to_owned).into()
}

/// Arguments of a client that only finds out whether the server answers.
pub fn probe(address: &str) -> [&str; 6] {
    ["--client", address, "--bytes", "1K", "--connect-timeout", "1000"]
}

/// Runs a client, made by `command` for each attempt; Gbit/s as the server received them.
pub fn measure(mut command: impl FnMut() -> Result<Command>) -> Result<f64> {
    let start = Instant::now();
    loop {
        let output = command()?.stdin(Stdio::null()).output().context("cannot run an iperf3 client")?;
        // It exits with 1 on an error, and says which in its JSON.
        match gbps(&String::from_utf8_lossy(&output.stdout)) {
            Err(error) if error.to_string().contains("busy") && start.elapsed() < BUSY => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => bail!("{error:#} {}", String::from_utf8_lossy(&output.stderr).trim()),
            Ok(gbps) => return Ok(gbps),
        }
    }
}

/// What a client's report says.
pub fn gbps(report: &str) -> Result<f64> {
    let report: Value =
        serde_json::from_str(report).with_context(|| format!("iperf3 printed no report: {report:?}"))?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 reports no throughput")?;
    Ok(bits / 1e9)
}

/// Smallest, median and largest of some figures.
pub fn spread(figures: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
    Some([first, median, last])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_report_gives_what_was_received() {
        assert_eq!(gbps(r#"{"end":{"sum_received":{"bits_per_second":12.5e9}}}"#).unwrap(), 12.5);
        let busy = gbps(r#"{"error":"error - the server is busy running a test. try again later"}"#).unwrap_err();
        assert!(busy.to_string().contains("busy"));
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some([1.0, 2.0, 3.0]));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some([1.0, 2.5, 4.0]));
        assert_eq!(spread(&[]), None);
    }
}

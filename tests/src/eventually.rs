//! Waiting without sleeping blindly.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` succeeds. After `limit` the error says what was awaited, and what the last look said.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if start.elapsed() >= limit => {
                return Err(error).with_context(|| format!("{what}: not within {} s", limit.as_secs_f64()));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

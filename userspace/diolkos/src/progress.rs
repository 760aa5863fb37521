//! What a long start says to the person who waits for it: a line a step, on standard output; logs go to standard error.

use std::io::Write as _;

pub(crate) fn step(what: &str, state: &str) {
    // Nobody reading is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{what:<14} {state}");
}

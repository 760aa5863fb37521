//! Runs one test binary and reads its results as they come.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Binary, Suite};
use crate::Result;
use crate::results::Outcome;
use crate::workspace::privileged;

/// What a binary that is stopped for its time gets to remove its namespaces and servers.
const CLEANUP: Duration = Duration::from_secs(20);

/// Runs the tests named, or all. An entry each; a binary that dies or hangs is one more failed entry.
pub(super) fn run(suite: &Suite, binary: &Binary, exact: &[String]) -> Result<Vec<Outcome>> {
    let start = Instant::now();
    let mut child = command(suite, binary, exact)?
        .spawn()
        .map_err(|e| format!("cannot run {}: {e}", binary.executable.display()))?;
    let stdout = child.stdout.take().ok_or("a test binary has no output")?;
    let watchdog = Watchdog::start(child.id(), Duration::from_secs(suite.budget * 2));
    let mut report = Report { suite: suite.name, prefix: &binary.prefix, outcomes: Vec::new(), ended: false };
    read(stdout, &mut report);
    let timed_out = watchdog.stop();
    let status = wait(&mut child)?;
    if timed_out {
        report.fail(&format!("was stopped after {} s", suite.budget * 2), start.elapsed());
    } else if !report.ended {
        report.fail(&format!("died ({status})"), start.elapsed());
    }
    Ok(report.outcomes)
}

fn command(suite: &Suite, binary: &Binary, exact: &[String]) -> Result<Command> {
    let mut command = if suite.system { privileged(&binary.executable)? } else { Command::new(&binary.executable) };
    // Results as JSON are unstable in libtest; unlike its text they survive what children print.
    command.args(["-Z", "unstable-options", "--format", "json", "--report-time"]);
    if suite.system {
        command.args(["--test-threads", "1"]);
    }
    if !exact.is_empty() {
        command.arg("--exact").args(exact);
    }
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_MANIFEST_DIR", &binary.directory).current_dir(&binary.directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

fn read(stdout: impl Read, report: &mut Report<'_>) {
    for line in BufReader::new(stdout).split(b'\n').map_while(|line| line.ok()) {
        let line = String::from_utf8_lossy(&line);
        // A child without a last newline leaves its words before ours.
        let event = line
            .find("{ \"type\"")
            .or_else(|| line.find("{\"type\""))
            .and_then(|at| serde_json::from_str(&line[at..]).ok());
        match event {
            Some(event) => report.take(&event),
            None => eprintln!("{line}"),
        }
    }
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    child.wait().map_err(|e| format!("cannot wait for a test binary: {e}"))
}

struct Report<'a> {
    suite: &'static str,
    prefix: &'a str,
    outcomes: Vec<Outcome>,
    /// The binary said that it is through.
    ended: bool,
}

impl Report<'_> {
    fn take(&mut self, event: &Value) {
        let word = event["event"].as_str().unwrap_or_default();
        if event["type"] == "suite" {
            self.ended |= word == "ok" || word == "failed";
            return;
        }
        // An ignored test is one that was not run, and the rules allow none.
        let (true, "ok" | "failed" | "ignored" | "timeout") = (event["type"] == "test", word) else { return };
        if word == "timeout" {
            eprintln!("  … {} runs for a minute already", event["name"].as_str().unwrap_or_default());
            return;
        }
        let test = format!("{}::{}", self.prefix, event["name"].as_str().unwrap_or_default());
        let outcome = Outcome {
            suite: self.suite.into(),
            test,
            passed: word == "ok",
            seconds: event["exec_time"].as_f64().unwrap_or_default(),
        };
        let shown = if word == "ok" { "ok" } else { "FAILED" };
        eprintln!("  {shown:6} {:7.2}s {}", outcome.seconds, outcome.test);
        if let (false, Some(output)) = (outcome.passed, event["stdout"].as_str()) {
            output.lines().for_each(|line| eprintln!("      | {line}"));
        }
        self.outcomes.push(outcome);
    }

    fn fail(&mut self, how: &str, elapsed: Duration) {
        eprintln!("  FAILED the binary {} {how}", self.prefix);
        let test = format!("{}::(the binary {how})", self.prefix);
        self.outcomes.push(Outcome { suite: self.suite.into(), test, passed: false, seconds: elapsed.as_secs_f64() });
    }
}

/// Stops a process that takes too long: first kindly, so that its guards run.
struct Watchdog {
    cancel: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
    fired: std::sync::Arc<AtomicBool>,
}

impl Watchdog {
    fn start(pid: u32, limit: Duration) -> Self {
        let (cancel, cancelled) = mpsc::channel();
        let fired = std::sync::Arc::new(AtomicBool::new(false));
        let flag = fired.clone();
        let thread = thread::spawn(move || {
            let timed_out = |limit| cancelled.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            if timed_out(limit) {
                flag.store(true, Ordering::SeqCst);
                kill("TERM", pid);
                if timed_out(CLEANUP) {
                    kill("KILL", pid);
                }
            }
        });
        Self { cancel, thread, fired }
    }

    /// Did it have to step in?
    fn stop(self) -> bool {
        let _ = self.cancel.send(());
        let _ = self.thread.join();
        self.fired.load(Ordering::SeqCst)
    }
}

fn kill(signal: &str, pid: u32) {
    if let Ok(mut command) = privileged(Path::new("kill")) {
        let _ = command.arg(format!("-{signal}")).arg(pid.to_string()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_behind_what_children_print() {
        let text = "{ \"type\": \"suite\", \"event\": \"started\", \"test_count\": 2 }\n\
            a server says hello{ \"type\": \"test\", \"name\": \"a::b\", \"event\": \"ok\", \"exec_time\": 0.5 }\n\
            { \"type\": \"test\", \"event\": \"failed\", \"name\": \"c\", \"stdout\": \"why\" }\n\
            { \"type\": \"suite\", \"event\": \"failed\", \"passed\": 1 }\n";
        let mut report = Report { suite: "unit", prefix: "crate", outcomes: Vec::new(), ended: false };
        read(text.as_bytes(), &mut report);
        let seen: Vec<_> = report.outcomes.iter().map(|o| (o.test.as_str(), o.passed, o.seconds)).collect();
        assert_eq!(seen, [("crate::a::b", true, 0.5), ("crate::c", false, 0.0)]);
        assert!(report.ended);
    }
}

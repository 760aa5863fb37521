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
    let mut report = Report::new(suite.name, &binary.prefix);
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

fn read(stdout: impl Read, report: &mut Report) {
    for line in BufReader::new(stdout).split(b'\n').map_while(|line| line.ok()) {
        let line = String::from_utf8_lossy(&line);
        match event(&line) {
            Some(event) => report.take(&event),
            None => eprintln!("{line}"),
        }
    }
}

/// The event in a line: a child without a last newline leaves its words before ours.
pub(crate) fn event(line: &str) -> Option<Value> {
    let at = line.find("{ \"type\"").or_else(|| line.find("{\"type\""))?;
    serde_json::from_str(&line[at..]).ok()
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    child.wait().map_err(|e| format!("cannot wait for a test binary: {e}"))
}

/// What a binary said so far.
pub(crate) struct Report {
    suite: &'static str,
    prefix: String,
    pub(crate) outcomes: Vec<Outcome>,
    /// What passed tests printed, when they were asked to show it.
    pub(crate) notes: Vec<String>,
    /// The binary said that it is through.
    pub(crate) ended: bool,
}

impl Report {
    pub(crate) fn new(suite: &'static str, prefix: &str) -> Self {
        Self { suite, prefix: prefix.to_owned(), outcomes: Vec::new(), notes: Vec::new(), ended: false }
    }

    pub(crate) fn take(&mut self, event: &Value) {
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
        let output = event["stdout"].as_str().unwrap_or_default().lines();
        if outcome.passed {
            self.notes.extend(output.map(str::to_owned));
        } else {
            output.for_each(|line| eprintln!("      | {line}"));
        }
        self.outcomes.push(outcome);
    }

    pub(crate) fn fail(&mut self, how: &str, elapsed: Duration) {
        eprintln!("  FAILED the binary {} {how}", self.prefix);
        let test = format!("{}::(the binary {how})", self.prefix);
        self.outcomes.push(Outcome { suite: self.suite.into(), test, passed: false, seconds: elapsed.as_secs_f64() });
    }
}

/// Stops a process that takes too long: first kindly, so that its guards run.
pub(crate) struct Watchdog {
    cancel: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
    fired: std::sync::Arc<AtomicBool>,
}

impl Watchdog {
    pub(crate) fn start(pid: u32, limit: Duration) -> Self {
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
    pub(crate) fn stop(self) -> bool {
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
        let mut report = Report::new("unit", "crate");
        read(text.as_bytes(), &mut report);
        let seen: Vec<_> = report.outcomes.iter().map(|o| (o.test.as_str(), o.passed, o.seconds)).collect();
        assert_eq!(seen, [("crate::a::b", true, 0.5), ("crate::c", false, 0.0)]);
        assert!(report.ended);
    }
}

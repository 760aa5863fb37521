//! Steps that take longer than a second: one line each with its number and elapsed time, their output
//! in a log file whose tail is shown when they fail.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::workspace::{describe, target};

/// Lines of the log shown when a step fails.
const TAIL: usize = 25;
/// How often the elapsed time is repeated where no terminal can redraw a line.
const REPEAT: Duration = Duration::from_secs(30);

/// A numbered list of steps.
pub(crate) struct Progress {
    total: usize,
    done: usize,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, done: 0 }
    }

    /// Runs one command as the next step. `name` names its log: target/log/NAME.log.
    pub(crate) fn step(&mut self, title: &str, name: &str, command: &mut Command) -> Result<()> {
        self.steps(title, name, std::slice::from_mut(command))
    }

    /// Several commands, in order, as the next step.
    pub(crate) fn steps(&mut self, title: &str, name: &str, commands: &mut [Command]) -> Result<()> {
        self.done += 1;
        let label = format!("[{}/{}] {title}", self.done.min(self.total), self.total);
        let path = target().join("log").join(format!("{name}.log"));
        let start = Instant::now();
        let log = open(&path)?;
        let line = Line { terminal: io::stderr().is_terminal(), label: &label, start };
        line.begin();
        for command in commands {
            run(command, &log, &line).map_err(|problem| {
                line.end("failed");
                format!("{title}: {problem}\n{}the whole log: {}", tail(&path), path.display())
            })?;
        }
        line.end("done");
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)
        .and_then(|()| File::create(path))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn run(command: &mut Command, log: &File, line: &Line<'_>) -> Result<()> {
    let shown = describe(command);
    let handle = |file: io::Result<File>| file.map_err(|e| format!("cannot write the log: {e}"));
    let mut note = handle(log.try_clone())?;
    let _ = writeln!(note, "$ {shown}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(handle(log.try_clone())?)
        .stderr(handle(log.try_clone())?)
        .spawn()
        .map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    let mut repeated = Instant::now();
    loop {
        match child.try_wait().map_err(|e| format!("cannot wait for `{shown}`: {e}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("`{shown}` failed ({status})")),
            None => {}
        }
        thread::sleep(Duration::from_millis(100));
        if line.terminal {
            line.redraw();
        } else if repeated.elapsed() >= REPEAT {
            repeated = Instant::now();
            line.repeat();
        }
    }
}

struct Line<'a> {
    terminal: bool,
    label: &'a str,
    start: Instant,
}

impl Line<'_> {
    fn begin(&self) {
        if self.terminal {
            self.redraw();
        } else {
            eprintln!("{} …", self.label);
        }
    }

    fn redraw(&self) {
        eprint!("\r\x1b[K{} … {}s", self.label, self.start.elapsed().as_secs());
        let _ = io::stderr().flush();
    }

    fn repeat(&self) {
        eprintln!("{} … {}s", self.label, self.start.elapsed().as_secs());
    }

    fn end(&self, word: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{}: {word} in {:.1}s", self.label, self.start.elapsed().as_secs_f64());
    }
}

/// The last lines of a log, indented.
pub(crate) fn tail(path: &PathBuf) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("    {line}\n")).collect()
}

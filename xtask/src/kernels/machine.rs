//! One machine's run: started, followed line by line over its serial line, stopped when it takes too long.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::packages::Files;
use super::{Kernel, SUITE};
use crate::Result;
use crate::results::Outcome;
use crate::test::libtest::{Report, Watchdog, event};

/// How a machine says whose tests follow.
pub(super) const BINARY: &str = "@binary ";
/// What a machine may take: emulation is ten to thirty times slower than the machine.
const LIMIT: Duration = Duration::from_secs(1200);
const MEMORY_MIB: &str = "2048";

/// The tests to run: exact names with the binary's before them, or parts of names; all when there are none.
pub(super) struct Selection {
    pub(super) tests: Vec<String>,
    pub(super) exact: bool,
}

/// What came out.
pub(super) struct Ran {
    pub(super) outcomes: Vec<Outcome>,
    /// What the tests printed.
    pub(super) notes: Vec<String>,
}

pub(super) fn run(kernel: &Kernel, files: &Files, image: &Path) -> Result<Ran> {
    eprintln!("== Linux {} ({})", kernel.version, files.kernel.display());
    let start = Instant::now();
    let mut child = command(files, image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {}: {e}", files.emulator.display()))?;
    let serial = child.stdout.take().ok_or("the machine has no serial line")?;
    let watchdog = Watchdog::start(child.id(), LIMIT);
    let mut report = Report::new(SUITE, &prefix(kernel, "boot"));
    let mut started = Vec::new();
    for line in BufReader::new(serial).split(b'\n').map_while(|line| line.ok()) {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        match (line.strip_prefix(BINARY), event(line)) {
            (Some(binary), _) => {
                started.push(std::mem::replace(&mut report, Report::new(SUITE, &prefix(kernel, binary))));
            }
            (None, Some(event)) => report.take(&event),
            // Firmware and kernel clear screens.
            (None, None) if line.is_empty() || line.contains('\u{1b}') => {}
            (None, None) => eprintln!("  | {line}"),
        }
    }
    started.push(report);
    let timed_out = watchdog.stop();
    child.wait().map_err(|e| format!("cannot wait for the machine: {e}"))?;
    let mut ran = Ran { outcomes: Vec::new(), notes: Vec::new() };
    let last = started.len() - 1;
    for (index, mut report) in started.into_iter().enumerate() {
        // The first one is the boot: it has no tests, unless nothing came after it.
        if (index > 0 || last == 0) && !report.ended {
            let how = if timed_out { format!("was stopped after {} s", LIMIT.as_secs()) } else { "died".into() };
            report.fail(&how, start.elapsed());
        }
        ran.outcomes.append(&mut report.outcomes);
        ran.notes.append(&mut report.notes);
    }
    eprintln!("   Linux {}: {} tests in {:.0} s", kernel.version, ran.outcomes.len(), start.elapsed().as_secs_f64());
    Ok(ran)
}

fn prefix(kernel: &Kernel, binary: &str) -> String {
    format!("{SUITE}::{}::{binary}", kernel.module)
}

fn command(files: &Files, image: &Path) -> Command {
    let mut command = Command::new(&files.emulator);
    files.firmware.iter().for_each(|directory| {
        command.arg("-L").arg(directory);
    });
    if !files.libraries.is_empty() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths(&files.libraries).unwrap_or_default());
    }
    // A guest under a hypervisor of the machine was found to hang; emulation works everywhere.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB]);
    command.args(["-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&files.kernel).arg("-initrd").arg(image);
    // On a busy machine the kernel finds its clock unstable, and dies patching the code that reads it: cores under emulation
    // see a breakpoint that the kernel believes to be gone.
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"]);
    command
}

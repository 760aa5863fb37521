//! A server of the cluster: a process in a space, with a log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::eventually;
use crate::space::Space;

/// Lines of a log shown when its server fails.
const TAIL: usize = 8;
/// Longer lines are cut.
const LINE: usize = 400;
/// A server has to end this soon after SIGTERM.
const ENDING: Duration = Duration::from_secs(10);

/// Writes its process id as its namespace knows it into $1, joins the cgroup $0, becomes the command.
const START: &str = "echo $$ > \"$1\" && echo 0 > \"$0/cgroup.procs\" && shift && exec \"$@\"";

/// A running server; killed on drop.
pub struct Process {
    name: String,
    space: Space,
    argv: Vec<String>,
    log: PathBuf,
    pid_file: PathBuf,
    /// nsenter, which waits for the server and ends as it does.
    child: Child,
}

impl Process {
    /// `name` is unique in the cluster; the log is DIRECTORY/log/NAME.log, appended to by a restart.
    pub fn start(name: &str, space: &Space, directory: &Path, argv: &[String]) -> Result<Self> {
        let log = directory.join("log").join(format!("{name}.log"));
        let pid_file = directory.join(format!("{name}.pid"));
        let child = spawn(space, &log, &pid_file, argv).with_context(|| format!("cannot start {name}"))?;
        let process = Self { name: name.into(), space: space.clone(), argv: argv.to_vec(), log, pid_file, child };
        eventually("its process id", Duration::from_secs(5), || process.pid())?;
        Ok(process)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id in the cluster's process namespace.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(&self.pid_file).with_context(|| format!("{} has not started", self.name))?;
        text.trim().parse().with_context(|| format!("{} has not started", self.name))
    }

    /// Fails with the end of its log when it is no longer running.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.tail()),
        }
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(TAIL)..].iter();
        let shown = shown.map(|line| format!("    {}\n", line.chars().take(LINE).collect::<String>()));
        format!("{}  ({})", shown.collect::<String>(), self.log.display())
    }

    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// SIGKILL, as a crash would be; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        self.child.wait().map(drop).context("cannot wait")
    }

    /// SIGTERM; returns when it has ended, and fails when it takes too long.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("TERM")?;
        let name = self.name.clone();
        let child = &mut self.child;
        eventually(&format!("{name} ends after SIGTERM"), ENDING, || {
            ensure!(child.try_wait()?.is_some(), "it still runs");
            Ok(())
        })
    }

    /// Starts it again after `kill` or `stop`, with the same arguments.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_some(), "{} still runs", self.name);
        fs::remove_file(&self.pid_file)?;
        self.child = spawn(&self.space, &self.log, &self.pid_file, &self.argv)?;
        eventually("its process id", Duration::from_secs(5), || self.pid()).map(drop)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid()?;
        self.space.run(&["sh", "-c", &format!("kill -{signal} {pid}")]).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal("KILL");
            // nsenter ends with the server; it is killed as well in case the server never started.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn spawn(space: &Space, log: &Path, pid_file: &Path, argv: &[String]) -> Result<Child> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let mut command: Command = space.enter();
    command.args(["sh", "-c", START]).arg(space.cgroup()).arg(pid_file).args(argv);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    command.spawn().context("cannot run nsenter (package util-linux)")
}

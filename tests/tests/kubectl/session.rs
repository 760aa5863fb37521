//! A session of kubectl, command by command, whose outputs are all compared: `session/transcript.txt`. Nothing in it
//! needs a container. `DIOLKOS_TRANSCRIPT=write` writes what is said now, to be read before it is kept.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, text};

/// How long the controllers may take to act on what was written.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn a_session_of_kubectl_reads_as_kubernetes_has_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl/session");
    let path = directory.join("transcript.txt");
    let transcript = std::fs::read_to_string(&path).unwrap();
    let cluster = Cluster::start().with_controllers();
    let keeps = std::env::var_os("DIOLKOS_TRANSCRIPT").is_none();
    let mut written = String::new();
    let mut count = 0;
    for block in transcript.split("\n$ ").map(|block| block.trim_start_matches("$ ")) {
        let (command, expected) = block.split_once('\n').unwrap_or((block, ""));
        eprintln!("$ {command}");
        let ask = || {
            let mut kubectl = cluster.kubectl_in_time();
            kubectl.env("KUBE_EDITOR", "sed -i s/blue/green/").current_dir(&directory);
            let output = kubectl.args(words(command.strip_prefix("kubectl ").unwrap())).output().unwrap();
            shown(&output, &cluster.url)
        };
        // Controllers come after those who ask: what only reads is asked until it is so.
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut said = ask();
        while keeps && only_reads(command) && said.trim_end() != expected.trim_end() && Instant::now() < deadline {
            said = ask();
        }
        written.push_str(&format!("$ {command}\n{said}\n"));
        count += 1;
    }
    let written = format!("{}\n", written.trim_end());
    if !keeps {
        std::fs::write(&path, written).unwrap();
        return;
    }
    assert!(count >= 50, "{count} commands");
    let differs = written.lines().zip(transcript.lines()).position(|(own, expected)| own != expected);
    if let Some(line) = differs {
        let around = |text: &str| text.lines().skip(line.saturating_sub(6)).take(12).collect::<Vec<_>>().join("\n");
        panic!("line {}: said\n{}\n\ninstead of\n{}", line + 1, around(&written), around(&transcript));
    }
    assert_eq!(written, transcript);
}

fn only_reads(command: &str) -> bool {
    ["get", "describe", "diff", "rollout history"].iter().any(|verb| command.starts_with(&format!("kubectl {verb} ")))
}

/// The words of a command; what is between single quotes is one.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// How often kubectl looks again while it waits is a matter of time, and where and when diff found its files as well.
const PASSING: [&str; 5] = ["Waiting for", "diff -u", "--- /", "+++ /", "@@ "];

/// What a command said, and how it ended if not well. Of what differs from run to run only its kind.
fn shown(output: &Output, url: &str) -> String {
    let said = text(&output.stdout) + &text(&output.stderr);
    let mut shown = String::new();
    for line in said.lines().filter(|line| !PASSING.iter().any(|start| line.starts_with(start))) {
        shown.push_str(steady(&line.replace(url, "<url>")).trim_end());
        shown.push('\n');
    }
    match output.status.code() {
        Some(0) => shown,
        code => format!("{shown}[exit {}]\n", code.unwrap_or(-1)),
    }
}

/// A line without ages, times, uids and versions, and with columns two spaces apart: their width depends on the ages.
fn steady(line: &str) -> String {
    let words = line.trim_start_matches(['+', '-', ' ']);
    let indent = line.len() - words.len();
    let columns = words.split("  ").map(str::trim).filter(|column| !column.is_empty());
    let columns = columns.map(|column| column.split(' ').map(steady_word).collect::<Vec<_>>().join(" "));
    let text = columns.collect::<Vec<_>>().join("  ");
    for label in ["CreationTimestamp:", "Start Time:"] {
        if text.starts_with(label) {
            return format!("{}{label}  <time>", &line[..indent]);
        }
    }
    format!("{}{text}", &line[..indent])
}

fn steady_word(word: &str) -> &str {
    let bare = word.trim_matches(|sign: char| matches!(sign, '"' | ',' | '\'' | ':'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_age =
        bare.split_inclusive(['s', 'm', 'h']).all(|part| part.strip_suffix(['s', 'm', 'h']).is_some_and(&digits));
    let is_uid = bare.len() == 36 && bare.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let is_time = bare.len() >= 20 && bare.ends_with('Z') && bare.as_bytes()[10] == b'T' && digits(&bare[..4]);
    match () {
        () if bare.is_empty() => word,
        () if is_age => "<age>",
        () if is_uid => "<uid>",
        () if is_time => "<time>",
        () => word,
    }
}

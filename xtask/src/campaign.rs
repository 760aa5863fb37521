//! Campaigns: a test at its long size. What it measured is kept in docs/results/NAME.json, with the commit it is about.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use crate::Result;
use crate::build;
use crate::test::Binary;
use crate::workspace::{git, output, pass_through, privileged, read, root, target, write};

/// One that can be run.
pub(crate) struct Campaign {
    pub(crate) name: &'static str,
    /// Its test: the binary of diolkos-tests and the path in it.
    binary: &'static str,
    test: &'static str,
    /// How much, unless `--size` says otherwise, in what, and the variable that tells the test.
    size: u64,
    unit: &'static str,
    size_variable: &'static str,
    seed_variable: &'static str,
}

pub(crate) const CAMPAIGNS: [Campaign; 1] = [Campaign {
    name: "churn",
    binary: "netns",
    test: "churn::nothing_fails_on_any_path_while_endpoints_of_a_hundred_services_change_and_the_agent_restarts",
    size: 10_000,
    unit: "changes",
    size_variable: "DIOLKOS_CHURN_CHANGES",
    seed_variable: "DIOLKOS_CHURN_SEED",
}];

/// The variable with the file into which the test writes its figures as JSON.
const FIGURES: &str = "DIOLKOS_CAMPAIGN_JSON";
/// What a campaign itself writes, and what may therefore differ from the commit.
const RESULTS: &str = "docs/results";

#[derive(Args)]
pub(crate) struct Arguments {
    #[arg(value_parser = CAMPAIGNS.map(|campaign| campaign.name))]
    name: String,
    /// How much, in the campaign's own unit: churn counts changes (10000)
    #[arg(long, visible_alias = "changes", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    size: Option<u64>,
    /// Repeats a run; otherwise the clock says where the random numbers begin
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let campaign = find(&arguments.name)?;
    let size = arguments.size.unwrap_or(campaign.size);
    let seed = arguments.seed.unwrap_or_else(from_clock);
    build::run(&build::Arguments { ebpf: true, yes: arguments.yes })?;
    let executable = Binary::build_test(campaign.binary)?;
    let commit = clean_commit()?;
    let kept = target().join("results").join(format!("campaign-{}.json", campaign.name));
    let file = if commit.is_some() { result_file(campaign.name) } else { kept };
    let figures = target().join("results").join(format!("campaign-{}-figures.json", campaign.name));
    write(&figures, "null\n")?;
    eprintln!("campaign {}: {size} {}, seed {seed}", campaign.name, campaign.unit);
    let start = Instant::now();
    let ran = pass_through(&mut command(campaign, &executable, size, seed, &figures)?);
    let seconds = start.elapsed().as_secs_f64().round();
    let figures: Value = serde_json::from_str(&read(&figures)?).unwrap_or_default();
    let result = json!({
        "campaign": campaign.name, "test": format!("{}::{}", campaign.binary, campaign.test), "commit": commit,
        "subject": subject()?, "kernel": kernel()?, "size": size, "unit": campaign.unit,
        "seed": seed, "seconds": seconds, "passed": ran.is_ok() && figures.is_object(), "figures": figures,
    });
    write(&file, &format!("{result:#}\n"))?;
    eprintln!("campaign {}: {}", campaign.name, file.display());
    if commit.is_none() {
        eprintln!("the sources are not those of a commit, so that this is no result to keep: commit, and run again");
    }
    ran
}

/// What is wrong with the result of a campaign that a feature names; nothing when it holds.
pub(crate) fn problem(name: &str) -> Option<String> {
    let again = format!("run `cargo xtask campaign {name}`");
    let campaign = match find(name) {
        Ok(campaign) => campaign,
        Err(problem) => return Some(problem),
    };
    let file = result_file(name);
    let result: Value = match read(&file).map(|text| serde_json::from_str(&text)) {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => return Some(format!("{}: {error}: {again}", file.display())),
        Err(problem) => return Some(format!("{problem}: {again}")),
    };
    let present = match subject() {
        Ok(present) => present,
        Err(problem) => return Some(problem),
    };
    flaw(&result, campaign.size, &present).map(|flaw| format!("docs/results/{name}.json {flaw}: {again}"))
}

/// Why a result shows nothing of the subject as it is.
fn flaw(result: &Value, size: u64, subject: &str) -> Option<String> {
    if result["passed"] != true {
        return Some("says that the campaign failed".into());
    }
    if result["size"].as_u64().is_none_or(|ran| ran < size) {
        return Some(format!("is about less than {size}"));
    }
    let Some(commit) = result["commit"].as_str() else {
        return Some("does not say which commit it is about".into());
    };
    let is_ours = result["subject"] == subject;
    (!is_ours).then(|| format!("is about commit {commit}, when {} were others", SUBJECT.join(", ")))
}

/// What campaigns are about: the node's side, and the tests of it.
const SUBJECT: [&str; 3] = ["ebpf", "userspace/agent/src", "tests/tests/netns"];

/// git's names of the subject's contents at the present commit.
fn subject() -> Result<String> {
    let names = SUBJECT.map(|path| format!("HEAD:{path}"));
    let trees = output(git(&["rev-parse"]).args(names))?;
    Ok(trees.split_whitespace().map(|tree| &tree[..tree.len().min(12)]).collect::<Vec<_>>().join(" "))
}

fn find(name: &str) -> Result<&'static Campaign> {
    let names = CAMPAIGNS.map(|campaign| campaign.name).join(", ");
    let found = CAMPAIGNS.iter().find(|campaign| campaign.name == name);
    found.ok_or_else(|| format!("there is no campaign {name}: there are {names}"))
}

fn result_file(name: &str) -> PathBuf {
    root().join(RESULTS).join(format!("{name}.json"))
}

/// The commit whose sources these are; nothing when they are of none.
fn clean_commit() -> Result<Option<String>> {
    let is_clean = git(&["diff", "--quiet", "HEAD", "--", ".", &format!(":!{RESULTS}")]).output();
    let is_clean = is_clean.map_err(|e| format!("cannot run git: {e}"))?.status.success();
    let commit = output(&mut git(&["rev-parse", "HEAD"]))?;
    Ok(is_clean.then(|| commit.trim().to_owned()))
}

fn command(campaign: &Campaign, executable: &Path, size: u64, seed: u64, figures: &Path) -> Result<Command> {
    let mut command = privileged(executable)?;
    command.args(["--exact", campaign.test, "--nocapture", "--test-threads=1"]).current_dir(root().join("tests"));
    command.env(campaign.size_variable, size.to_string()).env(campaign.seed_variable, seed.to_string());
    command.env(FIGURES, figures);
    Ok(command)
}

/// The version alone: what follows names a build.
fn kernel() -> Result<String> {
    let release = read(Path::new("/proc/sys/kernel/osrelease"))?;
    Ok(release.split(['-', '+']).next().unwrap_or_default().trim().to_owned())
}

fn from_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_counts_when_it_passed_at_full_size_on_a_commit() {
        let good = json!({ "passed": true, "size": 10, "commit": "abc", "subject": "1 2 3" });
        assert_eq!(flaw(&good, 10, "1 2 3"), None);
        assert!(flaw(&good, 10, "1 2 4").unwrap_or_default().contains("commit abc"));
        let but = |key: &str, value: Value| {
            let mut result = good.clone();
            result[key] = value;
            flaw(&result, 10, "1 2 3").unwrap_or_default()
        };
        assert!(but("passed", json!(false)).contains("failed"));
        assert!(but("size", json!(9)).contains("less than 10"));
        assert!(but("commit", Value::Null).contains("which commit"));
    }

    #[test]
    fn a_campaign_that_is_none_is_said() {
        assert!(problem("chrun").unwrap_or_default().contains("there are churn"));
    }
}

//! tests/features.toml joined with the results: which promised features hold on these sources.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::Result;
use crate::build;
use crate::campaign;
use crate::results::Results;
use crate::test::{Binary, SUITES, Suite, run_suite};
use crate::workspace::{read, root, write};

mod table;

pub(crate) use table::{Feature, parse};

const BEGIN: &str = "<!-- features:begin -->";
const END: &str = "<!-- features:end -->";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Write {"tree","features":[{"id","what","tests","passed","from"}]} here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run nothing: fail when the README's table is not what features.toml says
    #[arg(long, conflicts_with = "json")]
    check: bool,
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let features = load()?;
    if arguments.check {
        return check_readme(&features);
    }
    update_readme(&features)?;
    // After the README: it is a tracked file, and results belong to one tree.
    let mut results = Results::of_this_tree()?;
    run_missing(&features, &mut results, arguments.yes)?;
    let rows: Vec<Row<'_>> = features.iter().map(|feature| Row::new(feature, &results)).collect();
    for row in &rows {
        eprintln!("{} {}", if row.problems.is_empty() { "ok    " } else { "FAILED" }, row.feature.id);
        row.problems.iter().for_each(|problem| eprintln!("         {problem}"));
    }
    if let Some(file) = &arguments.json {
        let list: Vec<Value> = rows.iter().map(Row::to_json).collect();
        write(file, &format!("{:#}\n", json!({ "tree": results.tree, "features": list })))?;
    }
    let failed = rows.iter().filter(|row| !row.problems.is_empty()).count();
    println!("{} features hold, {failed} do not", rows.len() - failed);
    if failed == 0 { Ok(()) } else { Err(format!("{failed} features do not hold")) }
}

/// The features, checked for form: what `tidy` runs as well.
pub(crate) fn load() -> Result<Vec<Feature>> {
    parse(&read(&root().join("tests/features.toml"))?)
}

/// Fails when the README's table is not the generated one.
pub(crate) fn check_readme(features: &[Feature]) -> Result<()> {
    let readme = read(&root().join("README.md"))?;
    if with_table(&readme, features)? == readme {
        return Ok(());
    }
    Err("README.md: its table of features differs from tests/features.toml: run `cargo xtask features`".into())
}

fn update_readme(features: &[Feature]) -> Result<()> {
    let path = root().join("README.md");
    let readme = read(&path)?;
    let wanted = with_table(&readme, features)?;
    if wanted == readme { Ok(()) } else { write(&path, &wanted) }
}

fn with_table(readme: &str, features: &[Feature]) -> Result<String> {
    let missing = || format!("README.md needs the lines `{BEGIN}` and `{END}` around its table of features");
    let (before, rest) = readme.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let rows: String = features.iter().map(|f| format!("| `{}` | {} | {} |\n", f.id, f.what, f.tests.len())).collect();
    Ok(format!("{before}{BEGIN}\n| feature | what holds | tests |\n|---|---|---|\n{rows}{END}{after}"))
}

/// Runs the named tests that have no result on these sources, each once.
fn run_missing(features: &[Feature], results: &mut Results, yes: bool) -> Result<()> {
    let named: BTreeSet<String> = features.iter().flat_map(|feature| feature.tests.iter().cloned()).collect();
    let wanted: Vec<String> = named.into_iter().filter(|test| results.get(test).is_none()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    eprintln!("{} tests have no result on these sources", wanted.len());
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| wanted.iter().any(|test| suite.holds(test))).collect();
    build::everything(yes)?;
    let binaries = Binary::build_all()?;
    for suite in suites {
        match run_suite(suite, &binaries, Some(&wanted)) {
            Ok(outcomes) => results.add(&outcomes),
            Err(problem) => eprintln!("suite {} could not run: {problem}", suite.name),
        }
    }
    results.save().map(drop)
}

/// A feature and what is wrong with it.
struct Row<'a> {
    feature: &'a Feature,
    problems: Vec<String>,
}

impl<'a> Row<'a> {
    fn new(feature: &'a Feature, results: &Results) -> Self {
        let problem = |test: &String| match results.get(test) {
            None => Some(format!("{test}: there is no such test, or it could not run")),
            Some(outcome) if !outcome.passed => Some(format!("{test}: fails")),
            Some(_) => None,
        };
        let campaigns = feature.campaigns.iter().filter_map(|name| campaign::problem(name));
        Self { feature, problems: feature.tests.iter().filter_map(problem).chain(campaigns).collect() }
    }

    fn to_json(&self) -> Value {
        let Feature { id, what, tests, campaigns } = self.feature;
        let from = if campaigns.is_empty() { "test" } else { "campaign" };
        json!({ "id": id, "what": what, "tests": tests, "passed": self.problems.is_empty(), "from": from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_with_a_campaign_says_where_it_comes_from() {
        let from = |campaigns: &[&str]| {
            let campaigns = campaigns.iter().map(|name| name.to_string()).collect();
            let feature = Feature { campaigns, ..Feature::default() };
            Row { feature: &feature, problems: Vec::new() }.to_json()["from"].clone()
        };
        assert_eq!((from(&[]), from(&["churn"])), (json!("test"), json!("campaign")));
    }

    #[test]
    fn the_readme_keeps_what_is_around_the_table() {
        let features =
            parse("[[feature]]\nid = \"a.b\"\nwhat = \"It works\"\ntests = [\"e2e::x\"]\n").unwrap_or_default();
        let readme = with_table(&format!("head\n{BEGIN}\nstale\n{END}\ntail\n"), &features).unwrap_or_default();
        assert!(readme.starts_with("head\n") && readme.ends_with("\ntail\n"));
        assert!(readme.contains("| `a.b` | It works | 1 |") && !readme.contains("stale"));
        assert_eq!(with_table(&readme, &features), Ok(readme));
    }
}

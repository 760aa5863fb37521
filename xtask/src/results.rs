//! target/results/TREE.json: what passed and what failed on exactly these sources, one entry a test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Result;
use crate::workspace::{read, target, tree, write};

/// One test that ran.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) suite: String,
    /// `binary::path::to::test`
    pub(crate) test: String,
    pub(crate) passed: bool,
    pub(crate) seconds: f64,
}

/// The results of one tree, by test.
pub(crate) struct Results {
    pub(crate) tree: String,
    entries: BTreeMap<String, Outcome>,
}

impl Results {
    /// Those of the sources as they are now.
    pub(crate) fn of_this_tree() -> Result<Self> {
        let tree = tree()?;
        let text = read(&path(&tree)).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let entries = value["tests"].as_array().into_iter().flatten().filter_map(decode);
        let entries = entries.map(|outcome| (outcome.test.clone(), outcome)).collect();
        Ok(Self { tree, entries })
    }

    pub(crate) fn get(&self, test: &str) -> Option<&Outcome> {
        self.entries.get(test)
    }

    /// Adds what just ran; a later run of a test replaces the earlier one.
    pub(crate) fn add(&mut self, outcomes: &[Outcome]) {
        self.entries.extend(outcomes.iter().map(|outcome| (outcome.test.clone(), outcome.clone())));
    }

    /// Written by name, a line each. Nothing is written when the sources changed while the tests ran:
    /// the results would then belong to neither tree.
    pub(crate) fn save(&self) -> Result<PathBuf> {
        let path = path(&self.tree);
        if tree()? != self.tree {
            return Err("the sources changed while the tests ran: the results are not kept, run again".into());
        }
        let lines: Vec<String> = self.entries.values().map(|outcome| format!("  {}", encode(outcome))).collect();
        let text = format!("{{\"tree\":{},\"tests\":[\n{}\n]}}\n", json!(self.tree), lines.join(",\n"));
        write(&path, &text)?;
        Ok(path)
    }
}

fn path(tree: &str) -> PathBuf {
    target().join("results").join(format!("{tree}.json"))
}

fn encode(outcome: &Outcome) -> Value {
    let seconds = (outcome.seconds * 1000.0).round() / 1000.0;
    json!({ "suite": outcome.suite, "test": outcome.test, "passed": outcome.passed, "seconds": seconds })
}

fn decode(value: &Value) -> Option<Outcome> {
    Some(Outcome {
        suite: value["suite"].as_str()?.to_owned(),
        test: value["test"].as_str()?.to_owned(),
        passed: value["passed"].as_bool()?,
        seconds: value["seconds"].as_f64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_being_written() {
        let outcome = Outcome { suite: "unit".into(), test: "a::b".into(), passed: true, seconds: 0.25 };
        assert_eq!(decode(&encode(&outcome)), Some(outcome));
    }
}

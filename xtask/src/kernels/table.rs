//! The table kernel x program -> verified instructions, and the ratchet: it may not grow unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Result;
use crate::workspace::{read, root, write};

/// How much a program may grow, in percent.
const ALLOWED: u64 = 10;
/// What the kernel suite prints for each program: `NAME: N verified instructions`.
const PRINTED: &str = " verified instructions";

/// Verified instructions by kernel and program: the largest of all sets of options.
#[derive(Default)]
pub(super) struct Table(BTreeMap<String, BTreeMap<String, u64>>);

impl Table {
    pub(super) fn add(&mut self, kernel: &str, printed: &[String]) {
        for (name, count) in printed.iter().filter_map(|line| parse(line)) {
            let known = self.0.entry(kernel.to_owned()).or_default().entry(name.to_owned()).or_default();
            *known = count.max(*known);
        }
    }

    /// Fails when a program has grown, or takes what is for what shall be. Says nothing when nothing was measured: the test
    /// that prints it did not run.
    pub(super) fn compare(&self, update: bool) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        print!("{}", self.markdown());
        let mut committed = Self::committed();
        if update {
            committed.0.extend(self.0.clone());
            return committed.save();
        }
        let grown = self.grown(&committed);
        if grown.is_empty() {
            return Ok(());
        }
        Err(format!(
            "more than {ALLOWED} % above docs/results/kernels.json: {}; make it smaller, or say \
             `cargo xtask kernels --update` and why in the commit",
            grown.join(", ")
        ))
    }

    fn grown(&self, committed: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        for (kernel, row) in &self.0 {
            for (name, count) in row {
                let held = committed.0.get(kernel).and_then(|row| row.get(name)).copied().unwrap_or_default();
                // A program that is new has no limit yet; a kernel that does not tell says 0.
                if held > 0 && *count * 100 > held * (100 + ALLOWED) {
                    grown.push(format!("{name} on {kernel}: {count}, was {held}"));
                }
            }
        }
        grown
    }

    fn committed() -> Self {
        let value: Value = serde_json::from_str(&read(&path("json")).unwrap_or_default()).unwrap_or_default();
        let rows = value["verified_instructions"].as_object().into_iter().flatten();
        let row = |row: &Value| {
            let counts = row.as_object().into_iter().flatten();
            counts.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect()
        };
        Self(rows.map(|(kernel, counts)| (kernel.clone(), row(counts))).collect())
    }

    fn save(&self) -> Result<()> {
        let value = json!({ "what": "verified instructions, the most of all sets of options; 0: the kernel does not \
            tell (before 5.16)", "verified_instructions": self.0 });
        write(&path("json"), &format!("{value:#}\n"))?;
        let head = "# Kernels\n\nWhat the verifier of each kernel walks through for each program, in instructions: the \
            most of all sets of options.\n`cargo xtask kernels` fails when a program grows by more than a tenth; `-` is \
            a kernel that loads it and does not tell.\n\n";
        write(&path("md"), &format!("{head}{}", self.markdown()))
    }

    fn markdown(&self) -> String {
        let programs: BTreeSet<&String> = self.0.values().flat_map(BTreeMap::keys).collect();
        let cell = |row: &BTreeMap<String, u64>, name: &String| match row.get(name) {
            None => " |".to_owned(),
            Some(0) => " - |".to_owned(),
            Some(count) => format!(" {count} |"),
        };
        let mut kernels: Vec<_> = self.0.iter().collect();
        kernels
            .sort_by_key(|(version, _)| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>());
        let mut text = String::from("| program |");
        kernels.iter().for_each(|(version, _)| text.push_str(&format!(" {version} |")));
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(kernels.len())));
        for name in programs {
            let cells: String = kernels.iter().map(|(_, row)| cell(row, name)).collect();
            text.push_str(&format!("| `{name}` |{cells}\n"));
        }
        text
    }
}

fn path(extension: &str) -> PathBuf {
    root().join("docs/results").join(format!("kernels.{extension}"))
}

fn parse(line: &str) -> Option<(&str, u64)> {
    let (name, count) = line.strip_suffix(PRINTED)?.split_once(": ")?;
    Some((name, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count: u64) -> Table {
        let mut table = Table::default();
        let printed = ["hello".to_owned(), format!("connect4: {count} verified instructions")];
        table.add("6.1", &printed);
        table
    }

    #[test]
    fn a_program_may_grow_by_a_tenth_and_no_more() {
        assert!(table(110).grown(&table(100)).is_empty());
        assert_eq!(table(111).grown(&table(100)), ["connect4 on 6.1: 111, was 100"]);
        assert!(table(500).grown(&Table::default()).is_empty());
        assert!(table(500).grown(&table(0)).is_empty());
    }

    #[test]
    fn a_kernel_that_measured_nothing_keeps_what_is_held() {
        let mut table = table(7);
        table.add("5.10", &["hello".to_owned()]);
        assert_eq!(table.0.keys().collect::<Vec<_>>(), ["6.1"]);
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel_in_their_order() {
        let mut table = table(7);
        table.add("5.10", &["connect4: 0 verified instructions".to_owned()]);
        let text = table.markdown();
        assert!(text.starts_with("| program | 5.10 | 6.1 |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("| `connect4` | - | 7 |"), "{text}");
    }
}

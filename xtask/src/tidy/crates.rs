//! Which crate may depend on which, and what of others' we take.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Result;
use crate::workspace::{cargo, output};

/// What each crate of ours may name as a dependency, of ours. Tests may name more (dev-dependencies).
const DIRECTION: [(&str, &[&str]); 16] = [
    ("xtask", &[]),
    ("diolkos-abi", &[]),
    ("diolkos-datapath", &["diolkos-abi"]),
    ("diolkos-programs", &["diolkos-abi", "diolkos-datapath"]),
    ("diolkos-api", &[]),
    ("diolkos-store", &["diolkos-api"]),
    ("diolkos-apiserver", &["diolkos-api", "diolkos-store"]),
    ("diolkos-controllers", &["diolkos-api"]),
    ("diolkos-scheduler", &["diolkos-api"]),
    ("diolkos-schema", &[]),
    ("diolkos-agent", &["diolkos-abi", "diolkos-api", "diolkos-datapath"]),
    ("diolkos-cni", &[]),
    ("diolkos-kubelet", &["diolkos-api"]),
    (
        "diolkos",
        &[
            "diolkos-abi",
            "diolkos-agent",
            "diolkos-api",
            "diolkos-apiserver",
            "diolkos-controllers",
            "diolkos-kubelet",
            "diolkos-scheduler",
            "diolkos-store",
        ],
    ),
    ("diolkos-tests", &[]),
    ("diolkos-clients", &[]),
];

/// Dependencies that a crate may have at all, for those that have to stay small.
const ONLY: [(&str, &[&str]); 3] =
    [("xtask", &["clap", "serde_json"]), ("diolkos-abi", &["aya"]), ("diolkos-datapath", &["diolkos-abi"])];

/// Licences that may be linked into an Apache-2.0 binary without further duties than notices.
const LICENCES: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// C crypto that needs more than a compiler, or a second TLS stack beside rustls with ring.
const BANNED: [&str; 5] = ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"];

pub(super) fn direction() -> Result<Vec<String>> {
    let metadata = metadata(&["--no-deps"])?;
    let allowed: BTreeMap<&str, &[&str]> = DIRECTION.into();
    let only: BTreeMap<&str, &[&str]> = ONLY.into();
    let mut found = Vec::new();
    for package in packages(&metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(ours) = allowed.get(name) else {
            found.push(format!("{name}: a crate that the table of xtask/src/tidy/crates.rs does not know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let wanted = dependency["name"].as_str().unwrap_or_default();
            let normal = dependency["kind"].is_null();
            let is_ours = allowed.contains_key(wanted);
            if normal && is_ours && !ours.contains(&wanted) {
                found.push(format!("{name} must not depend on {wanted}"));
            }
            if normal && only.get(name).is_some_and(|only| !only.contains(&wanted)) {
                found.push(format!("{name} must stay small: it depends on {wanted}"));
            }
        }
    }
    Ok(found)
}

pub(super) fn licences() -> Result<Vec<String>> {
    let metadata = metadata(&["--locked"])?;
    let mut found = Vec::new();
    for package in packages(&metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        if BANNED.contains(&name) {
            found.push(format!("{name} is banned (see BANNED in xtask/src/tidy/crates.rs)"));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        // A crate with a licence file instead of an expression needs a person to read it.
        if !acceptable(licence) {
            found.push(format!(
                "{name} {}: licence `{licence}` is not on the list",
                package["version"].as_str().unwrap_or_default()
            ));
        }
    }
    Ok(found)
}

fn metadata(arguments: &[&str]) -> Result<Value> {
    let text = output(cargo().args(["metadata", "--format-version", "1"]).args(arguments))?;
    serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// Does an SPDX expression leave us a choice of licences that are all on the list?
fn acceptable(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    !words.is_empty() && any(&words, &mut position) && position == words.len()
}

/// any := all (OR all)*
fn any(words: &[&str], position: &mut usize) -> bool {
    let mut good = all(words, position);
    while words.get(*position) == Some(&"OR") {
        *position += 1;
        good |= all(words, position);
    }
    good
}

/// all := one (AND one)*
fn all(words: &[&str], position: &mut usize) -> bool {
    let mut good = one(words, position);
    while words.get(*position) == Some(&"AND") {
        *position += 1;
        good &= one(words, position);
    }
    good
}

/// one := ( any ) | licence [WITH exception]
fn one(words: &[&str], position: &mut usize) -> bool {
    let Some(word) = words.get(*position) else { return false };
    *position += 1;
    if *word == "(" {
        let good = any(words, position);
        *position += 1;
        return good;
    }
    let mut licence = (*word).to_owned();
    if words.get(*position) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*position + 1).unwrap_or(&""));
        *position += 2;
    }
    LICENCES.contains(&licence.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_acceptable_choice_is_enough() {
        assert!(acceptable("MIT OR Apache-2.0"));
        assert!(acceptable("MIT/Apache-2.0"));
        assert!(acceptable("GPL-2.0-only OR MIT"));
        assert!(acceptable("(MIT OR GPL-3.0-only) AND Unicode-3.0"));
        assert!(acceptable("Apache-2.0 WITH LLVM-exception OR MIT"));
    }

    #[test]
    fn what_binds_us_is_refused() {
        assert!(!acceptable("GPL-3.0-or-later"));
        assert!(!acceptable("MIT AND LGPL-2.1-only"));
        assert!(!acceptable("(GPL-2.0-only OR AGPL-3.0-only) AND MIT"));
        assert!(!acceptable(""));
    }
}

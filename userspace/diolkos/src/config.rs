//! `--config FILE`: flags from a YAML file, by their names, unless the command line has them.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, bail};
use diolkos_apiserver::pki::write_private;
use serde_json::Value;

/// The command line with what its configuration file says and it does not.
pub(crate) fn expand(argv: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) = file_of(&argv) else { return Ok(argv) };
    let Some(command) = argv.iter().position(|argument| argument == "up" || argument == "node") else {
        return Ok(argv);
    };
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let flags = flags(&text).with_context(|| format!("the configuration file {}", path.display()))?;
    let given: Vec<&str> = argv[command..].iter().filter_map(|argument| argument.to_str().and_then(name)).collect();
    let flags: Vec<OsString> =
        flags.iter().filter(|flag| name(flag).is_none_or(|name| !given.contains(&name))).map(OsString::from).collect();
    let mut expanded = argv;
    expanded.splice(command + 1..command + 1, flags);
    Ok(expanded)
}

/// The name of a flag.
pub(crate) fn name(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--")?;
    Some(flag.split_once('=').map_or(flag, |(name, _)| name))
}

fn file_of(argv: &[OsString]) -> Option<OsString> {
    let at = argv.iter().position(|argument| argument == "--config");
    let joined = || argv.iter().find_map(|argument| argument.to_str()?.strip_prefix("--config=").map(OsString::from));
    at.and_then(|at| argv.get(at + 1).cloned()).or_else(joined)
}

/// A mapping of flags: a value, a list for a flag that may be repeated or takes several values.
fn flags(text: &str) -> anyhow::Result<Vec<String>> {
    let file: Value = serde_yaml_ng::from_str(text).context("is no YAML")?;
    let entries = match &file {
        Value::Null => return Ok(Vec::new()),
        Value::Object(entries) => entries,
        _ => bail!("is no mapping of flags, such as `service-cidr: 10.96.0.0/16`"),
    };
    let mut flags = Vec::new();
    for (name, value) in entries {
        match value {
            Value::Array(values) => {
                for value in values {
                    flags.push(format!("--{name}={}", scalar(name, value)?));
                }
            }
            value => flags.push(format!("--{name}={}", scalar(name, value)?)),
        }
    }
    Ok(flags)
}

fn scalar(name: &str, value: &Value) -> anyhow::Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => bail!("{name}: a flag has a value or a list of values"),
    }
}

/// Writes a file of flags, readable by its owner; its directory is made when it is missing.
pub(crate) fn write_file<N: AsRef<str>>(path: &Path, head: &str, entries: &[(N, Value)]) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    write_private(path, text(head, entries)?.as_bytes())?;
    Ok(())
}

fn text<N: AsRef<str>>(head: &str, entries: &[(N, Value)]) -> anyhow::Result<String> {
    let mapping: serde_json::Map<String, Value> =
        entries.iter().map(|(name, value)| (name.as_ref().to_owned(), value.clone())).collect();
    Ok(format!("# {head}\n{}", serde_yaml_ng::to_string(&Value::Object(mapping))?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_says_flags_by_their_names() {
        let text =
            "service-cidr: 10.96.0.0/16,fd00::/112\nsan: [a.example, b.example]\nnode: true\nlisten: 0.0.0.0:6443\n";
        let expected = [
            "--service-cidr=10.96.0.0/16,fd00::/112",
            "--san=a.example",
            "--san=b.example",
            "--node=true",
            "--listen=0.0.0.0:6443",
        ];
        assert_eq!(flags(text).unwrap(), expected);
        assert_eq!(flags("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_flag_is_named() {
        assert!(flags("- a\n").unwrap_err().to_string().contains("no mapping of flags"));
        assert!(flags("san: {a: b}").unwrap_err().to_string().contains("san"));
        assert!(flags("san: [").unwrap_err().to_string().contains("no YAML"));
    }

    #[test]
    fn what_the_command_line_says_counts_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "data-dir: /srv/one\nservice-cidr: 10.96.0.0/16\n").unwrap();
        let argv = ["diolkos", "--log", "warn", "up", "--config", file.to_str().unwrap(), "--data-dir=/srv/two"];
        let expanded = expand(argv.map(OsString::from).to_vec()).unwrap();
        assert_eq!(expanded[4], "--service-cidr=10.96.0.0/16");
        assert!(!expanded.contains(&OsString::from("--data-dir=/srv/one")));
        assert_eq!(expanded.last().unwrap(), "--data-dir=/srv/two");
        let missing = ["diolkos", "up", "--config=/nowhere/at/all"].map(OsString::from).to_vec();
        assert!(format!("{:#}", expand(missing).unwrap_err()).contains("/nowhere/at/all"));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = text("by a test", &[("data-dir", json!("/srv")), ("san", json!(["a", "b"]))]).unwrap();
        assert!(text.starts_with("# by a test\n"), "{text}");
        assert_eq!(flags(&text).unwrap(), ["--data-dir=/srv", "--san=a", "--san=b"]);
    }
}

//! The format of tests/features.toml: `[[feature]]` with `id`, `what`, `tests` and perhaps `campaigns`, in that spelling.

use crate::Result;
use crate::campaign::CAMPAIGNS;

/// What is promised, and the tests that show it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Feature {
    /// `area.thing`, unique
    pub(crate) id: String,
    /// One sentence for the README
    pub(crate) what: String,
    /// `binary::path::to::test`, at least one
    pub(crate) tests: Vec<String>,
    /// Names of campaigns whose kept results it needs as well
    pub(crate) campaigns: Vec<String>,
}

/// Every row, or the first thing wrong with its line.
pub(crate) fn parse(text: &str) -> Result<Vec<Feature>> {
    let mut features: Vec<Feature> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |what: &str| format!("tests/features.toml:{}: {what}", number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[feature]]" {
            features.push(Feature::default());
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("expected `key = value`"))?;
        let feature = features.last_mut().ok_or_else(|| wrong("expected [[feature]] first"))?;
        let mut value = value.trim().to_owned();
        while value.starts_with('[') && !value.ends_with(']') {
            let (_, next) = lines.next().ok_or_else(|| wrong("the list does not end"))?;
            value.push_str(next.trim());
        }
        match key.trim() {
            "id" => feature.id = string(&value).ok_or_else(|| wrong("id is no string"))?,
            "what" => feature.what = string(&value).ok_or_else(|| wrong("what is no string"))?,
            "tests" => feature.tests = list(&value).ok_or_else(|| wrong("tests is no list of strings"))?,
            "campaigns" => {
                feature.campaigns = list(&value).ok_or_else(|| wrong("campaigns is no list of strings"))?;
            }
            other => return Err(wrong(&format!("unknown key `{other}`"))),
        }
    }
    check(&features)?;
    Ok(features)
}

fn string(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains(['"', '\\', '|'])).then(|| inner.to_owned())
}

fn list(value: &str) -> Option<Vec<String>> {
    let inner = value.strip_prefix('[')?.strip_suffix(']')?;
    inner.split(',').map(str::trim).filter(|item| !item.is_empty()).map(string).collect()
}

fn check(features: &[Feature]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for feature in features {
        let wrong = |what: &str| Err(format!("tests/features.toml: `{}` {what}", feature.id));
        if !feature.id.contains('.') || feature.id.contains(char::is_whitespace) {
            return wrong("needs an id like `area.thing`");
        }
        if feature.what.is_empty() || feature.tests.is_empty() {
            return wrong("needs `what` and at least one of `tests`");
        }
        if feature.tests.iter().any(|test| !test.contains("::")) {
            return wrong("names a test that is not `binary::test`");
        }
        let is_none = |name: &&String| !CAMPAIGNS.iter().any(|campaign| campaign.name == **name);
        if let Some(name) = feature.campaigns.iter().find(is_none) {
            return wrong(&format!("names a campaign that there is not: {name}"));
        }
        if !seen.insert(&feature.id) {
            return wrong("is there twice");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_may_break_their_list_over_lines() {
        let text = "# rows\n[[feature]]\nid = \"a.b\"\nwhat = \"It works\"\ntests = [\n  \"e2e::x\",\n  \"kernel::y::z\",\n]\n\
            campaigns = [\"churn\"]\n";
        let wanted = Feature {
            id: "a.b".into(),
            what: "It works".into(),
            tests: vec!["e2e::x".into(), "kernel::y::z".into()],
            campaigns: vec!["churn".into()],
        };
        assert_eq!(parse(text), Ok(vec![wanted]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let says = |text: &str| parse(text).err().unwrap_or_default();
        assert!(says("id = \"a\"").contains("toml:1: expected [[feature]] first"));
        assert!(says("[[feature]]\nwhy = \"x\"").contains("toml:2: unknown key `why`"));
        assert!(says("[[feature]]\nid = \"a.b\"\nwhat = \"x\"\ntests = []").contains("at least one"));
        let row = "[[feature]]\nid = \"a.b\"\nwhat = \"x\"\ntests = [\"e2e::x\"]\n";
        assert!(says(&format!("{row}{row}")).contains("twice"));
        assert!(says(&format!("{row}campaigns = [\"x\"]\n")).contains("there is not: x"));
    }
}

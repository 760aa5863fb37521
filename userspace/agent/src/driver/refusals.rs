//! What is not served, for the operator: each object is logged once, and their number whenever it changes.

use std::collections::BTreeMap;

/// Why an object is not served, or not in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reasons in one word each.
    pub words: Vec<&'static str>,
    /// The reasons, and what to do.
    pub text: String,
}

impl Refused {
    pub(super) fn new(word: &'static str, text: impl ToString) -> Self {
        Self { words: vec![word], text: text.to_string() }
    }
}

/// All of them, by the object's kind and name.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    objects: BTreeMap<String, Refused>,
    /// What was logged last.
    logged: BTreeMap<&'static str, usize>,
}

impl Refusals {
    pub(super) fn objects(&self) -> &BTreeMap<String, Refused> {
        &self.objects
    }

    /// Objects by reason.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for word in self.objects.values().flat_map(|refused| &refused.words) {
            *counts.entry(*word).or_default() += 1;
        }
        counts
    }

    pub(super) fn add(&mut self, object: String, refused: Refused) {
        if self.objects.get(&object) != Some(&refused) {
            tracing::warn!(object, reason = refused.text, "not served, or not in all");
            self.objects.insert(object, refused);
        }
    }

    pub(super) fn remove(&mut self, object: &str) {
        if self.objects.remove(object).is_some() {
            tracing::info!(object, "no longer refused");
        }
    }

    /// Keeps the objects for which `stays` holds.
    pub(super) fn retain(&mut self, stays: impl Fn(&str) -> bool) {
        self.objects.retain(|object, _| stays(object));
    }

    /// Logs the numbers if they are others than last time, or if they are asked for `anew`.
    pub(super) fn summarize(&mut self, anew: bool) {
        let counts = self.counts();
        let is_news = counts != self.logged;
        if is_news || (anew && !counts.is_empty()) {
            let objects = self.objects.len();
            tracing::warn!(objects, reasons = ?counts, "objects that are not served, or not in all");
        }
        self.logged = counts;
    }
}

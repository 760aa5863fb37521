//! What a write makes of an object before it is checked: what only the server or another part writes stays as it was.

use std::collections::HashMap;

use serde_json::Value;

use super::{Kind, rule};

/// `metadata` fields that only the server writes.
const SERVER_FIELDS: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl Kind {
    /// Drops what a writer may not set at creation, and sets what every new object has. Identity and time (`uid`,
    /// `creationTimestamp`) are the caller's.
    pub fn prepare_for_create(&self, object: &mut Value) {
        let generation = self.generation;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in SERVER_FIELDS.iter().chain(&["resourceVersion"]) {
                metadata.shift_remove(*field);
            }
            if generation {
                metadata.insert("generation".into(), 1.into());
            }
        }
        if let Some(custom) = &self.custom {
            if custom.has_status()
                && let Some(fields) = object.as_object_mut()
            {
                fields.shift_remove("status");
            }
        } else if let Some(status) = (self.rules.initial_status)(object) {
            rule::set(object, "status", status);
        }
    }

    /// Gives a new object its identity, and what follows from it.
    pub fn identify(&self, object: &mut Value, uid: &str, created: &str) {
        if let Some(metadata) = rule::object_at(object, "metadata") {
            rule::set(metadata, "uid", uid);
            rule::set(metadata, "creationTimestamp", created);
        }
        (self.rules.identified)(object);
    }

    /// Makes `new` a legal successor of `old`: what only the server or another subresource writes is taken from `old`.
    /// `metadata.resourceVersion` is left as the writer sent it.
    pub fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        for field in SERVER_FIELDS {
            rule::copy_part(old, new, "metadata", field);
        }
        if self.subresource("status").is_some() {
            rule::copy_field(old, new, "status");
        }
        if self.subresource("finalize").is_some() {
            rule::copy_part(old, new, "spec", "finalizers");
        }
        (self.rules.carry_over)(new, old);
        self.count_generation(new, old);
    }

    /// `metadata.generation` of what replaces `old`, also once admission has completed it.
    pub fn count_generation(&self, new: &mut Value, old: &Value) {
        if !self.generation {
            return;
        }
        let differs = self.content_differs(new, old);
        let generation = old["metadata"]["generation"].as_i64();
        if let Some(metadata) = rule::object_at(new, "metadata") {
            match generation {
                _ if differs => rule::set(metadata, "generation", generation.unwrap_or(0) + 1),
                Some(generation) => rule::set(metadata, "generation", generation),
                None => {}
            }
        }
    }

    /// A write to a subresource: everything else stays as it was.
    pub fn prepare_for_part_update(&self, part: &str, new: &mut Value, old: &Value) {
        match part {
            "status" => self.prepare_for_status_update(new, old),
            "finalize" => self.prepare_for_finalize(new, old),
            _ => {
                let sent = std::mem::replace(new, old.clone());
                rule::copy_part(&sent, new, "metadata", "resourceVersion");
                (self.rules.write_part)(part, new, &sent);
            }
        }
    }

    /// A write to `status`: everything else stays as it was, but for labels and annotations of the kinds that allow it.
    pub fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        let sent = std::mem::replace(new, old.clone());
        rule::copy_field(&sent, new, "status");
        rule::copy_part(&sent, new, "metadata", "resourceVersion");
        rule::copy_part(&sent, new, "metadata", "managedFields");
        if self.rules.status_writes_labels {
            rule::copy_part(&sent, new, "metadata", "labels");
            rule::copy_part(&sent, new, "metadata", "annotations");
        }
    }

    /// A write to a namespace's `finalize`: only `spec.finalizers` changes.
    pub fn prepare_for_finalize(&self, new: &mut Value, old: &Value) {
        let sent = std::mem::replace(new, old.clone());
        rule::copy_part(&sent, new, "spec", "finalizers");
        rule::copy_part(&sent, new, "metadata", "resourceVersion");
    }

    fn content_differs(&self, new: &Value, old: &Value) -> bool {
        let content = |object: &Value| -> HashMap<String, Value> {
            let fields = object.as_object().into_iter().flatten();
            // A custom object's status counts unless it is written by itself.
            let apart = self.custom.as_ref().is_none_or(|custom| custom.has_status());
            let counts = |key: &str| match key {
                "metadata" | "apiVersion" | "kind" => false,
                "status" => !apart,
                _ => true,
            };
            let own = fields.filter(|(key, _)| counts(key));
            own.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        content(new) != content(old)
    }
}

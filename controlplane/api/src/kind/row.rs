//! What a row of the table begins with: the names that a typed object has, and rules that ask nothing.

use super::{Column, Kind, Rules, Subresource, strict};

/// The verbs of most kinds.
pub(super) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The verbs of most subresources.
pub(super) const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// The subresource that holds `status`.
pub(super) const STATUS: Subresource = part("status", PART_VERBS);

/// How many there are to be, as an object of its own.
pub(super) const SCALE: Subresource =
    Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: PART_VERBS };

/// A subresource that takes and returns the object itself.
pub(super) const fn part(name: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind: "", group: "", version: "", verbs }
}

/// A row of the table for a typed object, with what most kinds have in common.
pub(super) fn row<K>(singular: &str, columns: Vec<Column>, rules: Rules) -> Kind
where
    K: k8s_openapi::Resource,
    K::Scope: Scope,
{
    Kind {
        group: K::GROUP.into(),
        storage_group: if K::GROUP.is_empty() { "core".into() } else { K::GROUP.into() },
        version: K::VERSION.into(),
        kind: K::KIND.into(),
        list_kind: format!("{}List", K::KIND),
        plural: K::URL_PATH_SEGMENT.into(),
        singular: singular.into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: K::Scope::NAMESPACED,
        verbs: ALL_VERBS,
        subresources: Vec::new(),
        columns,
        fields: Vec::new(),
        generation: false,
        stored: true,
        deprecation: "",
        conversion: None,
        rules,
        custom: None,
    }
}

/// Rules that ask nothing of an object but the types of its fields.
pub(super) fn rules<K>(name: fn(&str) -> Vec<String>) -> Rules
where
    K: k8s_openapi::Resource + serde::de::DeserializeOwned,
{
    Rules {
        default: |_| {},
        validate: |_, _, _| {},
        name,
        initial_status: |_| None,
        carry_over: |_, _| {},
        identified: |_| {},
        status_writes_labels: true,
        write_part: |_, _, _| {},
        validate_part: None,
        warnings: |_| Vec::new(),
        decode: strict::decode::<K>,
        readable: |object| K::deserialize(object).map(drop).map_err(|cause| cause.to_string()),
        version: K::VERSION,
    }
}

pub(super) trait Scope {
    const NAMESPACED: bool;
}

impl Scope for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Scope for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

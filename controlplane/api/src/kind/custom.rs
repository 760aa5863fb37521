//! Kinds that a CustomResourceDefinition adds to the table, and the definition itself.

mod column;
pub(super) mod definition;
mod structural;
mod trim;
mod validate;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use regex::Regex;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::row::{ALL_VERBS, SCALE, STATUS, rules};
use super::rule::{items, text};
use super::{Causes, Kind, Rules, names, strict};
use column::{Column, Path};

/// What a kind knows from its definition, in one version.
#[derive(Debug)]
pub struct Custom {
    /// The structural schema of the whole object.
    schema: Value,
    storage_api_version: String,
    columns: Vec<Column>,
    scale: Option<ScalePaths>,
    has_status: bool,
    patterns: HashMap<String, Regex>,
    deprecation: String,
    terminating: bool,
}

/// Where the parts of a Scale are in a custom object.
#[derive(Debug)]
pub struct ScalePaths {
    replicas: Path,
    status_replicas: Path,
    selector: Option<Path>,
}

/// The kinds that a definition makes: one for each version that is served, and the one at rest.
pub fn kinds(definition: &Value) -> Vec<Kind> {
    let versions = items(&definition["spec"]["versions"]);
    let Some(storage) = versions.iter().find(|version| version["storage"] == true) else { return Vec::new() };
    let mut kinds: Vec<Kind> = versions
        .iter()
        .filter(|version| version["served"] == true || version["storage"] == true)
        .map(|version| kind(definition, version, storage))
        .collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(rank(&kind.version)));
    kinds
}

/// The names are accepted, and the kinds served.
pub fn is_established(definition: &Value) -> bool {
    items(&definition["status"]["conditions"]).iter().any(|own| own["type"] == "Established" && own["status"] == "True")
}

/// Kubernetes' order of versions: v10 before v2 before v1beta1 before v1alpha1 before other names.
fn rank(version: &str) -> (u8, u64, u64) {
    let digits = |text: &str| text.parse::<u64>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (level, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return match (digits(major), digits(minor)) {
                (Some(major), Some(minor)) => (level, major, minor),
                _ => (0, 0, 0),
            };
        }
    }
    digits(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

fn kind(definition: &Value, version: &Value, storage: &Value) -> Kind {
    let spec = &definition["spec"];
    let (group, names) = (text(&spec["group"]), &spec["names"]);
    let schema = version["schema"]["openAPIV3Schema"].clone();
    let has_status = version["subresources"]["status"].is_object();
    let scale = ScalePaths::of(&version["subresources"]["scale"]);
    let words = |list: &Value| -> Vec<String> { items(list).iter().map(|word| text(word).to_owned()).collect() };
    let deprecation = match (version["deprecated"] == true, text(&version["deprecationWarning"])) {
        (false, _) => String::new(),
        (true, "") => format!("{group}/{} {} is deprecated", text(&version["name"]), text(&names["kind"])),
        (true, warning) => warning.to_owned(),
    };
    let subresources = has_status.then_some(STATUS).into_iter().chain(scale.is_some().then_some(SCALE)).collect();
    let custom = Custom {
        patterns: validate::patterns(&schema),
        schema,
        storage_api_version: format!("{group}/{}", text(&storage["name"])),
        columns: column::columns(items(&version["additionalPrinterColumns"])),
        scale,
        has_status,
        deprecation,
        terminating: definition["metadata"]["deletionTimestamp"].is_string(),
    };
    Kind {
        group: group.into(),
        storage_group: group.into(),
        version: text(&version["name"]).into(),
        kind: text(&names["kind"]).into(),
        list_kind: text(&names["listKind"]).into(),
        plural: text(&names["plural"]).into(),
        singular: text(&names["singular"]).into(),
        short_names: words(&names["shortNames"]),
        categories: words(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        // A version that only rests is served to nobody.
        verbs: if version["served"] == true { ALL_VERBS } else { &[] },
        subresources,
        columns: Vec::new(),
        fields: Vec::new(),
        generation: true,
        stored: true,
        deprecation: "",
        conversion: None,
        rules: Rules { status_writes_labels: false, ..rules::<Nothing>(names::dns_subdomain) },
        custom: Some(Arc::new(custom)),
    }
}

/// The rules of the table are for types; a custom kind has its schema instead.
type Nothing = k8s_openapi::api::core::v1::ConfigMap;

impl Custom {
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    pub fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    /// Its definition is on its way out: nothing new is taken.
    pub fn is_terminating(&self) -> bool {
        self.terminating
    }

    /// Its objects have a status that is written by itself.
    pub(super) fn has_status(&self) -> bool {
        self.has_status
    }

    pub(super) fn storage_api_version(&self) -> &str {
        &self.storage_api_version
    }

    pub(super) fn deprecation(&self) -> &str {
        &self.deprecation
    }

    /// Takes out what the schema does not have, and nulls that it does not allow.
    pub(super) fn prune(&self, object: &mut Value) {
        trim::prune(object, &self.schema, true);
    }

    pub(super) fn default(&self, object: &mut Value) {
        trim::default(object, &self.schema);
    }

    /// The paths of fields that pruning takes out, and what is wrong with the metadata.
    pub(super) fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
        let own = strict::decode::<ObjectMeta>(&metadata, "v1")?;
        let mut unknown: Vec<String> = own.into_iter().map(|field| format!("metadata.{field}")).collect();
        trim::unknown(object, &self.schema, true, &mut String::new(), &mut unknown);
        Ok(unknown)
    }

    /// As plain clients read it: they know its metadata.
    pub(super) fn readable(object: &Value) -> Result<(), String> {
        ObjectMeta::deserialize(&object["metadata"]).map(drop).map_err(|cause| cause.to_string())
    }

    pub(super) fn validate(&self, object: &Value, causes: &mut Causes) {
        validate::object(object, &self.schema, &self.patterns, causes);
    }

    /// Name, type, format, description and priority of each column.
    pub(super) fn headers(&self) -> Vec<Value> {
        self.columns.iter().map(Column::header).collect()
    }

    pub(super) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.columns.iter().map(|column| column.cell(object, now)).collect()
    }
}

impl ScalePaths {
    fn of(scale: &Value) -> Option<ScalePaths> {
        Some(ScalePaths {
            replicas: Path::parse(scale["specReplicasPath"].as_str()?)?,
            status_replicas: Path::parse(scale["statusReplicasPath"].as_str()?)?,
            selector: scale["labelSelectorPath"].as_str().and_then(Path::parse),
        })
    }

    /// How many are wanted, how many there are, and their selector as text.
    pub fn read(&self, object: &Value) -> (Value, i64, String) {
        let first = |path: &Path| path.find(object).first().copied().cloned().unwrap_or(Value::Null);
        let selector = self.selector.as_ref().map(first).unwrap_or_default();
        (first(&self.replicas), first(&self.status_replicas).as_i64().unwrap_or(0), text(&selector).to_owned())
    }

    pub fn write(&self, object: &mut Value, replicas: i64) {
        self.replicas.set(object, replicas.into());
    }
}

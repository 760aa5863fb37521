//! PersistentVolume and StorageClass.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, column, text_or, wide};
use super::claim::{UNSET, access_modes, phase, positive, validate_access_modes};
use super::row::{STATUS, row, rules};
use super::rule::{At, set, set_default, text};
use super::{Causes, Column, Kind, Rules, names};
use crate::quantity;

/// The fields of a volume that say where it is; exactly one is set.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
const MAX_PARAMETERS: usize = 512;
/// Most bytes of all parameters of a class together.
const MAX_PARAMETER_BYTES: usize = 256 << 10;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn persistent_volume() -> Kind {
    let columns = vec![
        NAME,
        column("Capacity", "The size of the volume.", |volume, _| text_or(&volume["spec"]["capacity"]["storage"], "0")),
        column("Access Modes", "How the volume may be used.", |volume, _| {
            access_modes(&volume["spec"]["accessModes"]).into()
        }),
        column("Reclaim Policy", "What becomes of it when its claim goes.", |volume, _| {
            text(&volume["spec"]["persistentVolumeReclaimPolicy"]).into()
        }),
        column("Status", "The phase of the volume.", |volume, _| phase(volume)),
        column("Claim", "The claim it is bound to.", |volume, _| {
            let claim = &volume["spec"]["claimRef"];
            if claim.is_null() {
                return "".into();
            }
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])).into()
        }),
        column("StorageClass", "StorageClass of the pv", |volume, _| text(&volume["spec"]["storageClassName"]).into()),
        column("VolumeAttributesClass", "VolumeAttributesClass of the pv", |volume, _| {
            text_or(&volume["spec"]["volumeAttributesClassName"], UNSET)
        }),
        column("Reason", "Why it is in its phase.", |volume, _| text(&volume["status"]["reason"]).into()),
        AGE,
        wide("VolumeMode", "Whether the volume has a file system.", |volume, _| {
            text_or(&volume["spec"]["volumeMode"], UNSET)
        }),
    ];
    let rules = Rules {
        default: default_volume,
        validate: validate_volume,
        initial_status: |_| Some(json!({"phase": "Pending"})),
        ..rules::<PersistentVolume>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["pv".into()],
        subresources: vec![STATUS],
        ..row::<PersistentVolume>("persistentvolume", columns, rules)
    }
}

pub(super) fn storage_class() -> Kind {
    let columns = vec![
        Column { cell: |class, _| class_name(class).into(), ..NAME },
        column("Provisioner", "What makes its volumes.", |class, _| class["provisioner"].clone()),
        column("ReclaimPolicy", "What becomes of its volumes.", |class, _| text_or(&class["reclaimPolicy"], "Delete")),
        column("VolumeBindingMode", "When volumes are made and bound.", |class, _| {
            text_or(&class["volumeBindingMode"], "Immediate")
        }),
        column("AllowVolumeExpansion", "Whether its volumes may grow.", |class, _| {
            (class["allowVolumeExpansion"] == true).into()
        }),
        AGE,
    ];
    let rules =
        Rules { default: default_class, validate: validate_class, ..rules::<StorageClass>(names::dns_subdomain) };
    Kind { short_names: vec!["sc".into()], ..row::<StorageClass>("storageclass", columns, rules) }
}

fn class_name(class: &Value) -> String {
    let name = text(&class["metadata"]["name"]);
    let is_default = class["metadata"]["annotations"][DEFAULT_CLASS] == "true";
    if is_default { format!("{name} (default)") } else { name.to_owned() }
}

fn default_volume(volume: &mut Value) {
    let Some(spec) = volume.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_default(spec, "volumeMode", "Filesystem");
    if let Some(path) = spec.get_mut("hostPath")
        && path["type"].is_null()
    {
        set(path, "type", "");
    }
    if let Some(capacity) = spec.get_mut("capacity") {
        quantity::write_as_text(capacity);
    }
}

fn default_class(class: &mut Value) {
    set_default(class, "reclaimPolicy", "Delete");
    set_default(class, "volumeBindingMode", "Immediate");
}

fn validate_volume(volume: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(volume).field("spec");
    let modes = spec.field("accessModes");
    modes.required("", causes);
    validate_access_modes(&modes, causes);
    let capacity = spec.field("capacity");
    if capacity.required("", causes) {
        let entries = capacity.entries();
        if capacity.value["storage"].is_null() || entries.len() > 1 {
            causes.unsupported(&capacity.path, capacity.value.clone(), &["storage"]);
        }
        entries.iter().for_each(|(_, amount)| positive(amount, causes));
    }
    spec.field("persistentVolumeReclaimPolicy").one_of(&["Delete", "Recycle", "Retain"], causes);
    validate_source(&spec, causes);
    spec.field("storageClassName").each(names::dns_subdomain, causes);
    spec.field("volumeMode").one_of(&["Block", "Filesystem"], causes);
    let Some(old) = old else { return };
    let source = |volume: &Value| SOURCES.map(|field| volume["spec"][field].clone());
    if source(volume) != source(old) {
        let why = "spec.persistentvolumesource is immutable after creation";
        causes.forbidden("spec.persistentvolumesource", why);
    }
    spec.field("volumeMode").immutable(&old["spec"]["volumeMode"], causes);
}

fn validate_source(spec: &At<'_>, causes: &mut Causes) {
    let own: Vec<At<'_>> = SOURCES.iter().map(|field| spec.field(field)).filter(At::is_set).collect();
    let [source, further @ ..] = own.as_slice() else {
        return causes.required(&spec.path, "must specify a volume type");
    };
    for source in further {
        source.forbidden("may not specify more than 1 volume type", causes);
    }
    if spec.field("hostPath").is_set() {
        let path = spec.field("hostPath").field("path");
        path.required("", causes);
        no_back_steps(&path, causes);
        if path.text() == "/" && spec.value["persistentVolumeReclaimPolicy"] == "Recycle" {
            let policy = spec.field("persistentVolumeReclaimPolicy");
            policy.forbidden("may not be 'recycle' for a hostPath mount of '/'", causes);
        }
    }
    if spec.field("local").is_set() {
        let path = spec.field("local").field("path");
        path.required("", causes);
        no_back_steps(&path, causes);
        if !spec.field("nodeAffinity").is_set() {
            causes.required(format!("{}.nodeAffinity", spec.path), "Local volume requires node affinity");
        }
    }
    let required: &[&str] = match source.path.rsplit('.').next() {
        Some("nfs") => &["server", "path"],
        Some("csi") => &["driver", "volumeHandle"],
        _ => &[],
    };
    for field in required {
        source.field(field).required("", causes);
    }
}

/// A path that does not leave the directory it is in.
pub(super) fn no_back_steps(path: &At<'_>, causes: &mut Causes) {
    if path.text().split('/').any(|part| part == "..") {
        path.invalid("must not contain '..'", causes);
    }
}

fn validate_class(class: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = At::root(class);
    let provisioner = root.field("provisioner");
    if provisioner.required("", causes) {
        let lower = provisioner.text().to_ascii_lowercase();
        causes.invalid_each(&provisioner.path, &lower, names::qualified_name(&lower));
    }
    let parameters = root.field("parameters").entries();
    if parameters.len() > MAX_PARAMETERS {
        causes.add("FieldValueTooLong", "parameters", format!("Too long: may not be more than {MAX_PARAMETERS} bytes"));
    }
    if parameters.iter().any(|(key, _)| key.is_empty()) {
        causes.invalid("parameters", class["parameters"].clone(), "field can not be empty.");
    }
    let size: usize = parameters.iter().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > MAX_PARAMETER_BYTES {
        causes.too_long("parameters", MAX_PARAMETER_BYTES);
    }
    root.field("reclaimPolicy").one_of(&["Delete", "Retain"], causes);
    root.field("volumeBindingMode").required_one_of(&["Immediate", "WaitForFirstConsumer"], causes);
    let Some(old) = old else { return };
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if class[field] != old[field] {
            causes.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
    root.field("volumeBindingMode").immutable(&old["volumeBindingMode"], causes);
}

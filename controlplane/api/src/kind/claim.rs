//! PersistentVolumeClaim.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, column, text_or, wide};
use super::row::{STATUS, row, rules};
use super::rule::{At, items, set_default, text};
use super::{Causes, Kind, Rules, names};
use crate::quantity::{self, Quantity};

/// How many nodes may use a volume how, and the short form of each.
const ACCESS_MODES: [(&str, &str); 4] =
    [("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOnce", "RWO"), ("ReadWriteOncePod", "RWOP")];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// What is shown for what is not set.
pub(super) const UNSET: &str = "<unset>";

pub(super) fn persistent_volume_claim() -> Kind {
    let columns = vec![
        NAME,
        column("Status", "The phase of the claim.", |claim, _| phase(claim)),
        column("Volume", "The volume that is bound to it.", |claim, _| text(&claim["spec"]["volumeName"]).into()),
        column("Capacity", "The size of the volume.", |claim, _| match text(&claim["spec"]["volumeName"]) {
            "" => "".into(),
            _ => text_or(&claim["status"]["capacity"]["storage"], "0"),
        }),
        column("Access Modes", "How the volume may be used.", |claim, _| match text(&claim["spec"]["volumeName"]) {
            "" => "".into(),
            _ => access_modes(&claim["status"]["accessModes"]).into(),
        }),
        column("StorageClass", "StorageClass of the pvc", |claim, _| text(&claim["spec"]["storageClassName"]).into()),
        column("VolumeAttributesClass", "VolumeAttributesClass of the pvc", |claim, _| {
            text_or(&claim["spec"]["volumeAttributesClassName"], UNSET)
        }),
        AGE,
        wide("VolumeMode", "Whether the volume has a file system.", |claim, _| {
            text_or(&claim["spec"]["volumeMode"], UNSET)
        }),
    ];
    let rules = Rules {
        default,
        validate,
        initial_status: |_| Some(json!({"phase": "Pending"})),
        ..rules::<PersistentVolumeClaim>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["pvc".into()],
        subresources: vec![STATUS],
        ..row::<PersistentVolumeClaim>("persistentvolumeclaim", columns, rules)
    }
}

/// The phase of a claim or volume that is not on its way out.
pub(super) fn phase(object: &Value) -> Value {
    if object["metadata"]["deletionTimestamp"].is_null() {
        text(&object["status"]["phase"]).into()
    } else {
        "Terminating".into()
    }
}

/// "RWO,RWX"
pub(super) fn access_modes(modes: &Value) -> String {
    const SHOWN: [usize; 4] = [2, 0, 1, 3];
    let has = |mode: &str| items(modes).iter().any(|own| own == mode);
    let own = SHOWN.map(|index| ACCESS_MODES[index]).into_iter().filter(|(mode, _)| has(mode));
    own.map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

pub(super) fn default(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "volumeMode", "Filesystem");
    for list in ["requests", "limits"] {
        if let Some(list) = spec.pointer_mut(&format!("/resources/{list}")) {
            quantity::write_as_text(list);
        }
    }
}

fn validate(claim: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(claim).field("spec");
    validate_spec(&spec, causes);
    let Some(old) = old else { return };
    let fixed = |claim: &Value| {
        let mut spec = claim["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            // The binder writes the volume once.
            for field in ["resources", "volumeAttributesClassName"] {
                spec.shift_remove(field);
            }
            if text(&old["spec"]["volumeName"]).is_empty() {
                spec.shift_remove("volumeName");
            }
            if old["spec"]["storageClassName"].is_null() {
                spec.shift_remove("storageClassName");
            }
        }
        spec
    };
    if fixed(claim) != fixed(old) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                   claims";
        causes.forbidden("spec", why);
    }
    let (new, had) = (request(claim), request(old));
    if let (Some(new), Some(had)) = (new, had)
        && new < had
    {
        let why = "field can not be less than status.capacity";
        causes.forbidden("spec.resources.requests.storage", why);
    }
}

fn request(claim: &Value) -> Option<Quantity> {
    Quantity::parse(text(&claim["spec"]["resources"]["requests"]["storage"])).ok()
}

/// What is wrong with what a claim asks for.
pub(super) fn validate_spec(spec: &At<'_>, causes: &mut Causes) {
    let modes = spec.field("accessModes");
    modes.required("at least 1 access mode is required", causes);
    validate_access_modes(&modes, causes);
    let storage = spec.field("resources").field("requests").key("storage");
    if !storage.is_set() {
        causes.required(&storage.path, "");
    } else {
        positive(&storage, causes);
    }
    spec.field("storageClassName").each(names::dns_subdomain, causes);
    spec.field("volumeMode").one_of(VOLUME_MODES, causes);
    super::workload::label_selector(&spec.field("selector"), causes);
}

pub(super) fn validate_access_modes(modes: &At<'_>, causes: &mut Causes) {
    let supported = ACCESS_MODES.map(|(mode, _)| mode);
    for mode in modes.items() {
        if !supported.contains(&mode.text()) {
            causes.unsupported(&modes.path, mode.text(), &supported);
        }
    }
    if modes.items().len() > 1 && modes.items().iter().any(|mode| mode.text() == "ReadWriteOncePod") {
        modes.forbidden("may not use ReadWriteOncePod with other access modes", causes);
    }
}

/// A quantity of more than nothing.
pub(super) fn positive(quantity: &At<'_>, causes: &mut Causes) {
    match Quantity::parse(quantity.text()) {
        Err(why) => quantity.invalid(why, causes),
        Ok(amount) if amount <= Quantity::ZERO => quantity.invalid("must be greater than zero", causes),
        Ok(_) => {}
    }
}

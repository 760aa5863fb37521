//! DefaultIngressClass: an Ingress that names no class gets the cluster's usual one.

use diolkos_api::status::Failure;
use serde_json::Value;

use super::view::newest;
use super::{View, Write};

const CLASSES: &str = "/registry/networking.k8s.io/ingressclasses/";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// The older way to name an Ingress' class.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn admit(write: &Write<'_>, ingress: &mut Value, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("networking.k8s.io", "ingresses") || !write.is_create() || !ingress["spec"].is_object() {
        return Ok(());
    }
    let named = ingress["metadata"]["annotations"][CLASS_ANNOTATION].is_string();
    if named || ingress["spec"]["ingressClassName"].is_string() {
        return Ok(());
    }
    if let Some(name) = newest(view.list(CLASSES), |class| class["metadata"]["annotations"][DEFAULT] == "true") {
        ingress["spec"]["ingressClassName"] = name.into();
    }
    Ok(())
}

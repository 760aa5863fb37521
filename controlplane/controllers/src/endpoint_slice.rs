//! EndpointSlices: where the pods of a Service are.

mod packing;
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;

use diolkos_api::kind::service::HEADLESS;
use diolkos_api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::view::View;

/// Names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Tells the slices of this controller from those others write.
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Marks the slices of a Service without an address.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The zone of a node.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Endpoints that share their ports, and so their slices; in the order of their pods.
#[derive(Debug, PartialEq)]
struct Group {
    address_type: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

/// Keeps the slices of a Service such that they say where its pods are, changing as few slices as it can.
pub fn reconcile(view: &View, key: &Key, _: Timestamp) -> Vec<Action> {
    let present = own_slices(view, key);
    let Some(service) = view.services.get(&key.namespace, &key.name) else {
        return present.iter().map(delete).collect();
    };
    let Some(spec) = &service.spec else { return Vec::new() };
    let selector = spec.selector.clone().unwrap_or_default();
    // Without a selector somebody else writes the slices.
    if selector.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return present.iter().map(delete).collect();
    }
    if service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let selector = LabelSelector::from_labels(&selector);
    let mut groups = pods::groups(view, service, &selector);
    for group in groups.iter_mut().filter(|group| group.endpoints.is_empty()) {
        // One empty slice says that the Service is known and has nobody: one that is there, if there is one.
        let same = present.iter().find(|slice| slice.address_type == group.address_type);
        group.ports = same.and_then(|slice| slice.ports.clone()).unwrap_or_default();
    }
    let template = |group: &Group| template(service, group);
    packing::pack(groups, present, template)
}

/// The Service that a slice belongs to, when the slice is one of this controller's.
pub fn service_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGER_LABEL).is_none_or(|manager| manager != MANAGER) {
        return None;
    }
    Some((slice.metadata.namespace.as_deref()?, labels.get(SERVICE_LABEL)?))
}

/// Whether a pod is one of a Service's.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty() && labels.is_some_and(|labels| LabelSelector::from_labels(&selector).matches(labels))
}

/// The zone a node is in.
pub fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL)
}

fn own_slices(view: &View, key: &Key) -> Vec<Arc<EndpointSlice>> {
    let own = |slice: &&Arc<EndpointSlice>| {
        let live = slice.metadata.deletion_timestamp.is_none();
        live && service_of(slice) == Some((key.namespace.as_str(), key.name.as_str()))
    };
    view.endpoint_slices.of(&key.namespace).filter(own).cloned().collect()
}

fn delete(slice: &Arc<EndpointSlice>) -> Action {
    Action::Delete(Object::EndpointSlice(slice.clone()).target())
}

/// An empty slice for a group.
fn template(service: &Service, group: &Group) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name.clone());
    labels.insert(MANAGER_LABEL.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some(HEADLESS) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Service".into(),
                name,
                uid: service.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..Default::default()
        },
        address_type: group.address_type.into(),
        endpoints: Some(Vec::new()),
        ports: Some(group.ports.clone()),
    }
}

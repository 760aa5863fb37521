//! From the pods of a Service to groups of endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use diolkos_api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodStatus, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Group;
use crate::pod_state::{is_finished, is_ready, node_name};
use crate::view::View;

/// A group for each address family of the Service and each way its ports resolve; of a family without pods an empty
/// one.
pub(super) fn groups(view: &View, service: &Service, selector: &LabelSelector) -> Vec<Group> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".into()]);
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut groups: Vec<Group> = Vec::new();
    for family in &families {
        let address_type = if family == "IPv6" { "IPv6" } else { "IPv4" };
        let first = groups.len();
        let matching = view.pods.of(namespace).filter(|pod| !is_finished(pod) && labels_match(pod, selector));
        for pod in matching {
            let Some(address) = address(pod, address_type) else { continue };
            let ports = resolve(ports, pod);
            let endpoint = endpoint(view, service, pod, address);
            match groups[first..].iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type, ports, endpoints: vec![endpoint] }),
            }
        }
        if groups.len() == first {
            groups.push(Group { address_type, ports: Vec::new(), endpoints: Vec::new() });
        }
    }
    groups
}

fn labels_match(pod: &Pod, selector: &LabelSelector) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| selector.matches(labels))
}

fn address(pod: &Pod, address_type: &str) -> Option<String> {
    let status: &PodStatus = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|address| &address.ip).chain(&status.pod_ip);
    let of_family = |address: &&String| match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => address_type == "IPv4",
        Ok(IpAddr::V6(_)) => address_type == "IPv6",
        Err(_) => false,
    };
    all.filter(|address| !address.is_empty()).find(of_family).cloned()
}

fn endpoint(view: &View, service: &Service, pod: &Arc<Pod>, address: String) -> Endpoint {
    let spec = service.spec.as_ref();
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let early = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let zone = view.nodes.get("", node_name(pod)).and_then(|node| super::zone(node));
    let hostname = pod.spec.as_ref().filter(|spec| spec.subdomain == service.metadata.name);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(early || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.and_then(|spec| spec.hostname.clone()),
        node_name: Some(node_name(pod).to_owned()).filter(|node| !node.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        zone: zone.cloned(),
        ..Default::default()
    }
}

/// The ports of a Service as this pod has them; a named port that the pod does not have is left out.
fn resolve(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    let resolved = ports.iter().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
        };
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut named = ports.filter(|port| port.name.as_deref() == Some(name));
    let same = |own: &Option<String>| own.as_deref().unwrap_or("TCP") == protocol;
    named.find(|port| same(&port.protocol)).map(|port| port.container_port)
}

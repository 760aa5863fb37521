//! From groups of endpoints to slices: an endpoint stays in the slice it is in.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{Group, delete};
use crate::object::{Action, Object};

/// Most endpoints of a slice: a change of one endpoint sends the whole slice to every node.
const MAX_ENDPOINTS: usize = 100;

/// The writes that turn the present slices into ones that hold exactly these groups.
pub(super) fn pack(
    groups: Vec<Group>,
    present: Vec<Arc<EndpointSlice>>,
    template: impl Fn(&Group) -> EndpointSlice,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut used = vec![false; present.len()];
    let mut deletions = Vec::new();
    for group in groups {
        let template = template(&group);
        let mut own = Vec::new();
        for (index, slice) in present.iter().enumerate() {
            if !used[index] && fits(slice, &group) {
                used[index] = true;
                own.push(slice.clone());
            }
        }
        pack_group(group, own, &template, &mut actions, &mut deletions);
    }
    let unused = present.iter().zip(used).filter(|(_, used)| !used);
    deletions.extend(unused.map(|(slice, _)| delete(slice)));
    // New endpoints are told of before the old slices go, so that no reader sees a Service without any.
    actions.extend(deletions);
    actions
}

fn fits(slice: &EndpointSlice, group: &Group) -> bool {
    slice.address_type == group.address_type && slice.ports.as_deref().unwrap_or_default() == group.ports
}

fn pack_group(
    group: Group,
    present: Vec<Arc<EndpointSlice>>,
    template: &EndpointSlice,
    actions: &mut Vec<Action>,
    deletions: &mut Vec<Action>,
) {
    let mut waiting: HashMap<String, Endpoint> = HashMap::new();
    let mut order = Vec::new();
    for endpoint in group.endpoints {
        let id = identity(&endpoint);
        if waiting.insert(id.clone(), endpoint).is_none() {
            order.push(id);
        }
    }
    // What is in a slice already stays there, brought up to date.
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = present
        .into_iter()
        .map(|slice| {
            let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| waiting.remove(&identity(endpoint)));
            let endpoints: Vec<Endpoint> = endpoints.collect();
            (slice, endpoints)
        })
        .collect();
    let mut new: Vec<Endpoint> = order.iter().filter_map(|id| waiting.remove(id)).collect();
    // The others fill the fullest slices first, those that have to be written anyway before those that do not.
    let mut by_room: Vec<usize> = (0..kept.len()).collect();
    by_room.sort_by_key(|index| {
        let (slice, endpoints) = &kept[*index];
        (slice.endpoints.as_ref() == Some(endpoints), std::cmp::Reverse(endpoints.len()), slice.metadata.name.clone())
    });
    for index in by_room {
        let endpoints = &mut kept[index].1;
        let room = MAX_ENDPOINTS.saturating_sub(endpoints.len());
        endpoints.extend(new.drain(..room.min(new.len())));
    }
    let mut chunks: Vec<Vec<Endpoint>> = new.chunks(MAX_ENDPOINTS).map(<[Endpoint]>::to_vec).collect();
    let empty = kept.iter().all(|(_, endpoints)| endpoints.is_empty()) && chunks.is_empty();
    if empty && kept.is_empty() {
        chunks.push(Vec::new());
    }
    for (index, (slice, endpoints)) in kept.into_iter().enumerate() {
        if endpoints.is_empty() && !(empty && index == 0) {
            deletions.push(delete(&slice));
        } else {
            actions.extend(update(&slice, endpoints, template));
        }
    }
    for endpoints in chunks {
        let slice = EndpointSlice { endpoints: Some(endpoints), ..template.clone() };
        actions.push(Action::Create(Object::EndpointSlice(Arc::new(slice))));
    }
}

fn update(slice: &Arc<EndpointSlice>, endpoints: Vec<Endpoint>, template: &EndpointSlice) -> Option<Action> {
    let owner_kept = slice.metadata.owner_references == template.metadata.owner_references;
    if slice.endpoints.as_deref().unwrap_or_default() == endpoints
        && slice.metadata.labels == template.metadata.labels
        && owner_kept
    {
        return None;
    }
    let mut slice = EndpointSlice::clone(slice);
    slice.endpoints = Some(endpoints);
    slice.metadata.labels.clone_from(&template.metadata.labels);
    slice.metadata.owner_references.clone_from(&template.metadata.owner_references);
    Some(Action::Update(Object::EndpointSlice(Arc::new(slice))))
}

/// An endpoint is the same as long as its pod is; one without a pod is its address.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    uid.unwrap_or_else(|| endpoint.addresses.join(","))
}

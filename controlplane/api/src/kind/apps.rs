//! Deployment and ReplicaSet.
use super::cell::NAME;
use super::{Kind, STATUS, names, row, rules};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
pub(super) fn deployment() -> Kind {
    Kind {
        subresources: vec![STATUS],
        generation: true,
        ..row::<Deployment>("deployment", vec![NAME], rules::<Deployment>(names::dns_subdomain))
    }
}
pub(super) fn replica_set() -> Kind {
    Kind {
        subresources: vec![STATUS],
        generation: true,
        ..row::<ReplicaSet>("replicaset", vec![NAME], rules::<ReplicaSet>(names::dns_subdomain))
    }
}

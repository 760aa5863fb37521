//! Claims without a Service: what is left when a server ends between the commits of a Service of two families.

use diolkos_api::status::Failure;
use diolkos_store::{Commit, Expect, Write};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Held, cluster_ips};
use crate::cache::{Filter, Freshness};
use crate::handlers::{Current, Handlers, store_failure};

/// The label of the claims that this server makes; nobody else's are touched.
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
/// A younger claim may be that of a Service that is being written.
const MIN_AGE: SignedDuration = SignedDuration::from_secs(60);

/// Releases old claims whose Service is gone or names another address. A Service that is written meanwhile is safe: its
/// commit expects its claim, and the release expects the Service as it was seen.
pub(crate) async fn give_back_orphans(handlers: &Handlers, now: Timestamp) -> Result<(), Failure> {
    let registry = &handlers.registry;
    let addresses = registry.find("networking.k8s.io", "v1", "ipaddresses").ok_or_else(Failure::no_such_resource)?;
    let services = registry.find("", "v1", "services").ok_or_else(Failure::no_such_resource)?;
    let ours: Filter = std::sync::Arc::new(|object| object.label(MANAGED_BY) == Some(MANAGER));
    let (claims, _) = handlers.cache.list(&addresses.prefix(""), Some(&ours), Freshness::Any).await?;
    for claim in claims {
        let Ok(object) = serde_json::from_slice::<Value>(&claim.bytes) else { continue };
        let created = object["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let parent = &object["spec"]["parentRef"];
        let (Some(namespace), Some(name)) = (parent["namespace"].as_str(), parent["name"].as_str()) else { continue };
        if parent["resource"] != "services" || created.is_none_or(|created| now.duration_since(created) < MIN_AGE) {
            continue;
        }
        let key = services.key(namespace, name);
        let address = claim.name();
        let cached = handlers.cached(&key).await?;
        if cached.is_some_and(|service| names(&service, address)) {
            continue;
        }
        let service = handlers.stored(&key).await?;
        if service.as_ref().is_some_and(|service| names(service, address)) {
            continue;
        }
        let seen = match service {
            Some(service) => Expect::At { key, revision: service.revision },
            None => Expect::Absent { key },
        };
        let held = Held { key: claim.key.to_string(), revision: claim.revision };
        if release(handlers, &held, vec![seen]).await? {
            tracing::warn!(address, namespace, service = name, "gave back an address that its Service does not have");
        }
    }
    Ok(())
}

/// Releases claims; one that cannot be released now is an orphan, and found later.
pub(crate) async fn give_back(handlers: &Handlers, claims: &[Held]) {
    for held in claims {
        if let Err(failure) = release(handlers, held, Vec::new()).await {
            tracing::warn!(key = held.key, %failure, "an address was not given back; it will be within minutes");
        }
    }
}

async fn release(handlers: &Handlers, held: &Held, mut expects: Vec<Expect>) -> Result<bool, Failure> {
    expects.push(Expect::At { key: held.key.clone(), revision: held.revision });
    let write = Write::Delete { key: held.key.clone() };
    let commit = handlers.store.commit(&expects, &[write]).await.map_err(store_failure)?;
    Ok(matches!(commit, Commit::Done(_)))
}

fn names(service: &Current, address: &str) -> bool {
    cluster_ips(&service.object).iter().any(|own| own == address)
}

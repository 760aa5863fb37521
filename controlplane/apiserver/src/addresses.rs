//! ClusterIPs, one for each address family of a Service. An address belongs to a Service when the IPAddress object of
//! that name says so.
//!
//! A Service's first address is claimed and released in the transaction that writes the Service. No commit writes two
//! objects of one resource, or watches could not resume; so a second address is claimed in a commit before that one,
//! which expects the claim to be there still, and released in a commit after it. What a server that ended in between
//! left behind is given back by [`repair`].

mod families;
mod range;
pub(crate) mod repair;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use diolkos_api::kind::Kind;
use diolkos_api::kind::service::HEADLESS;
use diolkos_api::status::{Failure, StatusCause};
use diolkos_store::{Expect, Revision, Write};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cache::Freshness;
use crate::handlers::{Handlers, now, stored_bytes};
use range::{Family, Range};

/// The ranges of ClusterIPs: one for each address family, the cluster's first family first.
#[derive(Clone, Debug)]
pub(crate) struct ServiceAddresses {
    ranges: Arc<[Range]>,
}

/// What is committed beside a Service.
#[derive(Default)]
pub(crate) struct Claims {
    /// Keys and values of claims to commit before the Service, one by one.
    pub ahead: Vec<(String, Bytes)>,
    /// With the Service.
    pub expects: Vec<Expect>,
    /// With the Service: at most one.
    pub writes: Vec<Write>,
    /// Claims to release after the Service is committed.
    pub behind: Vec<Held>,
}

/// A claim in the store.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub key: String,
    pub revision: Revision,
}

impl ServiceAddresses {
    pub(crate) fn new(networks: &[IpNetwork]) -> anyhow::Result<Self> {
        let same_family = networks.len() == 2 && networks[0].is_ipv4() == networks[1].is_ipv4();
        anyhow::ensure!(
            (1..=2).contains(&networks.len()) && !same_family,
            "--service-cidr takes one network for each address family, such as 10.96.0.0/16,fd00:10:96::/112"
        );
        Ok(Self { ranges: networks.iter().map(|network| Range::new(*network)).collect::<Result<_, _>>()? })
    }

    /// The address of the `kubernetes` service.
    pub(crate) fn first(&self) -> IpAddr {
        self.ranges[0].first()
    }

    /// Settles the address families of a Service, claims the addresses that it needs and has not, and releases those
    /// that it no longer needs. `new` is `None` when the Service goes. `taken`: keys of addresses that turned out to be
    /// taken.
    pub(crate) async fn claims(
        &self,
        handlers: &Handlers,
        kind: &Kind,
        old: Option<&Value>,
        new: Option<&mut Value>,
        taken: &[String],
    ) -> Result<Claims, Failure> {
        let mut claims = Claims::default();
        if kind.kind != "Service" || !kind.group.is_empty() {
            return Ok(claims);
        }
        let addresses = handlers.registry.find("networking.k8s.io", "v1", "ipaddresses");
        let addresses = addresses.ok_or_else(Failure::no_such_resource)?;
        let desk = Desk { ranges: &self.ranges, handlers, kind, addresses: &addresses, taken };
        let had = old.map(cluster_ips).unwrap_or_default();
        let mut wanted = Vec::new();
        if let Some(service) = new.filter(|service| service["spec"].is_object()) {
            let changed = old.is_none_or(|old| old["spec"] != service["spec"]);
            for address in if changed { desk.assign(service, old, &had).await? } else { Vec::new() } {
                let key = addresses.key("", &address.to_string());
                let value = stored_bytes(&claim(address, service));
                if claims.writes.is_empty() {
                    claims.expects.push(Expect::Absent { key: key.clone() });
                    claims.writes.push(Write::Put { key, value });
                } else {
                    claims.ahead.push((key, value));
                }
            }
            wanted = cluster_ips(service);
        }
        for (address, service) in had.iter().filter(|address| !wanted.contains(address)).zip(old.into_iter().cycle()) {
            let Some(held) = desk.held(address, service).await? else { continue };
            if claims.writes.is_empty() {
                claims.expects.push(Expect::At { key: held.key.clone(), revision: held.revision });
                claims.writes.push(Write::Delete { key: held.key });
            } else {
                claims.behind.push(held);
            }
        }
        Ok(claims)
    }
}

/// Where addresses are given out, for one attempt to write a Service.
struct Desk<'a> {
    ranges: &'a [Range],
    handlers: &'a Handlers,
    kind: &'a Kind,
    /// The kind of the claims.
    addresses: &'a Kind,
    taken: &'a [String],
}

impl Desk<'_> {
    /// Sets the Service's families and addresses; the answer is those that are to be claimed.
    async fn assign(&self, service: &mut Value, old: Option<&Value>, had: &[String]) -> Result<Vec<IpAddr>, Failure> {
        if service["spec"]["type"] == "ExternalName" {
            if let Some(old) = old.filter(|old| old["spec"]["type"] != "ExternalName") {
                forget_addresses(service, old);
            }
            return Ok(Vec::new());
        }
        let own: Vec<Family> = self.ranges.iter().map(Range::family).collect();
        let mut causes = families::settle(service, old, &own);
        if causes.is_empty() {
            // Of the rules of the kind those that addresses have to follow come first, as in Kubernetes.
            causes = self.kind.validate(service, old);
            causes.retain(|cause| cause.field.as_deref().is_some_and(is_about_addresses));
        }
        if !causes.is_empty() {
            return Err(self.invalid(service, causes));
        }
        if service["spec"]["clusterIP"] == HEADLESS {
            return Ok(Vec::new());
        }
        let (mut all, mut new) = (cluster_ips(service), Vec::new());
        for (index, family) in families::of(service).into_iter().enumerate() {
            let Some(range) = self.ranges.iter().find(|range| range.family() == family) else { continue };
            match all.get(index) {
                Some(text) if had.contains(text) => {}
                Some(text) => {
                    // The rules of the kind saw that it is an address.
                    let Ok(address) = text.parse() else { continue };
                    self.check_asked(service, range, address).await?;
                    new.push(address);
                }
                None => {
                    let address = self.pick(range).await?;
                    all.push(address.to_string());
                    new.push(address);
                }
            }
        }
        if let Some(first) = all.first() {
            service["spec"]["clusterIP"] = first.clone().into();
            service["spec"]["clusterIPs"] = json!(all);
        }
        Ok(new)
    }

    /// 422 when the address that the writer chose is out of the range or taken.
    async fn check_asked(&self, service: &Value, range: &Range, address: IpAddr) -> Result<(), Failure> {
        let why = if !range.holds(address) {
            "the provided network does not match the current range"
        } else if self.handlers.stored(&self.addresses.key("", &address.to_string())).await?.is_some() {
            "provided IP is already allocated"
        } else {
            return Ok(());
        };
        let list = json!(cluster_ips(service));
        let cause = StatusCause {
            field: Some("spec.clusterIPs".into()),
            message: Some(format!("Invalid value: {list}: failed to allocate IP {address}: {why}")),
            reason: Some("FieldValueInvalid".into()),
        };
        Err(self.invalid(service, vec![cause]))
    }

    async fn pick(&self, range: &Range) -> Result<IpAddr, Failure> {
        for address in range.candidates() {
            let key = self.addresses.key("", &address.to_string());
            if !self.taken.contains(&key) && self.handlers.cache.get(&key, Freshness::Any).await?.is_none() {
                return Ok(address);
            }
        }
        Err(Failure::internal("failed to allocate a serviceIP: range is full"))
    }

    /// The claim of an address if it is this Service's: one that is not is left alone.
    async fn held(&self, address: &str, service: &Value) -> Result<Option<Held>, Failure> {
        let key = self.addresses.key("", address);
        let held = self.handlers.stored(&key).await?;
        let own = held.filter(|held| held.object["spec"]["parentRef"] == parent(service));
        Ok(own.map(|held| Held { key, revision: held.revision }))
    }

    fn invalid(&self, service: &Value, causes: Vec<StatusCause>) -> Failure {
        Failure::invalid(self.kind, service["metadata"]["name"].as_str().unwrap_or_default(), causes)
    }
}

/// The addresses of a Service, as it has them or asks for them by either field.
fn cluster_ips(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let listed = spec["clusterIPs"].as_array().filter(|list| !list.is_empty());
    let all = listed.map_or_else(|| vec![&spec["clusterIP"]], |list| list.iter().collect());
    let texts = all.into_iter().filter_map(Value::as_str);
    texts.filter(|address| !address.is_empty() && *address != HEADLESS).map(str::to_owned).collect()
}

fn is_about_addresses(field: &str) -> bool {
    ["spec.clusterIP", "spec.ipFamil"].into_iter().any(|start| field.starts_with(start))
}

/// What the writer did not touch goes with the addresses.
fn forget_addresses(service: &mut Value, old: &Value) {
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.get(field) == Some(&old["spec"][field]) {
            spec.shift_remove(field);
        }
    }
}

fn parent(service: &Value) -> Value {
    let metadata = &service["metadata"];
    json!({"group": "", "resource": "services", "namespace": metadata["namespace"], "name": metadata["name"]})
}

/// The IPAddress object of a claim.
fn claim(address: IpAddr, service: &Value) -> Value {
    json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": address.to_string(),
            "uid": Uuid::new_v4().to_string(),
            "creationTimestamp": now(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": Family::of(address).name(),
                (repair::MANAGED_BY): repair::MANAGER,
            },
        },
        "spec": {"parentRef": parent(service)},
    })
}

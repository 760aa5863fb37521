//! ClusterIPs. An address belongs to a Service when the IPAddress object of that name says so, and the two are written
//! and removed in one transaction: there is nothing to repair.

use std::net::Ipv4Addr;

use diolkos_api::kind::Kind;
use diolkos_api::status::{Failure, StatusCause};
use diolkos_store::{Expect, Write};
use ipnetwork::Ipv4Network;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cache::Freshness;
use crate::handlers::{Handlers, stored_bytes};

/// Addresses of the range, counted from its base, that are given only to who asks for them: that of the `kubernetes`
/// service and that which clusters give to their DNS.
const RESERVED: [u32; 2] = [1, 10];
/// The lower part of the range is used when the rest is full, so that an address that somebody wants to choose is
/// likely free: 1/16 of the range within these bounds, as in Kubernetes.
const MIN_LOWER: u32 = 16;
const MAX_LOWER: u32 = 256;
/// Random addresses that are tried before the range is searched in order.
const RANDOM_TRIES: usize = 16;

/// The range of ClusterIPs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceAddresses {
    range: Ipv4Network,
}

/// What a transaction does beside writing the Service.
#[derive(Default)]
pub(crate) struct Claims {
    pub expects: Vec<Expect>,
    pub writes: Vec<Write>,
}

impl ServiceAddresses {
    pub(crate) fn new(range: Ipv4Network) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (8..=30).contains(&range.prefix()),
            "the service CIDR {range} has to have a prefix length between 8 and 30"
        );
        Ok(Self { range: Ipv4Network::new(range.network(), range.prefix())? })
    }

    /// The address of the `kubernetes` service.
    pub(crate) fn first(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Claims an address for a Service that needs one and has none, and releases one that it no longer needs. `new` is
    /// `None` when the Service goes. `taken`: keys of addresses that turned out to be taken.
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
        let had = old.and_then(cluster_ip);
        let needs = new.as_ref().is_some_and(|service| needs_address(service));
        if let (Some(had), Some(old)) = (&had, old)
            && !needs
        {
            self.release(handlers, &addresses, had, old, &mut claims).await?;
        }
        let Some(service) = new else { return Ok(claims) };
        if !needs {
            if had.is_some() && service["spec"]["type"] == "ExternalName" {
                forget_address(service);
            }
            return Ok(claims);
        }
        if had.is_some() {
            // It keeps what it has; a change is refused by the rules of the kind.
            return Ok(claims);
        }
        let address = match asked(service) {
            Some(text) => self.check_asked(handlers, kind, &addresses, service, &text).await?,
            None => self.pick(handlers, &addresses, taken).await?,
        };
        service["spec"]["clusterIP"] = address.to_string().into();
        service["spec"]["clusterIPs"] = json!([address.to_string()]);
        let key = addresses.key("", &address.to_string());
        claims.expects.push(Expect::Absent { key: key.clone() });
        claims.writes.push(Write::Put { key, value: stored_bytes(&claim(address, service)) });
        Ok(claims)
    }

    /// Gives the address back, if it is this Service's: one that is not ours is left alone.
    async fn release(
        &self,
        handlers: &Handlers,
        addresses: &Kind,
        address: &str,
        service: &Value,
        claims: &mut Claims,
    ) -> Result<(), Failure> {
        let key = addresses.key("", address);
        if let Some(held) = handlers.stored(&key).await?
            && held.object["spec"]["parentRef"] == parent(service)
        {
            claims.expects.push(Expect::At { key: key.clone(), revision: held.revision });
            claims.writes.push(Write::Delete { key });
        }
        Ok(())
    }

    /// The address that the writer chose: 422 when it is out of the range or taken.
    async fn check_asked(
        &self,
        handlers: &Handlers,
        kind: &Kind,
        addresses: &Kind,
        service: &Value,
        text: &str,
    ) -> Result<Ipv4Addr, Failure> {
        let refuse = |why: &str| {
            let list = match &service["spec"]["clusterIPs"] {
                Value::Array(list) if !list.is_empty() => Value::Array(list.clone()),
                _ => json!([text]),
            };
            let message = format!("Invalid value: {list}: failed to allocate IP {text}: {why}");
            let cause = StatusCause {
                field: Some("spec.clusterIPs".into()),
                message: Some(message),
                reason: Some("FieldValueInvalid".into()),
            };
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            Failure::invalid(kind, name, vec![cause])
        };
        let out_of_range = "the provided network does not match the current range";
        let address: Ipv4Addr = text.parse().map_err(|_| refuse(out_of_range))?;
        if !self.hosts().contains(&self.offset(address)) || !self.range.contains(address) {
            return Err(refuse(out_of_range));
        }
        if handlers.stored(&addresses.key("", text)).await?.is_some() {
            return Err(refuse("provided IP is already allocated"));
        }
        Ok(address)
    }

    /// A free address: random ones first, then the upper part of the range in order, then the lower one.
    async fn pick(&self, handlers: &Handlers, addresses: &Kind, taken: &[String]) -> Result<Ipv4Addr, Failure> {
        let hosts = self.hosts();
        let count = hosts.end - hosts.start;
        let lower_end = hosts.start + (count / 16).clamp(MIN_LOWER, MAX_LOWER).min(count);
        let upper = lower_end..hosts.end;
        let mut candidates: Vec<u32> = Vec::new();
        if !upper.is_empty() {
            candidates.extend((0..RANDOM_TRIES).map(|_| rand::random_range(upper.clone())));
        }
        // In order, from a random place, so that writers who search at the same time do not meet at one address.
        for part in [upper, hosts.start..lower_end] {
            let shift = if part.is_empty() { 0 } else { rand::random_range(0..part.end - part.start) };
            let size = part.end - part.start;
            candidates.extend((0..size).map(|index| part.start + (index + shift) % size));
        }
        for offset in candidates.into_iter().filter(|offset| !RESERVED.contains(offset)) {
            let address = self.address(offset);
            let key = addresses.key("", &address.to_string());
            if !taken.contains(&key) && handlers.cache.get(&key, Freshness::Any).await?.is_none() {
                return Ok(address);
            }
        }
        Err(Failure::internal("failed to allocate a serviceIP: range is full"))
    }

    /// Offsets of the addresses that may be given: not the network's and the broadcast address.
    fn hosts(&self) -> std::ops::Range<u32> {
        1..self.range.size() - 1
    }

    fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.range.network().to_bits().wrapping_add(offset))
    }

    fn offset(&self, address: Ipv4Addr) -> u32 {
        address.to_bits().wrapping_sub(self.range.network().to_bits())
    }
}

/// The address that a Service has: not "" and not "None".
fn cluster_ip(service: &Value) -> Option<String> {
    service["spec"]["clusterIP"].as_str().filter(|ip| !ip.is_empty() && *ip != "None").map(str::to_owned)
}

/// The address that the writer wants, by either field.
fn asked(service: &Value) -> Option<String> {
    let first = service["spec"]["clusterIPs"][0].as_str().filter(|ip| !ip.is_empty());
    cluster_ip(service).or_else(|| first.map(str::to_owned))
}

fn needs_address(service: &Value) -> bool {
    let spec = &service["spec"];
    let headless = spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None";
    spec.is_object() && spec["type"] != "ExternalName" && !headless
}

fn forget_address(service: &mut Value) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.shift_remove(field);
        }
    }
}

fn parent(service: &Value) -> Value {
    let metadata = &service["metadata"];
    json!({"group": "", "resource": "services", "namespace": metadata["namespace"], "name": metadata["name"]})
}

/// The IPAddress object of a claim.
fn claim(address: Ipv4Addr, service: &Value) -> Value {
    json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": address.to_string(),
            "uid": Uuid::new_v4().to_string(),
            "creationTimestamp": service["metadata"]["creationTimestamp"],
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": parent(service)},
    })
}

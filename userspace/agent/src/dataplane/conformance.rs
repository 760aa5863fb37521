//! What every dataplane must do. The model runs these cases in its unit tests, the kernel in the `netns` suite.

use diolkos_abi::address::{Address, protocol, v4_mapped};
use diolkos_abi::conntrack::{Tuple, direction};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, address_tag, cookie_tag};
use diolkos_abi::service::{
    AffinityKey, Backend, FrontendKey, MemberKey, backend_state, frontend_word, member_word, row_word, scope,
};

use super::{Adopted, Dataplane, Error};

/// A case: fails with a sentence.
pub type Case = fn(&mut dyn Dataplane, &Device) -> Result<(), String>;

/// A network device that exists where the dataplane runs.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub ifindex: u32,
}

/// All cases. Each leaves the maps it wrote to empty.
pub const CASES: &[(&str, Case)] = &[
    ("what_was_written_is_adopted", what_was_written_is_adopted),
    ("writing_twice_is_writing_once", writing_twice_is_writing_once),
    ("removing_what_is_absent_is_no_error", removing_what_is_absent_is_no_error),
    ("ids_out_of_range_are_refused", ids_out_of_range_are_refused),
    ("a_full_frontend_map_says_so_and_keeps_what_fitted", a_full_frontend_map_says_so_and_keeps_what_fitted),
    ("a_full_member_map_says_so_and_keeps_what_fitted", a_full_member_map_says_so_and_keeps_what_fitted),
    ("a_full_endpoint_map_says_so", a_full_endpoint_map_says_so),
    ("a_full_route_map_says_so", a_full_route_map_says_so),
    ("a_full_netns_map_says_so", a_full_netns_map_says_so),
    ("endpoints_and_network_namespaces_are_listed", endpoints_and_network_namespaces_are_listed),
    ("a_pod_is_attached_and_detached_any_number_of_times", a_pod_is_attached_and_detached_any_number_of_times),
    ("a_missing_device_is_refused", a_missing_device_is_refused),
];

/// Runs a case on an empty dataplane and checks that it left it empty.
pub fn run<D: Dataplane>(name: &str, case: Case, dataplane: &mut D, device: &Device) -> Result<(), String> {
    let named = |error: String| format!("{name}: {error}");
    case(dataplane, device).map_err(named)?;
    let left = dataplane.adopt().map_err(|error| named(error.to_string()))?;
    // Slots and the ids of rows and backends keep their last words: nothing points to them.
    let hashes_empty = left.frontends.is_empty() && left.members.is_empty() && left.routes.is_empty();
    check(hashes_empty && left.nodes.is_empty(), "it leaves entries behind").map_err(named)
}

fn what_was_written_is_adopted(dataplane: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let capacities = dataplane.capacities();
    let last_backend = capacities.backends - 1;
    let base = capacities.slots - 20;
    let slots: Vec<u32> = (0..20).map(|n| if n % 2 == 0 { 1 } else { last_backend }).collect();
    let backend = |port| Backend {
        address: v4(1),
        port: [0, port],
        state: backend_state::ALIVE,
        zone: 3,
        generation: 9,
        node: 5,
        ..Backend::default()
    };
    let node = Node { tunnel_v4: [192, 0, 2, 7], mac: [2, 3, 4, 5, 6, 7], mtu: 1450, ..Node::default() };
    let last_service = capacities.services - 1;
    let text = |error: Error| error.to_string();
    dataplane.set_backend(1, &backend(1)).map_err(text)?;
    dataplane.set_backend(last_backend, &backend(2)).map_err(text)?;
    dataplane.write_slots(base, &slots).map_err(text)?;
    dataplane.set_row(last_service, row_word(base, 20)).map_err(text)?;
    dataplane.set_affinity(last_service, 10_800).map_err(text)?;
    let member = (member(last_service), member_word(9, member(last_service).tag()));
    dataplane.insert_members(&[member]).map_err(|partial| partial.to_string())?;
    equal(&dataplane.read_affinity(last_service).map_err(text)?, &10_800, "the affinity")?;
    equal(&dataplane.read_backend(1).map_err(text)?, &backend(1), "the backend")?;
    let entry = (frontend(1), frontend_word(last_service, frontend(1).tag(), 0));
    dataplane.insert_frontends(&[entry]).map_err(|partial| partial.to_string())?;
    dataplane.upsert_node(1, &node).map_err(text)?;
    dataplane.upsert_route(route(1), Route { node: 1, ..Route::default() }).map_err(text)?;

    let found = dataplane.adopt().map_err(text)?;
    let written_slots: Vec<u32> = (0..base).map(|_| 0).chain(slots).collect();
    let routes = vec![(route(1), Route { node: 1, tag: address_tag(&route(1).prefix), ..Route::default() })];
    let wanted = Adopted {
        frontends: vec![entry],
        rows: vec![(last_service, row_word(base, 20))],
        affinities: vec![(last_service, 10_800)],
        members: vec![member],
        slots: written_slots,
        backends: vec![(1, backend(1)), (last_backend, backend(2))],
        nodes: vec![(1, node)],
        routes,
    };
    equal(&found, &wanted, "the adopted content")?;

    dataplane.remove_frontends(&[frontend(1)]).map_err(|partial| partial.to_string())?;
    dataplane.remove_members(&[member.0]).map_err(|partial| partial.to_string())?;
    dataplane.set_row(last_service, 0).map_err(text)?;
    dataplane.set_affinity(last_service, 0).map_err(text)?;
    dataplane.write_slots(base, &[0; 20]).map_err(text)?;
    dataplane.set_backend(1, &Backend::default()).map_err(text)?;
    dataplane.set_backend(last_backend, &Backend::default()).map_err(text)?;
    dataplane.remove_route(&route(1)).map_err(text)?;
    dataplane.remove_node(1).map_err(text)?;
    equal(&dataplane.adopt().map_err(text)?, &Adopted::default(), "the content after removal")
}

fn writing_twice_is_writing_once(dataplane: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    for node in [1, 2] {
        let entries = [(frontend(1), u64::from(node)), (frontend(2), 7)];
        dataplane.insert_frontends(&entries).map_err(|partial| partial.to_string())?;
        dataplane.insert_members(&[(member(1), u64::from(node))]).map_err(|partial| partial.to_string())?;
        dataplane.upsert_route(route(1), Route { node, ..Route::default() }).map_err(text)?;
    }
    let mut found = dataplane.adopt().map_err(text)?;
    found.frontends.sort_by_key(|(key, _)| key.port);
    equal(&found.frontends, &vec![(frontend(1), 2), (frontend(2), 7)], "the frontends")?;
    equal(&found.routes.iter().map(|(_, route)| route.node).collect(), &vec![2], "the routes")?;
    equal(&found.members, &vec![(member(1), 2)], "the members")?;
    dataplane.remove_members(&[member(1)]).map_err(|partial| partial.to_string())?;
    dataplane.remove_route(&route(1)).map_err(text)?;
    dataplane.remove_frontends(&[frontend(1), frontend(2)]).map_err(|partial| partial.to_string())
}

fn removing_what_is_absent_is_no_error(dataplane: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let entry = (frontend(2), 1);
    dataplane.insert_frontends(&[entry]).map_err(|partial| partial.to_string())?;
    // The absent ones stand before and after the present one: none of them may stop the removal.
    let keys = [frontend(1), frontend(2), frontend(3)];
    dataplane.remove_frontends(&keys).map_err(|partial| partial.to_string())?;
    dataplane.remove_frontends(&[]).map_err(|partial| partial.to_string())?;
    dataplane.insert_frontends(&[]).map_err(|partial| partial.to_string())?;
    dataplane.insert_members(&[(member(2), 1)]).map_err(|partial| partial.to_string())?;
    dataplane.remove_members(&[member(1), member(2), member(3)]).map_err(|partial| partial.to_string())?;
    let flow = Tuple { source: v4(1), destination: v4(2), ..NO_FLOW };
    dataplane.remove_flows(&[flow]).map_err(|partial| partial.to_string())?;
    check(dataplane.flow(&flow).map_err(text)?.is_none(), "an absent flow was read")?;
    let client = AffinityKey { client: v4(1), service: 1 };
    dataplane.remove_affinities(&[client]).map_err(|partial| partial.to_string())?;
    dataplane.remove_node(1).map_err(text)?;
    dataplane.remove_route(&route(1)).map_err(text)?;
    check(!dataplane.remove_endpoint(&v4(9)).map_err(text)?, "an absent endpoint was removed")?;
    check(!dataplane.remove_netns(9).map_err(text)?, "an absent network namespace was removed")?;
    dataplane.detach_pod("diabsent").map_err(text)
}

fn ids_out_of_range_are_refused(dataplane: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let capacities = dataplane.capacities();
    let attempts = [
        ("backend 0", dataplane.set_backend(0, &Backend::default())),
        ("backend", dataplane.set_backend(capacities.backends, &Backend::default())),
        ("service 0", dataplane.set_row(0, 1)),
        ("service", dataplane.set_row(capacities.services, 1)),
        ("affinity 0", dataplane.set_affinity(0, 1)),
        ("affinity", dataplane.set_affinity(capacities.services, 1)),
        ("slots", dataplane.write_slots(capacities.slots - 1, &[1, 1])),
        ("slots far out", dataplane.write_slots(u32::MAX, &[1, 1])),
        ("node 0", dataplane.upsert_node(0, &Node::default())),
        ("node", dataplane.upsert_node(capacities.nodes, &Node::default())),
    ];
    for (what, result) in attempts {
        check(matches!(result, Err(Error::OutOfRange { .. })), &format!("{what} out of range gave {result:?}"))?;
    }
    equal(&dataplane.adopt().map_err(|e| e.to_string())?, &Adopted::default(), "the content after refusals")
}

fn a_full_frontend_map_says_so_and_keeps_what_fitted(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let capacity = d.capacities().frontends;
    let entries: Vec<_> = (0..capacity + 3).map(|n| (frontend(n), u64::from(n))).collect();
    let (first, rest) = entries.split_at(capacity as usize - 2);
    d.insert_frontends(first).map_err(|partial| partial.to_string())?;
    let Err(partial) = d.insert_frontends(rest) else { return Err("too many frontends were taken".into()) };
    equal(&partial.done, &2, "the frontends that fitted")?;
    check(is_full(&partial.error, capacity), &format!("a full map gave {}", partial.error))?;
    // A full map still takes new words for the keys it has.
    d.insert_frontends(&[(frontend(0), 77)]).map_err(|partial| partial.to_string())?;
    let found = d.adopt().map_err(|error| error.to_string())?;
    equal(&found.frontends.len(), &(capacity as usize), "the number of frontends")?;
    check(found.frontends.contains(&(frontend(0), 77)), "the replaced frontend is not there")?;
    let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
    d.remove_frontends(&keys).map_err(|partial| partial.to_string())
}

fn a_full_member_map_says_so_and_keeps_what_fitted(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let capacity = d.capacities().members;
    let entries: Vec<_> = (0..capacity + 3).map(|n| (member(n), u64::from(n))).collect();
    let (first, rest) = entries.split_at(capacity as usize - 2);
    d.insert_members(first).map_err(|partial| partial.to_string())?;
    let Err(partial) = d.insert_members(rest) else { return Err("too many members were taken".into()) };
    equal(&partial.done, &2, "the members that fitted")?;
    check(is_full(&partial.error, capacity), &format!("a full map gave {}", partial.error))?;
    equal(&d.adopt().map_err(|e| e.to_string())?.members.len(), &(capacity as usize), "the number of members")?;
    let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
    d.remove_members(&keys).map_err(|partial| partial.to_string())
}

fn a_full_endpoint_map_says_so(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let capacity = d.capacities().endpoints;
    for n in 0..capacity {
        d.upsert_endpoint(v4(n), Endpoint::default()).map_err(|error| error.to_string())?;
    }
    let result = d.upsert_endpoint(v4(capacity), Endpoint::default());
    for n in 0..capacity {
        check(d.remove_endpoint(&v4(n)).map_err(|error| error.to_string())?, "an endpoint is missing")?;
    }
    check(result.as_ref().is_err_and(|error| is_full(error, capacity)), &format!("a full map gave {result:?}"))
}

fn a_full_route_map_says_so(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let capacity = d.capacities().routes;
    for n in 0..capacity {
        d.upsert_route(route(n), Route::default()).map_err(|error| error.to_string())?;
    }
    let result = d.upsert_route(route(capacity), Route::default());
    for n in 0..capacity {
        d.remove_route(&route(n)).map_err(|error| error.to_string())?;
    }
    check(result.as_ref().is_err_and(|error| is_full(error, capacity)), &format!("a full map gave {result:?}"))
}

fn a_full_netns_map_says_so(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let known = d.netnses().map_err(|error| error.to_string())?;
    let capacity = d.capacities().netnses;
    let cookies: Vec<u64> = (0..u64::from(capacity) - known.len() as u64).map(|n| (1 << 40) + n).collect();
    for cookie in &cookies {
        d.set_netns(*cookie, Netns::default()).map_err(|error| error.to_string())?;
    }
    let result = d.set_netns(1 << 50, Netns::default());
    for cookie in &cookies {
        check(d.remove_netns(*cookie).map_err(|error| error.to_string())?, "a network namespace is missing")?;
    }
    check(result.as_ref().is_err_and(|error| is_full(error, capacity)), &format!("a full map gave {result:?}"))
}

fn endpoints_and_network_namespaces_are_listed(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let netns = Netns { v4: [10, 0, 0, 1], ..Netns::default() };
    let before = d.netnses().map_err(text)?.len();
    let endpoint = Endpoint { ifindex: 3, mac: [1; 6], host_mac: [2; 6], ..Endpoint::default() };
    d.upsert_endpoint(v4(2), Endpoint::default()).map_err(text)?;
    d.upsert_endpoint(v4(1), endpoint).map_err(text)?;
    d.set_netns(77, netns).map_err(text)?;
    let mut endpoints = d.endpoints().map_err(text)?;
    endpoints.sort_by_key(|(address, _)| *address);
    let tagged = |n, endpoint| (v4(n), Endpoint { tag: address_tag(&v4(n)), ..endpoint });
    equal(&endpoints, &vec![tagged(1, endpoint), tagged(2, Endpoint::default())], "the endpoints")?;
    let netnses = d.netnses().map_err(text)?;
    check(
        netnses.contains(&(77, Netns { tag: cookie_tag(77), ..netns })) && netnses.len() == before + 1,
        "the network namespaces differ",
    )?;
    check(d.remove_endpoint(&v4(1)).map_err(text)?, "the endpoint is missing")?;
    check(d.remove_endpoint(&v4(2)).map_err(text)?, "the endpoint is missing")?;
    check(d.remove_netns(77).map_err(text)?, "the network namespace is missing")?;
    check(d.endpoints().map_err(text)?.is_empty(), "an endpoint is left")
}

fn a_pod_is_attached_and_detached_any_number_of_times(d: &mut dyn Dataplane, device: &Device) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    for _ in 0..2 {
        for _ in 0..2 {
            d.attach_pod(&device.name, device.ifindex).map_err(text)?;
            equal(&d.attached_pods().map_err(text)?, &vec![device.name.clone()], "the attached pods")?;
        }
        for _ in 0..2 {
            d.detach_pod(&device.name).map_err(text)?;
            equal(&d.attached_pods().map_err(text)?, &Vec::new(), "the attached pods after detaching")?;
        }
    }
    Ok(())
}

fn a_missing_device_is_refused(d: &mut dyn Dataplane, _: &Device) -> Result<(), String> {
    let missing = d.attach_pod("dimissing", 0x7fff_fff0);
    check(matches!(missing, Err(Error::Attach { .. })), &format!("a missing device gave {missing:?}"))?;
    let name = d.attach_pod("di/../bad.name", 1);
    check(matches!(name, Err(Error::Unsupported { .. })), &format!("a name no device can have gave {name:?}"))?;
    equal(&d.attached_pods().map_err(|error| error.to_string())?, &Vec::new(), "the attached pods")
}

fn is_full(error: &Error, wanted: u32) -> bool {
    matches!(error, Error::Full { capacity, .. } if *capacity == wanted)
}

/// 10.x.y.z of a number, so that every one is another address.
fn v4(n: u32) -> Address {
    v4_mapped((0x0a00_0000 | n).to_be_bytes())
}

fn frontend(n: u32) -> FrontendKey {
    FrontendKey::new(v4(n >> 8), [1, n as u8], protocol::TCP, scope::CLUSTER)
}

fn member(n: u32) -> MemberKey {
    MemberKey { service: 1, backend: n }
}

const NO_FLOW: Tuple = Tuple {
    source: [0; 16],
    destination: [0; 16],
    source_port: [0; 2],
    destination_port: [0; 2],
    protocol: protocol::TCP,
    direction: direction::WIRE,
    zone: 0,
};

fn route(n: u32) -> RouteKey {
    RouteKey { prefix: v4(n << 8), zone: 0 }
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(found: &T, wanted: &T, what: &str) -> Result<(), String> {
    let short = |text: String| if text.len() > 2000 { format!("{}...", &text[..2000]) } else { text };
    check(
        found == wanted,
        &format!("{what}: {} instead of {}", short(format!("{found:?}")), short(format!("{wanted:?}"))),
    )
}

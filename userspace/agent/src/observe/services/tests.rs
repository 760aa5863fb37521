use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::service::{frontend_word, row_word, scope};

use super::*;

fn maps() -> ServiceMaps {
    let mut maps = ServiceMaps::default();
    let mut frontend = |address: [u8; 4], port: u16, protocol: u8, id: u32, flags: u16| {
        let key = FrontendKey::new(v4_mapped(address), port.to_be_bytes(), protocol, scope::CLUSTER);
        maps.frontends.push((key, frontend_word(id, key.tag(), flags)));
    };
    frontend([10, 96, 0, 20], 53, protocol::UDP, 2, 0);
    frontend([10, 96, 0, 10], 80, protocol::TCP, 1, 0);
    frontend([10, 96, 0, 10], 0, 0, 0, frontend_flags::ADDRESS);
    frontend([10, 96, 0, 30], 443, protocol::TCP, 3, 0);
    let service = |row, affinity| Service { row, affinity, ..Service::default() };
    // A row across two lines, one backend of it twice.
    maps.services =
        [(1, service(row_word(14, 5), 0)), (2, service(row_word(30, 1), 10_548)), (3, service(0, 0))].into();
    let mut lines = [SlotLine::default(), SlotLine::default()];
    lines[0].0[14] = 7;
    lines[0].0[15] = 5;
    lines[1].0[..3].copy_from_slice(&[6, 8, 7]);
    lines[1].0[14] = 9;
    maps.slots = [(0, lines[0]), (1, lines[1])].into();
    for id in 5..10_u8 {
        let backend = Backend {
            address: v4_mapped([10, 244, id, 2]),
            port: 8080_u16.to_be_bytes(),
            state: if id == 6 { backend_state::DEAD } else { backend_state::ALIVE },
            generation: 3,
            node: if id == 7 { 2 } else { 0 },
            ..Backend::default()
        };
        maps.backends.insert(id.into(), backend);
    }
    maps.nodes.insert(2, Node { tunnel_v4: [192, 168, 0, 2], ..Node::default() });
    maps
}

fn names() -> Vec<ServiceId> {
    let of = |id, name: &str, port, protocol| ServiceId {
        id,
        namespace: "default".into(),
        name: name.into(),
        port,
        protocol,
    };
    vec![of(1, "web", 80, protocol::TCP), of(2, "dns", 53, protocol::UDP)]
}

#[test]
fn services_are_listed_by_name_and_long_rows_are_cut_short() {
    let list = maps().list(&names(), Clock::of(Duration::from_millis(4)));
    let text = "\
SERVICE      FRONTEND            AFFINITY  BACKENDS
default/dns  10.96.0.20:53/UDP   3h0m      1: 10.244.9.2:8080
default/web  10.96.0.10:80/TCP   -         4: 10.244.5.2:8080 10.244.6.2:8080(dead) 10.244.7.2:8080 +1 more
#3           10.96.0.30:443/TCP  -         0
";
    assert_eq!(render(&list, false), text);
    assert_eq!(render(&[], false), "no services\n");
}

#[test]
fn all_backends_are_shown_with_state_node_and_share() {
    let text = render(&maps().list(&names(), Clock::of(Duration::from_millis(4))), true);
    for line in
        ["10.244.6.2:8080 dead id 6 generation 3", "10.244.7.2:8080 alive id 7 generation 3 node 192.168.0.2 2 slots"]
    {
        assert!(text.contains(line), "{text}");
    }
}

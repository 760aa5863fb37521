//! Two nodes that are neighbours, without an overlay: pods, services and the nodes themselves.

use std::net::{IpAddr, SocketAddr};

use diolkos_abi::counter::{Hook, Verdict};

use crate::pair::{
    BACKEND_PORT, HOST, Namespace, OTHER_HOST, OUTSIDE, OWN, PORTS_FIRST, Pair, SERVED, Setup, VIPS, node, pod,
};
use crate::talk::{self, Place};

fn for_each_family(test: impl Fn(&Pair, usize)) {
    static PLACE: Place = Place::new();
    talk::for_each_family(&PLACE, || Pair::with(Setup { direct: true, ..Setup::default() }), test);
}

/// Reaches a server by both protocols, in bulk and in fragments, and returns whom it sees.
fn reach(from: &Namespace, to: SocketAddr) -> [SocketAddr; 2] {
    from.inside(|| {
        let (stream, seen) = talk::connect(to);
        talk::exchange(stream, 1 << 20);
        talk::echoed(to, 5000).unwrap_or_else(|error| panic!("{to}: {error}"));
        [seen, talk::ask(to)]
    })
}

fn addresses(seen: [SocketAddr; 2]) -> [IpAddr; 2] {
    seen.map(|seen| seen.ip())
}

#[test]
fn pods_of_neighbours_reach_each_other_without_an_overlay() {
    for_each_family(|pair, family| {
        let to = |number| SocketAddr::new(pod(number, 10)[family], BACKEND_PORT);
        assert_eq!(addresses(reach(&pair.first.pod, to(2))), [pod(1, 10)[family]; 2]);
        assert_eq!(addresses(reach(&pair.second.pod, to(1))), [pod(2, 10)[family]; 2]);
        for half in [&pair.first, &pair.second] {
            assert!(half.verdicts(Hook::FromContainer, Verdict::Neighbour) > 0);
            assert!(half.verdicts(Hook::FromNetdev, Verdict::Pod) > 0);
        }
    });
}

#[test]
fn services_answer_pods_of_neighbours_without_an_overlay() {
    for_each_family(|pair, family| {
        let to = |port| SocketAddr::new(VIPS[family], port);
        assert_eq!(addresses(reach(&pair.first.pod, to(SERVED))), [pod(1, 10)[family]; 2]);
        assert_eq!(addresses(reach(&pair.second.pod, to(OWN))), [pod(2, 10)[family]; 2]);
        for port in [HOST, OTHER_HOST] {
            for half in [&pair.first, &pair.second] {
                reach(&half.pod, to(port));
            }
        }
    });
}

#[test]
fn pods_and_other_nodes_know_each_other_by_their_own_addresses_beside_masquerade() {
    static PLACE: Place = Place::new();
    let make = || Pair::with(Setup { direct: true, outside: true, ..Setup::default() });
    talk::for_each_family(&PLACE, make, |pair, family| {
        let (of_pod, of_node) = (pod(1, 10)[family], node(2)[family]);
        let seen = reach(&pair.second.node, SocketAddr::new(of_pod, BACKEND_PORT));
        assert_eq!(addresses(seen), [of_node; 2], "a process of the node asks a pod");
        let seen = reach(&pair.first.pod, SocketAddr::new(of_node, BACKEND_PORT));
        assert_eq!(addresses(seen), [of_pod; 2], "a pod asks a process of the node");
        let seen = reach(&pair.first.pod, SocketAddr::new(OUTSIDE[family], BACKEND_PORT));
        assert_eq!(addresses(seen), [node(1)[family]; 2], "the outside knows no pod");
    });
}

#[test]
fn services_answer_a_process_of_the_node_without_an_overlay() {
    for_each_family(|pair, family| {
        for port in [OWN, SERVED, OTHER_HOST] {
            for seen in reach(&pair.first.node, SocketAddr::new(VIPS[family], port)) {
                assert_eq!(seen.ip(), node(1)[family], "{port}");
                assert!(seen.port() >= PORTS_FIRST, "{port}: {seen}");
            }
        }
    });
}

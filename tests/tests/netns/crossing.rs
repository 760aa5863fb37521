//! Services of pods and of the node on the packet path, over the overlay: no socket hook is attached.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use diolkos_abi::counter::{DropReason, Hook, Verdict};

use crate::pair::{BACKEND_PORT, EMPTY, HOST, Namespace, OTHER_HOST, OWN, Pair, SERVED, UNKNOWN, VIPS, node, pod};
use crate::raw::{Fragments, send_raw};
use crate::talk::{self, Place};

/// Longer than any refusal takes, shorter than any retransmission.
const SOON: Duration = Duration::from_millis(900);

fn for_each_family(test: impl Fn(&Pair, usize)) {
    static PLACE: Place = Place::new();
    talk::for_each_family(&PLACE, Pair::new, test);
}

/// Reaches a service by both protocols from a namespace, and returns whom its backend sees.
fn reach(from: &Namespace, to: SocketAddr) -> [IpAddr; 2] {
    from.inside(|| {
        let (stream, seen) = talk::connect(to);
        talk::exchange(stream, 1 << 20);
        [seen.ip(), talk::ask(to).ip()]
    })
}

#[test]
fn a_pod_reaches_itself_through_its_service_packet_by_packet() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], OWN);
        for _ in 0..50 {
            let seen = pair.at_client(|| [talk::connect(to).1, talk::ask(to)]);
            // To itself the pod would answer without its node, which alone knows what was dialled.
            assert_eq!(seen.map(|seen| seen.ip()), [VIPS[family]; 2], "{to}");
        }
        assert_eq!(reach(&pair.first.pod, to), [VIPS[family]; 2], "{to}, in bulk");
    });
}

#[test]
fn a_process_of_another_node_answers_through_the_tunnel_under_the_nodes_own_address() {
    for_each_family(|pair, family| {
        let before = pair.first.verdicts(Hook::FromOverlay, Verdict::Pod);
        let seen = reach(&pair.first.pod, SocketAddr::new(node(2)[family], BACKEND_PORT));
        assert_eq!(seen, [pod(1, 10)[family]; 2], "nothing is masqueraded here");
        assert!(pair.first.verdicts(Hook::FromOverlay, Verdict::Pod) > before);
    });
}

#[test]
fn a_datagram_in_fragments_crosses_a_service_in_both_directions() {
    for_each_family(|pair, family| {
        for to in [SERVED, OWN].map(|port| SocketAddr::new(VIPS[family], port)) {
            for size in [1, 1400, 1450, 4000, 20_000, 60_000] {
                let outcome = pair.at_client(|| talk::echoed(to, size));
                outcome.unwrap_or_else(|error| panic!("{to}, {size} bytes: {error}"));
            }
        }
    });
}

#[test]
fn fragments_out_of_order_cross_a_service_once_the_first_has_passed() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], SERVED);
        let (fragments, answers) = Fragments::of(pod(1, 10)[family], to, 3500);
        let late = |pair: &Pair| pair.first.drops(Hook::FromContainer, DropReason::FragmentUnknown);
        let before = late(pair);
        pair.at_client(|| {
            let socket = answers.open();
            send_raw(to.ip(), &[0, 2, 1].map(|n| fragments.packet(1, n)));
            assert_eq!(answers.wait(&socket).expect("an answer"), fragments.payload());
        });
        assert_eq!(late(pair), before);
        pair.at_client(|| {
            let socket = answers.open();
            // What comes before the one that has the ports is nobody's; the same datagram once more is answered.
            send_raw(to.ip(), &[1, 0, 2].map(|n| fragments.packet(2, n)));
            send_raw(to.ip(), &[0, 1, 2].map(|n| fragments.packet(3, n)));
            assert_eq!(answers.wait(&socket).expect("an answer"), fragments.payload());
        });
        assert_eq!(late(pair), before + 1, "{to}");
    });
}

#[test]
fn a_process_of_the_node_that_no_hook_sees_reaches_every_backend_of_a_service() {
    for_each_family(|pair, family| {
        let gateway = pod(1, 1)[family];
        let expected = [(OWN, gateway), (SERVED, gateway), (HOST, VIPS[family]), (OTHER_HOST, node(1)[family])];
        for (port, sees) in expected {
            let to = SocketAddr::new(VIPS[family], port);
            assert_eq!(reach(&pair.first.node, to), [sees; 2], "{to}");
        }
        assert!(pair.first.verdicts(Hook::ToNetdev, Verdict::Pod) > 0);
        assert!(pair.first.verdicts(Hook::ToNetdev, Verdict::Overlay) > 0);
    });
}

#[test]
fn a_process_of_the_node_that_no_hook_sees_is_refused_at_once() {
    for_each_family(|pair, family| {
        for port in [EMPTY, UNKNOWN] {
            let to = SocketAddr::new(VIPS[family], port);
            let told = pair.first.node.inside(|| {
                let tcp = TcpStream::connect_timeout(&to, SOON).expect_err("nobody serves there").kind();
                let socket = talk::datagrams(to);
                socket.set_read_timeout(Some(SOON)).unwrap();
                socket.send(talk::WHO).unwrap();
                [tcp, socket.recv(&mut [0; 8]).expect_err("nobody serves there").kind()]
            });
            assert_eq!(told, [ErrorKind::ConnectionRefused; 2], "{to}");
        }
    });
}

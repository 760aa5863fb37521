//! Services end to end: the socket hooks choose the backend, the packet programs and the overlay carry what is said.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use diolkos_abi::config::features;
use diolkos_abi::counter::{DropReason, Hook, Verdict};

use crate::dataplane::possible;
use crate::pair::{EMPTY, HOOKED_VIPS, Pair, SERVED, Setup, pod};
use crate::talk;
use crate::world::on_a_node;

/// The hooks on the client's sockets, and then a test for each family.
fn hooked(no_retval: bool, test: impl Fn(&Pair, usize) + Send + 'static) {
    on_a_node(move |world| {
        let pair = Pair::with(Setup { hooked: true, no_retval, ..Setup::default() });
        pair.serve();
        pair.first.hook_sockets(&world.cgroup);
        [0, 1].into_iter().for_each(|family| test(&pair, family));
    });
}

#[test]
fn sockets_of_a_pod_reach_a_service_across_the_overlay_and_are_refused_where_this_kernel_can_refuse() {
    let refusals = if possible() & features::SET_RETVAL != 0 { [1, 0] } else { [0, 1] };
    println!("refused by system calls and by packets: {refusals:?}");
    hooked(false, move |pair, family| {
        let to = SocketAddr::new(HOOKED_VIPS[family], SERVED);
        let counted = || [Hook::Connect, Hook::SendMsg].map(|hook| pair.first.verdicts(hook, Verdict::Translated));
        let carried = || pair.first.verdicts(Hook::FromContainer, Verdict::Overlay);
        let ([connected, sent], before) = (counted(), carried());
        pair.at_client(|| {
            let (stream, seen) = talk::connect(to);
            assert_eq!(seen.ip(), pod(1, 10)[family]);
            talk::exchange(stream, 1 << 20);
            assert_eq!(talk::ask(to).ip(), pod(1, 10)[family]);
            talk::echoed(to, 5000).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(asked_unconnected(to).ip(), pod(1, 10)[family]);
        });
        let [connected_then, sent_then] = counted();
        assert_eq!((connected_then - connected, sent_then > sent), (3, true));
        assert!(carried() > before);
        assert_eq!(pair.first.flows(), 0, "the packet path had nothing to translate");
        assert_eq!(is_refused(pair, family), refusals);
    });
}

/// Whom the server behind `to` sees in a datagram of a socket that is not connected. Its answer must come from `to`.
fn asked_unconnected(to: SocketAddr) -> SocketAddr {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(talk::PATIENCE)).unwrap();
    socket.send_to(talk::WHO, to).unwrap();
    let mut answer = [0; 128];
    let (length, from) = socket.recv_from(&mut answer).unwrap_or_else(|error| panic!("UDP {to}: {error}"));
    assert_eq!(from, to);
    std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap()
}

/// How often a service without endpoints refused system calls, and packets.
fn refused(pair: &Pair) -> [u64; 2] {
    [Hook::Connect, Hook::FromContainer].map(|hook| pair.first.drops(hook, DropReason::NoEndpoints))
}

fn is_refused(pair: &Pair, family: usize) -> [u64; 2] {
    let before = refused(pair);
    let to = SocketAddr::new(HOOKED_VIPS[family], EMPTY);
    let outcome = pair.at_client(|| TcpStream::connect_timeout(&to, talk::PATIENCE));
    assert_eq!(outcome.expect_err("nobody serves there").kind(), ErrorKind::ConnectionRefused, "{to}");
    let after = refused(pair);
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn a_kernel_that_cannot_refuse_system_calls_refuses_the_packets_of_a_connect() {
    hooked(true, |pair, family| assert_eq!(is_refused(pair, family), [0, 1]));
}

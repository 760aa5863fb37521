//! Source ports under the node's address: one owner each.

use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::{Config, features};
use diolkos_abi::counter::{DropReason, Verdict};

use crate::model::{ModelPacket, ModelTables};
use crate::scenarios::Input;
use crate::scenarios::packets::{End, Frame, SYN};
use crate::scenarios::world::{self, CLIENT, FAR, HOST, VIP, World};

const UPLINK: u32 = 3;
/// On another host's network.
const SERVER: End = ([192, 168, 0, 2], 9090);
const COUNT: u16 = 16;

/// The source under which a SYN leaves.
fn leaves(tables: &mut ModelTables, from: End, to: End) -> Result<(Verdict, Vec<u8>), DropReason> {
    let config = Config { node_v4: HOST, ports_first: 61_000, ports_count: COUNT, ..world::config() };
    let config = Config { features: config.features | features::MASQUERADE, ..config };
    let bytes = Frame::tcp(from, to, SYN).bytes();
    let input = Input { bytes, ingress_ifindex: UPLINK, mark: 0, tunnel: None, tagged: false, gso_size: 0 };
    let mut packet = ModelPacket::new(&input, usize::MAX, None);
    let verdict = diolkos_datapath::to_netdev(&config, &mut packet, tables)?;
    assert_eq!(packet.bytes[26..30], HOST);
    Ok((verdict, packet.bytes[34..36].to_vec()))
}

#[test]
fn what_the_node_sends_to_a_service_never_has_the_port_of_a_pod_that_talks_to_the_same_server() {
    let world = World::serving(&[FAR])
        .with_backend(FAR, |backend| (backend.address, backend.port) = (v4_mapped(SERVER.0), SERVER.1.to_be_bytes()));
    let mut tables = ModelTables::new(&world, None, false);
    let (mut of_pods, mut of_node) = (Vec::new(), Vec::new());
    for port in 1000..1200 {
        if let Ok((verdict, source)) = leaves(&mut tables, (CLIENT, port), SERVER) {
            assert_eq!(verdict, Verdict::Masqueraded);
            of_pods.push(source);
        }
        if let Ok((verdict, source)) = leaves(&mut tables, (HOST, port), VIP) {
            assert_eq!(verdict, Verdict::Neighbour);
            of_node.push(source);
        }
    }
    assert!(!of_pods.is_empty() && !of_node.is_empty(), "{of_pods:?} {of_node:?}");
    let mut all = [of_pods, of_node].concat();
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "a port has two owners: {all:?}");
}

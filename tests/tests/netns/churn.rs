//! Connections while everything changes: none fails.

use diolkos_abi::counter::{Hook, Verdict};
use diolkos_abi::pod::netns_flags;

use crate::fixture::{Agent, Client, Pod, SERVERS};
use crate::world::on_a_node;

const CHANGES: u32 = 1000;
/// The agent is started anew after this many changes.
const RESTART: u32 = 100;

#[test]
fn no_connection_fails_during_a_thousand_endpoint_changes_and_ten_restarts() {
    on_a_node(|world| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let mut agent = Agent::start(world, 0b1111);
        let pods: Vec<Pod> = (0..SERVERS + 2).map(Pod::new).collect();
        for pod in &pods {
            agent.attach(pod);
        }
        for pod in &pods[..usize::from(SERVERS)] {
            pod.serve();
        }
        let clients = &pods[usize::from(SERVERS)..];
        agent.know(&clients[0], 0);
        agent.know(&clients[1], netns_flags::OPT_OUT);
        let (sockets, packets) = (Client::start(&clients[0], true), Client::start(&clients[1], true));
        let mut random = Random(0x5eed);
        for change in 1..=CHANGES {
            // Any subset but the empty one.
            let serving = (random.next() % 15 + 1) as u8;
            if change.is_multiple_of(RESTART) {
                drop(agent);
                agent = Agent::start(world, serving);
            } else {
                agent.change(serving);
            }
            for client in [&sockets, &packets] {
                client.wait_for_one_more();
            }
        }
        let translated = |hook| agent.counter(hook, Verdict::Translated);
        assert!(translated(Hook::Connect) > 0, "the socket hook translated nothing");
        assert!(agent.counter(Hook::FromContainer, Verdict::Pod) > 0, "the packet path handed nothing over");
        for (path, client) in [("socket", sockets), ("packet", packets)] {
            let (connections, failed) = client.stop();
            println!("{path} path: {connections} connections, {} failed", failed.len());
            assert!(failed.is_empty(), "{path} path: {} of {connections} failed: {:?}", failed.len(), failed.first());
        }
    });
}

/// xorshift: the same changes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

//! An endpoint that leaves its Service keeps the connections it has.

use diolkos_abi::pod::netns_flags;

use crate::fixture::{Agent, Pod, SERVERS, Talk};
use crate::world::on_a_node;

#[test]
fn a_connection_lives_on_when_its_endpoint_leaves_the_service_and_new_ones_go_elsewhere() {
    on_a_node(|world| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let mut agent = Agent::start(world, 0b01);
        let servers: Vec<Pod> = (0..2).map(Pod::new).collect();
        let clients: Vec<Pod> = (SERVERS..SERVERS + 2).map(Pod::new).collect();
        for pod in servers.iter().chain(&clients) {
            agent.attach(pod);
        }
        servers.iter().for_each(Pod::answer);
        agent.know(&clients[0], 0);
        agent.know(&clients[1], netns_flags::OPT_OUT);
        let mut old: Vec<(&str, Talk)> =
            ["socket path", "packet path"].into_iter().zip(clients.iter().map(Talk::start)).collect();
        for (path, talk) in &mut old {
            assert_eq!(talk.say().unwrap(), 0, "{path}");
        }
        agent.change(0b10);
        for (client, (path, talk)) in clients.iter().zip(&mut old) {
            assert_eq!(talk.say().unwrap(), 0, "{path}: the old connection");
            assert_eq!(Talk::start(client).say().unwrap(), 1, "{path}: a new connection");
        }
        // An agent that starts over the maps knows no more of the pod than that its backend is alive.
        drop(agent);
        let _agent = Agent::start(world, 0b10);
        for (path, talk) in &mut old {
            assert_eq!(talk.say().unwrap(), 0, "{path}: after a restart");
        }
    });
}

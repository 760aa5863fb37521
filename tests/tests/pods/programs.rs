//! Pods with the real programs: attached, carrying packets, kept over a restart.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::Kernel;
use diolkos_agent::overlay::Overlay;

use crate::hosts::{Machine, constants};
use crate::world::{Node, Sandbox, address, on_a_node, overlay_config, request};

#[test]
fn pods_talk_through_the_programs_and_a_restart_does_not_interrupt_them() {
    on_a_node(async || {
        let machine = Machine::new();
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        let options = machine.options(constants(&overlay_config(), &overlay));
        let mut node = Node::new().await;
        node.restart(Shared::new(Kernel::open(&options).unwrap()));
        node.dataplane.lock().put_in_place().unwrap();

        let (server, client) = (Sandbox::new(), Sandbox::new());
        let at = SocketAddr::from((address(&node.add("server", &server).await.unwrap()), 7000));
        node.add("client", &client).await.unwrap();
        for (id, sandbox) in [("server", &server), ("client", &client)] {
            node.call(request("CHECK", id, &sandbox.path)).await.unwrap();
        }
        let listener = server.inside(move || TcpListener::bind(at).unwrap());
        let connect = move || TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap();
        let from_pod = Conversation { asks: client.inside(connect), answers: listener.accept().unwrap().0 };
        let from_node = Conversation { asks: connect(), answers: listener.accept().unwrap().0 };
        from_pod.exchange();
        from_node.exchange();

        let before = node.dataplane.lock().endpoints().unwrap();
        node.restart(Shared::new(Kernel::open(&options).unwrap()));
        from_pod.exchange();
        let repaired = node.pods.repair().await.unwrap();
        assert_eq!((repaired.kept, repaired.orphans, repaired.failures.len()), (2, 0, 0), "{repaired:?}");
        assert_eq!(node.dataplane.lock().endpoints().unwrap(), before);
        from_pod.exchange();
        from_node.exchange();
        node.call(request("CHECK", "client", &client.path)).await.unwrap();

        for id in ["server", "client"] {
            node.call(request("DEL", id, "")).await.unwrap();
        }
        node.assert_empty();
    });
}

/// Two ends of a TCP connection.
struct Conversation {
    asks: TcpStream,
    answers: TcpStream,
}

impl Conversation {
    fn exchange(&self) {
        for (mut from, mut to) in [(&self.asks, &self.answers), (&self.answers, &self.asks)] {
            to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            from.write_all(b"x").unwrap();
            to.read_exact(&mut [0]).unwrap();
        }
    }
}

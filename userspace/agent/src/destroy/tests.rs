#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Network namespaces full of sockets, and what the maps say of them.
#[derive(Default)]
struct Model {
    alive: BTreeSet<u64>,
    /// By namespace: cookie of the socket and its backend; 0 for a direct connection.
    tcp: BTreeMap<u64, Vec<(u64, u64)>>,
    /// By namespace: cookies of connected sockets.
    udp: BTreeMap<u64, Vec<u64>>,
    entries: BTreeMap<u64, ConnectedUdp>,
    /// Namespaces that cannot be entered.
    broken: BTreeSet<u64>,
    cannot_close: bool,
}

impl Model {
    /// Two namespaces; in each a client of backend 1, one of backend 2, and one that dialled a pod itself.
    fn new() -> Self {
        let mut model = Self { alive: [1, 2].into(), ..Self::default() };
        for netns in [100, 200] {
            model.tcp.insert(netns, vec![(netns + 1, 1), (netns + 2, 2), (netns + 3, 0)]);
            model.udp.insert(netns, vec![netns + 11, netns + 12, netns + 13]);
            model.entries.insert(netns + 11, ConnectedUdp::new(netns + 11, 1, netns));
            model.entries.insert(netns + 12, ConnectedUdp::new(netns + 12, 2, netns));
        }
        model
    }

    fn left(&self) -> Vec<u64> {
        let tcp = self.tcp.values().flatten().map(|(cookie, _)| *cookie);
        let mut left: Vec<u64> = tcp.chain(self.udp.values().flatten().copied()).collect();
        left.sort_unstable();
        left
    }

    fn enter(&self, space: &Space) -> Result<u64, Error> {
        let cookie = space.cookie.unwrap();
        if self.broken.contains(&cookie) {
            let source = io::Error::other("broken");
            return Err(Error::Space { path: space.path.clone(), operation: "enter", source });
        }
        Ok(cookie)
    }
}

impl Sockets for Model {
    fn spaces(&mut self) -> Vec<Space> {
        self.tcp.keys().map(|cookie| Space { path: None, cookie: Some(*cookie) }).collect()
    }

    fn lives(&mut self, backend: u64) -> Result<bool, Error> {
        Ok(self.alive.contains(&backend))
    }

    fn tcp(&mut self, space: &Space) -> Result<Vec<Translated>, Error> {
        let sockets = self.tcp[&self.enter(space)?].iter().filter(|(_, backend)| *backend != 0);
        Ok(sockets
            .map(|(cookie, backend)| Translated { socket: diag::Socket::of_model(*cookie), backend: *backend })
            .collect())
    }

    fn udp(&mut self, space: &Space) -> Result<Vec<diag::Socket>, Error> {
        Ok(self.udp[&self.enter(space)?].iter().map(|cookie| diag::Socket::of_model(*cookie)).collect())
    }

    fn connected_udp(&mut self) -> Result<Vec<(u64, ConnectedUdp)>, Error> {
        Ok(self.entries.iter().map(|(cookie, udp)| (*cookie, *udp)).collect())
    }

    fn forget_udp(&mut self, cookie: u64) -> Result<(), Error> {
        self.entries.remove(&cookie);
        Ok(())
    }

    fn close(&mut self, space: &Space, socket: &diag::Socket) -> Result<(), Error> {
        if self.cannot_close {
            return Err(Error::Unsupported);
        }
        let netns = self.enter(space)?;
        self.tcp.get_mut(&netns).unwrap().retain(|(cookie, _)| *cookie != socket.cookie);
        self.udp.get_mut(&netns).unwrap().retain(|cookie| *cookie != socket.cookie);
        Ok(())
    }
}

#[test]
fn nothing_is_closed_while_all_backends_live() {
    let mut model = Model::new();
    let before = model.left();
    let (closed, errors) = close_dead(&mut model);
    assert_eq!((closed, errors.len()), (Closed::default(), 0));
    assert_eq!(model.left(), before);
}

#[test]
fn the_clients_of_a_dead_backend_are_closed_in_every_namespace_and_no_others() {
    let mut model = Model::new();
    model.alive.remove(&1);
    let (closed, errors) = close_dead(&mut model);
    assert_eq!((closed, errors.len()), (Closed { tcp: 2, udp: 2, ..Closed::default() }, 0));
    assert_eq!(model.left(), [102, 103, 112, 113, 202, 203, 212, 213]);
    assert_eq!(model.entries.keys().copied().collect::<Vec<_>>(), [112, 212]);
    assert_eq!(close_dead(&mut model).0, Closed::default(), "there is nothing left to close");
}

#[test]
fn a_namespace_that_cannot_be_entered_does_not_keep_others_from_being_looked_into() {
    let mut model = Model::new();
    model.alive.remove(&1);
    model.broken.insert(100);
    let (closed, errors) = close_dead(&mut model);
    assert_eq!((closed, errors.len()), (Closed { tcp: 1, udp: 1, failed: 1, unsupported: 0 }, 1));
    assert_eq!(model.left(), [101, 102, 103, 111, 112, 113, 202, 203, 212, 213]);
    model.broken.clear();
    assert_eq!(close_dead(&mut model).0, Closed { tcp: 1, udp: 1, ..Closed::default() });
}

#[test]
fn a_udp_entry_whose_socket_is_gone_is_forgotten() {
    let mut model = Model::new();
    model.alive.remove(&2);
    model.udp.insert(100, Vec::new());
    close_dead(&mut model);
    assert_eq!(model.entries.keys().copied().collect::<Vec<_>>(), [111, 211]);
}

#[test]
fn a_kernel_that_cannot_close_is_counted_and_no_error() {
    let mut model = Model::new();
    model.alive.remove(&1);
    model.cannot_close = true;
    let before = model.left();
    let (closed, errors) = close_dead(&mut model);
    assert_eq!((closed, errors.len()), (Closed { unsupported: 2, ..Closed::default() }, 0));
    assert_eq!(model.left(), before);
}

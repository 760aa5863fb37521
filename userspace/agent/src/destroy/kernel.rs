//! The sockets of this machine.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError};
use diolkos_abi::conntrack::{ConnectedUdp, SocketFlow, backend_parts, udp_index};
use diolkos_abi::service::{Backend, backend_state};

use super::diag::{Diag, Socket};
use super::{Error, Sockets, Space, Translated};
use crate::dataplane::kernel::elements;
use crate::dataplane::map;

/// Where the backend's word stands in the value of the socket storage.
const BACKEND: usize = std::mem::offset_of!(SocketFlow, backend);

/// The sockets of some network namespaces.
pub struct KernelSockets<F> {
    /// The socket storage.
    socket: MapData,
    backend: Array<MapData, Backend>,
    udp: Array<MapData, ConnectedUdp>,
    /// The same map.
    udp_fd: OwnedFd,
    spaces: F,
    /// One for each namespace of the present look.
    open: HashMap<Space, Diag>,
}

impl<F: FnMut() -> Vec<Space> + Send> KernelSockets<F> {
    /// Over the maps pinned in a directory; `spaces` tells the namespaces at each look.
    pub fn open(maps: &Path, spaces: F) -> Result<Self, Error> {
        let pinned = |map: &'static str| {
            MapData::from_pin(maps.join(map)).map_err(|error| Error::Map { map, reason: error.to_string() })
        };
        Self::new(pinned(map::SOCKET)?, pinned(map::BACKEND)?, pinned(map::UDP)?, spaces)
    }

    /// Over the maps of a dataplane.
    pub fn new(socket: MapData, backend: MapData, udp: MapData, spaces: F) -> Result<Self, Error> {
        let wrong = |map: &'static str| move |error: MapError| Error::Map { map, reason: error.to_string() };
        let backend = Array::try_from(Map::Array(backend)).map_err(wrong(map::BACKEND))?;
        let udp_fd = udp.fd().as_fd().try_clone_to_owned();
        let udp_fd = udp_fd.map_err(|error| Error::Map { map: map::UDP, reason: error.to_string() })?;
        let udp = Array::try_from(Map::Array(udp)).map_err(wrong(map::UDP))?;
        Ok(Self { socket, backend, udp, udp_fd, spaces, open: HashMap::new() })
    }

    /// Does something with the netlink socket of a namespace.
    fn with<T>(
        &mut self,
        space: &Space,
        operation: &'static str,
        work: impl FnOnce(&Diag, BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<Option<T>, Error> {
        let failed = |source: io::Error| Error::Space { path: space.path.clone(), operation, source };
        if !self.open.contains_key(space) {
            match Diag::open(space.path.as_deref()) {
                Ok(diag) => drop(self.open.insert(space.clone(), diag)),
                // The pod is gone, and its sockets with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
        let Some(diag) = self.open.get(space) else { return Ok(None) };
        match work(diag, self.socket.fd().as_fd()) {
            Ok(found) => Ok(Some(found)),
            // No handler of the protocol, or one that cannot destroy.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
                Err(Error::Unsupported)
            }
            Err(error) => {
                // What is left of its answer would be taken for the next one's.
                self.open.remove(space);
                Err(failed(error))
            }
        }
    }
}

impl<F: FnMut() -> Vec<Space> + Send> Sockets for KernelSockets<F> {
    fn spaces(&mut self) -> Vec<Space> {
        self.open.clear();
        (self.spaces)()
    }

    fn lives(&mut self, backend: u64) -> Result<bool, Error> {
        let (id, generation) = backend_parts(backend);
        let found = self.backend.get(&id, 0);
        let found = found.map_err(|error| Error::Map { map: map::BACKEND, reason: error.to_string() })?;
        Ok(found.state == backend_state::ALIVE && found.generation == generation)
    }

    fn tcp(&mut self, space: &Space) -> Result<Vec<Translated>, Error> {
        let found = self.with(space, "list the TCP sockets", |diag, map| diag.tcp_with_storage(map))?;
        let translated = |(socket, value): (Socket, Vec<u8>)| {
            let word = value.get(BACKEND..)?.as_chunks::<8>().0.first()?;
            Some(Translated { socket, backend: u64::from_ne_bytes(*word) })
        };
        Ok(found.unwrap_or_default().into_iter().filter_map(translated).collect())
    }

    fn udp(&mut self, space: &Space) -> Result<Vec<Socket>, Error> {
        Ok(self.with(space, "list the UDP sockets", |diag, _| diag.connected_udp())?.unwrap_or_default())
    }

    fn connected_udp(&mut self) -> Result<Vec<(u64, ConnectedUdp)>, Error> {
        let mut found = Vec::new();
        let each = |_: u32, udp: ConnectedUdp| {
            if udp.is_whole() {
                found.push((udp.cookie, udp));
            }
        };
        let read = elements(self.udp_fd.as_fd(), each);
        read.map_err(|error| Error::Map { map: map::UDP, reason: error.to_string() })?;
        Ok(found)
    }

    fn forget_udp(&mut self, cookie: u64) -> Result<(), Error> {
        let wrong = |error: MapError| Error::Map { map: map::UDP, reason: error.to_string() };
        let place = udp_index(cookie);
        // Another socket may have taken the place. One that does so right now is not known afterwards: a connect() to a
        // backend within a few hundred ns, of one in all these places.
        if self.udp.get(&place, 0).map_err(wrong)?.cookie == cookie {
            self.udp.set(place, ConnectedUdp::default(), 0).map_err(wrong)?;
        }
        Ok(())
    }

    fn close(&mut self, space: &Space, socket: &Socket) -> Result<(), Error> {
        self.with(space, "close a socket", |diag, _| diag.destroy(socket)).map(drop)
    }
}

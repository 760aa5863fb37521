//! Telling the service manager that the start is over (sd_notify(3)).

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Does nothing where no service manager asked to be told.
pub(crate) fn tell() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(cause) = send(&name.to_string_lossy()) {
        tracing::warn!(%cause, "cannot tell the service manager that the start is over");
    }
}

fn send(name: &str) -> std::io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(hidden) => SocketAddr::from_abstract_name(hidden)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_service_manager_is_told_at_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap()).unwrap();
        let mut told = [0; 16];
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"READY=1");
        assert!(send(dir.path().join("nobody").to_str().unwrap()).is_err());
    }
}

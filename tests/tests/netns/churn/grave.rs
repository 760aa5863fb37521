//! What still arrives at the address of a pod that is gone.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diolkos_tests::eventually::eventually;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::pod::Pod;

/// How long after a pod is gone a packet may still reach its address.
pub(super) const LIMIT: Duration = Duration::from_secs(1);
/// How long a grave is watched, at least.
pub(super) const WATCH: Duration = Duration::from_secs(2);
/// Where packets are sent that show that the grave sees packets.
const PROOF: u16 = 9;

/// Watches a pod's device from when it is gone.
pub(super) struct Grave {
    since: Instant,
    stop: Arc<AtomicBool>,
    proofs: Arc<AtomicU64>,
    watcher: JoinHandle<Seen>,
}

/// TCP and UDP packets that came.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) packets: u64,
    /// Those after [`LIMIT`].
    pub(super) late: Vec<String>,
    /// When the last one came, after the pod was gone.
    pub(super) latest: Duration,
}

impl Grave {
    /// The pod is gone now, as far as the agent is about to be told.
    pub(super) fn dig(pod: &Pod) -> Self {
        let open = || socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
        let socket = UdpSocket::from(pod.namespace.inside(open).expect("a packet socket"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stop, proofs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, proven, addresses) = (stop.clone(), proofs.clone(), pod.addresses);
        let since = Instant::now();
        let watcher = std::thread::spawn(move || watch(&socket, &addresses, since, &proven, &stopped));
        Self { since, stop, proofs, watcher }
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// What came. Before that, packets of both families show that what comes is seen.
    pub(super) fn close(self, pod: &Pod, passer_by: &Pod) -> Seen {
        passer_by.namespace.inside(|| {
            for address in pod.addresses {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any).unwrap().send_to(b"seen?", (address, PROOF)).unwrap();
            }
        });
        let look = || match self.proofs.load(Ordering::Relaxed) {
            2.. => Ok(()),
            seen => anyhow::bail!("{seen} of 2"),
        };
        eventually("a grave sees the packets that are sent to it", Duration::from_secs(10), look).unwrap();
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Arrivals are stamped when they are read: never earlier than they came.
fn watch(socket: &UdpSocket, addresses: &[IpAddr; 2], since: Instant, proofs: &AtomicU64, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut packet = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut packet) else { continue };
        let after = since.elapsed();
        let Some((protocol, port)) = arrived(&packet[..length], addresses) else { continue };
        if port == PROOF {
            proofs.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        seen.packets += 1;
        seen.latest = after;
        if after > LIMIT {
            let ends = &packet[..length.min(60)];
            seen.late.push(format!("protocol {protocol} to port {port} after {after:.3?}: {ends:02x?}"));
        }
    }
    seen
}

/// Protocol and port of a TCP or UDP packet to one of the addresses.
fn arrived(packet: &[u8], addresses: &[IpAddr; 2]) -> Option<(u8, u16)> {
    let (protocol, to, header): (u8, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (packet[9], to.into(), usize::from(packet[0] & 15) * 4)
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (packet[6], to.into(), 40)
        }
        _ => return None,
    };
    let port = packet.get(header + 2..header + 4)?;
    let is_ours = addresses.contains(&to) && matches!(protocol, 6 | 17);
    is_ours.then_some((protocol, u16::from_be_bytes([port[0], port[1]])))
}

//! Packets in fragments: only the first one carries ports.

use diolkos_abi::address::{from_words, protocol};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Fragment, FragmentKey};
use diolkos_abi::counter::DropReason;

use crate::family::{is_service, narrowed};
use crate::headers::{Part, Transport};
use crate::lookup;
use crate::tables::{Scratch, Tables};

/// Remembers the ports of a first fragment, and gives them to a later one. A later fragment of unknown ports is refused
/// when it is for a service, and otherwise goes to whom it is addressed.
///
/// A BPF subprogram: few packets come in fragments.
#[inline(never)]
pub(crate) fn resolve<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let ip = &mut scratch.ip;
    if ip.protocol != protocol::TCP && ip.protocol != protocol::UDP {
        return Ok(());
    }
    let key = FragmentKey {
        source: from_words(narrowed::<V6>(&ip.source)),
        destination: from_words(narrowed::<V6>(&ip.destination)),
        identification: ip.fragment.identification,
        protocol: ip.protocol,
        pad: 0,
        zone: 0,
    };
    if ip.fragment.kind == Part::First {
        tables.remember_fragment(&key, &Fragment { tag: key.tag(), ports: ip.transport.ports });
        return Ok(());
    }
    match lookup::fragment(tables, &key) {
        Some(fragment) => {
            ip.transport = Transport::remembered(fragment.ports);
            scratch.ends.ports = fragment.ports;
            Ok(())
        }
        None if is_service::<V6>(config, &narrowed::<V6>(&ip.destination)) => Err(DropReason::FragmentUnknown),
        None => Ok(()),
    }
}

//! Connections of the node itself to a service, on the packet path.

use diolkos_abi::address::{address_words, from_words};
use diolkos_abi::config::Config;
use diolkos_abi::counter::DropReason;
use diolkos_abi::service::slot_of;

use crate::balance::{self, Candidates, Choice};
use crate::connection;
use crate::deliver::Way;
use crate::family::{self, equal, is_own};
use crate::lookup;
use crate::masquerade;
use crate::tables::{Scratch, Tables};

/// How often it is tried to find a backend and a source port that no other connection has.
const TRIES: u32 = 4;

/// [`connection::open`] for a client that is the node, whose replies must find their way back to a hook: a pod sees the
/// node's address in the pod network as its client, which its replies reach the way they came; a backend outside, and a
/// pod where the node has no such address, sees a port that only translated sources have; the node's own backend sees the
/// service's address.
#[inline(never)]
pub(crate) fn open<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let (hash, service) = (connection::hash(&scratch.tuple), scratch.service);
    let kept = connection::kept(tables, scratch);
    let kept = balance::current(tables, kept);
    let candidates = Candidates::of(tables, service, hash)?;
    let mut refusal = DropReason::NoEndpoints;
    let mut tries = 0;
    while tries < TRIES {
        let (choice, again) = match kept {
            Some(choice) => (Some(choice), tries > 0),
            None => candidates.at(tables, tries)?,
        };
        let dice = hash.rotate_left(tries * 8);
        tries += 1;
        let Some(choice) = choice else { continue };
        match record::<V6, T>(config, tables, scratch, &choice, again, dice) {
            Err(DropReason::FlowCollision) => refusal = DropReason::PortsExhausted,
            Ok(()) => {
                connection::keep(tables, scratch);
                return Ok(());
            }
            Err(reason) => return Err(reason),
        }
    }
    Err(refusal)
}

/// Records a connection of the node to a backend; `again` when its own port was tried before.
#[inline(never)]
fn record<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
    choice: &Choice,
    again: bool,
    dice: u32,
) -> Result<(), DropReason> {
    let own = equal(&choice.address, &address_words(&scratch.tuple.source));
    // Without an overlay the node has no address in the pod network.
    let pod = !own && is_own::<V6>(config, &family::gateway::<V6>(config)) && is_pod::<V6, T>(config, tables, choice);
    let mut port = scratch.tuple.source_port;
    if again || !(own || pod) {
        let (first, count) = masquerade::ports_of_node(config);
        if count == 0 {
            return Err(DropReason::PortsExhausted);
        }
        port = (slot_of(dice, first, count) as u16).to_be_bytes();
    }
    connection::prepare(scratch, scratch.service, choice, port);
    if pod {
        scratch.key.destination = from_words(family::gateway::<V6>(config));
        connection::changed(scratch);
    }
    scratch.way = Way(choice.node);
    connection::record(config, tables, scratch)
}

/// The backend is on the pod network, of this node or of another.
#[inline(always)]
fn is_pod<const V6: bool, T: Tables>(config: &Config, tables: &mut T, choice: &Choice) -> bool {
    is_own::<V6>(config, &choice.address) || lookup::route::<V6, T>(config, tables, &choice.address) != 0
}

//! Session affinity: a client of a service keeps its backend from one connection to the next.
//!
//! An entry proves nothing by itself. It counts while it is fresh, its backend lives with the generation it had, and
//! the backend is still behind the service: a backend id serves several services, so that it lives says too little.

use diolkos_abi::address::Address;
use diolkos_abi::conntrack::backend_parts;
use diolkos_abi::service::{Affinity, AffinityKey, MemberKey};

use crate::balance::{self, Choice};
use crate::lookup;
use crate::tables::Tables;

/// The backend that `client` used last, if it shall use it again. `lifetime` is [`Tables::affinity_lifetime`], not 0.
#[inline(always)]
pub(crate) fn preferred<T: Tables>(tables: &mut T, service: u32, lifetime: u32, client: &Address) -> Option<Choice> {
    let entry = lookup::affinity(tables, &AffinityKey { client: *client, service })?;
    // The clock is read after the entry, or one stamped meanwhile by another core would lie in the future.
    if tables.now().wrapping_sub(entry.seen) > lifetime {
        return None;
    }
    let (backend, generation) = backend_parts(entry.backend);
    if lookup::member(tables, &MemberKey { service, backend })? != generation {
        return None;
    }
    balance::current(tables, entry.backend)
}

/// Remembers that `client` opened a connection to this backend of `service`, a [`diolkos_abi::conntrack::backend_word`].
/// When there is no room, the client's next connection chooses again.
#[inline(always)]
pub(crate) fn remember<T: Tables>(tables: &mut T, service: u32, client: &Address, backend: u64) {
    let key = AffinityKey { client: *client, service };
    let seen = tables.now();
    tables.remember_affinity(&key, &Affinity { backend, tag: key.tag(), seen });
}

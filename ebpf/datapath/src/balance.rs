//! The choice of a backend.

use diolkos_abi::address::address_words;
use diolkos_abi::conntrack::backend_parts;
use diolkos_abi::counter::DropReason;
use diolkos_abi::service::{Backend, SLOTS_PER_SERVICE, backend_state, row_parts, slot_of};

use crate::family::Words;
use crate::tables::Tables;

/// How many slots of a row are tried before a connection is refused: each costs a few lookups, and a backend that is
/// no longer alive leaves its row within moments.
pub const CANDIDATES: u64 = 4;

/// The slots to try for one new connection.
#[derive(Clone, Copy)]
pub(crate) struct Candidates {
    base: u32,
    count: u32,
    first: u32,
    /// Of 64 bits: the verifier of Linux 5.10 forgets what it knows of smaller numbers on the stack.
    tried: u64,
}

/// A backend that takes new connections.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) address: Words,
    pub(crate) port: [u8; 2],
    /// See [`Backend::node`].
    pub(crate) node: u32,
}

impl Candidates {
    /// The row of a service, starting at the slot that `hash` chooses.
    #[inline(always)]
    pub(crate) fn of<T: Tables>(tables: &mut T, service: u32, hash: u32) -> Result<Self, DropReason> {
        let (base, count) = row_parts(tables.row(service).ok_or(DropReason::BadBackend)?);
        if count == 0 {
            return Err(DropReason::NoEndpoints);
        }
        if count > SLOTS_PER_SERVICE {
            return Err(DropReason::BadBackend);
        }
        Ok(Self { base, count, first: slot_of(hash, 0, count), tried: 0 })
    }

    /// The backend at the `n`th slot from the first on, if it is alive, and whether that slot was met before.
    #[inline(always)]
    pub(crate) fn at<T: Tables>(&self, tables: &mut T, n: u32) -> Result<(Option<Choice>, bool), DropReason> {
        // Of a row shorter than the tries every slot is met again; a slot far on would be out of the row.
        let again = n >= self.count;
        let mut offset = self.first + if again { 0 } else { n };
        if offset >= self.count {
            offset -= self.count;
        }
        let id = tables.slot(self.base.wrapping_add(offset)).ok_or(DropReason::BadBackend)?;
        let backend = tables.backend(id).ok_or(DropReason::BadBackend)?;
        let alive = backend.state == backend_state::ALIVE;
        Ok((alive.then(|| Choice::new(id, &backend)), again))
    }

    /// The next backend that is alive; `None` when every candidate was tried.
    #[inline(always)]
    pub(crate) fn next<T: Tables>(&mut self, tables: &mut T) -> Result<Option<Choice>, DropReason> {
        // Written out: of a loop the compiler makes a count down from a number that is not known when the program is
        // loaded, and the verifiers of Linux 5.10 and 6.1 take that for endless.
        const { assert!(CANDIDATES == 4) };
        if let Some(choice) = self.attempt(tables)? {
            return Ok(Some(choice));
        }
        if let Some(choice) = self.attempt(tables)? {
            return Ok(Some(choice));
        }
        if let Some(choice) = self.attempt(tables)? {
            return Ok(Some(choice));
        }
        self.attempt(tables)
    }

    /// The next slot's backend, if there is one and it is alive.
    #[inline(always)]
    fn attempt<T: Tables>(&mut self, tables: &mut T) -> Result<Option<Choice>, DropReason> {
        if self.tried >= CANDIDATES || self.tried >= self.count.into() {
            return Ok(None);
        }
        let mut offset = self.first + self.tried as u32;
        if offset >= self.count {
            offset -= self.count;
        }
        self.tried += 1;
        let id = tables.slot(self.base.wrapping_add(offset)).ok_or(DropReason::BadBackend)?;
        let backend = tables.backend(id).ok_or(DropReason::BadBackend)?;
        Ok((backend.state == backend_state::ALIVE).then(|| Choice::new(id, &backend)))
    }
}

/// The backend an established connection uses, if it is still the one it was.
#[inline(always)]
pub(crate) fn current<T: Tables>(tables: &mut T, word: u64) -> Option<Choice> {
    let (id, generation) = backend_parts(word);
    let backend = tables.backend(id)?;
    (backend.generation == generation && backend.state == backend_state::ALIVE).then(|| Choice::new(id, &backend))
}

impl Choice {
    #[inline(always)]
    fn new(id: u32, backend: &Backend) -> Self {
        Self {
            id,
            generation: backend.generation,
            address: address_words(&backend.address),
            port: backend.port,
            node: backend.node,
        }
    }
}

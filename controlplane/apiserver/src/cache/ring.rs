//! The recent events of one resource, for watches that resume.

use std::collections::VecDeque;
use std::sync::Arc;

use diolkos_store::Revision;

use super::watch::Event;

/// What an event takes beside its object's bytes, about.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Bounded by count and by bytes.
pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// All events after this revision are here.
    start: Revision,
    max_events: usize,
    max_bytes: usize,
}

impl Ring {
    pub(super) fn new(start: Revision, max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, start, max_events, max_bytes }
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += size(&event);
        self.events.push_back(event);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.start = oldest.revision;
        }
    }

    pub(super) fn start(&self) -> Revision {
        self.start
    }

    /// The events after a revision, which must not be before the start.
    pub(super) fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let first = self.events.partition_point(|event| event.revision <= revision);
        self.events.range(first..)
    }
}

fn size(event: &Event) -> usize {
    event.object.bytes.len() + EVENT_OVERHEAD_BYTES
}

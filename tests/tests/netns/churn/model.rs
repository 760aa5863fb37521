//! What the EndpointSlices say, when it changed, and so what a client may meet. Time is given to it.

use std::time::Instant;

pub(super) const SERVICES: usize = 100;
pub(super) const PODS: usize = 16;
/// Ports of the pods. Each is shared by five services, so that some backends are named by several and some by one.
pub(super) const PORTS: usize = 20;
/// The first services may be without endpoints; the others always have one that is ready.
pub(super) const MAY_BE_EMPTY: usize = 10;

/// What a service's slices say of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Member {
    #[default]
    Absent,
    Ready,
    /// In the slices, not in the row: a failing readiness probe.
    NotReady,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    #[default]
    Serving,
    Terminating,
    Gone,
}

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Member {
        service: usize,
        pod: usize,
        now: Member,
    },
    /// All endpoints of a service leave its row: these stay in the slices.
    Empty {
        service: usize,
        not_ready: Vec<usize>,
    },
    /// Services that have no other ready pod get one.
    Terminate {
        pod: usize,
        replacements: Vec<(usize, usize)>,
    },
    /// A terminating pod is gone.
    Bury {
        pod: usize,
    },
    /// Another pod gets the address.
    Return {
        pod: usize,
        services: Vec<usize>,
    },
}

/// When something last ended.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    #[default]
    Never,
    /// The agent may or may not know yet.
    UnderWay,
    At(Instant),
}

#[derive(Clone, Debug, Default)]
struct Service {
    members: [Member; PODS],
    /// When each pod left the row.
    left: [End; PODS],
    /// When it got endpoints after it had none.
    filled: End,
}

#[derive(Clone, Debug, Default)]
struct Pod {
    life: Life,
    /// How many pods had the address before.
    incarnation: u32,
    gone: End,
    /// When no slice named a port of it any more.
    unnamed: [End; PORTS],
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    services: Vec<Service>,
    pods: [Pod; PODS],
}

/// A pod as a slice names it: number, ready, serving, terminating.
pub(super) type Endpoint = (usize, bool, bool, bool);

impl End {
    fn is_since(self, then: Instant) -> bool {
        match self {
            Self::Never => false,
            Self::UnderWay => true,
            Self::At(end) => end >= then,
        }
    }

    fn settle(&mut self, now: Instant) {
        if matches!(self, Self::UnderWay) {
            *self = Self::At(now);
        }
    }
}

/// The port of a service's pods, by its place among [`PORTS`].
pub(super) fn port_of(service: usize) -> usize {
    service % PORTS
}

impl Model {
    /// Services of one pod to four.
    pub(super) fn new() -> Self {
        let service = |number: usize| {
            let members = std::array::from_fn(|pod| match (pod + PODS - number % PODS) % PODS {
                place if place <= number % 4 => Member::Ready,
                _ => Member::Absent,
            });
            Service { members, ..Service::default() }
        };
        Self { services: (0..SERVICES).map(service).collect(), pods: std::array::from_fn(|_| Pod::default()) }
    }

    pub(super) fn member(&self, service: usize, pod: usize) -> Member {
        self.services[service].members[pod]
    }

    pub(super) fn life(&self, pod: usize) -> Life {
        self.pods[pod].life
    }

    /// Whether new connections to a service may reach a pod.
    pub(super) fn is_in_row(&self, service: usize, pod: usize) -> bool {
        self.member(service, pod) == Member::Ready && self.life(pod) == Life::Serving
    }

    pub(super) fn row(&self, service: usize) -> impl Iterator<Item = usize> {
        (0..PODS).filter(move |pod| self.is_in_row(service, *pod))
    }

    fn is_named(&self, pod: usize, port: usize) -> bool {
        let of_port = (port..SERVICES).step_by(PORTS);
        self.life(pod) != Life::Gone && of_port.into_iter().any(|service| self.member(service, pod) != Member::Absent)
    }

    /// What the slices of a service say.
    pub(super) fn endpoints(&self, service: usize) -> Vec<Endpoint> {
        let named = (0..PODS).filter(|pod| self.member(service, *pod) != Member::Absent);
        let endpoint = |pod| {
            let (ready, life) = (self.member(service, pod) == Member::Ready, self.life(pod));
            (life != Life::Gone).then_some((pod, ready && life == Life::Serving, ready, life == Life::Terminating))
        };
        named.filter_map(endpoint).collect()
    }

    /// A change is about to reach the agent. The services whose slices say something else now.
    pub(super) fn begin(&mut self, change: &Change) -> Vec<usize> {
        let before = self.clone();
        self.apply(change);
        for pod in 0..PODS {
            if before.life(pod) != Life::Gone && self.life(pod) == Life::Gone {
                self.pods[pod].gone = End::UnderWay;
            }
            for port in (0..PORTS).filter(|port| before.is_named(pod, *port)) {
                if !self.is_named(pod, port) {
                    self.pods[pod].unnamed[port] = End::UnderWay;
                }
            }
        }
        for service in 0..SERVICES {
            for pod in before.row(service) {
                if !self.is_in_row(service, pod) {
                    self.services[service].left[pod] = End::UnderWay;
                }
            }
            if before.is_empty(service) && !self.is_empty(service) {
                self.services[service].filled = End::UnderWay;
            }
        }
        (0..SERVICES).filter(|service| before.endpoints(*service) != self.endpoints(*service)).collect()
    }

    /// The agent has done what it can about the change.
    pub(super) fn end(&mut self, now: Instant) {
        for service in &mut self.services {
            service.left.iter_mut().for_each(|end| end.settle(now));
            service.filled.settle(now);
        }
        for pod in &mut self.pods {
            pod.gone.settle(now);
            pod.unnamed.iter_mut().for_each(|end| end.settle(now));
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Member { service, pod, now } => self.services[*service].members[*pod] = *now,
            Change::Empty { service, not_ready } => {
                let member = |pod| if not_ready.contains(&pod) { Member::NotReady } else { Member::Absent };
                self.services[*service].members = std::array::from_fn(member);
            }
            Change::Terminate { pod, replacements } => {
                self.pods[*pod].life = Life::Terminating;
                for (service, other) in replacements {
                    self.services[*service].members[*other] = Member::Ready;
                }
            }
            Change::Bury { pod } => {
                self.pods[*pod].life = Life::Gone;
                self.services.iter_mut().for_each(|service| service.members[*pod] = Member::Absent);
            }
            Change::Return { pod, services } => {
                self.pods[*pod].life = Life::Serving;
                self.pods[*pod].incarnation += 1;
                services.iter().for_each(|service| self.services[*service].members[*pod] = Member::Ready);
            }
        }
    }

    pub(super) fn is_empty(&self, service: usize) -> bool {
        self.row(service).next().is_none()
    }

    /// How many pods had the address of this one before.
    pub(super) fn incarnation(&self, pod: usize) -> u32 {
        self.pods[pod].incarnation
    }

    /// Whether a connection begun at `then` may have met no endpoint.
    pub(super) fn was_empty_since(&self, service: usize, then: Instant) -> bool {
        self.is_empty(service) || self.services[service].filled.is_since(then)
    }

    /// Whether a connection begun at `then` may have been given this pod.
    pub(super) fn served_since(&self, service: usize, pod: usize, then: Instant) -> bool {
        self.is_in_row(service, pod) || self.services[service].left[pod].is_since(then)
    }

    /// Whether datagrams of a flow that is not new may have gone to this pod at `then` or later.
    pub(super) fn named_since(&self, service: usize, pod: usize, then: Instant) -> bool {
        let port = port_of(service);
        self.is_named(pod, port) || self.pods[pod].unnamed[port].is_since(then)
    }

    /// Whether the pod that a TCP connection of then had may be gone.
    pub(super) fn gone_since(&self, pod: usize, then: Instant) -> bool {
        self.life(pod) == Life::Gone || self.pods[pod].gone.is_since(then)
    }

    /// Whether the backend that datagrams went to then may be dead.
    pub(super) fn unnamed_since(&self, service: usize, pod: usize, then: Instant) -> bool {
        let port = port_of(service);
        !self.is_named(pod, port) || self.pods[pod].unnamed[port].is_since(then)
    }

    /// Whether the backend that datagrams were sent to at `then` or later died since.
    pub(super) fn died_since(&self, service: usize, pod: usize, then: Instant) -> bool {
        self.pods[pod].unnamed[port_of(service)].is_since(then)
    }

    /// Whether a backend that was in the row at `then` or later died since.
    pub(super) fn lost_since(&self, service: usize, then: Instant) -> bool {
        let had = |pod: &usize| self.served_since(service, *pod, then);
        (0..PODS).filter(had).any(|pod| self.died_since(service, pod, then))
    }
}

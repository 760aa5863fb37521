//! Datagrams of sockets that name their destination with each.

use diolkos_abi::conntrack::SocketFlow;
use diolkos_abi::counter::DropReason;
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_abi::service::{RETIRED_ROW, backend_state};

use super::super::world::{FAR, LOCAL, World};
use super::{DIRECT, Maker, SocketScenario, Step, UNTOUCHED};

impl Maker {
    pub(super) fn datagrams(self) -> Vec<SocketScenario> {
        let [vip, _] = self.family.vips();
        let sent = |name, world, steps| SocketScenario {
            remembers: Some(self.flow(0, LOCAL)),
            ..self.scenario(name, world, steps)
        };
        let fails =
            |name, world, to, outcome| self.scenario(name, world, vec![Step::Send { to, outcome, reaches: None }]);
        let serving = || self.world(&[LOCAL], &[]);
        let mut opted_out = serving();
        opted_out.netns = Some(Netns { flags: netns_flags::OPT_OUT, ..Netns::default() });
        let again = || vec![self.sends(0, 0), self.answers(0, 0), self.sends(0, 0), self.answers(0, 0)];
        let direct = Step::Answer { from: DIRECT, seems: self.servers[DIRECT] };
        vec![
            sent("answers seem to come from the service", serving(), again()),
            sent("a socket keeps its backend", self.world(&[LOCAL; 2], &[]), again()),
            sent(
                "a socket talks to a service and to others",
                serving(),
                vec![self.sends(0, 0), self.sends_directly(), direct, self.answers(0, 0)],
            ),
            self.scenario("datagrams to others are left alone", serving(), vec![self.sends_directly()]),
            sent(
                "a backend that is asked itself answers so until the service is asked again",
                serving(),
                [self.asks_past(0), self.asks(0, 0), self.asks_past(0), self.asks_past(0), self.asks(0, 0)].concat(),
            ),
            SocketScenario {
                remembers: Some(SocketFlow { direct: 1, ..self.flow(0, LOCAL) }),
                ..self.scenario(
                    "another server that is asked itself changes nothing",
                    serving(),
                    [self.asks(0, 0), self.asks_past(DIRECT), self.asks_past(0), self.asks_past(DIRECT)].concat(),
                )
            },
            SocketScenario {
                remembers: Some(self.flow(0, FAR)),
                ..self.scenario("datagrams leave a backend that died", serving(), self.moves(0, [LOCAL, FAR]))
            },
            SocketScenario {
                remembers: Some(self.flow(0, LOCAL)),
                ..self.scenario(
                    "datagrams stay with a backend that left its row",
                    serving(),
                    vec![self.sends(0, 0), Step::Changes(self.world(&[FAR], &[]).into()), self.sends(0, 0)],
                )
            },
            SocketScenario {
                remembers: Some(self.flow(0, LOCAL)),
                ..self.scenario(
                    "datagrams leave a service that was deleted",
                    serving(),
                    vec![
                        self.sends(0, 0),
                        Step::Changes(self.deleted().into()),
                        Step::Send { to: vip, outcome: Err(DropReason::NoEndpoints), reaches: None },
                    ],
                )
            },
            fails("a datagram without endpoints is refused", self.world(&[], &[]), vip, Err(DropReason::NoEndpoints)),
            fails("a datagram to an unknown port may be an answer", serving(), (vip.0, 81), UNTOUCHED),
            SocketScenario {
                unknown: Some(Box::new(sent("datagrams of a pod that opted out unknown go on", serving(), again()))),
                ..fails("datagrams of a pod that opted out are left alone", opted_out, vip, UNTOUCHED)
            },
        ]
    }

    /// A socket's datagrams to a service go to one backend, which dies, and then to the other one.
    fn moves(self, dialled: usize, backends: [u32; 2]) -> Vec<Step> {
        let server = |backend| if backend == LOCAL { 0 } else { 1 };
        let row = |backend| match dialled {
            0 => self.world(&[backend], &[]),
            _ => self.world(&[FAR], &[backend]),
        };
        let [before, after] = backends;
        vec![
            self.sends(dialled, server(before)),
            Step::Changes(row(after).into()),
            self.sends(dialled, server(before)),
            Step::Changes(row(after).with_backend(before, |b| b.state = backend_state::DEAD).into()),
            self.sends(dialled, server(after)),
            self.answers(server(after), dialled),
        ]
    }

    /// The first service is no more, though its frontend still stands and its backends serve others.
    fn deleted(self) -> World {
        let mut world = self.world(&[LOCAL], &[]);
        world.services.iter_mut().for_each(|(_, service)| service.row = RETIRED_ROW);
        world
    }

    /// One socket, two services.
    pub(super) fn two_services(self) -> Vec<SocketScenario> {
        let both = || self.world(&[LOCAL], &[FAR]);
        let more = |flow| SocketFlow { more: 1, ..flow };
        let round = || vec![self.sends(0, 0), self.sends(1, 1), self.answers(0, 0), self.answers(1, 1)];
        let dead = both().with_backend(LOCAL, |b| b.state = backend_state::DEAD);
        vec![
            SocketScenario {
                remembers: Some(more(self.flow(0, LOCAL))),
                peers: 2,
                ..self.scenario("one socket talks to two services", both(), [round(), round()].concat())
            },
            SocketScenario {
                remembers: Some(more(self.flow(0, LOCAL))),
                peers: 2,
                ..self.scenario(
                    "backends of two services that are asked themselves answer so",
                    both(),
                    [
                        round(),
                        self.asks_past(1).into(),
                        self.asks(0, 0).into(),
                        self.asks_past(0).into(),
                        self.asks_past(1).into(),
                        self.asks(1, 1).into(),
                        self.asks_past(0).into(),
                        round(),
                    ]
                    .concat(),
                )
            },
            SocketScenario {
                remembers: Some(more(self.flow(1, FAR))),
                peers: 2,
                ..self.scenario(
                    "the second service takes the place of one whose backend died",
                    both(),
                    [round(), vec![Step::Changes(dead.into()), self.sends(1, 1), self.answers(1, 1)]].concat(),
                )
            },
            SocketScenario {
                remembers: Some(more(self.flow(1, FAR))),
                peers: 2,
                ..self.scenario(
                    "datagrams to the second service leave a backend that died",
                    self.world(&[FAR], &[LOCAL]),
                    [vec![self.sends(0, 1)], self.moves(1, [LOCAL, FAR])].concat(),
                )
            },
            SocketScenario {
                remembers: Some(self.flow(0, LOCAL)),
                ..self.scenario(
                    "answers of a backend of two services come from the one that was asked last",
                    self.world(&[LOCAL], &[LOCAL]),
                    vec![
                        self.sends(0, 0),
                        self.answers(0, 0),
                        self.sends(1, 0),
                        self.answers(0, 1),
                        self.sends(0, 0),
                        self.answers(0, 0),
                    ],
                )
            },
        ]
    }
}

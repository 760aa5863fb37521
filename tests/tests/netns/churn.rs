//! Clients on every path while the endpoints of a hundred services change: none notices.
//!
//! `DIOLKOS_CHURN_CHANGES` says how many changes are made, `DIOLKOS_CHURN_SEED` which, and `DIOLKOS_CAMPAIGN_JSON` where
//! the figures are written.

mod agent;
mod client;
mod draw;
mod figures;
mod flow;
mod grave;
mod model;
mod pod;
mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diolkos_abi::counter::{Hook, Verdict};
use diolkos_abi::pod::netns_flags;
use diolkos_agent::destroy::Space;

use agent::Agent;
use client::{Client, Common};
use draw::{Random, draw};
use figures::Figures;
use flow::Path;
use grave::{Grave, Seen, WATCH};
use model::{Change, Endpoint, Life, Model, PODS};
use pod::Pod;
use server::Server;

use crate::world::{World, on_a_node};

/// As many as the suite has time for.
const CHANGES: usize = 1000;
const SEED: u64 = 0x5eed;
/// The agent is started anew after so many changes.
const RESTART: usize = 400;
/// What each client may dial between two changes.
const DIALS: u64 = 4;
/// The same in each phase of a restart. Clients without end would leave the agent no time on a small machine.
const DIALS_IN_A_RESTART: u64 = 40;
/// A client that dials nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

#[test]
fn nothing_fails_on_any_path_while_endpoints_of_a_hundred_services_change_and_the_agent_restarts() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let changes = number("DIOLKOS_CHURN_CHANGES", CHANGES as u64) as usize;
    let seed = number("DIOLKOS_CHURN_SEED", SEED);
    println!("{changes} changes from seed {seed}");
    on_a_node(move |world| {
        let figures = Churn::new(world, seed).run(world, changes);
        println!("{figures}");
        figures.write();
        figures.assert_clean();
    });
}

/// The node, its pods and clients, and the changes so far.
struct Churn {
    agent: Agent,
    pods: Vec<Arc<Pod>>,
    servers: Vec<Server>,
    clients: Vec<Client>,
    /// The clients' pods: the second one opted out.
    homes: [Arc<Pod>; 2],
    common: Arc<Common>,
    random: Random,
    graves: Vec<(usize, Grave)>,
    /// For each terminating pod, what clients had dialled when it left its rows.
    dialled: [Vec<u64>; PODS],
    figures: Figures,
    started: Instant,
}

impl Churn {
    fn new(world: &World, seed: u64) -> Self {
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
        }
        let pods: Vec<Arc<Pod>> = (0..PODS).map(|n| Arc::new(Pod::new(n))).collect();
        let homes = [PODS, PODS + 1].map(|n| Arc::new(Pod::new(n)));
        let servers = pods.iter().enumerate().map(|(n, pod)| Server::start(n, &pod.namespace)).collect();
        let common = Arc::new(Common::new(Model::new()));
        let mut agent = Agent::open(world, spaces(&homes));
        agent.sync(&common.model());
        agent.put_in_place();
        pods.iter().chain(&homes).for_each(|pod| agent.add(pod));
        for (home, flags) in homes.iter().zip([0, netns_flags::OPT_OUT]) {
            agent.know(home, flags);
        }
        let each = Path::ALL.into_iter().flat_map(|path| [(path, 0), (path, 1)]);
        let start =
            |(path, family): (Path, usize)| Client::start(path, family, &homes[usize::from(path.opts_out())], &common);
        let clients = each.map(start).collect();
        Self {
            agent,
            pods,
            servers,
            clients,
            homes,
            common,
            random: Random::new(seed),
            graves: Vec::new(),
            dialled: Default::default(),
            figures: Figures::new(seed),
            started: Instant::now(),
        }
    }

    fn run(mut self, world: &World, changes: usize) -> Figures {
        let tell = (changes / 20).max(1);
        for number in 1..=changes {
            let change = self.draw();
            self.figures.count(&change);
            self.carry_out(world, &change, number.is_multiple_of(RESTART));
            self.wait_for_clients();
            if number.is_multiple_of(tell) {
                let connections: u64 = self.clients.iter().map(Client::dialled).sum();
                let seconds = self.started.elapsed().as_secs();
                eprintln!("churn: {number} of {changes} changes, {connections} connections, {seconds} s");
            }
        }
        while self.graves.iter().any(|(_, grave)| grave.age() < WATCH) {
            self.agent.cycle();
            self.wait_for_clients();
        }
        self.finish()
    }

    fn draw(&mut self) -> Change {
        let model = self.common.model();
        let ended = |pod: &usize| model.life(*pod) == Life::Terminating && self.has_drained(*pod);
        let ended: Vec<usize> = (0..PODS).filter(ended).collect();
        let rested = self.graves.iter().filter(|(_, grave)| grave.age() >= WATCH);
        let rested: Vec<usize> = rested.map(|(pod, _)| *pod).collect();
        draw(&model, &ended, &rested, &mut self.random)
    }

    /// Whether no connection is under way that was given the pod while it was in a row: a process that ends serves
    /// what it accepted.
    fn has_drained(&self, pod: usize) -> bool {
        self.clients.iter().zip(&self.dialled[pod]).all(|(client, before)| client.dialled() >= before + 2)
    }

    fn allow(&self, dials: u64) {
        self.clients.iter().for_each(|client| client.allow(&self.common, dials));
    }

    /// At least one connection of each client began and ended after now.
    fn wait_for_clients(&self) {
        let before: Vec<u64> = self.clients.iter().map(Client::dialled).collect();
        self.allow(DIALS);
        let deadline = Instant::now() + STUCK;
        while self.clients.iter().zip(&before).any(|(client, before)| client.dialled() < before + 2) {
            assert!(Instant::now() < deadline, "a client is stuck");
            std::thread::yield_now();
        }
    }

    fn carry_out(&mut self, world: &World, change: &Change, restarts: bool) {
        if let Change::Return { pod, .. } = change {
            self.revive(*pod);
        }
        let mut model = self.common.model();
        let touched = model.begin(change);
        let slices: Vec<_> = touched.iter().map(|service| (*service, model.endpoints(*service))).collect();
        drop(model);
        if let Some(service) = touched.first() {
            self.common.hot.store(*service, Ordering::Relaxed);
        }
        // A change that comes while there is no agent is news to the next one when it lists the objects.
        let next = restarts.then(|| self.open_another(world));
        let buried = if let Change::Bury { pod } = change { Some(*pod) } else { None };
        if let Some(pod) = buried {
            self.kill(pod);
        }
        match next {
            Some(agent) => self.restart(agent, buried),
            None => self.tell(&slices, buried),
        }
        self.common.model().end(Instant::now());
        match change {
            Change::Terminate { pod, .. } => self.dialled[*pod] = self.clients.iter().map(Client::dialled).collect(),
            // Whatever is still sent to the address shall arrive.
            Change::Bury { pod } => self.agent.add(&self.pods[*pod]),
            _ => {}
        }
    }
}

impl Churn {
    /// An agent that does nothing yet.
    fn open_another(&self, world: &World) -> Agent {
        self.allow(DIALS_IN_A_RESTART);
        Agent::open(world, spaces(&self.homes))
    }

    /// The pod ends: as a process that is killed, or without a word. Nothing leaves its address from now on.
    fn kill(&mut self, pod: usize) {
        if self.random.flip() {
            self.servers[pod].kill();
        }
        self.pods[pod].silence();
    }

    /// The CNI server takes the pod away.
    fn del(&mut self, pod: usize) {
        self.agent.del(&self.pods[pod]);
        self.agent.cycle();
    }

    /// The agent learns of a change: of a pod that is gone by the CNI server and by the slices, in either order.
    fn tell(&mut self, slices: &[(usize, Vec<Endpoint>)], buried: Option<usize>) {
        let Some(pod) = buried else { return self.agent.change(slices) };
        self.graves.push((pod, Grave::dig(&self.pods[pod])));
        let cni_is_first = self.random.flip();
        if cni_is_first {
            self.del(pod);
        }
        self.agent.change(slices);
        if !cni_is_first {
            self.del(pod);
        }
    }

    /// Another agent takes over, and learns what is new by itself.
    fn restart(&mut self, next: Agent, buried: Option<usize>) {
        self.figures.restarted(self.agent.closed());
        self.agent = next;
        if let Some(pod) = buried {
            self.graves.push((pod, Grave::dig(&self.pods[pod])));
            self.agent.del(&self.pods[pod]);
        }
        let model = self.common.model().clone();
        self.agent.sync(&model);
        self.allow(DIALS_IN_A_RESTART);
        self.agent.put_in_place();
    }

    /// Another pod gets the address of one that is gone.
    fn revive(&mut self, pod: usize) {
        let place = self.graves.iter().position(|(other, _)| *other == pod).expect("it is in its grave");
        let (_, grave) = self.graves.swap_remove(place);
        self.figures.buried(pod, grave.close(&self.pods[pod], &self.homes[0]));
        self.servers[pod].renew();
        self.pods[pod].speak();
    }

    fn finish(mut self) -> Figures {
        let seconds = self.started.elapsed();
        self.common.stop();
        for client in self.clients {
            let (path, family) = (client.path, client.family);
            self.figures.clients.push((path, family, client.end()));
        }
        for (pod, grave) in self.graves {
            let seen: Seen = grave.close(&self.pods[pod], &self.homes[0]);
            self.figures.buried(pod, seen);
        }
        self.figures.closed(self.agent.closed());
        self.figures.seconds = seconds.as_secs_f64();
        self.figures.drops = self.agent.drops();
        for hook in [Hook::Connect, Hook::SendMsg, Hook::RecvMsg, Hook::FromContainer] {
            self.figures.translated.push((hook.name(), self.agent.verdicts(hook, translation(hook))));
        }
        self.figures
    }
}

/// What a hook does for clients of services.
fn translation(hook: Hook) -> Verdict {
    if hook == Hook::FromContainer { Verdict::Pod } else { Verdict::Translated }
}

fn spaces(homes: &[Arc<Pod>; 2]) -> Vec<Space> {
    homes.iter().map(|home| home.space()).collect()
}

//! The one driver of all controllers: watches into the view, changes into keys, keys through the pure functions, and
//! actions to the server. Each controller works on one key at a time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use diolkos_api::bootstrap_token::{TOKEN_NAMESPACE, TOKEN_TYPE};
use diolkos_api::client::{Client, Event, ListOptions, Resource, follow};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt as _};
use tracing::{debug, info, warn};

use crate::certificates::Authority;
use crate::execute::{Outcome, execute};
use crate::object::{Action, Key, KindName};
use crate::queue::Queue;
use crate::table::{CONTROLLERS, Controller};
use crate::view::{Change, News, Settings, View};

/// Runs all controllers; never returns.
pub(crate) async fn drive(client: Client, settings: Settings, authority: Option<Authority>) {
    let mut driver = Driver::new(settings);
    let mut news = watches(&client);
    let mut running = FuturesUnordered::new();
    loop {
        for (lane, key, actions) in driver.start() {
            let (client, authority) = (client.clone(), authority.clone());
            running.push(async move { (lane, key, execute(&client, authority.as_ref(), actions).await) });
        }
        let due = tokio::time::Instant::from_std(driver.next_due());
        tokio::select! {
            Some((kind, news)) = news.next() => driver.hear(kind, news),
            Some((lane, key, outcome)) = running.next(), if !running.is_empty() => driver.done(lane, key, outcome),
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

type Watches = SelectAll<BoxStream<'static, (KindName, News)>>;

fn watches(client: &Client) -> Watches {
    fn watch<K: Resource>(
        client: &Client,
        kind: KindName,
        news: fn(Event<K>) -> News,
    ) -> BoxStream<'static, (KindName, News)> {
        follow(client.clone(), None, ListOptions::default()).map(move |event| (kind, news(event))).boxed()
    }
    SelectAll::from_iter([
        watch(client, KindName::Deployment, News::Deployment),
        watch(client, KindName::ReplicaSet, News::ReplicaSet),
        watch(client, KindName::Pod, News::Pod),
        watch(client, KindName::Service, News::Service),
        watch(client, KindName::EndpointSlice, News::EndpointSlice),
        watch(client, KindName::Node, News::Node),
        watch(client, KindName::Namespace, News::Namespace),
        watch(client, KindName::ConfigMap, News::ConfigMap),
        watch(client, KindName::ServiceAccount, News::ServiceAccount),
        watch(client, KindName::Lease, News::Lease),
        watch(client, KindName::CertificateSigningRequest, News::CertificateSigningRequest),
        tokens(client),
    ])
}

/// The bootstrap tokens: other Secrets are nobody's business here.
fn tokens(client: &Client) -> BoxStream<'static, (KindName, News)> {
    let options = ListOptions::fields(format!("type={TOKEN_TYPE}"));
    let tokens = follow(client.clone(), Some(TOKEN_NAMESPACE.to_owned()), options);
    tokens.map(|event| (KindName::Secret, News::Secret(event))).boxed()
}

/// How many kinds are watched.
const KINDS: usize = 11;
/// Most keys that one controller looks at before the others have their turn.
const TURN: usize = 64;
/// A key that still wants something after so many looks in a row does not settle, and is slowed down.
const RESTLESS: u32 = 20;
/// With nothing else to wait for.
const IDLE: Duration = Duration::from_secs(60);

struct Driver {
    view: View,
    /// The kinds whose first list has come. Nothing is done before all have.
    listed: HashSet<KindName>,
    lanes: Vec<Lane>,
}

/// One controller at work.
struct Lane {
    controller: Controller,
    queue: Queue,
    /// Looks in a row that wanted something.
    restless: HashMap<Key, u32>,
    busy: bool,
    next_resync: Instant,
}

impl Driver {
    fn new(settings: Settings) -> Self {
        let lane = |controller: Controller| Lane {
            controller,
            queue: Queue::default(),
            restless: HashMap::new(),
            busy: false,
            next_resync: Instant::now() + controller.resync.1,
        };
        Self { view: View::new(settings), listed: HashSet::new(), lanes: CONTROLLERS.map(lane).into() }
    }

    fn hear(&mut self, kind: KindName, news: News) {
        let changes = self.view.apply(news, diolkos_api::now());
        // The first news of a kind are its list.
        if self.listed.insert(kind) && self.listed.len() == KINDS {
            info!("all kinds are listed; beginning");
        }
        self.spread(&changes);
    }

    /// Tells every controller what changed.
    fn spread(&mut self, changes: &[Change]) {
        for (before, after) in changes {
            for lane in &mut self.lanes {
                for key in (lane.controller.affected)(&self.view, before.as_ref(), after.as_ref()) {
                    lane.queue.add(key);
                }
            }
        }
    }

    /// Looks at what is due; returns what is to be carried out, at most one key for each controller.
    fn start(&mut self) -> Vec<(usize, Key, Vec<Action>)> {
        let mut started = Vec::new();
        if self.listed.len() < KINDS {
            return started;
        }
        let (now, wall) = (Instant::now(), diolkos_api::now());
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if lane.next_resync <= now {
                lane.next_resync = now + lane.controller.resync.1;
                self.view.keys(lane.controller.resync.0).into_iter().for_each(|key| lane.queue.add(key));
            }
            for _ in 0..TURN {
                if lane.busy {
                    break;
                }
                let Some(key) = lane.queue.take(now) else { break };
                let actions = (lane.controller.reconcile)(&self.view, &key, wall);
                if actions.is_empty() {
                    lane.settled(&key);
                    if let Some(pause) = (lane.controller.look_again)(&self.view, &key, wall) {
                        lane.queue.add_at(key, now + pause);
                    }
                } else {
                    debug!(controller = lane.controller.name, %key, actions = actions.len(), "acting");
                    lane.busy = true;
                    started.push((index, key, actions));
                }
            }
        }
        started
    }

    fn done(&mut self, lane: usize, key: Key, outcome: Outcome) {
        let now = diolkos_api::now();
        let nothing = outcome.written.is_empty() && outcome.deleted.is_empty();
        let mut changes: Vec<Change> = Vec::new();
        for object in outcome.written {
            changes.extend(self.view.insert(object, now));
        }
        for target in outcome.deleted {
            changes.extend(self.view.ending(&target.key, &target.uid, now));
        }
        self.spread(&changes);
        self.lanes[lane].finish(key, outcome.failure, nothing);
    }

    fn next_due(&self) -> Instant {
        let now = Instant::now();
        if self.listed.len() < KINDS {
            return now + IDLE;
        }
        let due = self.lanes.iter().map(|lane| {
            let queued = if lane.busy { None } else { lane.queue.next_due(now) };
            queued.map_or(lane.next_resync, |queued| queued.min(lane.next_resync))
        });
        due.min().unwrap_or(now + IDLE)
    }
}

impl Lane {
    fn finish(&mut self, key: Key, failure: Option<diolkos_api::status::Failure>, nothing: bool) {
        self.busy = false;
        let (now, name) = (Instant::now(), self.controller.name);
        let restless = self.restless.entry(key.clone()).or_default();
        *restless += 1;
        match failure {
            Some(failure) if failure.is_conflict() => {
                let pause = self.queue.failed(key.clone(), now);
                debug!(controller = name, %key, ?pause, %failure, "the object changed meanwhile; looking again");
            }
            Some(failure) => {
                let pause = self.queue.failed(key.clone(), now);
                warn!(controller = name, %key, ?pause, %failure, "cannot act; trying again");
            }
            None if nothing || *restless > RESTLESS => {
                let pause = self.queue.failed(key.clone(), now);
                debug!(controller = name, %key, ?pause, "not settled; looking again");
            }
            None => self.queue.add(key),
        }
    }

    fn settled(&mut self, key: &Key) {
        self.queue.succeeded(key);
        self.restless.remove(key);
    }
}

//! Random histories of commits, losses and compactions, seen by clients that come, go and fall behind.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// One commit.
    Commit(Vec<Edit>),
    /// All connections to the store are lost.
    Cut,
    /// The store's watch stands still, or goes on.
    Hold(bool),
    Away(bool),
    Compact,
    /// Client so-and-so takes up to so many events that are queued.
    Read(usize, usize),
    /// Client so-and-so loses its connection and resumes.
    Reconnect(usize),
    /// The cache's tasks get time to run.
    Rest,
}

#[derive(Clone, Debug)]
enum Edit {
    Put { name: usize, app: &'static str, node: &'static str },
    Delete { name: usize },
}

const NAMES: usize = 5;

fn edit() -> impl Strategy<Value = Edit> {
    let put = (0..NAMES, prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["", "n1", "n2"]))
        .prop_map(|(name, app, node)| Edit::Put { name, app, node });
    prop_oneof![3 => put, 1 => (0..NAMES).prop_map(|name| Edit::Delete { name })]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(edit(), 1..4).prop_map(Step::Commit),
        1 => Just(Step::Cut),
        1 => any::<bool>().prop_map(Step::Hold),
        1 => any::<bool>().prop_map(Step::Away),
        1 => Just(Step::Compact),
        4 => (0..CLIENTS, 0..6_usize).prop_map(|(client, count)| Step::Read(client, count)),
        1 => (0..CLIENTS).prop_map(Step::Reconnect),
        4 => Just(Step::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn clients_that_follow_the_protocol_always_hold_the_truth(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps));
    }
}

async fn run(steps: Vec<Step>) {
    // Small bounds, so that histories meet them.
    let (model, cache) = start(Limits { ring_events: 12, queue_events: 6, ..limits() }).await;
    let mut clients: Vec<Client> = (0..CLIENTS).map(Client::new).collect();
    for step in steps {
        match step {
            Step::Commit(edits) => {
                // Refused while the store is away.
                let _ = model.commit(&[], &writes(&edits)).await;
            }
            Step::Cut => model.cut_watches(),
            Step::Hold(held) => model.hold_watches(held),
            Step::Away(away) => model.set_away(away),
            Step::Compact => drop(model.compact(model.revision()).await),
            Step::Read(client, count) => clients[client].read(&cache, count).await,
            Step::Reconnect(client) => clients[client].disconnect(),
            Step::Rest => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    model.set_away(false);
    model.hold_watches(false);
    let last = commit(&model, &[pod("end", "a", "n1"), gone("p0")]).await;
    caught_up(&model, &cache).await;
    for client in &mut clients {
        client.read_to(&cache, last).await;
        let (objects, _) = cache.list(PODS, client.selection().as_ref(), Freshness::Latest).await.unwrap();
        let truth: BTreeMap<String, Revision> =
            objects.iter().map(|object| (object.name().to_owned(), object.revision)).collect();
        assert_eq!(client.held, truth, "client {}", client.number);
    }
}

fn writes(edits: &[Edit]) -> Vec<Write> {
    // The last edit of a name counts: a commit writes no key twice.
    let mut writes: BTreeMap<usize, Write> = BTreeMap::new();
    for edit in edits {
        match edit {
            Edit::Put { name, app, node } => writes.insert(*name, pod(&format!("p{name}"), app, node)),
            Edit::Delete { name } => writes.insert(*name, gone(&format!("p{name}"))),
        };
    }
    writes.into_values().collect()
}

const CLIENTS: usize = 3;

/// A client as Kubernetes' informers are: lists, watches, resumes from what it saw last, lists again after 410.
struct Client {
    number: usize,
    watch: Option<Watch>,
    /// The names it knows with their revisions.
    held: BTreeMap<String, Revision>,
    /// `None` before its first list.
    position: Option<Revision>,
    /// Read, but not taken: the first event of the next commit.
    ahead: Option<CacheEvent>,
}

impl Client {
    fn new(number: usize) -> Self {
        Self { number, watch: None, held: BTreeMap::new(), position: None, ahead: None }
    }

    /// The first sees all, the second a label, the third a node.
    fn selection(&self) -> Option<Filter> {
        match self.number {
            0 => None,
            1 => Some(with_app("a")),
            _ => Some(Arc::new(|object: &Object| object.field("spec.nodeName") == Some("n1"))),
        }
    }

    /// Takes events, and then the rest of the last commit: a revision in the middle of a commit is no place to resume
    /// from, and the apiserver writes no two objects of a resource in one commit.
    async fn read(&mut self, cache: &Cache, count: usize) {
        for taken in 0.. {
            self.connect(cache).await;
            let Some(watch) = &mut self.watch else { return };
            let event = match self.ahead.take() {
                Some(event) => Some(Ok(event)),
                None => match watch.next().now_or_never() {
                    Some(event) => event,
                    None => return,
                },
            };
            match event {
                Some(Ok(event)) if taken >= count && Some(event.revision()) != self.position => {
                    self.ahead = Some(event);
                    return;
                }
                event => self.take(event),
            }
        }
    }

    async fn read_to(&mut self, cache: &Cache, last: Revision) {
        within("the last event", async {
            while self.position.is_none_or(|position| position < last) {
                self.read(cache, usize::MAX).await;
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            self.read(cache, usize::MAX).await;
        })
        .await;
    }

    fn disconnect(&mut self) {
        (self.watch, self.ahead) = (None, None);
    }

    async fn connect(&mut self, cache: &Cache) {
        if self.watch.is_some() {
            return;
        }
        let Some(position) = self.position else { return self.list(cache).await };
        let node = (self.number == 2).then(|| "n1".to_owned());
        let filter = if node.is_some() { None } else { self.selection() };
        let spec = WatchSpec { node, filter, ..all_pods(Start::After(position)) };
        match cache.watch(spec).await {
            Ok(watch) => self.watch = Some(watch),
            Err(failure) => {
                assert_eq!(failure.code(), 410, "{failure}");
                self.position = None;
            }
        }
    }

    async fn list(&mut self, cache: &Cache) {
        let seen = self.held.values().copied().max().unwrap_or(0);
        let (objects, revision) = cache.list(PODS, self.selection().as_ref(), Freshness::Any).await.unwrap();
        assert!(revision >= seen, "a list went back in time");
        self.held = objects.iter().map(|object| (object.name().to_owned(), object.revision)).collect();
        self.position = Some(revision);
    }

    fn take(&mut self, event: Option<Result<CacheEvent, Failure>>) {
        let event = match event {
            None => return self.disconnect(),
            Some(Err(failure)) => {
                assert_eq!(failure.code(), 410, "{failure}");
                self.disconnect();
                self.position = None;
                return;
            }
            Some(Ok(event)) => event,
        };
        line(&event);
        let revision = event.revision();
        let position = self.position.expect("it listed before it watched");
        assert!(revision >= position, "an event went back in time");
        let name = event.object().map(|object| object.name().to_owned()).unwrap_or_default();
        match &event {
            CacheEvent::Added(_) => assert!(self.held.insert(name, revision).is_none(), "added twice"),
            CacheEvent::Modified(_) => {
                let before = self.held.insert(name, revision).expect("modified before it was added");
                assert!(before < revision, "told twice");
            }
            CacheEvent::Deleted(_) => {
                assert!(self.held.remove(&name).is_some_and(|before| before < revision), "deleted what was not there");
            }
            CacheEvent::Bookmark { .. } => {}
        }
        self.position = Some(revision);
    }
}

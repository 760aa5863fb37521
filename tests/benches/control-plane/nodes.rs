//! A watcher for each of many nodes, each of its own pods: what kubelets do.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use diolkos_api::wire;
use diolkos_tests::figures::Section;
use serde_json::Value;

use crate::etcd::Server as Etcd;
use crate::load::{percentile, rate};
use crate::pods::{self, BATCH};
use crate::server::{Apiserver, Place, pod_key, raw};
use crate::watched::{Told, of_diolkos};
use crate::{KIB, MB};

const NAMESPACE: &str = "nodes";
/// Streams of one connection: the apiserver takes 1024.
const STREAMS: usize = 1000;
/// Changes for each node that are told as fast as they come.
const CHANGES: usize = 4;
/// Changes that are told one by one.
const SINGLES: usize = 500;
/// Transactions that not all have been told of yet.
const AHEAD: usize = 20;

pub(crate) struct Nodes {
    rate: Section,
    time: Section,
    memory: Section,
    each: Section,
    open: Section,
}

impl Nodes {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            rate: Section::new(format!("{nodes} watchers of one node each: changes told"), "1/s"),
            time: Section::new(format!("{nodes} watchers of one node each: from a write's begin to its watcher"), "us"),
            memory: Section::new(format!("{nodes} watchers of one node each: memory of the apiserver, RSS"), "MB"),
            each: Section::new(format!("{nodes} watchers of one node each: memory for each, RSS"), "KiB"),
            open: Section::new(format!("{nodes} watchers of one node each: to open all"), "ms"),
        }
    }

    pub(crate) fn sections(self) -> [Section; 5] {
        [self.rate, self.time, self.memory, self.each, self.open]
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) async fn round(&mut self, nodes: usize) -> Result<()> {
        const BASE: &str = "etcd takes these writes, and nobody watches";
        let etcd = Etcd::start();
        let place = Place::new(&etcd)?;
        let server = place.start(&etcd).await?;
        let mut client = raw(&etcd).await?;
        server.make_namespace(NAMESPACE).await?;
        let template = pods::without_managed_fields(&pods::template(&server, &mut client, NAMESPACE).await?);
        let changes = nodes * CHANGES / BATCH * BATCH;
        ensure!(changes > 0 && changes.is_multiple_of(nodes), "--watchers has to be a multiple of {BATCH}");
        let begun = Instant::now();
        for first in (0..changes).step_by(BATCH) {
            let pods = batch(&template, first, nodes).map(|(key, pod)| (format!("/raw{key}"), pod));
            pods::put(&mut client, pods.collect()).await?;
        }
        self.rate.add(BASE, None, rate(changes, begun.elapsed()));
        let before = server.resident().await?;
        let begun = Instant::now();
        let told = open(&server, nodes).await?;
        self.open.add("diolkos", None, begun.elapsed().as_secs_f64() * 1e3);
        let after = server.resident().await?;
        self.memory.add("diolkos, nobody watches", None, before / MB);
        self.memory.add("diolkos, all watch", None, after / MB);
        self.each.add("diolkos", None, (after - before) / nodes as f64 / KIB);
        let begun = Instant::now();
        for first in (0..changes).step_by(BATCH) {
            pods::put(&mut client, batch(&template, first, nodes).collect()).await?;
            told.wait((first + BATCH).saturating_sub(AHEAD * BATCH)).await?;
        }
        told.wait(changes).await?;
        self.rate.add("diolkos", Some(BASE), rate(changes, begun.elapsed()));
        told.check(CHANGES)?;
        let mut times = Vec::new();
        for single in 0..SINGLES {
            // A step that meets nodes all over.
            let index = changes + single;
            let entry = pods::like(&template, NAMESPACE, index, single * 7919 % nodes);
            let begun = Instant::now();
            pods::put(&mut client, vec![entry]).await?;
            told.wait(index + 1).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        self.time.add("diolkos, median", None, percentile(&times, 50));
        self.time.add("diolkos, 99th percentile", None, percentile(&times, 99));
        self.memory.add(
            &format!("diolkos, all watch, and {} pods came", changes + SINGLES),
            None,
            server.resident().await? / MB,
        );
        Ok(())
    }
}

/// Pods of successive nodes, for one transaction.
fn batch(template: &Value, first: usize, nodes: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    (first..first + BATCH).map(move |index| pods::like(template, NAMESPACE, index, index % nodes))
}

async fn open(server: &Apiserver, nodes: usize) -> Result<Told> {
    let mut told = Told::new();
    for first in (0..nodes).step_by(STREAMS) {
        let mut wire = server.connect()?.raw();
        for node in first..nodes.min(first + STREAMS) {
            let request = wire::WatchRequest {
                key: Some(pod_key(NAMESPACE, "")),
                field_selector: format!("spec.nodeName=node-{node}"),
                resource_version: "0".into(),
                omit_managed_fields: true,
                ..Default::default()
            };
            let stream = wire.watch(request).await.with_context(|| format!("the watch of node {node}"))?.into_inner();
            told.follow(|total, own| of_diolkos(stream, total, own));
        }
    }
    Ok(told)
}

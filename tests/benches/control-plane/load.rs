//! Requests through the apiserver beside the same of etcd itself, on the same member: by one client, and by many that
//! have a connection each.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diolkos_api::wire;
use diolkos_tests::figures::Section;
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use serde_json::Value;

use crate::etcd::Server as Etcd;
use crate::pods;
use crate::server::{Apiserver, Place, pod_key, raw};
use crate::watched::Watched;

/// What is read; not below what the apiserver watches in etcd.
const RAW_HELD: &str = "/raw/held/";
const RAW_MADE: &str = "/raw/made/";
const HELD: &str = "held";
const MADE: &str = "made";
/// Pods of one list, and those that are got in turn.
const LISTED: usize = 500;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    /// All that was committed before the request.
    Get,
    /// What is at hand: `resourceVersion=0`, and etcd's serializable read.
    GetAny,
    List,
}

const OPERATIONS: [(Operation, &str); 4] = [
    (Operation::Create, "Create a pod"),
    (Operation::Get, "Get a pod, as of now"),
    (Operation::GetAny, "Get a pod, as at hand"),
    (Operation::List, "List 500 pods, as of now"),
];

/// One connection of one of the two.
#[derive(Clone)]
pub(crate) enum Side {
    Etcd(Box<etcd_client::Client>),
    Diolkos(diolkos_api::client::Wire),
}

pub(crate) struct Load {
    etcd: Etcd,
    _place: Place,
    server: Apiserver,
    template: Value,
    /// Rates, medians and 99th percentiles of each operation.
    sections: Vec<[Section; 3]>,
    watched: Watched,
    made: usize,
}

impl Load {
    pub(crate) async fn new() -> Result<Self> {
        let etcd = Etcd::start();
        let place = Place::new(&etcd)?;
        let server = place.start(&etcd).await?;
        let mut client = raw(&etcd).await?;
        for namespace in [HELD, MADE] {
            server.make_namespace(namespace).await?;
        }
        let template = pods::without_managed_fields(&pods::template(&server, &mut client, HELD).await?);
        pods::fill(&mut client, &template, HELD, LISTED).await?;
        for index in 0..LISTED {
            let (_, value) = pods::like(&template, HELD, index, 0);
            client.put(format!("{RAW_HELD}{index:05}"), value, None).await?;
        }
        let sections = OPERATIONS
            .iter()
            .map(|(_, title)| {
                [("rate", "1/s"), ("median", "us"), ("99th percentile", "us")]
                    .map(|(what, unit)| Section::new(format!("{title}: {what}"), unit))
            })
            .collect();
        Ok(Self { etcd, _place: place, server, template, sections, watched: Watched::new(), made: 0 })
    }

    pub(crate) fn sections(self) -> impl Iterator<Item = Section> {
        self.sections.into_iter().flatten().chain(self.watched.sections())
    }

    /// Each operation on both sides with each number of clients.
    pub(crate) async fn round(&mut self, clients: &[usize], time: Duration) -> Result<()> {
        for count in clients {
            let mut connections: [Vec<Side>; 2] = Default::default();
            for _ in 0..*count {
                connections[0].push(Side::Etcd(Box::new(raw(&self.etcd).await?)));
                connections[1].push(Side::Diolkos(self.server.connect()?.raw()));
            }
            let noun = if *count == 1 { "client" } else { "clients" };
            let base = format!("etcd, {count} {noun}");
            self.watched.round(&connections, &self.template, &self.etcd).await.context("watch")?;
            for (index, (operation, title)) in OPERATIONS.iter().enumerate() {
                for (name, side) in [base.clone(), format!("diolkos, {count} {noun}")].iter().zip(&connections) {
                    self.made += 1;
                    let loaded = load(side, *operation, self.made, time).await;
                    let (times, took) = loaded.with_context(|| format!("{title}: {name}"))?;
                    let values = [rate(times.len(), took), percentile(&times, 50), percentile(&times, 99)];
                    for (section, value) in self.sections[index].iter_mut().zip(values) {
                        section.add(name, Some(&base), value);
                    }
                }
            }
        }
        self.clean().await
    }

    /// So that each round begins with the same.
    async fn clean(&self) -> Result<()> {
        let mut client = raw(&self.etcd).await?;
        let mut revision = 0;
        for prefix in [RAW_MADE.to_owned(), pods::store_key(MADE, "")] {
            let options = etcd_client::DeleteOptions::new().with_prefix();
            let deleted = client.delete(prefix, Some(options)).await?;
            revision = deleted.header().context("etcd named no revision")?.revision();
        }
        // A read of what is now: then the apiserver's watch is past what goes.
        once(&mut Side::Diolkos(self.server.client().raw()), Operation::Get, String::new(), 0).await?;
        client.compact(revision, None).await.map(drop).context("compact etcd")
    }
}

/// Every client repeats the operation for this long; what each took, sorted, in microseconds, and all of them.
async fn load(clients: &[Side], operation: Operation, run: usize, time: Duration) -> Result<(Vec<f64>, Duration)> {
    // A connection is made by its first request.
    for (index, client) in clients.iter().enumerate() {
        once(&mut client.clone(), Operation::GetAny, String::new(), index).await?;
    }
    let begun = Instant::now();
    let end = begun + time;
    let tasks: Vec<_> = clients
        .iter()
        .cloned()
        .enumerate()
        .map(|(index, mut client)| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let name = format!("pod-{run}-{index}-{}", times.len());
                    let start = Instant::now();
                    once(&mut client, operation, name, index + times.len()).await?;
                    times.push(start.elapsed().as_secs_f64() * 1e6);
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    ensure!(all.len() > 1, "no request was answered in {time:?}");
    let took = begun.elapsed();
    all.sort_by(f64::total_cmp);
    Ok((all, took))
}

async fn once(client: &mut Side, operation: Operation, name: String, index: usize) -> Result<()> {
    let held = index % LISTED;
    match client {
        Side::Etcd(client) => match operation {
            Operation::Create => {
                let key = format!("{RAW_MADE}{name}");
                let value = pods::wanted(&name).to_string();
                let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
                let answer = client.txn(Txn::new().when([absent]).and_then([TxnOp::put(key, value, None)])).await?;
                ensure!(answer.succeeded(), "the key was there");
            }
            Operation::Get | Operation::GetAny => {
                let options = GetOptions::new();
                let options = if operation == Operation::GetAny { options.with_serializable() } else { options };
                let answer = client.get(format!("{RAW_HELD}{held:05}"), Some(options)).await?;
                ensure!(answer.kvs().len() == 1, "the key is not there");
            }
            Operation::List => {
                let answer = client.get(RAW_HELD, Some(GetOptions::new().with_prefix())).await?;
                ensure!(answer.kvs().len() == LISTED, "{} keys", answer.kvs().len());
            }
        },
        Side::Diolkos(client) => match operation {
            Operation::Create => pods::create(client, MADE, &name).await?,
            Operation::Get | Operation::GetAny => {
                let resource_version = if operation == Operation::GetAny { "0" } else { "" }.into();
                let key = Some(pod_key(HELD, &format!("web-5d4f8c7b9d-{held:05}")));
                client.get(wire::GetRequest { key, resource_version, omit_managed_fields: true }).await?;
            }
            Operation::List => {
                let request =
                    wire::ListRequest { key: Some(pod_key(HELD, "")), omit_managed_fields: true, ..Default::default() };
                let mut pages = client.list(request).await?.into_inner();
                let mut listed = 0;
                while let Some(page) = pages.message().await? {
                    listed += page.items.len();
                }
                ensure!(listed == LISTED, "{listed} pods");
            }
        },
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Of sorted values.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

//! Start and memory of the apiserver: each figure of a process of its own.

use anyhow::{Context as _, Result, ensure};
use diolkos_tests::figures::Section;
use serde_json::Value;

use crate::etcd::Server as Etcd;
use crate::pods;
use crate::server::{Apiserver, Place, pod_key, raw};
use crate::{KIB, MB};

const NAMESPACE: &str = "bench";
/// Writers at once when pods are made through the apiserver.
const WRITERS: usize = 64;

pub(crate) struct Memory {
    ready: Section,
    resident: Section,
    pod: Section,
    size: Section,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            ready: Section::new("From the start to the first answer, etcd up (aim: 1000)", "ms"),
            resident: Section::new("Memory of the apiserver, RSS (aims: 40 idle, 100 with 10,000 pods)", "MB"),
            pod: Section::new("Memory for each cached pod, RSS (aim: 3.5 without managedFields)", "KiB"),
            size: Section::new("JSON of one of these pods", "KiB"),
        }
    }

    pub(crate) fn sections(self) -> [Section; 4] {
        [self.ready, self.resident, self.pod, self.size]
    }

    /// All of it once, with this many pods.
    pub(crate) async fn round(&mut self, count: usize) -> Result<()> {
        let (etcd, place) = fresh()?;
        let first = place.start(&etcd).await?;
        self.ready.add("diolkos, first start: makes its certificates", None, ms(&first));
        drop(first);
        let server = place.start(&etcd).await?;
        self.ready.add("diolkos, again", None, ms(&server));
        let idle = server.resident().await?;
        self.resident.add("diolkos, idle", None, idle / MB);
        server.make_namespace(NAMESPACE).await?;
        let mut client = raw(&etcd).await?;
        let template = pods::template(&server, &mut client, NAMESPACE).await?;
        drop(server);
        self.loaded("without managedFields", &pods::without_managed_fields(&template), count, idle).await?;
        self.loaded("with managedFields", &template, count, idle).await?;
        drop((etcd, place));
        self.lived(count).await
    }

    /// An apiserver that finds the pods in its store.
    async fn loaded(&mut self, what: &str, template: &Value, count: usize, idle: f64) -> Result<()> {
        let (etcd, place) = fresh()?;
        // Makes its certificates, which is no part of what follows.
        drop(place.start(&etcd).await?);
        pods::fill(&mut raw(&etcd).await?, template, NAMESPACE, count).await?;
        let server = place.start(&etcd).await?;
        self.ready.add(&format!("diolkos, again, {count} pods {what}"), None, ms(&server));
        let resident = server.resident().await?;
        self.resident.add(&format!("diolkos, started with {count} pods {what}"), None, resident / MB);
        self.pod.add(&format!("diolkos, {what}"), None, (resident - idle) / as_f64(count) / KIB);
        let (_, json) = pods::like(template, NAMESPACE, 0, 0);
        self.size.add(what, None, as_f64(json.len()) / KIB);
        let listed = list(&server).await?;
        ensure!(listed == count, "the apiserver listed {listed} of {count} pods");
        let listed = server.resident().await?;
        let name = format!("diolkos, {what}, after a list that leaves them out");
        self.pod.add(&name, None, (listed - idle) / as_f64(count) / KIB);
        Ok(())
    }

    /// An apiserver through which the pods were made, bound and reported running.
    async fn lived(&mut self, count: usize) -> Result<()> {
        let (etcd, place) = fresh()?;
        let server = place.start(&etcd).await?;
        server.make_namespace(NAMESPACE).await?;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = server.client().clone();
                tokio::spawn(async move {
                    for index in (writer..count).step_by(WRITERS) {
                        let name = format!("web-5d4f8c7b9d-{index:05}");
                        pods::create(&mut client.raw(), NAMESPACE, &name).await?;
                        pods::run(&client, NAMESPACE, &name, &format!("node-{}", index % 250)).await?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for writer in writers {
            writer.await??;
        }
        let resident = server.resident().await?;
        self.resident.add(&format!("diolkos, {count} pods made, bound and reported through it"), None, resident / MB);
        Ok(())
    }
}

fn fresh() -> Result<(Etcd, Place)> {
    let etcd = Etcd::start();
    let place = Place::new(&etcd)?;
    Ok((etcd, place))
}

/// All pods as the components read them.
async fn list(server: &Apiserver) -> Result<usize> {
    let key = Some(pod_key("", ""));
    let request = diolkos_api::wire::ListRequest { key, omit_managed_fields: true, ..Default::default() };
    let mut pages = server.client().raw().list(request).await.context("list the pods")?.into_inner();
    let mut listed = 0;
    while let Some(page) = pages.message().await? {
        listed += page.items.len();
    }
    Ok(listed)
}

fn ms(server: &Apiserver) -> f64 {
    server.ready.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(count: usize) -> f64 {
    count as f64
}

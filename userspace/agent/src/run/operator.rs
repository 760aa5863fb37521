//! What the agent says of itself.

use std::time::{Instant, SystemTime};

use super::Agent;
use crate::driver::Cycle;
use crate::health;
use crate::observe::{Pins, monitor};
use crate::options::Options;
use crate::state::{Census, Handle, Question};

/// Serves health and metrics from now on. The agent before this one has ended, so the port is free.
pub(super) async fn serve(options: &Options, state: &Handle) -> anyhow::Result<()> {
    let listener = health::listen(options.listen).await?;
    let serve = health::serve(listener, state.clone(), Pins::of(&options.bpffs, &options.node_name));
    tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(error = format!("{error:#}"), "health and metrics are served no more");
        }
    });
    Ok(())
}

impl Agent {
    /// After a turn of the loop; `received` is when the oldest event of the turn came in.
    pub(super) fn note(&self, cycle: Cycle, received: Option<Instant>) {
        let now = Instant::now();
        let [services, endpoint_slices, nodes] = self.driver.snapshots();
        self.state.update(|state| {
            state.turned = Some(now);
            state.writes += cycle.writes as u64;
            state.closed = self.closer.closed();
            if cycle.compared {
                state.full_sync = Some(SystemTime::now());
            }
            // An event that asks for no write, such as a heartbeat of a node, says nothing about how long writes take.
            if let Some(received) = received.filter(|_| cycle.writes > 0) {
                state.latency.observe(now.saturating_duration_since(received));
            }
            let readiness = &mut state.readiness;
            (readiness.services, readiness.endpoint_slices, readiness.nodes) = (services, endpoint_slices, nodes);
            readiness.maps = self.driver.has_synced();
            readiness.cni = self.server.is_some();
        });
    }

    /// A monitor that was killed leaves the programs telling nobody what they do.
    pub(super) fn heal_monitor(&self) {
        match monitor::heal(&Pins::of(&self.options.bpffs, &self.options.node_name)) {
            Ok(true) => tracing::info!("turned off the watch of a monitor that was killed"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot look after the monitor's watch"),
        }
    }

    pub(super) fn answer(&self, question: Question) {
        // Nobody may be waiting any more.
        match question {
            Question::Names(reply) => drop(reply.send(self.driver.names())),
            Question::Census(reply) => {
                let pods = self.pods.attachments().len();
                drop(reply.send(Census { pods, refused: self.driver.refusal_counts(), ..self.driver.census() }));
            }
        }
    }
}

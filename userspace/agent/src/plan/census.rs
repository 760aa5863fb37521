//! What the mirror holds, for the operator.

use super::Planner;
use crate::state::{Census, NamedService};

impl Planner {
    /// How much there is of everything this planner writes.
    pub fn census(&self) -> Census {
        let records = || self.services.values().flat_map(|service| service.ports.values());
        Census {
            services: self.services.len(),
            service_ports: records().count(),
            frontends: self.frontends.len(),
            slots: records().filter_map(|record| record.row.as_ref()).map(|row| row.ids.len()).sum(),
            backends: self.backends.records.len(),
            members: self.members,
            nodes: self.nodes.len(),
            routes: self.routes.len(),
            ..Census::default()
        }
    }

    /// The Service port of each service id in use.
    pub fn names(&self) -> Vec<NamedService> {
        let ports = self.services.iter().flat_map(|(name, service)| service.ports.iter().map(move |port| (name, port)));
        ports.map(|(name, (port, record))| NamedService { id: record.id, name: name.clone(), port: *port }).collect()
    }
}

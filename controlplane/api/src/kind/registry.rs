//! The table of kinds.

use std::sync::{Arc, PoisonError, RwLock};

use super::{
    Kind, account, apps, apps_sets, autoscaling, certificates, claim, config, coordination, cron_job, custom,
    discovery, endpoints, event, ingress, job, namespace, network_policy, networking, node, pod, policy, quota, rbac,
    review, scheduling, secret, service, storage,
};

/// All kinds.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
    /// Those of CustomResourceDefinitions. Clones of the table see the same.
    custom: Arc<RwLock<Vec<Arc<Kind>>>>,
}

impl Registry {
    /// The kinds that are compiled in.
    pub fn builtin() -> Self {
        // In the order in which discovery tells of the groups, and the preferred version first.
        let groups = [
            core(),
            apps(),
            vec![event::events()],
            review::authentication(),
            review::authorization(),
            vec![autoscaling::autoscaler(), autoscaling::autoscaler_v1()],
            vec![cron_job::cron_job(), job::job()],
            vec![certificates::certificate_signing_request()],
            networking(),
            vec![policy::pod_disruption_budget()],
            rbac(),
            vec![storage::storage_class()],
            vec![custom::definition::definition()],
            vec![scheduling::priority_class()],
            vec![coordination::lease()],
            vec![scheduling::runtime_class()],
            vec![discovery::endpoint_slice()],
        ];
        Self { kinds: groups.into_iter().flatten().map(Arc::new).collect(), custom: Arc::default() }
    }

    /// Takes these in place of all custom kinds.
    pub fn set_custom(&self, kinds: Vec<Arc<Kind>>) {
        *self.custom.write().unwrap_or_else(PoisonError::into_inner) = kinds;
    }

    fn first(&self, is: impl Fn(&&Arc<Kind>) -> bool) -> Option<Arc<Kind>> {
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        self.kinds.iter().chain(custom.iter()).find(is).cloned()
    }

    /// By the names of a REST path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let same = |kind: &&Arc<Kind>| kind.plural == plural && kind.group == group && kind.version == version;
        self.first(same)
    }

    /// By the names that an object gives itself: ("apps/v1", "Deployment").
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.first(|own| own.kind == kind && own.api_version() == api_version)
    }

    /// The kind whose objects rest under this storage key.
    pub fn find_key(&self, key: &str) -> Option<Arc<Kind>> {
        let mut parts = key.strip_prefix("/registry/")?.split('/');
        let (group, plural) = (parts.next()?, parts.next()?);
        let rests = |kind: &Kind| kind.stored && !kind.is_converted();
        self.first(|kind| kind.storage_group == group && kind.plural == plural && rests(kind))
    }

    /// The kind as which the objects of a kind rest: mostly itself.
    pub fn storage(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        if !kind.is_converted() {
            return kind.clone();
        }
        self.find_kind(&kind.storage_api_version(), &kind.kind).unwrap_or_else(|| kind.clone())
    }

    /// Each kind, the custom ones last.
    pub fn all(&self) -> impl Iterator<Item = Arc<Kind>> + use<> {
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.kinds.clone().into_iter().chain(custom)
    }
}

fn core() -> Vec<Kind> {
    vec![
        config::config_map(),
        endpoints::endpoints(),
        event::core(),
        quota::limit_range(),
        namespace::namespace(),
        node::node(),
        claim::persistent_volume_claim(),
        storage::persistent_volume(),
        pod::pod(),
        pod::pod_template(),
        apps::replication_controller(),
        quota::resource_quota(),
        secret::secret(),
        account::service_account(),
        service::service(),
    ]
}

fn apps() -> Vec<Kind> {
    vec![
        apps_sets::controller_revision(),
        apps_sets::daemon_set(),
        apps::deployment(),
        apps::replica_set(),
        apps_sets::stateful_set(),
    ]
}

fn networking() -> Vec<Kind> {
    vec![
        ingress::ingress_class(),
        ingress::ingress(),
        networking::ip_address(),
        network_policy::network_policy(),
        networking::service_cidr(),
    ]
}

fn rbac() -> Vec<Kind> {
    vec![rbac::cluster_role_binding(), rbac::cluster_role(), rbac::role_binding(), rbac::role()]
}

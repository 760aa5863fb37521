//! What a request has to pass between being allowed and being written: plugins that complete the object, then plugins
//! that may refuse it, in the order of kube-apiserver. Each is a function of the write and of what is known of the
//! cluster. NamespaceLifecycle and ResourceQuota also say what a commit has to expect, so that they hold under
//! concurrency; NodeRestriction and the check of grants are always on.

mod certificates;
mod default_tolerations;
mod ingress_class;
mod limit_ranger;
pub(crate) mod namespace_lifecycle;
pub(crate) mod node_restriction;
mod pod_security;
mod priority;
mod quota;
mod resources;
mod runtime_class;
mod service_account;
mod storage;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_store::{Commit, Revision};
use serde_json::Value;

use crate::cache::{Cache, Freshness};
use crate::handlers::Handlers;
use crate::metrics::Metrics;
use crate::serve::Shutdown;
use crate::stack::{Authorizer, User};

use quota::Quotas;

pub(crate) use quota::Charge;
pub(crate) use view::View;

/// One write, as plugins see it.
pub(crate) struct Write<'a> {
    pub kind: &'a Kind,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    /// create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    pub user: &'a User,
    /// What would be stored; nothing for a deletion.
    pub new: Option<&'a Value>,
    /// What is there; nothing for a creation.
    pub old: Option<&'a Value>,
}

impl Write<'_> {
    fn is_delete(&self) -> bool {
        matches!(self.verb, "delete" | "deletecollection")
    }

    /// A patch that applies an object may create it, too.
    fn is_create(&self) -> bool {
        self.old.is_none()
    }

    fn is_of(&self, group: &str, plural: &str) -> bool {
        self.kind.group == group && self.kind.plural == plural
    }

    /// The whole object is written, and stays.
    fn is_of_whole(&self, group: &str, plural: &str) -> bool {
        self.is_of(group, plural) && self.subresource.is_empty() && !self.is_delete()
    }

    /// 403 with the reason in Kubernetes' words.
    fn refused(&self, why: &str) -> Failure {
        Failure::refused(self.kind.resource(), self.name, why)
    }
}

/// Completes an object, or refuses it.
type Mutate = fn(&Write<'_>, &mut Value, &View<'_>) -> Result<(), Failure>;
/// Refuses an object; `Write::new` is what would be stored.
type Validate = fn(&Write<'_>, &View<'_>) -> Result<(), Failure>;
/// What the writer is told beside the answer.
type Warn = fn(&Write<'_>, &View<'_>) -> Vec<String>;

/// One plugin.
struct Plugin {
    /// Kubernetes' own name.
    name: &'static str,
    /// Without being asked for.
    enabled: bool,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
    warn: Option<Warn>,
}

const fn plugin(name: &'static str) -> Plugin {
    Plugin { name, enabled: true, mutate: None, validate: None, warn: None }
}

/// In kube-apiserver's order.
const PLUGINS: &[Plugin] = &[
    Plugin { validate: Some(namespace_lifecycle::validate), ..plugin(namespace_lifecycle::NAME) },
    Plugin { mutate: Some(limit_ranger::admit), validate: Some(limit_ranger::validate), ..plugin("LimitRanger") },
    // Refuses pods until somebody makes the account of each namespace, so it has to be asked for.
    Plugin {
        enabled: false,
        mutate: Some(service_account::admit),
        validate: Some(service_account::validate),
        ..plugin(service_account::NAME)
    },
    Plugin { validate: Some(pod_security::validate), warn: Some(pod_security::warn), ..plugin("PodSecurity") },
    Plugin { mutate: Some(priority::admit), validate: Some(priority::validate), ..plugin("Priority") },
    Plugin { mutate: Some(default_tolerations::admit), ..plugin("DefaultTolerationSeconds") },
    Plugin { mutate: Some(storage::default_class), ..plugin("DefaultStorageClass") },
    Plugin { validate: Some(storage::resize), ..plugin("PersistentVolumeClaimResize") },
    Plugin { mutate: Some(runtime_class::admit), validate: Some(runtime_class::validate), ..plugin("RuntimeClass") },
    Plugin { validate: Some(certificates::approval), ..plugin("CertificateApproval") },
    Plugin { validate: Some(certificates::signing), ..plugin("CertificateSigning") },
    Plugin { validate: Some(certificates::subject), ..plugin("CertificateSubjectRestriction") },
    Plugin { mutate: Some(ingress_class::admit), ..plugin("DefaultIngressClass") },
    plugin(quota::NAME),
];

/// Plugins that are turned on or off by name.
#[derive(Clone, Debug, Default)]
pub struct AdmissionOptions {
    pub enable: Vec<String>,
    pub disable: Vec<String>,
}

/// Kinds that plugins look things up for.
const DECIDED: [(&str, &str); 12] = [
    ("", "persistentvolumeclaims"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("networking.k8s.io", "ingresses"),
    ("scheduling.k8s.io", "priorityclasses"),
];

/// What they decide by: a writer finds what this server wrote before.
const DECIDING: [&str; 7] = [
    "/registry/core/namespaces/",
    "/registry/core/limitranges/",
    "/registry/core/serviceaccounts/",
    "/registry/scheduling.k8s.io/priorityclasses/",
    "/registry/node.k8s.io/runtimeclasses/",
    "/registry/storage.k8s.io/storageclasses/",
    "/registry/networking.k8s.io/ingressclasses/",
];

/// The chain of one server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Admission {
    plugins: Arc<[&'static Plugin]>,
    cache: Cache,
    authorizer: Authorizer,
    quotas: Option<Quotas>,
    metrics: Metrics,
    /// The revision of the last commit of this server that wrote one of [`DECIDING`].
    decided: Arc<AtomicI64>,
}

impl Admission {
    /// Fails for a name that no plugin has.
    pub(crate) fn new(
        options: &AdmissionOptions,
        cache: Cache,
        authorizer: Authorizer,
        metrics: Metrics,
    ) -> anyhow::Result<Admission> {
        let known = |name: &&String| PLUGINS.iter().any(|plugin| plugin.name == name.as_str());
        if let Some(unknown) = options.enable.iter().chain(&options.disable).find(|name| !known(name)) {
            let names: Vec<&str> = PLUGINS.iter().map(|plugin| plugin.name).collect();
            anyhow::bail!("there is no admission plugin {unknown:?}: there are {}", names.join(", "));
        }
        let is_on = |plugin: &&Plugin| {
            let named = |list: &[String]| list.iter().any(|name| name == plugin.name);
            !named(&options.disable) && (plugin.enabled || named(&options.enable))
        };
        let plugins: Arc<[&'static Plugin]> = PLUGINS.iter().filter(is_on).collect();
        let counts = plugins.iter().any(|plugin| plugin.name == quota::NAME);
        let quotas = counts.then(|| Quotas::new(cache.clone()));
        Ok(Admission { plugins, cache, authorizer, quotas, metrics, decided: Arc::default() })
    }

    /// Notes a commit of this server, so that the next write is decided by it.
    pub(crate) fn committed(&self, writes: &[diolkos_store::Write], revision: Revision) {
        let key = |write: &diolkos_store::Write| match write {
            diolkos_store::Write::Put { key, .. } | diolkos_store::Write::Delete { key } => {
                DECIDING.iter().any(|prefix| key.starts_with(prefix))
            }
        };
        if writes.iter().any(key) {
            self.decided.fetch_max(revision, Ordering::AcqRel);
        }
        if let Some(quotas) = &self.quotas {
            quotas.committed(writes, revision);
        }
    }

    /// Completes what is about to be written. Returns what its writer should know.
    pub(crate) async fn admit(&self, write: &Write<'_>, object: &mut Value) -> Result<Vec<String>, Failure> {
        if DECIDED.iter().any(|(group, plural)| write.is_of(group, plural)) {
            self.wait().await?;
        }
        self.with_view(write.user, |view| {
            for plugin in self.plugins.iter() {
                if let Some(mutate) = plugin.mutate {
                    mutate(write, object, view).inspect_err(|_| self.metrics.refused_admission(plugin.name))?;
                }
            }
            let complete = Write { new: Some(object), ..*write };
            let warn = self.plugins.iter().filter_map(|plugin| plugin.warn);
            Ok(warn.flat_map(|warn| warn(&complete, view)).collect())
        })
    }

    /// Refuses what may not be written as it is now.
    pub(crate) fn validate(&self, write: &Write<'_>) -> Result<(), Failure> {
        node_restriction::check(write).inspect_err(|_| self.metrics.refused_admission(node_restriction::NAME))?;
        self.with_view(write.user, |view| {
            for plugin in self.plugins.iter() {
                if let Some(validate) = plugin.validate {
                    validate(write, view).inspect_err(|_| self.metrics.refused_admission(plugin.name))?;
                }
            }
            Ok(())
        })
    }

    /// 403 when a quota does not have what a write uses. The charge is to be committed with the write.
    pub(crate) async fn charge(&self, write: &Write<'_>) -> Result<Charge, Failure> {
        let Some(quotas) = &self.quotas else { return Ok(Charge::default()) };
        let charge = quotas.charge(write).await;
        charge.inspect_err(|failure| {
            if failure.code() == 403 {
                self.metrics.refused_admission(quota::NAME);
            }
        })
    }

    /// What became of a commit with a charge.
    pub(crate) async fn settle(&self, charge: Charge, commit: &Commit) -> Result<(), Failure> {
        match &self.quotas {
            Some(quotas) => quotas.settle(charge, commit).await,
            None => Ok(()),
        }
    }

    /// Keeps the status of the quotas true until the server stops.
    pub(crate) async fn keep(self, handlers: Handlers, shutdown: Shutdown) {
        if let Some(quotas) = self.quotas {
            quotas.keep(handlers, shutdown).await;
        }
    }

    /// 403 for something new in a namespace that ends.
    pub(crate) fn check_creation(&self, write: &Write<'_>, namespace: &Value) -> Result<(), Failure> {
        let checked = namespace_lifecycle::check_creation(write.kind, write.name, namespace);
        checked.inspect_err(|_| self.metrics.refused_admission(namespace_lifecycle::NAME))
    }

    async fn wait(&self) -> Result<(), Failure> {
        match self.decided.load(Ordering::Acquire) {
            0 => Ok(()),
            revision => self.cache.reach(Freshness::AtLeast(revision)).await,
        }
    }

    fn with_view<T>(&self, user: &User, decide: impl FnOnce(&View<'_>) -> T) -> T {
        let list = |prefix: &str| {
            let objects = self.cache.peek(prefix);
            objects.iter().filter_map(|object| serde_json::from_slice(&object.bytes).ok()).collect()
        };
        let may = |asked: &crate::stack::Attributes| self.authorizer.decide(user, asked).is_allowed();
        decide(&View::new(&list, &may))
    }
}

//! Writes the schemas of the API's types into a file that the apiserver carries: `diolkos-schema FILE`. With `--check`
//! it only says whether the file is what it would write. `cargo xtask schema` calls it.
//!
//! One line holds one type, in order of their names, so that what a new version of Kubernetes changes can be read.

mod adapt;

use std::process::ExitCode;

use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use k8s_openapi::schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Names types; what they refer to comes along.
macro_rules! types {
    ($generator:expr, $($module:path => $($kind:ident)+;)+) => {
        $({
            use $module as module;
            $(let _ = $generator.subschema_for::<module::$kind>();)+
        })+
    };
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (check, path) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--check", path] => (true, path.to_owned()),
        [path] => (false, path.to_owned()),
        _ => return fail("usage: diolkos-schema [--check] FILE"),
    };
    let text = lines(&definitions());
    if !check {
        return match std::fs::write(&path, text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(cause) => fail(&format!("cannot write {path}: {cause}")),
        };
    }
    match std::fs::read_to_string(&path) {
        Ok(present) if present == text => ExitCode::SUCCESS,
        Ok(_) => fail(&format!("{path} is not what the types say: run `cargo xtask schema`")),
        Err(cause) => fail(&format!("cannot read {path}: {cause}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// All types by their names, `io.k8s.api.core.v1.Pod`.
fn definitions() -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    collect(&mut generator);
    let mut definitions: Vec<(String, Value)> = generator.take_definitions(false).into_iter().collect();
    definitions.sort_by(|a, b| a.0.cmp(&b.0));
    definitions.into_iter().map(|(name, schema)| (name.clone(), adapt::definition(&name, schema))).collect()
}

fn collect(generator: &mut SchemaGenerator) {
    types!(generator,
        api::core::v1 => Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
        api::apps::v1 => ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        api::authentication::v1 => SelfSubjectReview TokenRequest TokenReview;
        api::authorization::v1 => LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview;
        api::autoscaling::v1 => HorizontalPodAutoscaler Scale;
        api::autoscaling::v2 => HorizontalPodAutoscaler;
        api::batch::v1 => CronJob Job;
        api::certificates::v1 => CertificateSigningRequest;
        api::coordination::v1 => Lease;
        api::discovery::v1 => EndpointSlice;
        api::events::v1 => Event;
        api::networking::v1 => IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
        api::node::v1 => RuntimeClass;
        api::policy::v1 => Eviction PodDisruptionBudget;
        api::rbac::v1 => ClusterRole ClusterRoleBinding Role RoleBinding;
        api::scheduling::v1 => PriorityClass;
        api::storage::v1 => StorageClass;
        apiextensions::v1 => CustomResourceDefinition;
        meta::v1 => APIGroup APIGroupList APIResourceList APIVersions DeleteOptions ListMeta ObjectMeta Patch Status;
    );
}

fn lines(definitions: &Map<String, Value>) -> String {
    let lines: Vec<String> =
        definitions.iter().map(|(name, schema)| format!("{}:{schema}", Value::from(name.as_str()))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

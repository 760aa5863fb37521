//! Create, and the binding of a pod to a node.

use diolkos_api::kind::names;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_store::Expect;
use serde_json::{Value, json};
use uuid::Uuid;

use super::body::{self, FieldValidation};
use super::transaction::{Edit, set_version};
use super::update::to_storage;
use super::writer::{Tracking, check_manager};
use super::{Caller, Handlers, Target, now, reply, review};
use crate::managed;

/// Letters of generated names, as Kubernetes has them: no vowels, so no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters appended to `generateName`.
const SUFFIX_LENGTH: usize = 5;
/// The part of `generateName` that is used, so that the whole fits into a label.
const MAX_PREFIX: usize = 63 - SUFFIX_LENGTH;
/// Names that are tried for one `generateName`.
const MAX_GENERATED: usize = 8;

/// How an object is made that was read and checked.
pub(super) struct Creation {
    pub warnings: Vec<String>,
    pub dry_run: bool,
    /// Who makes it, unless that is noted in it already.
    pub tracking: Option<Tracking>,
}

impl Handlers {
    pub(crate) async fn create(&self, caller: &Caller, request: wire::WriteRequest) -> Result<wire::Object, Failure> {
        let key = request.key.as_ref();
        let is_part = key.is_some_and(|key| !key.subresource.is_empty());
        let target = self.target(caller, "create", request.key.clone(), is_part)?;
        match target.subresource.as_str() {
            "binding" => return self.bind(&target, &request).await,
            "eviction" => return self.evict(&target, &request).await,
            "token" => return self.request_token(&target, &request).await,
            _ => {}
        }
        if is_part {
            return Err(Failure::unimplemented(format!("creating {} is not part of this server", what(&target))));
        }
        if review::is_review(&target.kind) {
            return self.review(caller, &target, &request).await;
        }
        let validation = FieldValidation::parse(&request.field_validation)?;
        check_manager("CreateOptions", &request.field_manager)?;
        let (mut object, warnings) = body::parse(&target.served, &request.json, validation)?;
        body::drop_nulls_of(&target.served, &mut object);
        to_storage(&target, &mut object);
        let tracking = Tracking::of(&target, caller, &request.field_manager);
        let creation = Creation { warnings, dry_run: request.dry_run, tracking: Some(tracking) };
        self.create_object(caller, target, object, creation).await
    }

    /// Creates what a client sent, or what it applied.
    pub(super) async fn create_object(
        &self,
        caller: &Caller,
        mut target: Target,
        mut object: Value,
        creation: Creation,
    ) -> Result<wire::Object, Failure> {
        if target.kind.custom().is_some_and(|custom| custom.is_terminating()) {
            return Err(Failure::method_not_allowed());
        }
        let Creation { mut warnings, dry_run, tracking } = creation;
        settle_namespace(&target, &mut object)?;
        let prefix = settle_name(&mut target, &mut object)?;
        let namespace = self.check_namespace(&target, false).await?;
        sign(&target, caller, &mut object);
        warnings.extend(target.kind.warnings(&object));
        let attempts = if prefix.is_some() { MAX_GENERATED } else { 1 };
        for _ in 0..attempts {
            if let Some(prefix) = &prefix {
                target.name = generate_name(prefix);
                object["metadata"]["name"] = target.name.clone().into();
            }
            let mut object = object.clone();
            target.kind.prepare_for_create(&mut object);
            target.kind.default(&mut object);
            if let Some(tracking) = &tracking {
                managed::track(None, &mut object, &tracking.write());
            }
            target.kind.identify(&mut object, &Uuid::new_v4().to_string(), &now());
            let mut warnings = warnings.clone();
            warnings.extend(self.admit(&target, &mut object, None).await?);
            if target.served.is_converted() {
                target.served.check_converted(&object, None)?;
            }
            if dry_run {
                return target.serve(self.rehearse(&target, object, warnings).await?);
            }
            if let Some(revision) = self.insert(&target, &mut object, namespace.clone()).await? {
                set_version(&mut object, revision);
                self.notice(&target, &object).await;
                return target.serve(reply(&object, revision, warnings));
            }
        }
        Err(Failure::already_exists(target.served.resource(), &target.name))
    }

    /// Everything but the commit.
    async fn rehearse(
        &self,
        target: &Target,
        mut object: Value,
        warnings: Vec<String>,
    ) -> Result<wire::Object, Failure> {
        if self.stored(&target.key()).await?.is_some() {
            return Err(Failure::already_exists(target.kind.resource(), &target.name));
        }
        self.addresses.claims(self, &target.kind, None, Some(&mut object), &[]).await?;
        target.kind.check(&object, None)?;
        self.check_write(target, Some(&object), None)?;
        self.admission.charge(&target.write(Some(&object), None)).await?;
        Ok(reply(&object, 0, warnings))
    }

    /// 404 when the namespace is not there, 403 when it is on its way out. Returns what a commit has to expect, so that
    /// nothing enters a namespace that goes in between; nothing for kinds without one. `fresh`: ask the store.
    pub(super) async fn check_namespace(&self, target: &Target, fresh: bool) -> Result<Option<Expect>, Failure> {
        if !target.kind.namespaced {
            return Ok(None);
        }
        let namespaces = self.registry.find("", "v1", "namespaces").ok_or_else(Failure::no_such_resource)?;
        let key = namespaces.key("", &target.namespace);
        let cached = if fresh { None } else { self.cached(&key).await? };
        let Some(namespace) = (match cached {
            Some(cached) => Some(cached),
            None => self.stored(&key).await?,
        }) else {
            return Err(Failure::not_found(namespaces.resource(), &target.namespace));
        };
        self.admission.check_creation(&target.write(None, None), &namespace.object)?;
        Ok(Some(Expect::At { key, revision: namespace.revision }))
    }

    /// Sets `spec.nodeName` of a pod, once. The answer is a Status, as in Kubernetes.
    async fn bind(&self, target: &Target, request: &wire::WriteRequest) -> Result<wire::Object, Failure> {
        let (binding, _) = body::parse_document(&request.json)
            .map_err(|cause| Failure::bad_request(format!("cannot read the Binding: {cause}")))?;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(problem) = names::dns_subdomain(&node).into_iter().next() {
            return Err(Failure::bad_request(format!("target.name of the Binding is no node's name: {problem}")));
        }
        let resource = target.kind.resource();
        let conflict = |why: &str| Err(Failure::conflict(resource, &target.name, why));
        let bound = self
            .change(target, request.dry_run, |current| {
                let pod = &current.object;
                let wanted = &binding["metadata"]["uid"];
                if wanted.is_string() && *wanted != pod["metadata"]["uid"] {
                    return conflict("the UID in the binding does not match the UID of the pod");
                }
                if pod["metadata"]["deletionTimestamp"].is_string() {
                    return conflict(&format!("pod {} is being deleted, cannot be assigned to a host", target.name));
                }
                match pod["spec"]["nodeName"].as_str() {
                    None | Some("") => Ok(Edit::Put(assign(pod, &binding, &node))),
                    Some(other) => conflict(&format!("pod {} is already assigned to node \"{other}\"", target.name)),
                }
            })
            .await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(reply(&status, bound.resource_version, Vec::new()))
    }
}

/// The pod with its node, the labels and annotations of the binding, and the condition that says so.
fn assign(pod: &Value, binding: &Value, node: &str) -> Value {
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    for part in ["labels", "annotations"] {
        for (key, value) in binding["metadata"][part].as_object().into_iter().flatten() {
            pod["metadata"][part][key] = value.clone();
        }
    }
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                           "lastTransitionTime": now()});
    let conditions = &mut pod["status"]["conditions"];
    match conditions.as_array_mut() {
        None => *conditions = Value::Array(vec![scheduled]),
        Some(list) => {
            list.retain(|condition| condition["type"] != "PodScheduled");
            list.push(scheduled);
        }
    }
    body::drop_nulls(&mut pod);
    pod
}

/// Who asks for a certificate is not for the asker to say.
fn sign(target: &Target, caller: &Caller, object: &mut Value) {
    if target.kind.kind != "CertificateSigningRequest" || !object["spec"].is_object() {
        return;
    }
    if let Some(spec) = object["spec"].as_object_mut() {
        ["username", "uid", "groups", "extra"].iter().for_each(|field| drop(spec.shift_remove(*field)));
        spec.insert("username".into(), caller.user.name.clone().into());
        spec.insert("groups".into(), caller.user.groups.clone().into());
    }
}

/// "pods/log"
fn what(target: &Target) -> String {
    format!("{}/{}", target.served.plural, target.subresource)
}

fn settle_namespace(target: &Target, object: &mut Value) -> Result<(), Failure> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    if !target.kind.namespaced {
        return Ok(());
    }
    if target.namespace.is_empty() {
        return Err(Failure::method_not_allowed());
    }
    if !given.is_empty() && given != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object["metadata"]["namespace"] = target.namespace.clone().into();
    Ok(())
}

/// The name of the object is the target's; returns the prefix when the name is to be generated.
fn settle_name(target: &mut Target, object: &mut Value) -> Result<Option<String>, Failure> {
    let metadata = &object["metadata"];
    let given = metadata["name"].as_str().unwrap_or_default();
    if !target.name.is_empty() && !given.is_empty() && given != target.name {
        let asked = &target.name;
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({asked})"
        )));
    }
    if !given.is_empty() {
        target.name = given.to_owned();
    }
    if target.name.contains('/') {
        return target.kind.check(object, None).map(|()| None);
    }
    match metadata["generateName"].as_str() {
        Some(prefix) if !prefix.is_empty() && target.name.is_empty() => Ok(Some(prefix.to_owned())),
        _ => {
            if !target.name.is_empty() {
                object["metadata"]["name"] = target.name.clone().into();
            }
            Ok(None)
        }
    }
}

fn generate_name(prefix: &str) -> String {
    let end = prefix.floor_char_boundary(MAX_PREFIX.min(prefix.len()));
    let letter = |_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    prefix[..end].chars().chain((0..SUFFIX_LENGTH).map(letter)).collect()
}

//! TokenRequest: a token for a service account, bound to what uses it.

use diolkos_api::status::{Failure, GroupResource};
use diolkos_api::wire;
use serde_json::{Value, json};

use super::body::{self, FieldValidation};
use super::{Handlers, Target, reply, rfc3339};
use crate::tokens::{LEAST_SECONDS, MOST_SECONDS, Order, Reference};

/// Time of a token that is asked for without any, in seconds.
const USUAL_SECONDS: i64 = 3600;

const NAMES: [(&str, &str); 2] = [("apiVersion", "authentication.k8s.io/v1"), ("kind", "TokenRequest")];

impl Handlers {
    pub(super) async fn request_token(
        &self,
        target: &Target,
        request: &wire::WriteRequest,
    ) -> Result<wire::Object, Failure> {
        FieldValidation::parse(&request.field_validation)?;
        let (mut asked, _) = body::parse_document(&request.json)
            .map_err(|cause| Failure::bad_request(format!("cannot read the TokenRequest: {cause}")))?;
        if !asked.is_object() {
            return Err(Failure::bad_request("the TokenRequest is no JSON object"));
        }
        for (field, value) in NAMES {
            if asked[field].as_str().is_some_and(|given| !given.is_empty() && given != value) {
                return Err(Failure::bad_request(format!("{field} of the TokenRequest is not {value}")));
            }
        }
        let account = match self.cached(&target.key()).await? {
            Some(account) => account,
            None => self.stored(&target.key()).await?.ok_or_else(|| target.not_found())?,
        };
        let audiences = match texts(&asked["spec"]["audiences"])? {
            audiences if audiences.is_empty() => self.tokens.audiences().to_vec(),
            audiences => audiences,
        };
        let seconds = asked["spec"]["expirationSeconds"].as_i64().unwrap_or(USUAL_SECONDS);
        check_seconds(seconds)?;
        let (bound, node) = self.bound(target, &asked["spec"]["boundObjectRef"]).await?;
        let order = Order {
            namespace: target.namespace.clone(),
            account: reference(&account.object),
            bound,
            node,
            audiences: audiences.clone(),
            seconds,
        };
        for (field, value) in NAMES {
            asked[field] = value.into();
        }
        asked["metadata"] =
            json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": super::now()});
        asked["spec"]["audiences"] = audiences.into();
        asked["spec"]["expirationSeconds"] = seconds.into();
        if !request.dry_run {
            let (token, ends) = self.tokens.issue(order)?;
            asked["status"] = json!({"token": token, "expirationTimestamp": rfc3339(ends)});
        }
        Ok(reply(&asked, 0, Vec::new()))
    }

    /// What the token ends with, and the node it is on.
    async fn bound(
        &self,
        target: &Target,
        asked: &Value,
    ) -> Result<(Option<(&'static str, Reference)>, Option<Reference>), Failure> {
        if asked.is_null() {
            return match target.user.node() {
                Some(_) => Err(refused(target, "node requested token not bound to a pod")),
                None => Ok((None, None)),
            };
        }
        let (kind, plural) = match (asked["apiVersion"].as_str(), asked["kind"].as_str()) {
            (Some("v1"), Some("Pod")) => ("Pod", "pods"),
            (Some("v1"), Some("Secret")) => ("Secret", "secrets"),
            (Some("v1"), Some("Node")) => ("Node", "nodes"),
            (version, kind) => {
                return Err(Failure::bad_request(format!(
                    "cannot bind token to object of type {}, Kind={}",
                    version.unwrap_or_default(),
                    kind.unwrap_or_default()
                )));
            }
        };
        let name = asked["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains('/') {
            return Err(Failure::bad_request("spec.boundObjectRef.name names no object"));
        }
        let object_kind = self.registry.find("", "v1", plural).ok_or_else(Failure::no_such_resource)?;
        let key = object_kind.key(&target.namespace, name);
        let resource = object_kind.resource();
        let object = self.stored(&key).await?.ok_or_else(|| Failure::not_found(resource, name))?.object;
        let uid = asked["uid"].as_str().unwrap_or_default();
        if target.user.node().is_some() {
            check_node(target, kind, uid, &object)?;
        }
        if !uid.is_empty() && object["metadata"]["uid"] != uid {
            let own = object["metadata"]["uid"].as_str().unwrap_or_default();
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated ({own})"
            );
            return Err(Failure::conflict(GroupResource { group: "", resource: kind }, name, &why));
        }
        if kind != "Pod" {
            return Ok((Some((kind, reference(&object))), None));
        }
        let account = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        if account != target.name {
            return Err(Failure::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                target.name
            )));
        }
        let node = match object["spec"]["nodeName"].as_str() {
            None | Some("") => None,
            Some(node) => {
                let nodes = self.registry.find("", "v1", "nodes").ok_or_else(Failure::no_such_resource)?;
                self.cached(&nodes.key("", node)).await?.map(|node| reference(&node.object))
            }
        };
        Ok((Some((kind, reference(&object))), node))
    }
}

/// NodeRestriction: only for a pod that runs there.
fn check_node(target: &Target, kind: &str, uid: &str, object: &Value) -> Result<(), Failure> {
    let node = target.user.node().unwrap_or_default();
    if kind != "Pod" {
        return Err(refused(target, "node requested token not bound to a pod"));
    }
    if uid.is_empty() {
        return Err(refused(target, "node requested token with a pod binding without a uid"));
    }
    if object["spec"]["nodeName"] != node {
        return Err(refused(target, "node requested token bound to a pod scheduled on a different node"));
    }
    Ok(())
}

fn check_seconds(seconds: i64) -> Result<(), Failure> {
    let why = if seconds < LEAST_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MOST_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    Err(Failure::bad_request(format!("spec.expirationSeconds: Invalid value: {seconds}: {why}")))
}

fn refused(target: &Target, why: &str) -> Failure {
    Failure::refused(target.kind.resource(), &target.name, why)
}

fn reference(object: &Value) -> Reference {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Reference { name: text("name"), uid: text("uid") }
}

fn texts(list: &Value) -> Result<Vec<String>, Failure> {
    let texts = list.as_array().into_iter().flatten().map(|item| item.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(|| Failure::bad_request("spec.audiences holds what is no text"))
}

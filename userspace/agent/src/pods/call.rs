//! One call of the plugin: understood, answered.

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::PodsError;
use super::opt_out::{DISABLED, SOCKET_LB};
use super::protocol::{Key, Reply, Request, Version};
use super::{Pods, results};

/// The capability by which container runtimes hand over a pod's annotations.
pub(super) const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// GC's list of what the runtime still knows.
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

impl Pods {
    /// Answers a call. Never fails: errors are part of the answer, in the version of the request where that is known.
    pub async fn answer(&self, request: Request) -> Reply {
        let version = version(&request);
        let answered = match &version {
            Ok(version) => self.dispatch(&request, *version).await,
            Err(found) => Err(PodsError::Version { found: found.clone() }),
        };
        match answered {
            Ok(result) => Reply::Result(result),
            Err(error) => {
                let Request { command, container_id, ifname, .. } = &request;
                tracing::warn!(command, container_id, ifname, code = error.code(), %error, "CNI call failed");
                Reply::Error(error.to_result(version.unwrap_or(Version::DEFAULT)))
            }
        }
    }

    async fn dispatch(&self, request: &Request, version: Version) -> Result<Value, PodsError> {
        match request.command.as_str() {
            "ADD" => {
                let attachment = self.add(&add_call(request)?).await?;
                Ok(results::added(version, &attachment, &request.netns))
            }
            "DEL" => self.delete(&key(request)?).await.map(|()| Value::Null),
            "CHECK" => self.check(&key(request)?, required_netns(request)?).await.and_then(|held| {
                held.addresses().iter().try_for_each(|address| check_previous(request, &address.to_string()))?;
                Ok(Value::Null)
            }),
            "GC" => self.collect(network_name(request)?, &valid(request)?).await.map(|()| Value::Null),
            "STATUS" => self.status().map(|()| Value::Null),
            "VERSION" => Ok(results::versions()),
            other => Err(PodsError::Command(other.to_owned())),
        }
    }
}

/// What ADD needs to know.
pub(super) struct AddCall {
    pub(super) key: Key,
    pub(super) netns: String,
    pub(super) network: String,
    pub(super) socket_lb_off: bool,
    /// `namespace/name`, for people.
    pub(super) pod: String,
}

fn add_call(request: &Request) -> Result<AddCall, PodsError> {
    let argument = |name: &str| request.args.get(name).map_or("", String::as_str);
    Ok(AddCall {
        key: key(request)?,
        netns: required_netns(request)?.to_owned(),
        network: network_name(request)?.to_owned(),
        socket_lb_off: socket_lb_off(request),
        pod: format!("{}/{}", argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")),
    })
}

/// The version to answer in; the unsupported text otherwise. VERSION is asked to learn what is supported, so it is
/// answered whatever it says.
fn version(request: &Request) -> Result<Version, String> {
    let found = request.config.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    match Version::parse(found) {
        Some(version) => Ok(version),
        None if request.command == "VERSION" => Ok(Version::DEFAULT),
        None => Err(found.to_owned()),
    }
}

fn key(request: &Request) -> Result<Key, PodsError> {
    Key::new(&request.container_id, &request.ifname).map_err(PodsError::Environment)
}

fn required_netns(request: &Request) -> Result<&str, PodsError> {
    match request.netns.as_str() {
        "" => Err(PodsError::Environment(format!("CNI_NETNS is missing, {} needs it", request.command))),
        path => Ok(path),
    }
}

fn network_name(request: &Request) -> Result<&str, PodsError> {
    let name = request.config.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    name.ok_or_else(|| PodsError::Config("the network configuration has no name".into()))
}

fn socket_lb_off(request: &Request) -> bool {
    let off = |value: Option<&Value>| value.and_then(Value::as_str) == Some(DISABLED);
    let annotations = request.config.get("runtimeConfig").and_then(|config| config.get(ANNOTATIONS));
    request.args.get(SOCKET_LB).is_some_and(|value| value == DISABLED)
        || off(request.config.get(SOCKET_LB))
        || off(annotations.and_then(|annotations| annotations.get(SOCKET_LB)))
}

/// The result of ADD that the runtime hands back must name the address that the pod has.
fn check_previous(request: &Request, address: &str) -> Result<(), PodsError> {
    let Some(ips) = request.config.get("prevResult").and_then(|result| result.get("ips")).and_then(Value::as_array)
    else {
        return Ok(());
    };
    let stated =
        |ip: &Value| ip.get("address").and_then(Value::as_str).and_then(|a| a.split('/').next()) == Some(address);
    if ips.iter().any(stated) {
        return Ok(());
    }
    Err(PodsError::Check(format!("prevResult does not name the pod's address {address}")))
}

fn valid(request: &Request) -> Result<BTreeSet<Key>, PodsError> {
    let bad = || PodsError::Config(format!("GC needs {VALID_ATTACHMENTS}: a list of containerID and ifname"));
    let list = request.config.get(VALID_ATTACHMENTS).and_then(Value::as_array).ok_or_else(bad)?;
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
    let key = |entry: &Value| Some(Key { container_id: text(entry, "containerID")?, ifname: text(entry, "ifname")? });
    list.iter().map(|entry| key(entry).ok_or_else(bad)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn request(command: &str, config: Value) -> Request {
        Request {
            command: command.into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            netns: "/run/netns/x".into(),
            config: config.as_object().unwrap().clone(),
            ..Request::default()
        }
    }

    #[test]
    fn an_old_version_is_refused_except_by_version() {
        let old = json!({ "cniVersion": "0.3.1", "name": "diolkos" });
        assert_eq!(version(&request("ADD", old.clone())), Err("0.3.1".into()));
        assert_eq!(version(&request("VERSION", old)), Ok(Version::DEFAULT));
        assert_eq!(version(&request("ADD", json!({ "cniVersion": "1.1.0" }))), Ok(Version::V1_1_0));
    }

    #[test]
    fn a_pod_opts_out_of_socket_translation_by_annotation_argument_or_configuration() {
        assert!(!socket_lb_off(&request("ADD", json!({}))));
        assert!(!socket_lb_off(&request("ADD", json!({ SOCKET_LB: "enabled" }))));
        assert!(socket_lb_off(&request("ADD", json!({ SOCKET_LB: DISABLED }))));
        let annotated = json!({ "runtimeConfig": { ANNOTATIONS: { SOCKET_LB: DISABLED } } });
        assert!(socket_lb_off(&request("ADD", annotated)));
        let mut by_argument = request("ADD", json!({}));
        by_argument.args.insert(SOCKET_LB.into(), DISABLED.into());
        assert!(socket_lb_off(&by_argument));
    }

    #[test]
    fn gc_without_a_list_collects_nothing() {
        assert_eq!(valid(&request("GC", json!({}))).unwrap_err().code(), 7);
        assert_eq!(valid(&request("GC", json!({ VALID_ATTACHMENTS: [{ "ifname": "eth0" }] }))).unwrap_err().code(), 7);
        let listed = json!({ VALID_ATTACHMENTS: [{ "containerID": "c1", "ifname": "eth0" }] });
        assert_eq!(valid(&request("GC", listed)).unwrap(), BTreeSet::from([Key::new("c1", "eth0").unwrap()]));
    }

    #[test]
    fn a_previous_result_with_another_address_fails_check() {
        let with = |address: &str| request("CHECK", json!({ "prevResult": { "ips": [{ "address": address }] } }));
        assert!(check_previous(&with("10.244.1.2/32"), "10.244.1.2").is_ok());
        assert_eq!(check_previous(&with("10.244.1.22/32"), "10.244.1.2").unwrap_err().code(), 103);
        assert!(check_previous(&request("CHECK", json!({})), "10.244.1.2").is_ok());
    }
}

//! What a cluster has to say and to allow so that machines can join it: kubeadm's objects, under kubeadm's names, and a
//! ConfigMap of what all nodes have to agree on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_api::bootstrap_token::{INFO_ENTRY, INFO_NAME, INFO_NAMESPACE};
use diolkos_api::client::{Api, Client, PatchKind, Resource};
use diolkos_api::status::Failure;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

/// The group of machines that come with a token.
pub(crate) const JOINERS: &str = "system:bootstrappers:kubeadm:default-node-token";
/// Where nodes read what they have to agree on.
pub(crate) const CONFIG_NAMESPACE: &str = "kube-system";
pub(crate) const CONFIG_NAME: &str = "diolkos-config";

const RBAC: &str = "rbac.authorization.k8s.io";
const REQUESTS: &str = "system:certificates.k8s.io:certificatesigningrequests";

/// Makes what is missing, and puts right what says where the cluster is.
pub(crate) async fn ensure(
    client: &Client,
    server: &str,
    ca_pem: &str,
    config: &[(&str, String)],
) -> Result<(), Failure> {
    ensure_data(client, INFO_NAMESPACE, cluster_info(server, ca_pem)).await?;
    let data: serde_json::Map<String, Value> =
        config.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
    let config = json!({"metadata": {"name": CONFIG_NAME, "namespace": CONFIG_NAMESPACE}, "data": data});
    ensure_data(client, CONFIG_NAMESPACE, config).await?;
    for (name, role, who) in [
        ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper".to_owned(), JOINERS),
        ("kubeadm:node-autoapprove-bootstrap", format!("{REQUESTS}:nodeclient"), JOINERS),
        ("kubeadm:node-autoapprove-certificate-rotation", format!("{REQUESTS}:selfnodeclient"), "system:nodes"),
    ] {
        let role = json!({"apiGroup": RBAC, "kind": "ClusterRole", "name": role});
        let binding = json!({"metadata": {"name": name}, "roleRef": role, "subjects": [group(who)]});
        create::<ClusterRoleBinding>(&client.api(None), binding).await?;
    }
    let anybody = json!({"apiGroup": RBAC, "kind": "User", "name": "system:anonymous"});
    let info = "kubeadm:bootstrap-signer-clusterinfo";
    readable(client, INFO_NAMESPACE, info, INFO_NAME, vec![anybody]).await?;
    let members = vec![group(JOINERS), group("system:nodes")];
    readable(client, CONFIG_NAMESPACE, "diolkos:nodes-config", CONFIG_NAME, members).await
}

/// What everybody may know: the address and the authority, as a kubeconfig without a user.
pub(crate) fn cluster_info(server: &str, ca_pem: &str) -> Value {
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "",
            "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca_pem)},
        }],
        "contexts": null,
        "current-context": "",
        "preferences": {},
        "users": null,
    });
    // A tree of strings always serializes.
    let text = serde_yaml_ng::to_string(&file).unwrap_or_default();
    json!({"metadata": {"name": INFO_NAME, "namespace": INFO_NAMESPACE}, "data": {INFO_ENTRY: text}})
}

fn group(name: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": "Group", "name": name})
}

/// Lets subjects read one ConfigMap.
async fn readable(client: &Client, namespace: &str, name: &str, of: &str, who: Vec<Value>) -> Result<(), Failure> {
    let metadata = json!({"name": name, "namespace": namespace});
    let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [of]});
    create::<Role>(&client.api(None), json!({"metadata": metadata, "rules": [rule]})).await?;
    let role = json!({"apiGroup": RBAC, "kind": "Role", "name": name});
    let binding = json!({"metadata": metadata, "roleRef": role, "subjects": who});
    create::<RoleBinding>(&client.api(None), binding).await
}

/// Creates the ConfigMap, or gives the one that is there these entries; others of its entries stay.
async fn ensure_data(client: &Client, namespace: &str, object: Value) -> Result<(), Failure> {
    let api = client.api::<ConfigMap>(Some(namespace));
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Some(present) = api.get_opt(&name).await? else {
        return create(&client.api::<ConfigMap>(None), object).await;
    };
    let data = present.data.unwrap_or_default();
    let wanted = object["data"].as_object().into_iter().flatten();
    let stale = wanted.into_iter().any(|(entry, text)| data.get(entry).map(String::as_str) != text.as_str());
    if stale {
        api.patch(&name, PatchKind::Merge, &json!({"data": object["data"]})).await?;
    }
    Ok(())
}

/// What is there already stays as it is.
async fn create<K: Resource>(api: &Api<K>, object: Value) -> Result<(), Failure> {
    let object: K = serde_json::from_value(object).map_err(Failure::internal)?;
    match api.create(&object).await {
        Err(failure) if !failure.is_already_exists() => Err(failure),
        _ => Ok(()),
    }
}

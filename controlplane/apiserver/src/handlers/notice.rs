//! Events of the apiserver's own: what has to be known of an object after its writer is gone.

use bytes::Bytes;
use diolkos_api::wire;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Handlers, Target, now};
use crate::bootstrap::own_caller;

const COMPONENT: &str = "diolkos-apiserver";
/// Letters of an event's name after that of its object.
const SUFFIX_LENGTH: usize = 16;

impl Handlers {
    /// Tells in the namespace of a new NetworkPolicy that nothing enforces it: the warning is seen once, by its writer.
    pub(super) async fn notice(&self, target: &Target, object: &Value) {
        if target.kind.kind != "NetworkPolicy" {
            return;
        }
        let event = event(object, "NotEnforced", "NetworkPolicy is not enforced: it restricts no traffic");
        let key = wire::Key {
            version: "v1".into(),
            plural: "events".into(),
            namespace: target.namespace.clone(),
            ..wire::Key::default()
        };
        let json = Bytes::from(event.to_string());
        let request = wire::WriteRequest { key: Some(key), json, ..wire::WriteRequest::default() };
        if let Err(failure) = Box::pin(self.create(&own_caller(), request)).await {
            let (namespace, name) = (&target.namespace, &target.name);
            tracing::warn!(%namespace, %name, %failure, "cannot write the event that a NetworkPolicy is not enforced");
        }
    }
}

fn event(object: &Value, reason: &str, message: &str) -> Value {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let unique = Uuid::new_v4().simple().to_string();
    let time = now();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{}", &unique[..SUFFIX_LENGTH]), "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": object["apiVersion"],
            "kind": object["kind"],
            "name": name,
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": COMPONENT},
    })
}

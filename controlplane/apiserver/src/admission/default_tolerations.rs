//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reachable, unless it says
//! otherwise.

use diolkos_api::status::Failure;
use serde_json::{Value, json};

use super::{View, Write};

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

pub(super) fn admit(write: &Write<'_>, pod: &mut Value, _: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("", "pods") || !pod["spec"].is_object() {
        return Ok(());
    }
    let tolerations = &mut pod["spec"]["tolerations"];
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let Some(list) = tolerations.as_array_mut() else { return Ok(()) };
    for taint in TAINTS {
        let unset = |value: &Value| value.as_str().is_none_or(str::is_empty);
        let tolerates = |own: &Value| {
            (unset(&own["key"]) || own["key"] == taint) && (unset(&own["effect"]) || own["effect"] == "NoExecute")
        };
        if !list.iter().any(tolerates) {
            list.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    Ok(())
}

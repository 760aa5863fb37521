//! The `loopback` plugin, which container runtimes call for `lo` beside the pod's network.
//!
//! The agent brings `lo` up itself when it adds the pod's interface, so that nothing is left to do here: the answer
//! says what a pod of ours has.

use serde_json::{Value, json};

use crate::environment::Call;
use crate::{Failure, code};

/// Runtimes still ask for `lo` in the oldest of these.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

pub(crate) fn answer(call: &Call) -> Result<Value, Failure> {
    match call.command.as_str() {
        "VERSION" => Ok(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS })),
        "ADD" => added(call),
        "DEL" | "CHECK" | "GC" | "STATUS" => Ok(Value::Null),
        other => Err(call.failure(code::INVALID_ENVIRONMENT, &format!("CNI_COMMAND {other:?} is unknown"))),
    }
}

fn added(call: &Call) -> Result<Value, Failure> {
    if !VERSIONS.contains(&call.version()) {
        let message = format!("cniVersion {:?} is not supported", call.version());
        return Err(call.failure(code::INCOMPATIBLE_VERSION, &message));
    }
    if let Some(previous) = call.config.get("prevResult") {
        return Ok(previous.clone());
    }
    let mut ip = json!({ "address": "127.0.0.1/8", "interface": 0 });
    if call.version().starts_with("0.") {
        ip["version"] = json!("4");
    }
    Ok(json!({
        "cniVersion": call.version(),
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": call.netns }],
        "ips": [ip],
        "dns": {},
    }))
}

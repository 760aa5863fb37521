//! Eviction: a delete that the budgets of a pod's application agree to.

use diolkos_api::selector::LabelSelector;
use diolkos_api::status::{Failure, StatusCause};
use diolkos_api::wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::transaction::Edit;
use super::{Handlers, Target, body, now, reply};
use crate::cache::Freshness;

/// When to ask again, in seconds, when a budget allows nothing now.
const RETRY_SECONDS: i32 = 10;
/// Evictions that a budget waits for to become true.
const MAX_DISRUPTED: usize = 2000;

impl Handlers {
    /// Deletes a pod, unless a budget forbids it. The answer is a Status, as in Kubernetes.
    pub(super) async fn evict(&self, target: &Target, request: &wire::WriteRequest) -> Result<wire::Object, Failure> {
        let (eviction, _) = body::parse_document(&request.json)
            .map_err(|cause| Failure::bad_request(format!("cannot read the Eviction: {cause}")))?;
        let name = eviction["metadata"]["name"].as_str().unwrap_or_default();
        if !name.is_empty() && name != target.name {
            return Err(Failure::bad_request("name in URL does not match name in Eviction object"));
        }
        let pod = self.stored(&target.key()).await?.ok_or_else(|| target.not_found())?;
        // Before a budget is charged: a node evicts its own pods only.
        self.check_write(&Target { verb: "delete", ..target.whole() }, None, Some(&pod.object))?;
        if !is_over(&pod.object) {
            self.ask_budgets(target, &pod.object, request.dry_run).await?;
        }
        let options = &eviction["deleteOptions"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let delete = wire::DeleteRequest {
            grace_period_seconds: options["gracePeriodSeconds"].as_i64(),
            propagation_policy: text(&options["propagationPolicy"]),
            precondition_uid: match text(&options["preconditions"]["uid"]) {
                // What was looked at is what goes.
                none if none.is_empty() => text(&pod.object["metadata"]["uid"]),
                uid => uid,
            },
            precondition_resource_version: text(&options["preconditions"]["resourceVersion"]),
            dry_run: request.dry_run,
            ..wire::DeleteRequest::default()
        };
        let gone = self.delete_target(&Target { verb: "delete", ..target.whole() }, &delete).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(reply(&status, gone.resource_version, Vec::new()))
    }

    /// Takes one disruption from the budget that the pod is of.
    async fn ask_budgets(&self, target: &Target, pod: &Value, dry_run: bool) -> Result<(), Failure> {
        let Some(kind) = self.registry.find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
        let (budgets, _) = self.cache.list(&kind.prefix(&target.namespace), None, Freshness::Latest).await?;
        let mut own = Vec::new();
        for budget in budgets {
            let budget: Value = serde_json::from_slice(&budget.bytes).map_err(Failure::internal)?;
            if selects(&budget, pod) {
                own.push(budget);
            }
        }
        let budget = match own.as_slice() {
            [] => return Ok(()),
            [budget] => budget,
            _ => {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Failure::internal(why));
            }
        };
        if !is_ready(pod) && budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
            return Ok(());
        }
        let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let budget = Target {
            kind: kind.clone(),
            served: kind,
            name,
            subresource: "status".into(),
            verb: "update",
            ..target.whole()
        };
        self.change(&budget, dry_run, |current| take(&current.object, pod, &budget.name)).await.map(drop)
    }
}

/// A pod that ended, waits for a node or is being deleted disturbs nobody by going.
fn is_over(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod["metadata"]["deletionTimestamp"].is_string()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|condition| condition["type"] == "Ready").any(|condition| condition["status"] == "True")
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    let parsed = meta::LabelSelector::deserialize(selector).ok().and_then(|own| LabelSelector::from_meta(&own).ok());
    !selector.is_null()
        && parsed.is_some_and(|parsed| parsed.matches_with(|key| pod["metadata"]["labels"][key].as_str()))
}

/// The budget with one disruption less, which it knows by the pod's name until the pod is gone.
fn take(budget: &Value, pod: &Value, name: &str) -> Result<Edit, Failure> {
    let status = &budget["status"];
    let refuse = |cause: String| {
        Err(Failure::too_many_requests(refusal(), RETRY_SECONDS).with_cause(StatusCause {
            reason: Some("DisruptionBudget".into()),
            message: Some(cause),
            field: None,
        }))
    };
    let generation = |value: &Value| value.as_i64().unwrap_or(0);
    if generation(&status["observedGeneration"]) < generation(&budget["metadata"]["generation"]) {
        return refuse(format!("The disruption budget {name} is still being processed by the server."));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        let (desired, current) = (number("desiredHealthy"), number("currentHealthy"));
        return refuse(format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        ));
    }
    let waiting = status["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if waiting > MAX_DISRUPTED {
        return refuse(format!(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller of {name}"
        ));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
    budget["status"]["disruptedPods"][pod] = now().into();
    Ok(Edit::Put(budget))
}

fn refusal() -> &'static str {
    "Cannot evict pod as it would violate the pod's disruption budget."
}

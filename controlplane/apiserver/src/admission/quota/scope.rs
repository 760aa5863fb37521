//! Which pods a quota with scopes is about.

use serde_json::Value;

use super::super::resources::items;
use super::usage::Usage;

/// All scopes of a quota fit what uses something. Scopes are about pods only.
pub(super) fn fits(quota: &Value, usage: &Usage) -> bool {
    let spec = &quota["spec"];
    let scopes = items(&spec["scopes"]).map(|scope| (scope.as_str().unwrap_or_default(), "Exists", &Value::Null));
    let expressions = items(&spec["scopeSelector"]["matchExpressions"]).map(|expression| {
        let text = |field: &str| expression[field].as_str().unwrap_or_default();
        (text("scopeName"), text("operator"), &expression["values"])
    });
    scopes.chain(expressions).all(|(scope, operator, values)| fits_one(usage, scope, operator, values))
}

fn fits_one(usage: &Usage, scope: &str, operator: &str, values: &Value) -> bool {
    let Some(pod) = &usage.pod else { return false };
    match scope {
        "Terminating" => pod.terminating,
        "NotTerminating" => !pod.terminating,
        "BestEffort" => pod.best_effort,
        "NotBestEffort" => !pod.best_effort,
        "CrossNamespacePodAffinity" => pod.across_namespaces,
        "PriorityClass" => {
            let class = pod.priority_class.as_str();
            let named = items(values).any(|value| value == class);
            match operator {
                "In" => !class.is_empty() && named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

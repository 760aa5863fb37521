//! What pods ask for and may use at most, as the scheduler reckons it.

use std::collections::{BTreeMap, BTreeSet};

use diolkos_api::quantity::{Amount, Quantity};
use serde_json::Value;

/// Amounts by resource.
pub(super) type Amounts = BTreeMap<String, Amount>;

/// The amounts of a resource list; what cannot be read counts for nothing, and is refused by the rules of its kind.
pub(super) fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, amount)| {
            let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
            Some((name.clone(), Amount::parse(&text).ok()?))
        })
        .collect()
}

/// "requests" or "limits" of a whole pod: the sum of its containers or what one of its steps at the start needs, if that
/// is more, and its overhead. Init containers that go on running count beside what comes after them.
pub(super) fn of_pod(spec: &Value, what: &str) -> Amounts {
    let own = |container: &Value| amounts(&container["resources"][what]);
    let mut running = Amounts::new();
    items(&spec["containers"]).for_each(|container| add(&mut running, &own(container)));
    let (mut beside, mut at_start) = (Amounts::new(), Amounts::new());
    for container in items(&spec["initContainers"]) {
        let mut step = own(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &step);
            add(&mut beside, &step);
            step = beside.clone();
        } else {
            add(&mut step, &beside);
        }
        raise(&mut at_start, &step);
    }
    raise(&mut running, &at_start);
    // What is said of the whole pod counts before what its containers say.
    running.extend(amounts(&spec["resources"][what]));
    for (name, overhead) in amounts(&spec["overhead"]) {
        let total = running.get(&name).copied().unwrap_or_default();
        if what == "requests" || total.quantity != Quantity::ZERO {
            add(&mut running, &Amounts::from([(name, overhead)]));
        }
    }
    running
}

pub(super) fn add(sum: &mut Amounts, further: &Amounts) {
    for (name, amount) in further {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = most.entry(name.clone()).or_insert(*amount);
        *known = known.max(*amount);
    }
}

/// `cpu=1,memory=1Gi`
pub(super) fn written<'a>(amounts: &Amounts, of: impl IntoIterator<Item = &'a String>) -> String {
    let names: BTreeSet<&String> = of.into_iter().collect();
    let pair = |name: &&String| format!("{name}={}", amounts.get(*name).copied().unwrap_or_default());
    names.iter().map(pair).collect::<Vec<_>>().join(",")
}

pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cpu(value: &str) -> Value {
        json!({"resources": {"requests": {"cpu": value}, "limits": {"cpu": value}}})
    }

    fn beside(value: &str) -> Value {
        let mut container = cpu(value);
        container["restartPolicy"] = "Always".into();
        container
    }

    #[test]
    fn a_pod_needs_the_most_that_runs_at_one_time() {
        for (spec, expected) in [
            (json!({"containers": [cpu("1"), cpu("500m")]}), "cpu=1500m"),
            (json!({"containers": [cpu("1")], "initContainers": [cpu("2"), cpu("3")]}), "cpu=3"),
            (json!({"containers": [cpu("1")], "initContainers": [beside("1"), cpu("500m")]}), "cpu=2"),
            (json!({"containers": [cpu("1")], "initContainers": [beside("1"), cpu("4")]}), "cpu=5"),
            (json!({"containers": [cpu("1")], "initContainers": [cpu("4"), beside("1")]}), "cpu=4"),
            (json!({"containers": [cpu("1")], "overhead": {"cpu": "250m"}}), "cpu=1250m"),
            (json!({"containers": [cpu("1")], "resources": {"requests": {"cpu": "7"}}}), "cpu=7"),
        ] {
            let requests = of_pod(&spec, "requests");
            assert_eq!(written(&requests, requests.keys()), expected, "{spec}");
        }
        let unlimited = json!({"containers": [{}], "overhead": {"cpu": "1"}});
        assert!(of_pod(&unlimited, "limits").is_empty(), "overhead is no limit by itself");
    }
}

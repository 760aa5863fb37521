//! Apply and update beside a model: who wants what of the ports of a Service.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Clock, Refusal, root};

/// Ports, and their node ports.
type Wanted = BTreeMap<u16, u16>;

/// Name, and whether it applies.
type Owner = (String, bool);

#[derive(Clone, Debug)]
enum Step {
    Apply {
        who: u8,
        wanted: Wanted,
        force: bool,
    },
    /// The whole list, as another would write it.
    Update {
        who: u8,
        wanted: Wanted,
    },
}

/// One port: its node port, who wants the port, and who wants that value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Port {
    value: Option<u16>,
    owners: BTreeSet<Owner>,
    value_owners: BTreeSet<Owner>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(BTreeMap<u16, Port>);

impl Model {
    /// False when others own what would change.
    fn apply(&mut self, who: &Owner, wanted: &Wanted, force: bool) -> bool {
        let differs = |port: &Port, value: &u16| port.value != Some(*value);
        let others = |port: &Port| port.value_owners.iter().any(|owner| owner != who);
        let conflict =
            |(key, value): (&u16, &u16)| self.0.get(key).is_some_and(|port| differs(port, value) && others(port));
        if !force && wanted.iter().any(conflict) {
            return false;
        }
        for (key, value) in wanted {
            let port = self.0.entry(*key).or_default();
            if port.value != Some(*value) {
                port.value_owners.clear();
            }
            port.value = Some(*value);
            port.owners.insert(who.clone());
            port.value_owners.insert(who.clone());
        }
        self.0.retain(|key, port| {
            if wanted.contains_key(key) {
                return true;
            }
            let owned_value = port.value_owners.remove(who);
            if owned_value && port.value_owners.is_empty() {
                port.value = None;
            }
            !port.owners.remove(who) || !port.owners.is_empty()
        });
        true
    }

    fn update(&mut self, who: &Owner, wanted: &Wanted) {
        self.0.retain(|key, _| wanted.contains_key(key));
        for (key, value) in wanted {
            let known = self.0.contains_key(key);
            let port = self.0.entry(*key).or_default();
            if !known {
                port.owners.insert(who.clone());
            }
            if port.value != Some(*value) {
                port.value_owners = BTreeSet::from([who.clone()]);
            }
            port.value = Some(*value);
        }
    }

    fn of(object: &Value) -> Model {
        let mut model = Model::default();
        for port in object["spec"]["ports"].as_array().into_iter().flatten() {
            let key = u16::try_from(port["port"].as_u64().unwrap()).unwrap();
            let value = port["nodePort"].as_u64().map(|value| u16::try_from(value).unwrap());
            model.0.insert(key, Port { value, ..Port::default() });
        }
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let owner = (entry["manager"].as_str().unwrap().to_owned(), entry["operation"] == "Apply");
            for (key, port) in &mut model.0 {
                let fields =
                    &entry["fieldsV1"]["f:spec"]["f:ports"][format!("k:{{\"port\":{key},\"protocol\":\"TCP\"}}")];
                if fields.get(".").is_some() {
                    port.owners.insert(owner.clone());
                }
                if fields.get("f:nodePort").is_some() {
                    port.value_owners.insert(owner.clone());
                }
            }
        }
        model
    }
}

fn service(wanted: &Wanted) -> Value {
    let ports: Vec<Value> = wanted.iter().map(|(port, node)| json!({"port": port, "nodePort": node})).collect();
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
    if !ports.is_empty() {
        service["spec"] = json!({"ports": ports});
    }
    service
}

/// The same, by somebody who sees the whole object and keeps what is not about ports.
fn updated(live: &Value, wanted: &Wanted) -> Value {
    let mut new = live.clone();
    let ports = service(wanted)["spec"]["ports"].clone();
    new["spec"]["ports"] = if ports.is_null() { json!([]) } else { ports };
    new
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop::collection::btree_map(80..84_u16, 1..4_u16, 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_u8, wanted(), any::<bool>()).prop_map(|(who, wanted, force)| Step::Apply { who, wanted, force }),
        1 => (0..3_u8, wanted()).prop_map(|(who, wanted)| Step::Update { who, wanted }),
    ]
}

proptest! {
    #[test]
    fn fields_go_to_who_wanted_them_last_and_leave_with_their_last_owner(steps in prop::collection::vec(step(), 1..24)) {
        let root = root("", "services");
        let clock = Clock { root: &root, now: "2026-01-01T00:00:00Z".into() };
        // Somebody owns something at all times, or nothing would be tracked.
        let start = json!({"metadata": {"name": "s", "labels": {"a": "b"}}, "spec": {"ports": []}});
        let mut live = clock.update("creator", None, &start);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Apply { who, wanted, force } => {
                    let owner = (format!("m{who}"), true);
                    let before = model.clone();
                    let applied = clock.apply(&owner.0, Some(&live), &service(&wanted), force);
                    match (model.apply(&owner, &wanted, force), applied) {
                        (true, Ok(new)) => live = new,
                        (false, Err(Refusal::Conflicts(conflicts))) => {
                            prop_assert!(!conflicts.is_empty());
                            model = before;
                        }
                        (expected, got) => prop_assert!(false, "{owner:?} {wanted:?}: {expected} {got:?}"),
                    }
                }
                Step::Update { who, wanted } => {
                    let owner = (format!("m{who}"), false);
                    model.update(&owner, &wanted);
                    live = clock.update(&owner.0, Some(&live), &updated(&live, &wanted));
                }
            }
            prop_assert_eq!(Model::of(&live), model.clone());
        }
    }

    #[test]
    fn an_applied_configuration_is_in_the_object_and_applying_it_again_changes_nothing(
        first in wanted(), second in wanted(), third in wanted(),
    ) {
        let root = root("", "services");
        let clock = Clock { root: &root, now: "2026-01-01T00:00:00Z".into() };
        let later = Clock { root: &root, now: "2026-01-01T00:00:09Z".into() };
        let live = clock.apply("a", None, &service(&first), false).unwrap();
        let live = clock.apply("b", Some(&live), &service(&second), true).unwrap();
        let live = clock.apply("a", Some(&live), &service(&third), true).unwrap();
        let model = Model::of(&live);
        for (key, value) in &third {
            prop_assert_eq!(model.0[key].value, Some(*value));
        }
        prop_assert_eq!(later.apply("a", Some(&live), &service(&third), false).unwrap(), live);
    }
}

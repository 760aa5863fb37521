//! Which nodes and which other pods a pod wants near.

use super::super::rule::At;
use super::super::workload::label_selector;
use super::super::{Causes, names};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate(affinity: &At<'_>, causes: &mut Causes) {
    validate_nodes(&affinity.field("nodeAffinity"), causes);
    for pods in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.field(pods);
        for term in pods.field(REQUIRED).items() {
            validate_pods(&term, causes);
        }
        for weighted in pods.field(PREFERRED).items() {
            weight(&weighted, causes);
            validate_pods(&weighted.field("podAffinityTerm"), causes);
        }
    }
}

fn validate_nodes(nodes: &At<'_>, causes: &mut Causes) {
    let required = nodes.field(REQUIRED);
    if required.is_set() {
        let terms = required.field("nodeSelectorTerms");
        terms.required("must have at least one node selector term", causes);
        terms.items().iter().for_each(|term| validate_term(term, causes));
    }
    for weighted in nodes.field(PREFERRED).items() {
        weight(&weighted, causes);
        validate_term(&weighted.field("preference"), causes);
    }
}

fn weight(term: &At<'_>, causes: &mut Causes) {
    let weight = term.field("weight");
    let number = weight.number().unwrap_or(0);
    if !(1..=100).contains(&number) {
        causes.invalid(&weight.path, number, "must be in the range 1-100");
    }
}

fn validate_term(term: &At<'_>, causes: &mut Causes) {
    for (list, by_field) in [("matchExpressions", false), ("matchFields", true)] {
        for requirement in term.field(list).items() {
            let (key, operator, values) =
                (requirement.field("key"), requirement.field("operator"), requirement.field("values"));
            let count = values.items().len();
            match operator.text() {
                "In" | "NotIn" if count == 0 => {
                    causes.required(&values.path, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "In" | "NotIn" => {}
                "Exists" | "DoesNotExist" if count > 0 => {
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", causes);
                }
                "Exists" | "DoesNotExist" => {}
                "Gt" | "Lt" if count != 1 => {
                    causes.required(&values.path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
                "Gt" | "Lt" => {}
                other => causes.invalid(&operator.path, other, "not a valid selector operator"),
            }
            if by_field {
                if key.text() != "metadata.name" {
                    key.invalid("not a valid field selector key", causes);
                }
            } else {
                causes.invalid_each(&key.path, key.text(), names::qualified_name(key.text()));
            }
        }
    }
}

fn validate_pods(term: &At<'_>, causes: &mut Causes) {
    label_selector(&term.field("labelSelector"), causes);
    label_selector(&term.field("namespaceSelector"), causes);
    for namespace in term.field("namespaces").items() {
        namespace.each(names::dns_label, causes);
    }
    let key = term.field("topologyKey");
    if key.required("can not be empty", causes) {
        key.each(names::qualified_name, causes);
    }
}

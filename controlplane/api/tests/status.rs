//! Failures beside what kube-apiserver 1.36 answered to the same requests.
#![allow(clippy::unwrap_used)]

use diolkos_api::kind::{Causes, Registry};
use diolkos_api::selector::{FieldSelector, LabelSelector};
use diolkos_api::status::{Continue, Failure, GroupResource};
use proptest::prelude::*;
use serde_json::{Value, json};

const SERVICES: GroupResource<'_> = GroupResource { group: "", resource: "services" };

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn assert_recorded(failure: Failure, name: &str) {
    let ours: Value = serde_json::from_slice(&failure.to_json()).unwrap();
    assert_eq!(ours, recorded(name), "{name}");
    assert_eq!(u64::from(failure.code()), recorded(name)["code"].as_u64().unwrap());
}

#[test]
fn bad_requests_are_as_recorded() {
    assert_recorded(
        Failure::bad_request(
            "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": \
             invalid syntax",
        ),
        "err_400_badrv",
    );
    let why = LabelSelector::parse("a===").unwrap_err();
    assert_recorded(Failure::bad_request(why), "err_400_selector");
    let service = Registry::builtin().find("", "v1", "services").unwrap();
    let selector = FieldSelector::parse("spec.foo=bar").unwrap();
    assert_recorded(service.check_field_selector(&selector).unwrap_err(), "err_400_fieldselector");
}

#[test]
fn refusals_are_as_recorded() {
    let pods = GroupResource { group: "", resource: "pods" };
    assert_recorded(Failure::unauthorized(), "err_401_badtoken");
    assert_recorded(Failure::forbidden("system:anonymous", "list", pods, "", "", ""), "err_403_anonymous");
    assert_recorded(Failure::forbidden("alice", "list", pods, "", "default", ""), "err_403_user");
    assert_recorded(Failure::forbidden("alice", "create", SERVICES, "", "default", ""), "err_403_user_create");
    assert_recorded(Failure::forbidden_path("alice", "get", "/metrics"), "err_403_nonresource");
}

#[test]
fn what_is_not_there_is_as_recorded() {
    let namespaces = GroupResource { group: "", resource: "namespaces" };
    assert_recorded(Failure::not_found(SERVICES, "nope"), "err_404_object");
    assert_recorded(Failure::not_found(namespaces, "nons"), "err_404_ns_create");
    assert_recorded(Failure::no_such_resource(), "err_404_subresource");
    assert_recorded(Failure::method_not_allowed(), "err_405");
}

#[test]
fn formats_are_as_recorded() {
    let available = [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/json;stream=watch",
        "application/vnd.kubernetes.protobuf;stream=watch",
    ];
    assert_recorded(Failure::not_acceptable(&available), "err_406");
    assert_recorded(Failure::unsupported_media_type(&available[..3]), "err_415");
}

#[test]
fn conflicts_are_as_recorded() {
    assert_recorded(Failure::already_exists(SERVICES, "fx"), "err_409_already_exists");
    assert_recorded(Failure::modified(SERVICES, "fx"), "err_409_conflict_rv");
    let why = "the UID in the precondition (00000000-0000-0000-0000-000000000000) does not match the UID in record \
               (bdac6a90-c69f-4c38-8f7a-9294e7ae0bb9). The object might have been deleted and then recreated";
    let service = GroupResource { group: "", resource: "Service" };
    assert_recorded(Failure::conflict(service, "fx", why), "err_422_delete_precond");
}

#[test]
fn times_that_are_over_or_not_yet_are_as_recorded() {
    let too_old = "The resourceVersion for the provided list is too old.";
    assert_recorded(Failure::expired(too_old), "err_410_list_exact_rv1");
    let rest = Continue { resource_version: -1, start: "default/kubernetes\0".into() };
    let continued = "The provided continue parameter is too old to display a consistent list result. You can start a \
                     new list without the continue parameter, or use the continue token in this response to retrieve \
                     the remainder of the results. Continuing with the provided token results in an inconsistent list \
                     - objects that were created, modified, or deleted between the time the first chunk was returned \
                     and now may show up in the list.";
    assert_recorded(Failure::expired(continued).with_continue(rest.encode()), "err_410_list_continue");
    assert_recorded(Failure::too_large_resource_version(99_999_999_999, 928), "err_504_future_rv");
    assert_eq!(Failure::too_old_resource_version(1, 942).to_string(), "too old resource version: 1 (942)");
}

#[test]
fn invalid_objects_are_as_recorded() {
    let service = Registry::builtin().find("", "v1", "services").unwrap();
    let refused = |address: &str, why: &str| {
        let mut causes = Causes::default();
        causes.invalid("spec.clusterIPs", json!([address]), format!("failed to allocate IP {address}: {why}"));
        Failure::invalid(&service, "b", causes.into_vec())
    };
    let range = "the provided network does not match the current range";
    assert_recorded(refused("1.2.3.4", range), "err_422_clusterip_range");
    assert_recorded(refused("10.96.0.1", "provided IP is already allocated"), "err_422_clusterip_taken");

    let spec = |address: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fx", "namespace": "default"},
               "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]}})
    };
    let (mut old, mut new) = (spec("10.96.201.7"), spec("10.96.77.77"));
    service.default(&mut old);
    service.default(&mut new);
    assert_recorded(service.check(&new, Some(&old)).unwrap_err(), "err_422_immutable_clusterip");
}

#[test]
fn kinds_of_a_group_are_named_with_it() {
    let deployment = Registry::builtin().find("apps", "v1", "deployments").unwrap();
    let failure = Failure::not_found(deployment.resource(), "web");
    assert_eq!(failure.to_string(), "deployments.apps \"web\" not found");
    assert_eq!(failure.status().details.as_ref().unwrap().group.as_deref(), Some("apps"));
    let mut causes = Causes::default();
    causes.required("spec.selector", "");
    causes.required("spec.template", "");
    assert_eq!(
        Failure::invalid(&deployment, "web", causes.into_vec()).to_string(),
        "Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec.template: Required value]"
    );
}

#[test]
fn a_failure_crosses_grpc_unchanged() {
    let failures = [
        Failure::not_found(SERVICES, "nope"),
        Failure::already_exists(SERVICES, "fx"),
        Failure::modified(SERVICES, "fx"),
        Failure::expired("old"),
        Failure::too_large_resource_version(9, 1),
        Failure::unimplemented("not here"),
        Failure::unavailable("away"),
        Failure::too_many_requests("slowly", 1),
        Failure::internal("broken"),
    ];
    for failure in failures {
        assert_eq!(Failure::from_grpc(tonic::Status::from(failure.clone())), failure);
    }
}

#[test]
fn grpc_codes_tell_what_a_stranger_needs() {
    let code = |failure: Failure| tonic::Status::from(failure).code();
    assert_eq!(code(Failure::not_found(SERVICES, "a")), tonic::Code::NotFound);
    assert_eq!(code(Failure::already_exists(SERVICES, "a")), tonic::Code::AlreadyExists);
    assert_eq!(code(Failure::modified(SERVICES, "a")), tonic::Code::Aborted);
    assert_eq!(code(Failure::unauthorized()), tonic::Code::Unauthenticated);
    assert_eq!(code(Failure::unavailable("a")), tonic::Code::Unavailable);
    assert_eq!(code(Failure::expired("a")), tonic::Code::OutOfRange);
}

#[test]
fn a_failure_of_the_transport_is_a_503() {
    let failure = Failure::from_grpc(tonic::Status::unavailable("tcp connect error"));
    assert_eq!((failure.code(), failure.reason()), (503, "ServiceUnavailable"));
    assert!(failure.is_retriable());
}

#[test]
fn a_huge_failure_is_shortened_to_what_headers_carry() {
    let service = Registry::builtin().find("", "v1", "services").unwrap();
    let mut causes = Causes::default();
    for index in 0..60 {
        causes.invalid(format!("spec.ports[{index}]"), "x".repeat(5000), "too long");
    }
    let status = tonic::Status::from(Failure::invalid(&service, "huge", causes.into_vec()));
    assert!(status.details().len() <= 8 << 10, "{}", status.details().len());
    let failure = Failure::from_grpc(status);
    assert_eq!(failure.code(), 422);
    assert!(!failure.causes().is_empty());
}

#[test]
fn a_continue_token_that_leaves_its_collection_is_refused() {
    for start in ["/../secrets/a", "../secrets/a", "//secrets/a", "default/../../b", "default/", ""] {
        let token = Continue { resource_version: 5, start: start.into() }.encode();
        assert_eq!(Continue::decode(&token).unwrap_err().code(), 400, "{start}");
    }
    assert_eq!(Continue::decode("not base64!").unwrap_err().code(), 400);
    // As Kubernetes writes it of kinds without namespaces, and reads it: below the collection.
    let token = Continue { resource_version: 5, start: "/registry/secrets\0".into() }.encode();
    assert_eq!(Continue::decode(&token).unwrap().start, "registry/secrets\0");
}

proptest! {
    #[test]
    fn a_continue_token_is_read_as_it_was_written(version in 1i64.., start in "[a-z0-9-]{1,20}/[a-z0-9-]{1,20}") {
        let token = Continue { resource_version: version, start: format!("{start}\0") };
        prop_assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
    }

    #[test]
    fn no_text_makes_a_selector_panic(text in "[a-z=!,()<> .\\\\-]{0,40}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
        let _ = Continue::decode(&text);
    }

    #[test]
    fn a_label_selector_is_read_as_it_is_written(text in "[a-z]{1,5}(=|!=)[a-z]{0,5}(,[a-z]{1,5}( in \\([a-z]{1,3},[d-f]{1,3}\\))?)?") {
        let selector = LabelSelector::parse(&text).unwrap();
        prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
    }
}

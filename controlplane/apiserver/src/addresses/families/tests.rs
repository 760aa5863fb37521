#![allow(clippy::unwrap_used)]

use super::*;

const DUAL: [Family; 2] = [Family::V4, Family::V6];

fn service(spec: Value) -> Value {
    let mut service = json!({"spec": {"type": "ClusterIP", "selector": {"app": "web"}}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

/// Policy and families after settling, or the fields that are wrong.
fn settled(spec: Value, old: Option<Value>, own: &[Family]) -> Result<(Value, Value), Vec<(String, String)>> {
    let mut new = service(spec);
    let causes = settle(&mut new, old.map(service).as_ref(), own);
    if causes.is_empty() {
        return Ok((new["spec"]["ipFamilyPolicy"].clone(), new["spec"]["ipFamilies"].clone()));
    }
    Err(causes.into_iter().map(|cause| (cause.field.unwrap(), cause.message.unwrap())).collect())
}

fn ok(policy: &str, families: &[&str]) -> Result<(Value, Value), Vec<(String, String)>> {
    Ok((policy.into(), json!(families)))
}

#[test]
fn a_service_that_asks_for_nothing_has_the_first_family_of_the_cluster() {
    assert_eq!(settled(json!({}), None, &DUAL), ok(SINGLE, &["IPv4"]));
    assert_eq!(settled(json!({}), None, &[Family::V6, Family::V4]), ok(SINGLE, &["IPv6"]));
    assert_eq!(settled(json!({"clusterIP": "None", "clusterIPs": ["None"]}), None, &DUAL), ok(SINGLE, &["IPv4"]));
}

#[test]
fn a_service_gets_two_families_when_it_prefers_or_requires_them() {
    assert_eq!(settled(json!({"ipFamilyPolicy": PREFER}), None, &DUAL), ok(PREFER, &["IPv4", "IPv6"]));
    assert_eq!(settled(json!({"ipFamilyPolicy": PREFER}), None, &[Family::V4]), ok(PREFER, &["IPv4"]));
    let require = json!({"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]});
    assert_eq!(settled(require.clone(), None, &DUAL), ok(REQUIRE, &["IPv6", "IPv4"]));
    let refused = settled(require, None, &[Family::V6]).unwrap_err();
    assert_eq!(refused[0].0, "spec.ipFamilyPolicy");
    assert!(refused[0].1.ends_with("this cluster is not configured for dual-stack services"));
}

#[test]
fn families_follow_the_addresses_that_were_asked_for() {
    let six = json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]});
    assert_eq!(settled(six.clone(), None, &DUAL), ok(SINGLE, &["IPv6"]));
    let refused = settled(six, None, &[Family::V4]).unwrap_err();
    assert_eq!(refused[0].0, "spec.clusterIPs[0]");
    assert!(refused[0].1.ends_with("IPv6 is not configured on this cluster"));
    let both = json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5", "10.96.0.5"], "ipFamilyPolicy": PREFER});
    assert_eq!(settled(both, None, &DUAL), ok(PREFER, &["IPv6", "IPv4"]));
}

#[test]
fn two_addresses_or_families_need_a_policy_that_says_so() {
    let refused = settled(json!({"ipFamilies": ["IPv4", "IPv6"]}), None, &DUAL).unwrap_err();
    assert!(refused[0].1.ends_with("when multiple IP families are specified"), "{refused:?}");
    let two = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ipFamilyPolicy": SINGLE});
    let refused = settled(two, None, &DUAL).unwrap_err();
    assert!(refused[0].1.ends_with("when multiple cluster IPs are specified"), "{refused:?}");
}

#[test]
fn a_family_that_the_cluster_does_not_have_is_refused() {
    let refused = settled(json!({"ipFamilies": ["IPv6"]}), None, &[Family::V4]).unwrap_err();
    assert_eq!(refused[0].0, "spec.ipFamilies[0]");
    assert!(refused[0].1.ends_with("not configured on this cluster"));
}

#[test]
fn who_writes_the_endpoints_of_a_headless_service_may_have_any_families() {
    let mut free = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {}});
    assert_eq!(settled(free.clone(), None, &[Family::V4]), ok(REQUIRE, &["IPv4", "IPv6"]));
    free["ipFamilyPolicy"] = SINGLE.into();
    assert_eq!(settled(free, None, &[Family::V4]), ok(SINGLE, &["IPv4"]));
}

fn dual(policy: &str) -> Value {
    json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ipFamilies": ["IPv4", "IPv6"],
           "ipFamilyPolicy": policy})
}

#[test]
fn the_second_family_goes_when_the_policy_becomes_single_stack() {
    let mut new = service(dual(SINGLE));
    assert_eq!(settle(&mut new, Some(&service(dual(REQUIRE))), &DUAL), []);
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.5"]));
    assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
    let mut fewer = dual(REQUIRE);
    fewer["ipFamilies"] = json!(["IPv4"]);
    let refused = settled(fewer, Some(dual(REQUIRE)), &DUAL).unwrap_err();
    assert!(refused[0].1.ends_with("must be 'SingleStack' to release the secondary IP family"), "{refused:?}");
}

#[test]
fn a_second_family_comes_when_the_policy_asks_for_it_and_not_by_itself() {
    let had = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
                     "ipFamilyPolicy": PREFER});
    assert_eq!(settled(had.clone(), Some(had.clone()), &DUAL), ok(PREFER, &["IPv4"]), "the cluster won a family");
    let mut more = had.clone();
    more["ipFamilyPolicy"] = REQUIRE.into();
    assert_eq!(settled(more, Some(had), &DUAL), ok(REQUIRE, &["IPv4", "IPv6"]));
    assert_eq!(settled(dual(PREFER), Some(dual(PREFER)), &[Family::V4]), ok(PREFER, &["IPv4", "IPv6"]), "it lost one");
}

#[test]
fn a_writer_that_leaves_policy_and_families_out_keeps_them() {
    let without = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"]});
    assert_eq!(settled(without, Some(dual(REQUIRE)), &DUAL), ok(REQUIRE, &["IPv4", "IPv6"]));
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    let mut had = headless.clone();
    (had["ipFamilyPolicy"], had["ipFamilies"]) = (REQUIRE.into(), json!(["IPv6", "IPv4"]));
    assert_eq!(settled(headless, Some(had), &DUAL), ok(REQUIRE, &["IPv6", "IPv4"]));
}

//! What nobody serves: refused at once where a Service is known, silent where there is none.

use serde_json::json;

use crate::fixture::{Fixture, Place, fixture};

const DUAL: &str = "RequireDualStack";

fn places(fixture: &Fixture) -> [Place<'_>; 3] {
    [Place::Pod(&fixture.client), Place::Packets(&fixture.client), Place::Node(0)]
}

#[test]
fn a_service_without_endpoints_refuses_at_once_by_either_protocol_and_family() {
    let mut fixture = fixture();
    let addresses = fixture.serve("nobody", "nobody", 8080, &json!({ "ipFamilyPolicy": DUAL }));
    let client = fixture.client.clone();
    for address in &addresses {
        // Until the agent knows the Service, its address belongs to nobody.
        fixture.wait_probe(Place::Pod(&client), &["tcp", address, "80", "1"], "refused");
        for from in places(&fixture) {
            for how in ["tcp", "udp"] {
                let heard = fixture.probe(from, &[how, address, "80", "2"]);
                assert!(heard.keys().eq(["refused"]), "{from:?} {how} {address}: {heard:?}");
            }
        }
    }
    fixture.cluster.kubectl(&["delete", "service", "nobody"]).unwrap();
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused_at_once() {
    let fixture = fixture();
    for address in &fixture.both {
        for from in places(&fixture) {
            for (how, port) in [("tcp", "81"), ("udp", "81"), ("udp", "9000")] {
                let heard = fixture.probe(from, &[how, address, port, "2"]);
                assert!(heard.keys().eq(["refused"]), "{from:?} {how} {address} {port}: {heard:?}");
            }
        }
    }
}

#[test]
fn an_address_that_no_service_has_is_silent() {
    let fixture = fixture();
    let (fixture, client) = (&*fixture, &fixture.client);
    // The last of each range; each probe waits as long as it waits for anything, so all wait together.
    std::thread::scope(|scope| {
        for address in ["10.96.255.254", "fd00:10:96::ffff"] {
            for from in [Place::Pod(client), Place::Packets(client)] {
                for how in ["tcp", "udp"] {
                    scope.spawn(move || {
                        let heard = fixture.probe(from, &[how, address, "80", "1"]);
                        assert!(heard.keys().eq(["timeout"]), "{from:?} {how} {address}: {heard:?}");
                    });
                }
            }
        }
    });
}

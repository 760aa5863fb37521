#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::wire::{Fields, Scalar};
use super::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A field of a length, the number below 16.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        all.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    all.push(u8::try_from(length).unwrap());
    all.extend_from_slice(bytes);
    all
}

fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC, &field(1, &type_meta), &field(2, raw)].concat()
}

fn read(body: &[u8]) -> Result<Value, Failure> {
    to_json(body).map(|json| serde_json::from_slice(&json).unwrap())
}

/// The Services that a real apiserver sent in protobuf, each as the body of a request.
fn services() -> Vec<Vec<u8>> {
    let recorded = fixture("list_services.protobuf");
    let list = Unknown::read(recorded.strip_prefix(MAGIC).unwrap()).unwrap();
    assert_eq!((list.api_version.as_str(), list.kind.as_str()), ("v1", "ServiceList"));
    let items = Fields::of(list.raw).filter_map(|field| match field.unwrap() {
        (2, Scalar::Bytes(item)) => Some(wrap("v1", "Service", item)),
        _ => None,
    });
    items.collect()
}

#[test]
fn what_a_real_server_wrote_in_protobuf_is_what_it_wrote_in_json() {
    let list: Value = serde_json::from_slice(&fixture("list_services.json")).unwrap();
    let recorded = list["items"].as_array().unwrap();
    let services = services();
    assert_eq!((services.len(), recorded.len() > 1), (recorded.len(), true));
    for (body, recorded) in services.iter().zip(recorded) {
        let mut own = read(body).unwrap();
        assert_eq!((&own["kind"], &own["apiVersion"]), (&"Service".into(), &"v1".into()));
        own.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "kind" | "apiVersion"));
        let mut recorded = recorded.clone();
        // An empty part says as much as none.
        if recorded["status"]["loadBalancer"] == json!({}) {
            recorded.as_object_mut().unwrap().remove("status");
        }
        assert_eq!(own, recorded);
    }
}

#[test]
fn what_breaks_off_is_refused() {
    for body in services() {
        for length in 0..body.len() {
            if let Err(failure) = read(&body[..length]) {
                assert_eq!(failure.code(), 400, "{length}");
            }
        }
        assert!(read(&body[..body.len() - 1]).is_err());
    }
    assert!(read(b"").is_err() && read(b"{}").is_err() && read(b"k8s\0").is_err());
}

#[test]
fn what_is_of_no_kind_is_refused() {
    let unknown = read(&wrap("example.org/v1", "Nonsense", b"")).unwrap_err();
    assert_eq!(unknown.to_string(), "no kind \"Nonsense\" is registered for version \"example.org/v1\" in protobuf");
    let twice = [wrap("v1", "Pod", b""), field(3, b"gzip")].concat();
    assert_eq!(read(&twice).unwrap_err().code(), 400);
    // A name that is a number, a text that is no text, and the field 0.
    for raw in [&[0x0a, 0x02, 0x08, 0x01][..], &[0x0a, 0x04, 0x0a, 0x02, 0xff, 0xfe], &[0x02, 0x00], &[0x0b]] {
        assert_eq!(read(&wrap("v1", "Pod", raw)).unwrap_err().code(), 400, "{raw:?}");
    }
    // What this version does not know is passed over.
    assert_eq!(
        read(&wrap("v1", "ConfigMap", &field(15, b"new"))).unwrap(),
        json!({"kind": "ConfigMap", "apiVersion": "v1"})
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), pod in any::<bool>()) {
        let _ = read(&wrap("v1", if pod { "Pod" } else { "Service" }, &bytes));
        let _ = read(&[MAGIC, &bytes].concat());
    }

    #[test]
    fn a_byte_that_changed_is_read_or_refused(index in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = services().remove(0);
        let at = index.index(body.len());
        body[at] = byte;
        if let Err(failure) = read(&body) {
            prop_assert_eq!(failure.code(), 400);
        }
    }
}

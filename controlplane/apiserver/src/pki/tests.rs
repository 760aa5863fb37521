#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_second_open_uses_what_the_first_one_made() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &["10.0.0.1".into()]).unwrap();
    let second = Pki::open(dir.path(), &["10.0.0.1".into()]).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.apiserver().cert_pem, second.apiserver().cert_pem);
    for name in ["ca.key", "ca.crt", "apiserver.key", "etcd/ca.key", "etcd/server.key", "etcd/client.crt"] {
        let mode = std::fs::metadata(first.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_missing_name_is_an_error_that_says_what_to_do_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &[]).unwrap();
    let error = Pki::open(dir.path(), &["api.example.org".into()]).err().unwrap().to_string();
    assert!(error.contains("api.example.org") && error.contains("remove"), "{error}");
    assert_eq!(Pki::open(dir.path(), &[]).unwrap().apiserver().cert_pem, first.apiserver().cert_pem);
}

#[test]
fn a_certificate_without_its_key_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[]).unwrap();
    std::fs::remove_file(pki.path("apiserver.key")).unwrap();
    assert!(matches!(Pki::open(dir.path(), &[]).err().unwrap(), PkiError::KeyMissing { .. }));
}

#[test]
fn a_first_start_that_was_cut_short_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[]).unwrap();
    let key = std::fs::read_to_string(pki.path("ca.key")).unwrap();
    for name in ["ca.crt", "apiserver.crt", "apiserver.key"] {
        std::fs::remove_file(pki.path(name)).unwrap();
    }
    Pki::open(dir.path(), &[]).unwrap();
    assert_eq!(std::fs::read_to_string(pki.path("ca.key")).unwrap(), key);
}

#[test]
fn loading_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let error = Pki::load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("ca.crt"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let made = Pki::open(dir.path(), &[]).unwrap();
    assert_eq!(Pki::load(dir.path()).unwrap().ca_pem(), made.ca_pem());
}

#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[]).unwrap();
    std::fs::write(pki.path("ca.crt"), "not a certificate").unwrap();
    let error = Pki::open(dir.path(), &[]).err().unwrap().to_string();
    assert!(error.contains("ca.crt"), "{error}");
}

#[test]
fn processes_that_start_together_agree_on_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let opened: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| Pki::open(dir.path(), &[]).unwrap().ca_pem().to_owned())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(opened.iter().all(|ca| *ca == opened[0]));
}

#[test]
fn the_admin_kubeconfig_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[]).unwrap();
    let path = pki.ensure_admin_kubeconfig("https://127.0.0.1:6443").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    pki.ensure_admin_kubeconfig("https://127.0.0.1:7443").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(Kubeconfig::load(&path).unwrap().server, "https://127.0.0.1:6443");
}

#![allow(clippy::unwrap_used)]

use super::cgroups::parse_mountinfo;
use super::*;
use crate::desired::{ConfigFile, Volume, VolumeSource};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

struct Bench {
    directory: tempfile::TempDir,
    host: Host,
}

/// Two directories stand for cgroup hierarchies: removal is rmdir, deepest first, in both.
fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let groups = ["memory", "unified"].map(|name| root.join("cgroup").join(name)).to_vec();
    let host = Host::new(root.join("kubelet"), root.join("logs"), "/diolkos/n1/", groups);
    host.prepare().unwrap();
    Bench { directory, host }
}

fn pod() -> PodKey {
    PodKey { namespace: "shop".into(), name: "web".into(), uid: "u1".into() }
}

fn map(data: serde_json::Value) -> ConfigMap {
    serde_json::from_value(json!({"data": data})).unwrap()
}

#[test]
fn everything_of_a_pod_is_found_again_and_removed() {
    let Bench { directory, host } = bench();
    assert_eq!(host.cgroup_parent("u1"), "/diolkos/n1/podu1");
    assert_eq!(host.prepare_log(&pod(), "main", 3).unwrap(), "main/3.log");
    assert!(directory.path().join("logs/shop_web_u1/main").is_dir());
    host.write_hosts("u1", "127.0.0.1 localhost\n").unwrap();
    for controller in ["memory", "unified"] {
        let group = directory.path().join("cgroup").join(controller).join("diolkos/n1/podu1/container/nested");
        std::fs::create_dir_all(group).unwrap();
    }
    std::fs::create_dir_all(directory.path().join("cgroup/memory/diolkos/n1/podu2")).unwrap();
    assert_eq!(host.leftovers(), ["u1", "u2"].map(str::to_owned).into());
    host.clean(&pod()).unwrap();
    host.clean(&pod()).unwrap();
    assert_eq!(host.leftovers(), ["u2".to_owned()].into());
    assert!(!directory.path().join("logs/shop_web_u1").exists());
    // A pod that is known by its uid alone.
    host.clean(&PodKey { namespace: String::new(), name: String::new(), uid: "u2".into() }).unwrap();
    assert!(host.leftovers().is_empty());
}

#[test]
fn a_config_map_volume_turns_from_old_to_new_in_one_step() {
    let Bench { host, .. } = bench();
    let source = VolumeSource::ConfigMap { name: "paint".into(), optional: false, items: vec![], mode: 0o640 };
    let volume = Volume { name: "config".into(), source };
    let path = host.volume_path(&pod(), &volume);
    let write = |data| {
        let files = config_map_files(Some(&map(data)), "paint", false, &[], 0o640).unwrap();
        host.prepare_volume(&pod(), &volume, &files).unwrap();
    };
    write(json!({"colour": "red", "old": "1"}));
    let first = std::fs::read_link(path.join("..data")).unwrap();
    write(json!({"colour": "red", "old": "1"}));
    assert_eq!(std::fs::read_link(path.join("..data")).unwrap(), first, "no change, no new version");
    write(json!({"colour": "blue", "new": "2"}));
    assert_eq!(std::fs::read_to_string(path.join("colour")).unwrap(), "blue");
    assert_eq!(std::fs::read_to_string(path.join("new")).unwrap(), "2");
    assert!(!path.join("old").exists() && !path.join(first).exists());
}

#[test]
fn a_missing_config_map_or_key_is_named_unless_it_is_optional() {
    let item = |key: &str| vec![ConfigFile { key: key.into(), path: "a/b".into(), mode: None }];
    let files = |map: Option<&ConfigMap>, optional, items: &[ConfigFile]| {
        config_map_files(map, "paint", optional, items, 0o644).map_err(|error| error.to_string())
    };
    let paint = map(json!({"colour": "red"}));
    assert_eq!(files(None, false, &[]), Err("configmap \"paint\" not found".to_owned()));
    assert_eq!(files(None, true, &[]), Ok(ConfigMapFiles::new()));
    assert_eq!(files(Some(&paint), false, &item("shape")), Err("configmap \"paint\" has no key \"shape\"".to_owned()));
    let found = files(Some(&paint), false, &item("colour")).unwrap();
    assert_eq!(found, [("a/b".to_owned(), (b"red".to_vec(), 0o644))].into());
}

#[test]
fn a_host_path_is_checked_against_its_type() {
    let Bench { directory, host } = bench();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let prepare = |name: &str, kind: &str| {
        let source = VolumeSource::HostPath { path: path(name), kind: kind.into() };
        host.prepare_volume(&pod(), &Volume { name: "h".into(), source }, &ConfigMapFiles::new())
            .map_err(|error| error.to_string())
    };
    assert!(prepare("absent", "Directory").unwrap_err().contains("does not exist"));
    assert_eq!(prepare("made", "DirectoryOrCreate"), Ok(()));
    assert!(prepare("made", "File").unwrap_err().contains("is not a file"));
    assert_eq!(prepare("file", "FileOrCreate"), Ok(()));
    assert!(prepare("file", "Socket").unwrap_err().contains("is not a socket"));
}

#[test]
fn the_hierarchies_are_read_from_mountinfo() {
    let text = "29 22 0:25 / /sys/fs/cgroup ro shared:4 - tmpfs tmpfs rw\n\
                30 29 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n\
                31 29 0:27 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory\n\
                32 29 0:27 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory\n";
    let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"].map(PathBuf::from);
    assert_eq!(parse_mountinfo(text), expected);
}

#[test]
fn a_resolv_conf_gives_servers_searches_and_options() {
    let dns =
        parse_resolv_conf("# local\nnameserver 10.0.0.2\nnameserver 10.0.0.3 # two\nsearch a b\noptions ndots:2\n");
    assert_eq!(dns.servers, ["10.0.0.2", "10.0.0.3"]);
    assert_eq!((dns.searches, dns.options), (vec!["a".into(), "b".into()], vec!["ndots:2".into()]));
}

//! Volumes.

use std::collections::HashSet;

use super::super::rule::At;
use super::super::storage::no_back_steps;
use super::super::{Causes, claim, names};
use super::container::relative;

/// Where a volume may come from; exactly one is set.
const SOURCES: [&str; 30] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];
/// What a volume may be put together of.
const PROJECTED: [&str; 6] =
    ["clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken"];
const HOST_PATH_TYPES: [&str; 7] =
    ["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// Shortest and longest life of a token, in seconds.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);

/// Returns the names of the volumes.
pub(super) fn validate<'a>(volumes: &At<'a>, causes: &mut Causes) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for volume in volumes.items() {
        let name = volume.field("name");
        name.required_each(names::dns_label, causes);
        name.unique(&mut seen, causes);
        validate_source(&volume, causes);
    }
    seen
}

fn validate_source(volume: &At<'_>, causes: &mut Causes) {
    let own: Vec<(&str, At<'_>)> =
        SOURCES.iter().map(|name| (*name, volume.field(name))).filter(|(_, source)| source.is_set()).collect();
    let [(name, source), further @ ..] = own.as_slice() else {
        return causes.required(&volume.path, "must specify a volume type");
    };
    for (_, source) in further {
        source.forbidden("may not specify more than 1 volume type", causes);
    }
    match *name {
        "hostPath" => {
            let path = source.field("path");
            path.required("", causes);
            no_back_steps(&path, causes);
            source.field("type").one_of(&HOST_PATH_TYPES, causes);
        }
        "configMap" => {
            source.field("name").required_each(names::dns_subdomain, causes);
            validate_files(source, causes);
        }
        "secret" => {
            source.field("secretName").required_each(names::dns_subdomain, causes);
            validate_files(source, causes);
        }
        "persistentVolumeClaim" => {
            source.field("claimName").required_each(names::dns_subdomain, causes);
        }
        "downwardAPI" => validate_downward(source, causes),
        "projected" => validate_projected(source, causes),
        "nfs" => {
            source.field("server").required("", causes);
            let path = source.field("path");
            if path.required("", causes) && !path.text().starts_with('/') {
                path.invalid("must be an absolute path", causes);
            }
        }
        "csi" => source.field("driver").required_each(names::dns_subdomain, causes),
        "ephemeral" => {
            let template = source.field("volumeClaimTemplate");
            if template.required("", causes) {
                claim::validate_spec(&template.field("spec"), causes);
            }
        }
        "image" => source.field("pullPolicy").one_of(&["Always", "IfNotPresent", "Never"], causes),
        _ => {}
    }
}

/// Keys that become files, and the modes of these.
fn validate_files(source: &At<'_>, causes: &mut Causes) {
    mode(&source.field("defaultMode"), causes);
    for item in source.field("items").items() {
        item.field("key").required("", causes);
        let path = item.field("path");
        if path.required("", causes) {
            local(&path, causes);
        }
        mode(&item.field("mode"), causes);
    }
}

fn validate_downward(source: &At<'_>, causes: &mut Causes) {
    mode(&source.field("defaultMode"), causes);
    for item in source.field("items").items() {
        let path = item.field("path");
        if path.required("", causes) {
            local(&path, causes);
        }
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        match (field.is_set(), resource.is_set()) {
            (true, true) => causes.invalid(
                &item.path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (false, false) => causes.required(&item.path, "one of fieldRef and resourceFieldRef is required"),
            _ => {}
        }
        mode(&item.field("mode"), causes);
    }
}

fn validate_projected(projected: &At<'_>, causes: &mut Causes) {
    mode(&projected.field("defaultMode"), causes);
    for source in projected.field("sources").items() {
        let own: Vec<(&str, At<'_>)> =
            PROJECTED.iter().map(|name| (*name, source.field(name))).filter(|(_, own)| own.is_set()).collect();
        if own.is_empty() {
            causes.required(&source.path, "must specify one source");
        }
        for (index, (name, own)) in own.iter().enumerate() {
            if index > 0 {
                own.forbidden("may not specify more than 1 volume type per source", causes);
                continue;
            }
            match *name {
                "configMap" | "secret" => {
                    own.field("name").required_each(names::dns_subdomain, causes);
                    validate_files(own, causes);
                }
                "downwardAPI" => validate_downward(own, causes),
                "serviceAccountToken" => validate_token(own, causes),
                _ => {}
            }
        }
    }
}

fn validate_token(token: &At<'_>, causes: &mut Causes) {
    let (seconds, path) = (token.field("expirationSeconds"), token.field("path"));
    if seconds.number().is_some_and(|number| number < TOKEN_SECONDS.0) {
        seconds.invalid("may not specify a duration less than 10 minutes", causes);
    }
    if seconds.number().is_some_and(|number| number > TOKEN_SECONDS.1) {
        seconds.invalid("may not specify a duration larger than 2^32 seconds", causes);
    }
    if path.required("", causes) {
        local(&path, causes);
    }
}

fn mode(mode: &At<'_>, causes: &mut Causes) {
    if mode.number().is_some_and(|bits| !(0..=0o777).contains(&bits)) {
        mode.invalid("must be a number between 0 and 0777 (octal), both inclusive", causes);
    }
}

/// A path below the volume that does not begin like those of the kubelet.
fn local(path: &At<'_>, causes: &mut Causes) {
    relative(path, causes);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        path.invalid("must not start with '..'", causes);
    }
}

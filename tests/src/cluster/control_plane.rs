//! etcd, apiserver, scheduler and controller manager.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Cluster, ClusterConfig, Families, START};
use crate::process::Process;
use crate::tools;

/// Starts them in order; returns when the apiserver says that it is ready.
pub(super) fn start(cluster: &mut Cluster, config: &ClusterConfig) -> Result<()> {
    certificates(cluster, config.families)?;
    let pki = cluster.directory().join("pki");
    let etcd = etcd_command(cluster.directory(), &pki)?;
    spawn(cluster, "etcd", etcd)?;
    cluster.wait("etcd is healthy", START, |cluster| {
        let mut etcdctl = cluster.control().command("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", "https://127.0.0.1:2379"]);
        for (flag, file) in [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")] {
            etcdctl.arg(flag).arg(cluster.directory().join("pki/etcd").join(file));
        }
        crate::space::finish(etcdctl.args(["endpoint", "health"]), &["etcdctl", "endpoint", "health"]).map(drop)
    })?;
    let path = |file: &str| pki.join(file).to_string_lossy().into_owned();
    let apiserver = [
        ("--listen", config.families.listen().into()),
        ("--advertise-address", config.families.control().remove(0)),
        ("--service-cidr", config.families.service_cidr()),
        ("--cert-dir", path("")),
        ("--etcd-servers", "https://127.0.0.1:2379".into()),
        ("--etcd-cafile", path("etcd/ca.crt")),
        ("--etcd-certfile", path("etcd/client.crt")),
        ("--etcd-keyfile", path("etcd/client.key")),
    ];
    spawn(cluster, "apiserver", diolkos("apiserver", config, &apiserver)?)?;
    cluster.wait("the apiserver is ready", START, |cluster| {
        let answer = cluster.kubectl(&["get", "--raw", "/readyz"])?;
        ensure!(answer.trim().starts_with("ok"), "/readyz says {answer:?}");
        Ok(())
    })?;
    for (name, user) in
        [("scheduler", "system:kube-scheduler"), ("controller-manager", "system:kube-controller-manager")]
    {
        let mut flags = vec![("--kubeconfig", kubeconfig(cluster, config.families, name, user, &[])?)];
        if name == "controller-manager" {
            flags.push(("--cluster-cidr", config.families.cluster_cidr()));
        }
        spawn(cluster, name, diolkos(name, config, &flags)?)?;
    }
    Ok(())
}

/// A command line of our own binary.
pub(super) fn diolkos(component: &str, config: &ClusterConfig, flags: &[(&str, String)]) -> Result<Vec<String>> {
    let mut argv =
        vec![tools::diolkos()?.to_string_lossy().into_owned(), "--log".into(), config.log.clone(), component.into()];
    argv.extend(flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]));
    Ok(argv)
}

/// Issues a client certificate; the path of its kubeconfig.
pub(super) fn kubeconfig(
    cluster: &Cluster,
    families: Families,
    name: &str,
    user: &str,
    groups: &[&str],
) -> Result<String> {
    let file = cluster.directory().join(format!("{name}.kubeconfig")).to_string_lossy().into_owned();
    let server = families.server();
    let (pki, binary) = (cluster.directory().join("pki"), tools::diolkos()?);
    let (pki, binary) = (pki.to_string_lossy(), binary.to_string_lossy());
    let mut argv = vec![
        &*binary,
        "pki",
        "kubeconfig",
        "--cert-dir",
        &*pki,
        "--server",
        &server,
        "--user",
        user,
        "--output",
        &file,
    ];
    argv.extend(groups.iter().flat_map(|group| ["--group", group]));
    cluster.control().run(&argv)?;
    Ok(file)
}

fn certificates(cluster: &Cluster, families: Families) -> Result<()> {
    let (pki, binary) = (cluster.directory().join("pki"), tools::diolkos()?);
    let (pki, binary) = (pki.to_string_lossy(), binary.to_string_lossy());
    let control = families.control();
    let names = control.iter().map(String::as_str).chain(["127.0.0.1", "localhost"]);
    let names: Vec<&str> = names.flat_map(|name| ["--san", name]).collect();
    let cidrs = families.service_cidr();
    let init = [&*binary, "pki", "init", "--cert-dir", &*pki, "--service-cidr", &cidrs];
    cluster.control().run(&[&init[..], &names[..]].concat())?;
    kubeconfig(cluster, families, "admin", "kubernetes-admin", &["system:masters"]).map(drop)
}

fn etcd_command(directory: &Path, pki: &Path) -> Result<Vec<String>> {
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let flags = [
        ("--data-dir", path(directory.join("etcd"))),
        ("--listen-client-urls", "https://127.0.0.1:2379".into()),
        ("--advertise-client-urls", "https://127.0.0.1:2379".into()),
        ("--cert-file", path(pki.join("etcd/server.crt"))),
        ("--key-file", path(pki.join("etcd/server.key"))),
        ("--trusted-ca-file", path(pki.join("etcd/ca.crt"))),
    ];
    let mut argv = vec![path(tools::find("etcd")?), "--client-cert-auth".into()];
    argv.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    Ok(argv)
}

fn spawn(cluster: &mut Cluster, name: &str, argv: Vec<String>) -> Result<()> {
    let server = Process::start(name, cluster.control(), cluster.directory(), &argv)?;
    cluster.control_plane.push(server);
    Ok(())
}

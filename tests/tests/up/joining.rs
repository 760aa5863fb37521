//! A control plane that is set up first and run later, and machines that join it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use diolkos_tests::eventually;
use diolkos_tests::process::Process;

use crate::machine::{FIRST, Machine, PATIENCE, Wire, mode, said};

/// A control plane that `init` made and `up` runs.
struct Plane {
    machine: Machine,
    server: Process,
    /// The words after `diolkos` with which a machine joins.
    join: Vec<String>,
}

impl Plane {
    fn start(wire: &Wire, further: &[&str]) -> Result<Self> {
        let machine = wire.first()?;
        let (data, config, units) = (machine.path("data"), machine.path("etc/config.yaml"), machine.path("systemd"));
        let own = ["init", "--data-dir", &data, "--config-file", &config, "--systemd-units", &units];
        let said_by_init = machine.diolkos(&[&own[..], further].concat())?;
        let join = said_by_init.lines().rfind(|line| line.starts_with("diolkos join ")).context("no join command")?;
        let join = join.split(' ').skip(1).map(str::to_owned).collect();
        ensure!(mode(&config)? == 0o600);
        let unit = fs::read_to_string(format!("{units}/diolkos.service"))?;
        ensure!(unit.contains(&format!("up --config {config}\n")), "the unit starts it: {unit}");
        let again = machine.diolkos(&own).unwrap_err().to_string();
        ensure!(again.contains("diolkos reset"), "a second init is refused: {again}");
        let mut server = wire.start(&machine, "up", &["up", "--config", &config])?;
        said(&mut server, "ready in ")?;
        Ok(Self { machine, server, join })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.machine.kubectl(&self.machine.path("data/pki/admin.kubeconfig"), arguments)
    }

    /// The words with which `machine` joins as the node of that name.
    fn join(&self, machine: &Machine, name: &str) -> Vec<String> {
        let mut words = self.join.clone();
        words.extend([
            "--data-dir".into(),
            machine.path("data"),
            "--config-file".into(),
            machine.path("etc/node.yaml"),
        ]);
        words.extend(machine.node_flags(name));
        words
    }

    fn token(&self, arguments: &[&str]) -> Result<String> {
        let admin = self.machine.path("data/pki/admin.kubeconfig");
        self.machine.diolkos(&[&["token", "--kubeconfig", &admin], arguments].concat())
    }
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn a_machine_joins_by_a_token_and_becomes_a_node() -> Result<()> {
    let mut wire = Wire::new()?;
    let plane = Plane::start(&wire, &[])?;
    let machine = wire.add(1)?;
    let mut node = wire.start(&machine, "join", &words(&plane.join(&machine, "node-a")))?;
    said(&mut node, "node-a has joined")?;
    eventually("the node registers with its address and gets its network", PATIENCE, || {
        let columns =
            "jsonpath={.items[*].metadata.name} {.items[*].status.addresses[0].address} {.items[*].spec.podCIDR}";
        let nodes = plane.kubectl(&["get", "nodes", "-o", columns])?;
        ensure!(nodes == "node-a 172.30.0.11 10.244.0.0/24", "{nodes:?}");
        Ok(())
    })?;
    let requests = plane.kubectl(&["get", "csr", "--no-headers"])?;
    let issued = requests.lines().filter(|line| line.ends_with("Approved,Issued")).count();
    ensure!(issued == 2, "one request of the kubelet, one of the agent: {requests}");
    ensure!(requests.contains("system:bootstrap:") && requests.contains("system:node:node-a"), "{requests}");
    for file in ["data/kubelet.kubeconfig", "data/agent.kubeconfig", "etc/node.yaml"] {
        ensure!(mode(&machine.path(file))? == 0o600, "{file} is private");
    }
    // What the cluster gave is what the machine is, and nothing more.
    let of_node = machine.path("data/kubelet.kubeconfig");
    let who = machine.kubectl(&of_node, &["auth", "can-i", "list", "secrets", "-A"]);
    ensure!(who.is_err(), "a node lists no secrets: {who:?}");
    let again = machine.diolkos(&words(&plane.join(&machine, "node-a"))).unwrap_err().to_string();
    ensure!(again.contains("has joined a cluster"), "{again}");

    node.stop()?;
    let mut node = wire.start(&machine, "node", &["node", "--config", &machine.path("etc/node.yaml")])?;
    eventually("the node runs again", PATIENCE, || {
        node.check()?;
        ensure!(node.log().contains("the kubelet starts"), "{}", node.tail());
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_machine_joins_no_cluster_that_does_not_prove_to_be_the_one() -> Result<()> {
    let mut wire = Wire::new()?;
    let plane = Plane::start(&wire, &[])?;
    let machine = wire.add(1)?;
    let good = plane.join(&machine, "node-a");
    let refused = |from: &str, to: &str| -> Result<String> {
        let changed: Vec<String> =
            good.iter().map(|word| if word == from { to.into() } else { word.clone() }).collect();
        match machine.diolkos(&words(&changed)) {
            Ok(said) => anyhow::bail!("it joined: {said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    };
    let after = |flag: &str| good.iter().skip_while(|word| *word != flag).nth(1).cloned().context("no such flag");
    let (token, hash) = (after("--token")?, after("--discovery-token-ca-cert-hash")?);
    let why = refused(&hash, &format!("sha256:{}", "0".repeat(64)))?;
    ensure!(why.contains(&hash) && why.contains("another cluster"), "{why}");
    let (id, secret) = token.split_once('.').context("no token")?;
    let guessed: String = secret.chars().rev().collect();
    let why = refused(&token, &format!("{id}.{guessed}"))?;
    ensure!(why.contains("the token's secret is another one"), "{why}");
    let why = refused(&token, "zzzzzz.0123456789abcdef")?;
    ensure!(why.contains("it is not signed with the token zzzzzz"), "{why}");
    let why = refused(&good[1], &format!("{FIRST}:7"))?;
    ensure!(why.contains("cannot ask"), "{why}");

    let short = plane.token(&["create", "--ttl", "2s"])?.trim().to_owned();
    eventually("the token expires", PATIENCE, || {
        let listed = plane.token(&["list"])?;
        ensure!(!listed.contains(&short), "{listed}");
        Ok(())
    })?;
    let why = refused(&token, &short)?;
    ensure!(why.contains("has expired"), "{why}");
    plane.token(&["delete", id])?;
    eventually("the signature goes", PATIENCE, || {
        let why = refused("", "")?;
        ensure!(why.contains(&format!("not signed with the token {id}")), "{why}");
        Ok(())
    })?;
    ensure!(!fs::exists(machine.path("data"))?, "nothing was written");
    ensure!(plane.kubectl(&["get", "csr"])?.is_empty(), "nothing was asked for");
    Ok(())
}

#[test]
fn tokens_are_made_listed_and_deleted() -> Result<()> {
    let wire = Wire::new()?;
    let plane = Plane::start(&wire, &["--token", "abcdef.0123456789abcdef", "--token-ttl", "0s"])?;
    let listed = plane.token(&["list"])?;
    ensure!(listed.starts_with("TOKEN "), "{listed}");
    ensure!(listed.lines().any(|line| line.starts_with("abcdef.0123456789abcdef   <forever>")), "{listed}");
    let made = plane.token(&["create", "--description", "for the rack", "--print-join-command"])?;
    ensure!(made.starts_with(&format!("diolkos join {FIRST}:6443 --token ")), "{made}");
    ensure!(made.contains("--discovery-token-ca-cert-hash sha256:"), "{made}");
    let taken = plane.token(&["create", "abcdef.0123456789abcdef"]).unwrap_err().to_string();
    ensure!(taken.contains("the token abcdef is there"), "{taken}");
    ensure!(plane.token(&["delete", "abcdef.0123456789abcdef"])?.contains("\"abcdef\" deleted"));
    ensure!(!plane.token(&["list"])?.contains("abcdef"));
    ensure!(plane.token(&["delete", "abcdef"]).unwrap_err().to_string().contains("no token abcdef"));
    // The cluster tells everybody where it is, and nobody without a name anything else.
    let raw = |path: &str| plane.machine.space.run(&["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", path]);
    let info = format!("https://{FIRST}:6443/api/v1/namespaces/kube-public/configmaps");
    ensure!(raw(&format!("{info}/cluster-info"))? == "200");
    ensure!(raw(&info)? == "401");
    let _ = plane.server.pid()?;
    Ok(())
}

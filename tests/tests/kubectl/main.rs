//! Debian's kubectl 1.20 against the apiserver, with the model store behind it.
#![allow(clippy::unwrap_used)]

mod cluster;
mod session;

use cluster::{Cluster, Follower, text};

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'registry.local/web:1', ports: [{containerPort: 80}]}
      - {name: side, image: 'registry.local/side:1'}
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - {port: 80, targetPort: 8080}
";

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: p1}}
spec:
  containers:
  - {name: main, image: 'registry.local/main:1'}
";

#[test]
fn get_prints_tables_wide_ones_and_yaml() {
    let cluster = Cluster::start();
    cluster.apply(POD);
    let pods = cluster.ok(&["get", "pods"]);
    assert_eq!(columns(&pods), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert!(pods.lines().nth(1).unwrap().starts_with("p1     0/1     Pending   0"), "{pods}");
    let wide = cluster.ok(&["get", "pods", "-A", "-o", "wide"]);
    assert!(wide.lines().next().unwrap().starts_with("NAMESPACE   NAME   READY   STATUS"), "{wide}");
    assert!(wide.contains("NOMINATED NODE   READINESS GATES"), "{wide}");
    let services = cluster.ok(&["get", "svc"]);
    assert!(services.contains("kubernetes   ClusterIP   10.96.0.1    <none>        443/TCP"), "{services}");
    let yaml = cluster.ok(&["get", "pod", "p1", "-o", "yaml"]);
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n"), "{yaml}");
    assert!(yaml.contains("image: registry.local/main:1"), "{yaml}");
    let names = cluster.ok(&["get", "namespaces", "-o", "name"]);
    assert!(names.lines().any(|line| line == "namespace/kube-system"), "{names}");
    let selected =
        cluster.ok(&["get", "pods", "-l", "app=p1", "--field-selector", "status.phase=Pending", "-o", "name"]);
    assert_eq!(selected, "pod/p1\n");
    let version = cluster.ok(&["version"]);
    assert!(version.contains("Minor:\"36\""), "{version}");
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_in_kubernetes_words() {
    let cluster = Cluster::start();
    let missing = cluster.run(&["get", "pod", "nope"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(text(&missing.stderr), "Error from server (NotFound): pods \"nope\" not found\n");
    let empty = cluster.run(&["get", "pods"]);
    assert_eq!(text(&empty.stderr), "No resources found in default namespace.\n");
    let alice = cluster.dir.path().join("alice.kubeconfig");
    cluster.pki.write_kubeconfig(&cluster.url, "alice", &[], &alice).unwrap();
    let forbidden = cluster.kubectl(&alice).args(["get", "pods"]).output().unwrap();
    assert!(
        text(&forbidden.stderr).contains("pods is forbidden: User \"alice\" cannot list resource \"pods\""),
        "{}",
        text(&forbidden.stderr)
    );
}

#[test]
fn apply_creates_leaves_alone_and_changes() {
    let cluster = Cluster::start();
    assert_eq!(cluster.apply(DEPLOYMENT), "deployment.apps/web created\nservice/web created\n");
    assert_eq!(cluster.apply(DEPLOYMENT), "deployment.apps/web unchanged\nservice/web unchanged\n");
    let image = "jsonpath={.spec.template.spec.containers[*].image}";
    let changed = DEPLOYMENT.replace("web:1", "web:2").replace("replicas: 2", "replicas: 3");
    assert_eq!(cluster.apply(&changed), "deployment.apps/web configured\nservice/web unchanged\n");
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", image]), "registry.local/web:2 registry.local/side:1");
    // A container that is gone from the file goes, through $patch: delete.
    let lines: Vec<&str> = changed.lines().filter(|line| !line.contains("name: side")).collect();
    assert_eq!(cluster.apply(&lines.join("\n")), "deployment.apps/web configured\nservice/web unchanged\n");
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", image]), "registry.local/web:2");
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", "jsonpath={.metadata.generation}"]), "3");
    let table = cluster.ok(&["get", "deployments"]);
    assert_eq!(columns(&table), ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert!(table.lines().nth(1).unwrap().starts_with("web    0/3"), "{table}");
}

#[test]
fn delete_removes_and_waits() {
    let cluster = Cluster::start();
    cluster.apply(DEPLOYMENT);
    let file = cluster.write("deployment.yaml", DEPLOYMENT);
    let deleted = cluster.ok(&["delete", "-f", file.to_str().unwrap()]);
    assert_eq!(deleted, "deployment.apps \"web\" deleted\nservice \"web\" deleted\n");
    assert!(!cluster.run(&["get", "deploy", "web"]).status.success());
    cluster.apply(POD);
    assert_eq!(cluster.ok(&["delete", "pods", "--all"]), "pod \"p1\" deleted\n");
}

#[test]
fn get_watch_prints_each_change() {
    let cluster = Cluster::start();
    cluster.apply(POD);
    let watch = Follower::start(&cluster, &["get", "pods", "-w"]);
    watch.wait_for("p1");
    cluster.apply(&POD.replace("p1", "p2"));
    watch.wait_for("p2");
    cluster.ok(&["label", "pod", "p2", "a=b"]);
    watch.wait_for("p2");
}

#[test]
fn everyday_commands_work() {
    let cluster = Cluster::start();
    assert_eq!(cluster.ok(&["create", "ns", "team"]), "namespace/team created\n");
    assert!(cluster.ok(&["get", "ns", "team"]).contains("Active"));
    let made = cluster.ok(&["create", "configmap", "settings", "--from-literal=a=1", "-n", "team"]);
    assert_eq!(made, "configmap/settings created\n");
    assert_eq!(cluster.ok(&["get", "cm", "settings", "-n", "team", "-o", "jsonpath={.data.a}"]), "1");
    let resources = cluster.ok(&["api-resources"]);
    for line in ["configmaps", "deployments", "endpointslices", "leases", "namespaces", "nodes", "pods", "services"] {
        assert!(resources.lines().any(|own| own.starts_with(line)), "{line}: {resources}");
    }
    cluster.apply(DEPLOYMENT);
    assert_eq!(cluster.ok(&["scale", "deploy", "web", "--replicas=4"]), "deployment.apps/web scaled\n");
    assert_eq!(
        cluster.ok(&["set", "image", "deploy/web", "web=registry.local/web:9"]),
        "deployment.apps/web image updated\n"
    );
    assert_eq!(cluster.ok(&["annotate", "svc", "web", "note=x"]), "service/web annotated\n");
    let patched =
        cluster.ok(&["patch", "svc", "web", "-p", "{\"spec\":{\"ports\":[{\"port\":80,\"name\":\"http\"}]}}"]);
    assert_eq!(patched, "service/web patched\n");
    let described = cluster.ok(&["describe", "svc", "web"]);
    assert!(described.contains("Selector:          app=web") && described.contains("http  80/TCP"), "{described}");
    let taken = cluster.run(&["create", "ns", "team"]);
    assert_eq!(text(&taken.stderr), "Error from server (AlreadyExists): namespaces \"team\" already exists\n");
}

/// Each generator of `kubectl create` and what it answers.
const GENERATORS: &[(&str, &str)] = &[
    ("clusterrole reader --verb=get,list --resource=pods", "clusterrole.rbac.authorization.k8s.io/reader"),
    (
        "clusterrolebinding readers --clusterrole=reader --group=g",
        "clusterrolebinding.rbac.authorization.k8s.io/readers",
    ),
    ("configmap settings --from-literal=a=1", "configmap/settings"),
    ("deployment web --image=registry.local/web:1 --replicas=2", "deployment.apps/web"),
    ("ingress front --rule=example.com/=web:80", "ingress.networking.k8s.io/front"),
    ("job once --image=registry.local/job:1", "job.batch/once"),
    ("namespace team", "namespace/team"),
    ("priorityclass high --value=1000", "priorityclass.scheduling.k8s.io/high"),
    ("quota limits --hard=pods=10", "resourcequota/limits"),
    ("role editor --verb=update --resource=configmaps", "role.rbac.authorization.k8s.io/editor"),
    ("rolebinding editors --role=editor --user=alice", "rolebinding.rbac.authorization.k8s.io/editors"),
    ("secret generic keys --from-literal=k=v", "secret/keys"),
    ("secret docker-registry pull --docker-username=u --docker-password=p", "secret/pull"),
    ("service clusterip web --tcp=80:8080", "service/web"),
    ("service externalname other --external-name=example.com", "service/other"),
    ("service nodeport outside --tcp=80 --node-port=30080", "service/outside"),
    ("serviceaccount robot", "serviceaccount/robot"),
];

#[test]
fn every_generator_of_create_makes_its_object() {
    let cluster = Cluster::start();
    for (arguments, made) in GENERATORS {
        let arguments: Vec<&str> = std::iter::once("create").chain(arguments.split(' ')).collect();
        assert_eq!(cluster.ok(&arguments), format!("{made} created\n"));
    }
    let roles = cluster.ok(&["get", "role,rolebinding", "-o", "wide"]);
    assert!(roles.contains("CREATED AT") && roles.contains("Role/editor") && roles.contains("alice"), "{roles}");
    assert_eq!(cluster.ok(&["get", "secret", "keys", "-o", "jsonpath={.data.k} {.type}"]), "dg== Opaque");
    assert!(cluster.ok(&["get", "jobs"]).lines().nth(1).unwrap().starts_with("once"));
    let autoscaled = cluster.ok(&["autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu-percent=50"]);
    assert_eq!(autoscaled, "horizontalpodautoscaler.autoscaling/web autoscaled\n");
    let autoscaler = cluster.ok(&["get", "hpa", "web"]);
    assert!(autoscaler.contains("Deployment/web") && autoscaler.contains("cpu: <unknown>/50%"), "{autoscaler}");
}

#[test]
fn an_object_of_every_kind_is_applied_and_shown_in_a_table() {
    let cluster = Cluster::start();
    let path = format!("{}/../controlplane/api/tests/fixtures/every_kind.yaml", env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(&path).unwrap();
    let applied = cluster.ok(&["apply", "-f", &path]);
    let documents = manifest.split("\n---\n").count();
    assert_eq!(applied.lines().filter(|line| line.ends_with(" created")).count(), documents, "{applied}");
    let again = cluster.ok(&["apply", "-f", &path]);
    // Numbers that the server writes as texts, and plain text of secrets, differ from what the file says.
    let kept = |line: &&str| line.ends_with(" unchanged") || line.ends_with(" configured");
    assert_eq!(again.lines().filter(kept).count(), documents, "{again}");
    for line in applied.lines() {
        let object = line.trim_end_matches(" created");
        let (kind, name) = object.split_once('/').unwrap();
        let table = cluster.ok(&["get", kind, name, "-o", "wide"]);
        let header = table.lines().next().unwrap();
        assert!(header.contains("NAME") && header.split_whitespace().count() > 1, "{table}");
        assert!(table.lines().nth(1).unwrap().contains(name), "{table}");
    }
    let pods = cluster.ok(&["describe", "pod", "web"]);
    assert!(pods.contains("QoS Class:") && pods.contains("Burstable"), "{pods}");
}

#[test]
fn explain_tells_what_every_kind_and_field_is() {
    let cluster = Cluster::start();
    let ports = cluster.ok(&["explain", "service.spec.ports"]);
    assert!(ports.starts_with("KIND:     Service\nVERSION:  v1\n\nRESOURCE: ports <[]Object>\n"), "{ports}");
    assert!(ports.contains("targetPort\t<string>") && ports.contains("port\t<integer> -required-"), "{ports}");
    let deployment = cluster.ok(&["explain", "deployment", "--recursive"]);
    assert!(deployment.contains("matchLabels\t<map[string]string>"), "{deployment}");
    assert!(deployment.contains("containers\t<[]Object>"), "{deployment}");
    let kinds = cluster.ok(&["api-resources", "--verbs=get", "-o", "name"]);
    assert!(kinds.lines().count() > 35, "{kinds}");
    for kind in kinds.lines() {
        // It takes what is behind a dot for a field.
        let kind = kind.split('.').next().unwrap();
        let told = cluster.ok(&["explain", kind]);
        assert!(told.contains("DESCRIPTION:") && told.contains("metadata"), "{kind}: {told}");
    }
    let unknown = cluster.run(&["explain", "pod.spec.nonsense"]);
    assert_eq!(text(&unknown.stderr), "error: field \"nonsense\" does not exist\n");
}

#[test]
fn diff_shows_what_apply_would_change() {
    let cluster = Cluster::start();
    let file = cluster.write("deployment.yaml", DEPLOYMENT);
    let all_new = cluster.run(&["diff", "-f", file.to_str().unwrap()]);
    assert_eq!(all_new.status.code(), Some(1), "{}", text(&all_new.stderr));
    assert!(text(&all_new.stdout).contains("\n+kind: Deployment\n"), "{}", text(&all_new.stdout));
    assert!(!cluster.run(&["get", "deployment", "web"]).status.success(), "a diff changes nothing");
    cluster.apply(DEPLOYMENT);
    let same = cluster.run(&["diff", "-f", file.to_str().unwrap()]);
    assert_eq!((same.status.code(), text(&same.stdout)), (Some(0), String::new()), "{}", text(&same.stderr));
    let changed = cluster.write("changed.yaml", &DEPLOYMENT.replace("replicas: 2", "replicas: 5"));
    let diff = cluster.run(&["diff", "-f", changed.to_str().unwrap()]);
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    let shown = text(&diff.stdout);
    assert!(shown.contains("\n-  replicas: 2\n+  replicas: 5\n"), "{shown}");
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]), "2");
}

#[test]
fn kubectl_finds_mistakes_before_it_asks() {
    let cluster = Cluster::start();
    for (wrong, why) in [
        ("replicas: 2", "unknown field \"replicaz\" in io.k8s.api.apps.v1.DeploymentSpec"),
        (
            "selector: {matchLabels: {app: web}}",
            "missing required field \"selector\" in io.k8s.api.apps.v1.DeploymentSpec",
        ),
    ] {
        let manifest = DEPLOYMENT.replacen(wrong, "replicaz: 2", 1);
        let file = cluster.write("wrong.yaml", &manifest);
        let output = cluster.run(&["apply", "-f", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
}

#[test]
fn apply_on_the_server_owns_fields_and_asks_before_it_takes_others() {
    let cluster = Cluster::start();
    let file = cluster.write("server.yaml", DEPLOYMENT);
    let file = file.to_str().unwrap();
    let apply = |arguments: &[&str]| cluster.run(&[&["apply", "--server-side", "-f", file], arguments].concat());
    let made = apply(&[]);
    assert_eq!(text(&made.stdout), "deployment.apps/web serverside-applied\nservice/web serverside-applied\n");
    let version = ["get", "deploy", "web", "-o", "jsonpath={.metadata.resourceVersion}"];
    let before = cluster.ok(&version);
    assert!(apply(&[]).status.success());
    assert_eq!(cluster.ok(&version), before, "the same again writes nothing");
    cluster.ok(&["scale", "deploy", "web", "--replicas=4"]);
    let conflict = apply(&[]);
    let told = text(&conflict.stderr);
    assert!(
        !conflict.status.success() && told.contains("Apply failed with 1 conflict: conflict with \"kubectl"),
        "{told}"
    );
    assert!(told.contains(".spec.replicas"), "{told}");
    assert!(apply(&["--force-conflicts"]).status.success());
    let replicas = ["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.ok(&replicas), "2");
    assert!(apply(&["--field-manager=another"]).status.success(), "equal values have two owners");
    let managers = cluster.ok(&["get", "svc", "web", "-o", "jsonpath={.metadata.managedFields[*].manager}"]);
    assert_eq!(managers, "another kubectl");
}

fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split_whitespace().collect()
}

//! What may be asked of a kind, as OpenAPI tells it: paths, methods, parameters, bodies and answers.

use diolkos_api::kind::{Kind, Subresource};
use serde_json::{Value, json};

use super::schemas::{self, DELETE_OPTIONS, PATCH, STATUS};

/// One path and what may be done there.
pub(super) struct Path {
    pub path: String,
    /// Parts of the path.
    pub parameters: Vec<Parameter>,
    pub operations: Vec<Operation>,
}

/// A method at a path.
pub(super) struct Operation {
    pub method: &'static str,
    /// As Kubernetes calls it: "list", "post", ...
    pub action: &'static str,
    pub id: String,
    pub description: String,
    pub tag: String,
    /// Group, version and kind of what it is about.
    pub about: Value,
    pub parameters: Vec<Parameter>,
    /// Media types and type of the body.
    pub body: Option<(&'static [&'static str], String)>,
    /// Codes and the type of the answer.
    pub answers: (&'static [u16], String),
}

#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub name: &'static str,
    /// "query" or "path"
    pub place: &'static str,
    pub type_: &'static str,
    pub description: &'static str,
}

/// Answers with objects.
pub(super) const OBJECTS: &[&str] = &["application/json", "application/yaml"];
/// Bodies with objects.
const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const NAME: Parameter = path("name", "name of the object");
const NAMESPACE: Parameter = path("namespace", "object name and auth scope, such as for teams and projects");

const LIST: [Parameter; 10] = [
    query("allowWatchBookmarks", "boolean", "Asks for bookmarks in a watch: events that only tell the version so far."),
    query("continue", "string", "The token of the page before; the list goes on at the version at which it began."),
    query("fieldSelector", "string", "Chooses objects by their fields. Defaults to everything."),
    query("labelSelector", "string", "Chooses objects by their labels. Defaults to everything."),
    query("limit", "integer", "The most objects of one page; if there are more, the answer has a token to continue."),
    query("resourceVersion", "string", "The version that the answer is of, or is not older than."),
    query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    query(
        "sendInitialEvents",
        "boolean",
        "Begins a watch with what there is, and tells by a bookmark where that ends.",
    ),
    query("timeoutSeconds", "integer", "Ends the list or watch after so long."),
    query("watch", "boolean", "Follows the changes of the objects instead of listing them."),
];
const WRITE: [Parameter; 3] = [
    query("dryRun", "string", "With All, everything is done but the change is not kept."),
    query("fieldManager", "string", "The name of whoever makes the change, at most 128 printable characters."),
    query("fieldValidation", "string", "What is done about unknown and duplicate fields: Ignore, Warn or Strict."),
];
const FORCE: Parameter = query("force", "boolean", "Takes fields over from other managers; for apply only.");
const DELETE: [Parameter; 4] = [
    query("dryRun", "string", "With All, everything is done but the change is not kept."),
    query("gracePeriodSeconds", "integer", "Seconds that the object gets to end; zero means at once."),
    query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    query("propagationPolicy", "string", "What becomes of the dependents: Orphan, Background or Foreground."),
];

const fn query(name: &'static str, type_: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place: "query", type_, description }
}

const fn path(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place: "path", type_: "string", description }
}

/// All paths of a kind.
pub(super) fn paths(kind: &Kind) -> Vec<Path> {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let root = format!("{root}/{}", kind.version);
    let (place, space) = if kind.namespaced {
        (format!("{root}/namespaces/{{namespace}}/{}", kind.plural), vec![NAMESPACE])
    } else {
        (format!("{root}/{}", kind.plural), Vec::new())
    };
    let mut paths = vec![Path { path: place.clone(), parameters: space.clone(), operations: collection(kind) }];
    if kind.namespaced && kind.verbs.contains(&"list") {
        let everywhere = Operation { id: id(kind, "list", "ForAllNamespaces", ""), ..list(kind) };
        let path = format!("{root}/{}", kind.plural);
        paths.push(Path { path, parameters: Vec::new(), operations: vec![everywhere] });
    }
    let named = [space, vec![NAME]].concat();
    let item = format!("{place}/{{name}}");
    paths.push(Path { path: item.clone(), parameters: named.clone(), operations: object(kind) });
    for part in &kind.subresources {
        let path = format!("{item}/{}", part.name);
        paths.push(Path { path, parameters: named.clone(), operations: operations_of_part(kind, part) });
    }
    paths.retain(|path| !path.operations.is_empty());
    paths
}

fn collection(kind: &Kind) -> Vec<Operation> {
    let mut operations = Vec::new();
    if kind.verbs.contains(&"list") {
        operations.push(list(kind));
    }
    if kind.verbs.contains(&"create") {
        operations.push(Operation {
            parameters: WRITE.to_vec(),
            body: Some((BODIES, schemas::name(kind))),
            answers: (&[200, 201, 202], schemas::name(kind)),
            ..operation(kind, "post", "post", "create", "")
        });
    }
    if kind.verbs.contains(&"deletecollection") {
        let listed = LIST.iter().filter(|parameter| !matches!(parameter.name, "watch" | "allowWatchBookmarks"));
        operations.push(Operation {
            id: id(kind, "deleteCollection", "", ""),
            parameters: DELETE.iter().chain(listed).copied().collect(),
            body: Some((BODIES, DELETE_OPTIONS.into())),
            answers: (&[200], schemas::list_name(kind)),
            ..operation(kind, "delete", "deletecollection", "delete", "")
        });
    }
    operations
}

fn list(kind: &Kind) -> Operation {
    Operation {
        parameters: LIST.to_vec(),
        answers: (&[200], schemas::list_name(kind)),
        description: format!("list or watch objects of kind {}", kind.kind),
        ..operation(kind, "get", "list", "list", "")
    }
}

fn object(kind: &Kind) -> Vec<Operation> {
    let mut operations = changes(kind, kind.verbs, &schemas::name(kind), "");
    if kind.verbs.contains(&"delete") {
        operations.push(Operation {
            parameters: DELETE.to_vec(),
            body: Some((BODIES, DELETE_OPTIONS.into())),
            answers: (&[200, 202], STATUS.into()),
            ..operation(kind, "delete", "delete", "delete", "")
        });
    }
    operations
}

fn operations_of_part(kind: &Kind, part: &Subresource) -> Vec<Operation> {
    let (group, version) =
        if part.version.is_empty() { (kind.group.as_str(), kind.version.as_str()) } else { (part.group, part.version) };
    let own = if part.kind.is_empty() { kind.kind.as_str() } else { part.kind };
    let name = schemas::name_of(group, version, own);
    let mut operations = changes(kind, part.verbs, &name, part.name);
    if part.verbs.contains(&"create") {
        operations.push(Operation {
            parameters: WRITE.to_vec(),
            body: Some((BODIES, name.clone())),
            answers: (&[200, 201, 202], name),
            ..operation(kind, "post", "post", "create", part.name)
        });
    }
    let about = json!({"group": group, "version": version, "kind": own});
    operations.iter_mut().for_each(|operation| operation.about = about.clone());
    operations
}

/// Reading and writing one object, or a part of it.
fn changes(kind: &Kind, verbs: &[&str], name: &str, part: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    if verbs.contains(&"get") {
        let answers = (&[200][..], name.to_owned());
        operations.push(Operation { answers, ..operation(kind, "get", "get", "read", part) });
    }
    if verbs.contains(&"update") {
        operations.push(Operation {
            parameters: WRITE.to_vec(),
            body: Some((BODIES, name.to_owned())),
            answers: (&[200, 201], name.to_owned()),
            ..operation(kind, "put", "put", "replace", part)
        });
    }
    if verbs.contains(&"patch") {
        operations.push(Operation {
            parameters: WRITE.iter().chain([&FORCE]).copied().collect(),
            body: Some((PATCHES, PATCH.into())),
            answers: (&[200, 201], name.to_owned()),
            ..operation(kind, "patch", "patch", "patch", part)
        });
    }
    operations
}

fn operation(kind: &Kind, method: &'static str, action: &'static str, verb: &'static str, part: &str) -> Operation {
    let of = if part.is_empty() { String::new() } else { format!("{part} of ") };
    Operation {
        method,
        action,
        id: id(kind, verb, "", part),
        description: format!("{verb} {of}the specified {}", kind.kind),
        tag: format!("{}_{}", group_words(kind).concat().to_lowercase(), kind.version),
        about: json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
        parameters: Vec::new(),
        body: None,
        answers: (&[200], schemas::name(kind)),
    }
}

/// `readAppsV1NamespacedDeploymentStatus`
fn id(kind: &Kind, verb: &str, suffix: &str, part: &str) -> String {
    let space = if kind.namespaced && suffix.is_empty() { "Namespaced" } else { "" };
    let (group, version) = (group_words(kind).concat(), capital(&kind.version));
    format!("{verb}{group}{version}{space}{}{}{suffix}", kind.kind, capital(part))
}

/// `["Rbac", "Authorization"]` of `rbac.authorization.k8s.io`
fn group_words(kind: &Kind) -> Vec<String> {
    match kind.group.as_str() {
        "" => vec!["Core".into()],
        group => group.strip_suffix(".k8s.io").unwrap_or(group).split('.').map(capital).collect(),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

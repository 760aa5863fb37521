//! Server-side apply: what a patch of type apply does, to an object that is there or to none.

use diolkos_api::kind::Kind;
use diolkos_api::status::{Failure, StatusCause};
use diolkos_api::wire;
use serde_json::{Map, Value};

use super::body::{self, FieldValidation};
use super::create::Creation;
use super::update::{check_address, replace};
use super::writer::Tracking;
use super::{Caller, Handlers, Target, scale};
use crate::managed::{self, Configuration, Refusal};
use crate::patch;

/// Most conflicts that one answer tells of.
const MAX_CAUSES: usize = 100;

/// What a patch made, and whether that is a new object.
pub(crate) struct Patched {
    pub object: wire::Object,
    pub created: bool,
}

/// How often an object may come and go while a configuration meets it.
const MAX_ATTEMPTS: usize = 4;

/// One request, read and checked.
struct Application {
    config: Value,
    tracking: Tracking,
    force: bool,
    dry_run: bool,
    warnings: Vec<String>,
}

impl Handlers {
    pub(super) async fn apply(
        &self,
        caller: &Caller,
        target: Target,
        request: &wire::PatchRequest,
    ) -> Result<Patched, Failure> {
        let application = application(&target, caller, request)?;
        for _ in 0..MAX_ATTEMPTS {
            match self.apply_to_present(&target, &application).await {
                Err(failure) if failure.is_not_found() && target.subresource.is_empty() => {}
                applied => return applied.map(|object| Patched { object, created: false }),
            }
            check_absent(&target, &application.config)?;
            let key = request.key.clone().unwrap_or_default();
            self.authorize_unknown(caller, "create", &key)?;
            let object = self.merged(&target.kind, None, &application)?;
            let warnings = application.warnings.clone();
            let creation = Creation { warnings, dry_run: request.dry_run, tracking: None };
            let target = Target { verb: "create", ..target.whole() };
            match self.create_object(caller, target, object, creation).await {
                Err(failure) if failure.is_already_exists() => {}
                created => return created.map(|object| Patched { object, created: true }),
            }
        }
        Err(Failure::modified(target.served.resource(), &target.name))
    }

    async fn apply_to_present(&self, target: &Target, application: &Application) -> Result<wire::Object, Failure> {
        let mut warnings = Vec::new();
        let whole = target.whole();
        let place = if target.subresource == "scale" { &whole } else { target };
        let mut applied = self
            .change(target, application.dry_run, |current| {
                let new = self.merged(&target.kind, Some(&current.object), application)?;
                warnings = target.kind.warnings(&new);
                replace(place, &new, current, None)
            })
            .await?;
        applied.warnings.extend(application.warnings.iter().cloned().chain(warnings));
        if target.subresource == "scale" { Self::scale_of_reply(&target.kind, &applied) } else { target.serve(applied) }
    }

    /// What the configuration makes of what is there.
    fn merged(&self, kind: &Kind, live: Option<&Value>, application: &Application) -> Result<Value, Failure> {
        let Application { config, tracking, force, .. } = application;
        let configuration = Configuration { object: config, write: tracking.write(), force: *force };
        let mut new = managed::apply(live, &configuration).map_err(|refusal| {
            self.metrics.refused_apply();
            failure(refusal)
        })?;
        patch::check_depth(&new)?;
        body::drop_nulls_of(kind, &mut new);
        Ok(new)
    }
}

fn application(target: &Target, caller: &Caller, request: &wire::PatchRequest) -> Result<Application, Failure> {
    let validation = FieldValidation::parse(&request.field_validation)?;
    let (mut config, duplicates) = read(&request.patch)?;
    check_names(target, &config)?;
    let mut warnings = Vec::new();
    if target.subresource == "scale" {
        config = scale::configuration(&target.kind, &config)?;
    } else {
        warnings = body::check_fields(&target.served, &config, duplicates, validation)?;
        target.served.prune(&mut config);
        target.served.to_storage(&mut config);
    }
    config["metadata"]["name"] = target.name.clone().into();
    let mut tracking = Tracking::of(target, caller, &request.field_manager);
    tracking.writer.applies = true;
    Ok(Application { config, tracking, force: request.force, dry_run: request.dry_run, warnings })
}

/// JSON, or YAML, of which JSON is a part.
fn read(document: &[u8]) -> Result<(Value, Vec<String>), Failure> {
    let (config, duplicates) = match body::parse_document(document) {
        Ok(parsed) => parsed,
        Err(_) => {
            let config: Value = serde_yaml_ng::from_slice(document)
                .map_err(|cause| Failure::bad_request(format!("error decoding YAML: {cause}")))?;
            (config, Vec::new())
        }
    };
    patch::check_depth(&config)?;
    match config {
        Value::Object(_) => Ok((config, duplicates)),
        _ => Err(Failure::bad_request("error decoding YAML: the configuration is no object")),
    }
}

fn check_names(target: &Target, config: &Value) -> Result<(), Failure> {
    let (api_version, kind) = match target.served.subresource(&target.subresource) {
        Some(part) if !part.kind.is_empty() => (format!("{}/{}", part.group, part.version), part.kind),
        _ => (target.served.api_version(), target.served.kind.as_str()),
    };
    for field in ["kind", "apiVersion"] {
        if config[field].as_str().is_none_or(str::is_empty) {
            return Err(Failure::bad_request(format!("error decoding YAML: Object '{field}' is missing")));
        }
    }
    if config["apiVersion"] != *api_version || config["kind"] != *kind {
        return Err(Failure::bad_request(format!(
            "invalid object type: {}, Kind={}; expected {api_version}, Kind={kind}",
            config["apiVersion"].as_str().unwrap_or_default(),
            config["kind"].as_str().unwrap_or_default()
        )));
    }
    if !matches!(config["metadata"], Value::Object(_) | Value::Null) {
        return Err(Failure::bad_request("error decoding YAML: metadata is no object"));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    check_address(target, config)
}

/// Who knows an object's uid or version does not mean a new one.
fn check_absent(target: &Target, config: &Value) -> Result<(), Failure> {
    let resource = target.served.resource();
    let text = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
    if !text("uid").is_empty() {
        let uid = text("uid");
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Failure::conflict(resource, &target.name, &why));
    }
    if !matches!(text("resourceVersion"), "" | "0") {
        return Err(Failure::modified(resource, &target.name));
    }
    Ok(())
}

/// The failure in Kubernetes' words.
fn failure(refusal: Refusal) -> Failure {
    let conflicts = match refusal {
        Refusal::Unclear(why) => return Failure::bad_request(format!("cannot apply the configuration: {why}")),
        Refusal::Conflicts(conflicts) => conflicts,
    };
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let mut by_manager: Map<String, Value> = Map::new();
    for (manager, paths) in &conflicts {
        let lines: String = paths.iter().map(|path| format!("\n- {path}")).collect();
        by_manager.insert(manager.clone(), format!("conflicts with {manager}:{lines}").into());
    }
    let message = match conflicts.as_slice() {
        [(manager, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
        }
        _ => {
            let texts: Vec<&str> = by_manager.values().filter_map(Value::as_str).collect();
            format!("Apply failed with {count} conflicts: {}", texts.join("\n"))
        }
    };
    let causes = conflicts.iter().flat_map(|(manager, paths)| {
        paths.iter().map(move |path| StatusCause {
            reason: Some("FieldManagerConflict".into()),
            message: Some(format!("conflict with {manager}")),
            field: Some(path.clone()),
        })
    });
    Failure::apply_conflict(message, causes.take(MAX_CAUSES).collect())
}

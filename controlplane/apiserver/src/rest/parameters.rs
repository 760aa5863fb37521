//! The parameters of a request for objects.

use axum::extract::Query;
use diolkos_api::kind::Causes;
use diolkos_api::status::Failure;
use diolkos_api::wire::DeleteRequest;
use http::Uri;
use serde_json::Value;

/// What a Table's rows carry of their objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// Unknown parameters are ignored, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    pub label_selector: String,
    pub field_selector: String,
    pub limit: i64,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: String,
    pub watch: bool,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: bool,
    pub timeout_seconds: i64,
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: String,
    pub force: bool,
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: String,
    pub include_object: IncludeObject,
}

impl Parameters {
    pub(super) fn parse(uri: &Uri) -> Result<Self, Failure> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|cause| Failure::bad_request(format!("cannot read the parameters: {cause}")))?;
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.set(&name, value)?;
        }
        Ok(parameters)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), Failure> {
        match name {
            "labelSelector" => self.label_selector = value,
            "fieldSelector" => self.field_selector = value,
            "limit" => self.limit = number(name, &value)?,
            "continue" => self.continue_token = value,
            "resourceVersion" => self.resource_version = value,
            "resourceVersionMatch" => self.resource_version_match = value,
            "watch" => self.watch = truth(name, &value)?,
            "allowWatchBookmarks" => self.allow_watch_bookmarks = truth(name, &value)?,
            "sendInitialEvents" => self.send_initial_events = truth(name, &value)?,
            "timeoutSeconds" => self.timeout_seconds = number(name, &value)?,
            "dryRun" => self.dry_run = dry_run(&value)?,
            "fieldManager" => self.field_manager = value,
            "fieldValidation" => self.field_validation = value,
            "force" => self.force = truth(name, &value)?,
            "gracePeriodSeconds" => self.grace_period_seconds = Some(number(name, &value)?),
            "propagationPolicy" => self.propagation_policy = value,
            "orphanDependents" if truth(name, &value)? => self.propagation_policy = "Orphan".into(),
            "includeObject" => {
                self.include_object = match value.as_str() {
                    "None" => IncludeObject::None,
                    "" | "Metadata" => IncludeObject::Metadata,
                    "Object" => IncludeObject::Object,
                    other => return Err(Failure::bad_request(format!("unrecognized includeObject value: {other:?}"))),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads `DeleteOptions` over what the parameters said.
pub(super) fn read_delete_options(json: &[u8], request: &mut DeleteRequest) -> Result<(), Failure> {
    let options: Value = serde_json::from_slice(json)
        .map_err(|cause| Failure::bad_request(format!("cannot read the DeleteOptions: {cause}")))?;
    match options["kind"].as_str() {
        None | Some("" | "DeleteOptions") => {}
        Some(kind) => return Err(Failure::bad_request(format!("the body is a {kind}; it may be a DeleteOptions"))),
    }
    match &options["gracePeriodSeconds"] {
        Value::Null => {}
        seconds => {
            let wrong = || Failure::bad_request(format!("gracePeriodSeconds is {seconds}; it has to be a number"));
            request.grace_period_seconds = Some(seconds.as_i64().ok_or_else(wrong)?);
        }
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if options["orphanDependents"].is_boolean() && options["propagationPolicy"].is_string() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        let mut causes = Causes::default();
        causes.invalid("propagationPolicy", options["propagationPolicy"].clone(), why);
        return Err(Failure::invalid_options("DeleteOptions", causes.into_vec()));
    }
    if let Some(policy) = text(&options["propagationPolicy"]) {
        request.propagation_policy = policy;
    } else if options["orphanDependents"] == true {
        request.propagation_policy = "Orphan".into();
    }
    request.precondition_uid = text(&options["preconditions"]["uid"]).unwrap_or_default();
    request.precondition_resource_version = text(&options["preconditions"]["resourceVersion"]).unwrap_or_default();
    for value in options["dryRun"].as_array().into_iter().flatten() {
        request.dry_run = dry_run(value.as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn dry_run(value: &str) -> Result<bool, Failure> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(Failure::bad_request(format!(
            "invalid dryRun: Unsupported value: \"{other}\": supported values: \"All\""
        ))),
    }
}

fn truth(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(Failure::bad_request(format!("{name} is {other:?}; it may be \"true\" or \"false\""))),
    }
}

fn number(name: &str, value: &str) -> Result<i64, Failure> {
    if value.is_empty() {
        return Ok(0);
    }
    value.parse().map_err(|_| Failure::bad_request(format!("{name} is {value:?}; it has to be a number")))
}

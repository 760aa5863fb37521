//! Reviews: questions about users and what they may do. They are answered, not stored.

use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use serde_json::{Value, json};

use super::body::{self, FieldValidation};
use super::{Caller, Handlers, Target, reply};
use crate::stack::authorization::{Decision, Rule};
use crate::stack::{Attributes, User};

/// Kinds that are answered by [`Handlers::review`].
pub(super) fn is_review(kind: &Kind) -> bool {
    matches!(kind.group.as_str(), "authorization.k8s.io" | "authentication.k8s.io")
}

impl Handlers {
    pub(super) async fn review(
        &self,
        caller: &Caller,
        target: &Target,
        request: &wire::WriteRequest,
    ) -> Result<wire::Object, Failure> {
        let validation = FieldValidation::parse(&request.field_validation)?;
        let (mut review, warnings) = body::parse(&target.kind, &request.json, validation)?;
        body::drop_nulls(&mut review);
        let spec = review["spec"].clone();
        let status = match target.kind.kind.as_str() {
            "SelfSubjectReview" => json!({"userInfo": caller.user.info()}),
            "TokenReview" => self.token(&spec).await?,
            "SelfSubjectAccessReview" => self.access(target, &caller.user, &spec)?,
            "SubjectAccessReview" => self.access(target, &subject(target, &spec)?, &spec)?,
            "LocalSubjectAccessReview" => {
                if spec["resourceAttributes"]["namespace"] != target.namespace.as_str() {
                    let why = "spec.resourceAttributes.namespace must match metadata.namespace";
                    return Err(invalid(target, "spec.resourceAttributes.namespace", why));
                }
                self.access(target, &subject(target, &spec)?, &spec)?
            }
            "SelfSubjectRulesReview" => self.rules(target, &caller.user, &spec)?,
            other => return Err(Failure::unimplemented(format!("{other} is not part of this server"))),
        };
        target.kind.default(&mut review);
        review["status"] = status;
        Ok(reply(&review, 0, warnings))
    }

    async fn token(&self, spec: &Value) -> Result<Value, Failure> {
        let token = text(&spec["token"]);
        if token.is_empty() {
            return Err(Failure::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = match texts(&spec["audiences"]) {
            audiences if audiences.is_empty() => self.tokens.audiences().to_vec(),
            audiences => audiences,
        };
        Ok(match self.tokens.check(&token, &audiences).await {
            Ok(bearer) => json!({"authenticated": true, "user": bearer.user.info(), "audiences": bearer.audiences}),
            Err(why) => json!({"authenticated": false, "user": {}, "error": format!("[invalid bearer token, {why}]")}),
        })
    }

    fn access(&self, target: &Target, user: &User, spec: &Value) -> Result<Value, Failure> {
        let asked = match (&spec["resourceAttributes"], &spec["nonResourceAttributes"]) {
            (Value::Object(_), Value::Null) => of_resource(&spec["resourceAttributes"]),
            (Value::Null, Value::Object(_)) => of_path(&spec["nonResourceAttributes"]),
            (Value::Null, Value::Null) => {
                let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                return Err(invalid(target, "spec.resourceAttributes", why));
            }
            _ => {
                let why = "cannot be specified in combination with resourceAttributes";
                return Err(invalid(target, "spec.nonResourceAttributes", why));
            }
        };
        Ok(match self.authorizer.decide(user, &asked) {
            Decision::Allowed(reason) => with_reason(json!({"allowed": true}), &reason),
            Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), &reason),
        })
    }

    fn rules(&self, target: &Target, user: &User, spec: &Value) -> Result<Value, Failure> {
        let namespace = text(&spec["namespace"]);
        if namespace.is_empty() {
            return Err(Failure::bad_request("no namespace on request"));
        }
        let _ = target;
        let (paths, resources): (Vec<Rule>, Vec<Rule>) =
            self.authorizer.rules_of(user, &namespace).into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
        Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
    }
}

fn with_reason(mut status: Value, reason: &str) -> Value {
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// About whom somebody asks.
fn subject(target: &Target, spec: &Value) -> Result<User, Failure> {
    let (name, groups) = (text(&spec["user"]), texts(&spec["groups"]));
    if name.is_empty() && groups.is_empty() {
        return Err(invalid(target, "spec.user", "at least one of user or group must be specified"));
    }
    let extra = spec["extra"].as_object().into_iter().flatten();
    Ok(User {
        name,
        uid: text(&spec["uid"]),
        groups,
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    })
}

fn of_resource(asked: &Value) -> Attributes {
    let node = asked["fieldSelector"]["requirements"].as_array().into_iter().flatten().find_map(|term| {
        let values = texts(&term["values"]);
        (term["key"] == "spec.nodeName" && term["operator"] == "In" && values.len() == 1).then(|| values.concat())
    });
    Attributes {
        verb: text(&asked["verb"]).into(),
        group: text(&asked["group"]),
        version: text(&asked["version"]),
        resource: text(&asked["resource"]),
        subresource: text(&asked["subresource"]),
        namespace: text(&asked["namespace"]),
        name: text(&asked["name"]),
        path: String::new(),
        selected_node: node,
    }
}

fn of_path(asked: &Value) -> Attributes {
    Attributes { verb: text(&asked["verb"]).into(), path: text(&asked["path"]), ..Attributes::default() }
}

fn invalid(target: &Target, field: &str, why: &str) -> Failure {
    let mut causes = diolkos_api::kind::Causes::default();
    causes.invalid(field, Value::Null, why);
    Failure::invalid(&target.kind, "", causes.into_vec())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

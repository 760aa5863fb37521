//! Which encoding a request has and which one its answer gets.

use bytes::Bytes;
use diolkos_api::status::Failure;
use diolkos_api::wire::patch_request::Type;
use http::{HeaderMap, header};
use serde_json::Value;

use crate::protobuf;

const AVAILABLE: &[&str] =
    &["application/json", "application/yaml", "application/json;stream=watch", "application/yaml;stream=watch"];
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const READABLE: &[&str] = &["application/json", "application/yaml", PROTOBUF];
const BODIES: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// How the answer looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub representation: Representation,
    pub yaml: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Representation {
    Object,
    /// Rows and columns, as `kubectl get` prints them.
    Table,
    /// Only the metadata.
    Partial,
}

impl Form {
    /// The first of the Accept header's choices, by weight, that there is; 406 when there is none.
    pub(super) fn of_response(headers: &HeaderMap) -> Result<Form, Failure> {
        let choices = choices(headers);
        if choices.is_empty() {
            return Ok(Form { representation: Representation::Object, yaml: false });
        }
        choices.iter().find_map(form).ok_or_else(|| Failure::not_acceptable(AVAILABLE))
    }
}

fn form(media: &Media) -> Option<Form> {
    let yaml = match media.name.as_str() {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let representation = match (media.parameter("as"), media.parameter("g"), media.parameter("v")) {
        (None, ..) => Representation::Object,
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Representation::Table,
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Representation::Partial
        }
        _ => return None,
    };
    Some(Form { representation, yaml })
}

/// How discovery is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscoveryForm {
    Json,
    Yaml,
    /// Everything in one answer, in version v2. Of older versions there are none since Kubernetes 1.36: who asks for
    /// them too, asks for plain JSON behind.
    Aggregated,
}

impl DiscoveryForm {
    /// The first of the Accept header's choices, by weight, that there is; 406 when there is none.
    pub(super) fn of_response(headers: &HeaderMap) -> Result<DiscoveryForm, Failure> {
        let choices = choices(headers);
        if choices.is_empty() {
            return Ok(DiscoveryForm::Json);
        }
        let form = |media: &Media| match (media.name.as_str(), media.parameter("as")) {
            ("application/json" | "*/*" | "application/*", None) => Some(DiscoveryForm::Json),
            ("application/yaml", None) => Some(DiscoveryForm::Yaml),
            ("application/json", Some("APIGroupDiscoveryList"))
                if media.parameter("g") == Some("apidiscovery.k8s.io") && media.parameter("v") == Some("v2") =>
            {
                Some(DiscoveryForm::Aggregated)
            }
            _ => None,
        };
        choices.iter().find_map(form).ok_or_else(|| Failure::not_accepted(BODIES))
    }
}

/// Whether the client takes this media type, which has no parameters. Who says nothing takes JSON.
pub(super) fn accepts(headers: &HeaderMap, name: &str) -> bool {
    let choices = choices(headers);
    let json = name == "application/json";
    (choices.is_empty() && json)
        || choices
            .iter()
            .any(|media| media.name == name || (json && matches!(media.name.as_str(), "*/*" | "application/*")))
}

/// What the Accept header names, the heaviest first.
fn choices(headers: &HeaderMap) -> Vec<Media> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut choices: Vec<Media> = accept.flat_map(|value| value.split(',')).filter_map(Media::parse).collect();
    choices.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    choices
}

/// The body as JSON; 415 for a content type that is not read.
pub(super) fn json_of_body(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Failure> {
    match content_type(headers).as_str() {
        "" | "application/json" => Ok(body),
        "application/yaml" => {
            let value: Value = serde_yaml_ng::from_slice(&body)
                .map_err(|cause| Failure::bad_request(format!("cannot read the YAML of the body: {cause}")))?;
            Ok(Bytes::from(value.to_string()))
        }
        PROTOBUF => protobuf::to_json(&body),
        _ => Err(Failure::unsupported_media_type(READABLE)),
    }
}

pub(super) fn patch_type(headers: &HeaderMap) -> Result<Type, Failure> {
    match content_type(headers).as_str() {
        "application/json-patch+json" => Ok(Type::Json),
        "application/merge-patch+json" => Ok(Type::Merge),
        "application/strategic-merge-patch+json" => Ok(Type::StrategicMerge),
        "application/apply-patch+yaml" => Ok(Type::Apply),
        _ => Err(Failure::unsupported_media_type(PATCHES)),
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// One choice of an Accept header.
struct Media {
    name: String,
    parameters: Vec<(String, String)>,
    weight: f32,
}

impl Media {
    fn parse(text: &str) -> Option<Media> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let parameters: Vec<(String, String)> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
            .collect();
        let weight = parameters.iter().find(|(key, _)| key == "q").and_then(|(_, q)| q.parse().ok()).unwrap_or(1.0);
        Some(Media { name, parameters, weight })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn accept(text: &str) -> Result<Form, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        Form::of_response(&headers)
    }

    #[test]
    fn kubectl_gets_a_table_and_everybody_else_json() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;\
                       g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().representation, Representation::Table);
        for text in ["", "*/*", "application/json, */*", "application/vnd.kubernetes.protobuf,application/json"] {
            assert_eq!(accept(text).unwrap(), Form { representation: Representation::Object, yaml: false }, "{text}");
        }
    }

    #[test]
    fn the_heavier_choice_wins_and_none_is_406() {
        assert!(accept("application/json;q=0.5,application/yaml").unwrap().yaml);
        assert_eq!(accept("application/xml").unwrap_err().code(), 406);
    }
}

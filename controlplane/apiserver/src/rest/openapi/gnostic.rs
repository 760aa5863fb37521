//! OpenAPI version 2 as protobuf, which is all that kubectl before 1.27 reads. The numbers are those of gnostic's
//! OpenAPIv2.proto.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// The bytes of a message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(mut self, field: u32, text: &str) -> Self {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    /// The text of a member, if it is there.
    fn member(self, field: u32, of: &Value, name: &str) -> Self {
        self.text(field, of[name].as_str().unwrap_or_default())
    }

    fn texts(mut self, field: u32, of: &Value, name: &str) -> Self {
        for text in array(&of[name]).filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    fn truth(mut self, field: u32, of: &Value, name: &str) -> Self {
        if of[name] == true {
            encode_key(field, WireType::Varint, &mut self.0);
            encode_varint(1, &mut self.0);
        }
        self
    }

    fn message(mut self, field: u32, message: Message) -> Self {
        self.bytes(field, &message.0);
        self
    }

    fn messages(self, field: u32, messages: impl IntoIterator<Item = Message>) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, message))
    }

    /// A name and a message: how maps are written.
    fn named(name: &str, value: Message) -> Self {
        Message::default().text(1, name).message(2, value)
    }

    /// The members `x-...`.
    fn extensions(self, field: u32, of: &Value) -> Self {
        let extensions = object(of).filter(|(name, _)| name.starts_with("x-"));
        // YAML reads JSON.
        self.messages(field, extensions.map(|(name, value)| Message::named(name, any(value))))
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }
}

fn any(value: &Value) -> Message {
    Message::default().text(2, &value.to_string())
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The document that [`super::v2`] made.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let info = Message::default().member(1, &document["info"], "title").member(2, &document["info"], "version");
    let paths = object(&document["paths"]).map(|(name, item)| Message::named(name, path_item(item)));
    let definitions = object(&document["definitions"]).map(|(name, value)| Message::named(name, schema(value)));
    Message::default()
        .member(1, document, "swagger")
        .message(2, info)
        .message(8, Message::default().messages(2, paths))
        .message(9, Message::default().messages(1, definitions))
        .0
}

fn path_item(item: &Value) -> Message {
    let methods = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")];
    let operations = methods.iter().filter(|(_, method)| item.get(*method).is_some());
    operations
        .fold(Message::default(), |message, (field, method)| message.message(*field, operation(&item[*method])))
        .messages(9, array(&item["parameters"]).map(parameters_item))
        .extensions(10, item)
}

fn operation(operation: &Value) -> Message {
    let responses = object(&operation["responses"]).map(|(code, answer)| {
        let schema = answer.get("schema").map(|value| Message::default().message(1, schema(value)));
        let response = Message::default().member(1, answer, "description").messages(2, schema);
        Message::named(code, Message::default().message(1, response))
    });
    Message::default()
        .texts(1, operation, "tags")
        .member(3, operation, "description")
        .member(5, operation, "operationId")
        .texts(6, operation, "produces")
        .texts(7, operation, "consumes")
        .messages(8, array(&operation["parameters"]).map(parameters_item))
        .message(9, Message::default().messages(1, responses))
        .texts(10, operation, "schemes")
        .extensions(13, operation)
}

fn parameters_item(parameter: &Value) -> Message {
    let parameter = match parameter["in"].as_str() {
        Some("body") => {
            let body = Message::default()
                .member(2, parameter, "name")
                .member(3, parameter, "in")
                .truth(4, parameter, "required")
                .message(5, schema(&parameter["schema"]));
            Message::default().message(1, body)
        }
        place => {
            let (kind, own) =
                if place == Some("path") { (4, path_parameter(parameter)) } else { (3, query_parameter(parameter)) };
            Message::default().message(2, Message::default().message(kind, own))
        }
    };
    Message::default().message(1, parameter)
}

fn path_parameter(parameter: &Value) -> Message {
    named_parameter(parameter).member(5, parameter, "type").truth(18, parameter, "uniqueItems")
}

fn query_parameter(parameter: &Value) -> Message {
    named_parameter(parameter).member(6, parameter, "type").truth(20, parameter, "uniqueItems")
}

fn named_parameter(parameter: &Value) -> Message {
    Message::default()
        .truth(1, parameter, "required")
        .member(2, parameter, "in")
        .member(3, parameter, "description")
        .member(4, parameter, "name")
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default()
        .member(1, value, "$ref")
        .member(2, value, "format")
        .member(4, value, "description")
        .texts(19, value, "required");
    if let Some(default) = value.get("default") {
        message = message.message(5, any(default));
    }
    message = message.messages(20, array(&value["enum"]).map(any));
    match &value["additionalProperties"] {
        Value::Bool(_) => {
            message = message.message(21, Message::default().truth(2, value, "additionalProperties"));
        }
        Value::Null => {}
        content => message = message.message(21, Message::default().message(1, schema(content))),
    }
    if let Some(name) = value["type"].as_str() {
        message = message.message(22, Message::default().text(1, name));
    }
    if value["items"].is_object() {
        message = message.message(23, Message::default().message(1, schema(&value["items"])));
    }
    if value["properties"].is_object() {
        let properties = object(&value["properties"]).map(|(name, value)| Message::named(name, schema(value)));
        message = message.message(25, Message::default().messages(1, properties));
    }
    message.extensions(31, value)
}

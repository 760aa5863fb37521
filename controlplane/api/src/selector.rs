//! Label and field selectors: parsing with Kubernetes' messages, and matching.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::kind::names;

/// All its requirements hold of the labels it matches; an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// What a [`Requirement`] says of the label's value. `NotIn` holds as well when the label is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`. "" matches everything.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: tokens(text), at: 0 }.selector()
    }

    /// From the form that objects hold. `None` matches nothing, as Kubernetes has it.
    pub fn from_meta(selector: &meta::LabelSelector) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key.clone(), Operator::In, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("\"{other}\" is not a valid label selector operator")),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(expression.key.clone(), operator, values)?);
        }
        Ok(Self { requirements })
    }

    /// Each of these labels with exactly this value.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let exact = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Self { requirements: labels.iter().map(exact).collect() }
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Like [`LabelSelector::matches`], with a lookup.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl Requirement {
    fn new(key: String, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        if let Some(problem) = names::qualified_name(&key).into_iter().next() {
            return Err(format!("key: Invalid value: \"{key}\": {problem}"));
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into());
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return Err("values: Invalid value: values set must be empty for exists and does not exist".into());
            }
            Operator::GreaterThan | Operator::LessThan if values.iter().any(|value| value.parse::<i64>().is_err()) => {
                return Err("values[0]: Invalid value: for 'Gt', 'Lt' operators, the value must be an integer".into());
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(problem) = names::label_value(value).into_iter().next() {
                return Err(format!("values[{index}][{key}]: Invalid value: \"{value}\": {problem}"));
            }
        }
        Ok(Self { key, operator, values })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|own| own == value);
        let bound = || self.values.first().and_then(|own| own.parse::<i64>().ok());
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => matches!((number(), bound()), (Some(value), Some(bound)) if value > bound),
            Operator::LessThan => matches!((number(), bound()), (Some(value), Some(bound)) if value < bound),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            let key = &requirement.key;
            let values = requirement.values.join(",");
            match (requirement.operator, requirement.values.len()) {
                (Operator::In, 1) => write!(formatter, "{key}={values}")?,
                (Operator::In, _) => write!(formatter, "{key} in ({values})")?,
                (Operator::NotIn, 1) => write!(formatter, "{key}!={values}")?,
                (Operator::NotIn, _) => write!(formatter, "{key} notin ({values})")?,
                (Operator::Exists, _) => write!(formatter, "{key}")?,
                (Operator::DoesNotExist, _) => write!(formatter, "!{key}")?,
                (Operator::GreaterThan, _) => write!(formatter, "{key}>{values}")?,
                (Operator::LessThan, _) => write!(formatter, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

/// All its terms hold of the fields it matches; an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// `path=value` or `path!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub value: String,
    /// `!=`
    pub negated: bool,
}

impl FieldSelector {
    /// Parses `a=b,c==d,e!=f`; `\,`, `\=` and `\\` stand for themselves in values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for term in split_terms(text).into_iter().filter(|term| !term.is_empty()) {
            let Some((path, negated, value)) = split_operator(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            terms.push(FieldTerm { path: path.to_owned(), value: unescape(value)?, negated });
        }
        Ok(Self { terms })
    }

    /// `field` gives the value at a path, `None` for a path that the kind does not offer (which never matches).
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|term| field(&term.path).is_some_and(|value| (value == term.value) != term.negated))
    }

    /// The value that a matching object must have at `path`, when the selector says one: what an index is asked.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.path == path && !term.negated).map(|term| term.value.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The same conditions on other paths.
    pub fn with_paths(mut self, rename: impl Fn(&str) -> &str) -> Self {
        for term in &mut self.terms {
            term.path = rename(&term.path).to_owned();
        }
        self
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

const SYMBOLS: [&str; 9] = ["!=", "==", "(", ")", ",", "!", "=", ">", "<"];

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let special = |c: char| c.is_whitespace() || "!=(),<>".contains(c);
            let end = rest.find(special).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn selector(mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        while self.peek().is_some() {
            let requirement = self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?;
            requirements.push(requirement);
            match self.next() {
                None => break,
                Some(Token::Symbol(",")) if self.peek().is_some() => {}
                Some(Token::Symbol(",")) => return Err("found '', expected: identifier after ','".into()),
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", text_of(&other))),
            }
        }
        Ok(LabelSelector { requirements })
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Some(&Token::Symbol("!"));
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Some(Token::Word(word)) => word,
            other => return Err(format!("found '{}', expected: identifier", text_of(&other))),
        };
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, vec![]);
        }
        if matches!(self.peek(), None | Some(Token::Symbol(","))) {
            return Requirement::new(key, Operator::Exists, vec![]);
        }
        let token = self.next();
        let operator = match &token {
            Some(Token::Symbol("=" | "==")) => Operator::In,
            Some(Token::Symbol("!=")) => Operator::NotIn,
            Some(Token::Symbol(">")) => Operator::GreaterThan,
            Some(Token::Symbol("<")) => Operator::LessThan,
            Some(Token::Word(word)) if word == "in" => return self.values(key, Operator::In),
            Some(Token::Word(word)) if word == "notin" => return self.values(key, Operator::NotIn),
            other => {
                let found = text_of(other);
                return Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        let value = match self.peek() {
            None | Some(Token::Symbol(",")) => String::new(),
            _ => match self.next() {
                Some(Token::Word(word)) => word,
                other => return Err(format!("found '{}', expected: identifier", text_of(&other))),
            },
        };
        Requirement::new(key, operator, vec![value])
    }

    fn values(&mut self, key: String, operator: Operator) -> Result<Requirement, String> {
        match self.next() {
            Some(Token::Symbol("(")) => {}
            other => return Err(format!("found '{}', expected: '('", text_of(&other))),
        }
        let mut values = Vec::new();
        let mut value = None;
        loop {
            match self.next() {
                Some(Token::Word(word)) if value.is_none() => value = Some(word),
                Some(Token::Symbol(",")) => values.push(value.take().unwrap_or_default()),
                Some(Token::Symbol(")")) => break,
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", text_of(&other))),
            }
        }
        values.push(value.unwrap_or_default());
        values.sort();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }
}

fn text_of(token: &Option<Token>) -> &str {
    match token {
        None => "",
        Some(Token::Word(word)) => word,
        Some(Token::Symbol(symbol)) => symbol,
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    for (index, _) in term.char_indices() {
        let rest = &term[index..];
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..index], negated, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                other => {
                    let sequence: String = other.into_iter().collect();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{sequence}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            _ => plain.push(c),
        }
    }
    Ok(plain)
}

//! What names, labels and the like may look like, with Kubernetes' messages. Each function returns what is wrong.

/// Longest label value, and longest name part of a qualified name, in bytes.
const MAX_NAME: usize = 63;
/// Longest DNS subdomain, in bytes.
const MAX_SUBDOMAIN: usize = 253;

/// A DNS-1123 label: what Namespaces are named.
pub fn dns_label(value: &str) -> Vec<String> {
    let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                   start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                   validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    check(value, MAX_NAME, is_dns_label(value), message)
}

/// What can stand in a path: what roles are named.
pub fn path_segment(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if matches!(value, "." | "..") {
        problems.push(format!("may not be '{value}'"));
    }
    problems.extend(["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")));
    problems
}

/// A DNS-1035 label: what Services are named.
pub fn dns_1035_label(value: &str) -> Vec<String> {
    let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                   alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex \
                   used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let valid = is_dns_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase());
    check(value, MAX_NAME, valid, message)
}

/// A DNS-1123 subdomain: what most objects are named.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                   must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                   '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    check(value, MAX_SUBDOMAIN, value.split('.').all(is_dns_label), message)
}

/// A name of a label or annotation: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let message = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                   alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                   '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut problems = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            let both = "a valid qualified name must consist of alphanumeric characters, '-', '_' or '.', with an \
                        optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![both.into()];
        }
        Some(("", name)) => {
            problems.push("prefix part must be non-empty".into());
            name
        }
        Some((prefix, name)) => {
            problems.extend(dns_subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > MAX_NAME {
        problems.push(format!("name part {}", too_long(MAX_NAME)));
    }
    if !is_qualified(name) {
        problems.push(message.into());
    }
    problems
}

/// A value of a label, possibly "".
pub fn label_value(value: &str) -> Vec<String> {
    let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                   must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                   regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    check(value, MAX_NAME, value.is_empty() || is_qualified(value), message)
}

/// A key of a ConfigMap: a file name.
pub fn config_key(value: &str) -> Vec<String> {
    let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                   'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let valid = !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    let mut problems = check(value, MAX_SUBDOMAIN, valid, message);
    match value {
        "." => problems.push("must not be '.'".into()),
        ".." => problems.push("must not be '..'".into()),
        _ if value.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    problems
}

/// A name of a port (an IANA service name).
pub fn port_name(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 15 {
        problems.push("must be no more than 15 characters".into());
    }
    if !value.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// A number of a port.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".into()] }
}

/// A host as rules name them: a DNS name, or one with `*` for its first label.
pub fn host(value: &str) -> Vec<String> {
    let Some(rest) = value.strip_prefix('*') else { return dns_subdomain(value) };
    let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
                   consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character \
                   (e.g. '*.example.com', regex used for validation is \
                   '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let valid = rest.strip_prefix('.').is_some_and(|rest| rest.split('.').all(is_dns_label));
    check(value, MAX_SUBDOMAIN, valid, message)
}

/// "acme.io/foo"
pub fn domain_path(value: &str) -> Vec<String> {
    let Some((domain, path)) = value.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".into()];
    };
    let mut problems = dns_subdomain(domain);
    let inner = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
    if !path.bytes().all(inner) {
        let message = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        problems.push(message.into());
    }
    problems
}

/// An address of either family.
pub fn ip(value: &str) -> Vec<String> {
    let valid = value.parse::<std::net::IpAddr>().is_ok();
    if valid { Vec::new() } else { vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()] }
}

/// A range of addresses.
pub fn cidr(value: &str) -> Vec<String> {
    let valid = value.contains('/') && value.parse::<ipnetwork::IpNetwork>().is_ok();
    if valid { Vec::new() } else { vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()] }
}

/// A range of addresses as it is written when nobody means something else by it.
pub fn canonical_cidr(value: &str) -> Vec<String> {
    let problems = cidr(value);
    if !problems.is_empty() {
        return problems;
    }
    let canonical = value.parse::<ipnetwork::IpNetwork>().map(|own| format!("{}/{}", own.network(), own.prefix()));
    match canonical {
        Ok(canonical) if canonical != value => {
            vec![format!("must be in canonical form (\"{canonical}\")")]
        }
        _ => Vec::new(),
    }
}

/// A variable of a process.
pub fn variable(value: &str) -> Vec<String> {
    let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    let valid = !value.is_empty() && value.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    if valid { Vec::new() } else { vec![message.into()] }
}

fn check(value: &str, longest: usize, valid: bool, message: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > longest {
        problems.push(too_long(longest));
    }
    if !valid {
        problems.push(message.into());
    }
    problems
}

fn too_long(longest: usize) -> String {
    format!("must be no more than {longest} bytes")
}

fn is_dns_label(value: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !value.is_empty() && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-')
}

fn is_qualified(value: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.iter().all(|c| inner(*c)) && edge(bytes.first()) && edge(bytes.last())
}

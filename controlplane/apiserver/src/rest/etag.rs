//! What a client has already is not sent again.

use std::fmt::Write as _;

use http::{HeaderMap, header};
use ring::digest::{SHA512, digest};

/// The digest of a body in hexadecimal, as Kubernetes writes its tags and hashes.
pub(super) fn hash(body: &[u8]) -> String {
    let mut text = String::with_capacity(128);
    for byte in digest(&SHA512, body).as_ref() {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// The tag of a body.
pub(super) fn of(body: &[u8]) -> String {
    format!("\"{}\"", hash(body))
}

/// Whether the client says that it has the body with this tag.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = known.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

//! What the options of a list or watch mean together, and which of them contradict each other.

use diolkos_api::kind::Causes;
use diolkos_api::status::Failure;
use diolkos_api::wire;

use super::list::{freshness, parse_version};
use crate::cache::Freshness;

const FIELD: &str = "resourceVersionMatch";
const WITH_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

/// Which state a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The cache's, when it is as current as this.
    Current(Freshness),
    /// The store's at a revision.
    At(i64),
    /// The one that a continue token says.
    Continued,
}

/// 422 for options that contradict each other, 400 for ones that cannot be read.
pub(super) fn state_of_list(request: &wire::ListRequest) -> Result<State, Failure> {
    let (version, version_match) = (request.resource_version.as_str(), request.resource_version_match.as_str());
    let mut causes = Causes::default();
    if !version_match.is_empty() {
        if version.is_empty() {
            causes.forbidden(FIELD, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !request.r#continue.is_empty() {
            causes.forbidden(FIELD, WITH_CONTINUE);
        }
        if !matches!(version_match, "Exact" | "NotOlderThan") {
            causes.unsupported(FIELD, version_match, &["Exact", "NotOlderThan", ""]);
        }
        if version_match == "Exact" && version == "0" {
            causes.forbidden(FIELD, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    check(causes)?;
    if !request.r#continue.is_empty() {
        if !matches!(version, "" | "0") {
            return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok(State::Continued);
    }
    // A page of a version that was named is of just that version, as Kubernetes has it since there are pages.
    let exact = version_match == "Exact" || (version_match.is_empty() && request.limit > 0);
    match (version, exact) {
        ("" | "0", _) | (_, false) => freshness(version).map(State::Current),
        (version, true) => match parse_version(version)? {
            0 => Ok(State::Current(Freshness::Any)),
            version => Ok(State::At(version)),
        },
    }
}

/// The same for a watch.
pub(super) fn check_watch(request: &wire::WatchRequest) -> Result<(), Failure> {
    let version_match = request.resource_version_match.as_str();
    let mut causes = Causes::default();
    if request.send_initial_events && version_match != "NotOlderThan" {
        causes.forbidden(FIELD, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !version_match.is_empty() {
        if !request.send_initial_events {
            causes.forbidden(FIELD, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if version_match != "NotOlderThan" {
            causes.unsupported(FIELD, version_match, &["NotOlderThan"]);
        }
    }
    check(causes)
}

fn check(causes: Causes) -> Result<(), Failure> {
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid_options("ListOptions", causes.into_vec())) }
}

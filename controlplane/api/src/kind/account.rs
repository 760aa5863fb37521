//! ServiceAccount.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::cell::{AGE, NAME, column};
use super::row::{row, rules};
use super::rule::items;
use super::{Kind, Subresource, names};

pub(super) fn service_account() -> Kind {
    let columns = vec![
        NAME,
        column("Secrets", "How many secrets it may use.", |account, _| items(&account["secrets"]).len().into()),
        AGE,
    ];
    let token = Subresource {
        name: "token",
        kind: "TokenRequest",
        group: "authentication.k8s.io",
        version: "v1",
        verbs: &["create"],
    };
    Kind {
        short_names: vec!["sa".into()],
        subresources: vec![token],
        ..row::<ServiceAccount>("serviceaccount", columns, rules::<ServiceAccount>(names::dns_subdomain))
    }
}

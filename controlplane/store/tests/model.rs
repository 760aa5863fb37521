//! The model keeps every promise of a store.

#![allow(clippy::unwrap_used)]

#[macro_use]
mod conformance;

use std::sync::Arc;

use diolkos_store::{Model, Store};

async fn start() -> (Arc<dyn Store>, ()) {
    (Arc::new(Model::new()), ())
}

every_promise!(start);

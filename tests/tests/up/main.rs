//! `diolkos up`, `init`, `join`, `token`, `certs` and `reset`, as an operator runs them: real processes on machines that
//! are namespaces.
#![allow(clippy::unwrap_used)]

mod alone;
mod joining;
mod machine;
mod upkeep;

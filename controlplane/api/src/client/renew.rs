//! A client whose credentials change while it is used: certificates are renewed, and nothing is started anew for it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use super::{Client, ConnectError, Wire};
use crate::kubeconfig::{Kubeconfig, KubeconfigError};

/// Why a kubeconfig file leads to no client.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// How often a kubeconfig is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The connection in use; clones share it.
#[derive(Clone)]
pub(super) struct Current(Arc<RwLock<Wire>>);

impl Current {
    pub(super) fn new(wire: Wire) -> Self {
        Self(Arc::new(RwLock::new(wire)))
    }

    pub(super) fn get(&self) -> Wire {
        // A connection is whole whoever panicked beside it.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, wire: Wire) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = wire;
    }
}

/// Connects as a kubeconfig file says, and follows the file: when it changes, calls are made as it says then.
pub fn connect_file(path: &Path) -> Result<Client, FileError> {
    let text = read(path)?;
    let client = Client::connect(&Kubeconfig::load(path)?)?;
    tokio::spawn(follow(path.to_owned(), text, Arc::downgrade(&client.wire.0), client.server.clone()));
    Ok(client)
}

/// Ends with the last clone of the client.
async fn follow(path: PathBuf, mut known: String, wire: Weak<RwLock<Wire>>, server: String) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(wire) = wire.upgrade() else { return };
        // A file that is away for a moment is no news.
        let Ok(text) = read(&path) else { continue };
        if text == known {
            continue;
        }
        known = text;
        let client = Client { wire: Current(wire), server: server.clone() };
        let renewed = Kubeconfig::load(&path).map_err(|cause| cause.to_string());
        match renewed.and_then(|kubeconfig| client.renew(&kubeconfig).map_err(|cause| cause.to_string())) {
            Ok(()) => tracing::info!(kubeconfig = %path.display(), "the credentials changed, and are used from now on"),
            Err(cause) => {
                tracing::warn!(kubeconfig = %path.display(), cause, "the file changed and is of no use; the old credentials go on");
            }
        }
    }
}

fn read(path: &Path) -> Result<String, KubeconfigError> {
    std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
}

//! The unix socket on which the plugin calls: bounded in size, number and time.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Pods;
use super::error::PodsError;
use super::protocol::{ErrorResult, Reply, Request, Version, code};

/// Calls at a time; further ones wait in the socket's backlog.
const MAX_CALLS: usize = 32;
/// The longest request, bytes. GC names every attachment of the node: 128 bytes for each of 8000.
const MAX_REQUEST: u64 = 1 << 20;
/// How long a plugin may take to send its request or to read its answer.
const TRANSFER: Duration = Duration::from_secs(5);
/// How long a call may take before the plugin is told to repeat it. The call itself goes on to its end.
const CALL: Duration = Duration::from_secs(50);
/// How long calls may still run after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);

impl Pods {
    /// Serves the plugin until `stop` is ready, then lets running calls end.
    pub async fn serve(&self, listener: UnixListener, stop: impl Future<Output = ()>) -> Result<(), PodsError> {
        let calls = Arc::new(Semaphore::new(MAX_CALLS));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&listener, &calls) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => drop(tokio::spawn(self.clone().converse(stream, permit))),
                Err(error) => {
                    // Out of file descriptors, most likely: they come back as calls end.
                    tracing::error!(%error, "cannot accept a CNI call");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if tokio::time::timeout(GRACE, calls.acquire_many(MAX_CALLS as u32)).await.is_err() {
            tracing::warn!("CNI calls are still running; their pods are repaired at the next start");
        }
        Ok(())
    }

    async fn converse(self, mut stream: UnixStream, permit: OwnedSemaphorePermit) {
        let reply = match receive(&mut stream).await {
            Ok(request) => self.call(request, permit).await,
            Err(refusal) => Reply::Error(refusal),
        };
        let mut line = match serde_json::to_vec(&reply) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "cannot write a CNI answer"),
        };
        line.push(b'\n');
        match tokio::time::timeout(TRANSFER, stream.write_all(&line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the CNI plugin left before its answer"),
            Err(_) => tracing::debug!("the CNI plugin does not read its answer"),
        }
    }

    /// Runs a call in a task of its own, so that it ends properly whatever becomes of the plugin. The permit goes with
    /// it: an unfinished call counts.
    async fn call(&self, request: Request, permit: OwnedSemaphorePermit) -> Reply {
        let pods = self.clone();
        let task = tokio::spawn(async move {
            let reply = pods.answer(request).await;
            drop(permit);
            reply
        });
        let failure = match tokio::time::timeout(CALL, task).await {
            Ok(Ok(reply)) => return reply,
            Ok(Err(_)) => PodsError::Fault,
            Err(_) => PodsError::Slow(CALL.as_secs()),
        };
        Reply::Error(failure.to_result(Version::DEFAULT))
    }
}

async fn accept(listener: &UnixListener, calls: &Arc<Semaphore>) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let permit = calls.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// Takes the place of a socket that nobody listens on. Bound under another name and renamed: at no moment can anybody
/// but the owner connect, and a plugin finds the old socket or the new one.
pub async fn listen(socket: &Path) -> Result<UnixListener, PodsError> {
    let failed = |operation| {
        let path = socket.to_owned();
        move |source| PodsError::Io { operation, path, source }
    };
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory).map_err(failed("create the directory of"))?;
    }
    if UnixStream::connect(socket).await.is_ok() {
        return Err(PodsError::AnotherAgent { socket: socket.to_owned() });
    }
    let unready = PathBuf::from(format!("{}.new", socket.display()));
    match std::fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&unready).map_err(failed("listen on"))?;
    std::fs::set_permissions(&unready, std::fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    std::fs::rename(&unready, socket).map_err(failed("put in place"))?;
    tracing::info!(socket = %socket.display(), "listening for the CNI plugin");
    Ok(listener)
}

/// Reads one line.
async fn receive(stream: &mut UnixStream) -> Result<Request, ErrorResult> {
    let refuse = |code, msg: String| ErrorResult {
        cni_version: Version::DEFAULT.as_str().into(),
        code,
        msg,
        details: String::new(),
    };
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST));
    match tokio::time::timeout(TRANSFER, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(refuse(code::IO, format!("cannot read the request: {error}"))),
        Err(_) => return Err(refuse(code::IO, format!("no request within {} s", TRANSFER.as_secs()))),
    }
    if line.len() as u64 >= MAX_REQUEST {
        return Err(refuse(code::DECODE, format!("the request has more than {MAX_REQUEST} bytes")));
    }
    serde_json::from_slice(&line)
        .map_err(|error| refuse(code::DECODE, format!("the request is no JSON of ours: {error}")))
}

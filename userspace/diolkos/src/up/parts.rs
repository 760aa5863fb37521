//! The parts of one process: they run until told to stop, or until one ends by itself. The apiserver goes last, so that
//! the others can still say goodbye to it.

use std::future::Future;
use std::pin::Pin;

use diolkos_apiserver::Running;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Resolves when the parts are to stop.
pub(crate) type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Parts {
    server: Option<Running>,
    stop: watch::Sender<bool>,
    running: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Parts {
    /// `server` is stopped after all others.
    pub(crate) fn new(server: impl Into<Option<Running>>) -> Self {
        Self { server: server.into(), stop: watch::Sender::new(false), running: JoinSet::new() }
    }

    pub(crate) fn add<F>(&mut self, name: &'static str, part: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut stop = self.stop.subscribe();
        let stop = Box::pin(async move {
            // An error means that the parts are gone, which ends this one as well.
            let _ = stop.wait_for(|stopping| *stopping).await;
        });
        let part = part(stop);
        self.running.spawn(async move { (name, part.await) });
    }

    /// Runs until `stop`; an error when a part ended before that.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let server = self.server.as_mut();
        let failed = async move {
            match server {
                Some(server) => server.failed().await,
                None => std::future::pending().await,
            }
        };
        let mut result = tokio::select! {
            () = stop => Ok(()),
            why = failed => Err(anyhow::anyhow!("the apiserver ended: {why}")),
            ended = self.running.join_next(), if !self.running.is_empty() => early(ended),
        };
        if let Err(why) = &result {
            tracing::error!(why = format!("{why:#}"), "a part ended; stopping the others");
        }
        tracing::info!("stopping");
        self.stop.send_replace(true);
        while let Some(ended) = self.running.join_next().await {
            let late = late(ended);
            result = result.and(late);
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
        result
    }
}

type Ended = Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>;

/// A part that ended before it was told to.
fn early(ended: Option<Ended>) -> anyhow::Result<()> {
    match ended {
        Some(Ok((name, Ok(())))) => Err(anyhow::anyhow!("the {name} ended by itself")),
        Some(ended) => late(ended),
        None => Ok(()),
    }
}

fn late(ended: Ended) -> anyhow::Result<()> {
    let (name, result) = ended?;
    result.map_err(|why| why.context(format!("the {name} failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_fails_stops_the_others_and_is_named() {
        let mut parts = Parts::new(None);
        let (told, mut heard) = watch::channel(false);
        parts.add("scheduler", |_| async { anyhow::bail!("no way to the server") });
        parts.add("agent", |stop| async move {
            stop.await;
            told.send_replace(true);
            Ok(())
        });
        let why = parts.run(std::future::pending()).await.err().map(|why| format!("{why:#}"));
        assert_eq!(why.as_deref(), Some("the scheduler failed: no way to the server"));
        assert!(*heard.borrow_and_update(), "the other part was told");
    }

    #[tokio::test]
    async fn parts_that_are_told_to_stop_have_not_failed() {
        let mut parts = Parts::new(None);
        parts.add("scheduler", |stop| async move {
            stop.await;
            Ok(())
        });
        assert!(parts.run(std::future::ready(())).await.is_ok());
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_a_failure() {
        let mut parts = Parts::new(None);
        parts.add("scheduler", |_| async { Ok(()) });
        let why = parts.run(std::future::pending()).await.err().map(|why| why.to_string());
        assert_eq!(why.as_deref(), Some("the scheduler ended by itself"));
    }
}

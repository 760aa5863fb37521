//! The runtime behind a CRI v1 socket (containerd, CRI-O).

mod convert;

use super::{Container, ContainerSpec, Error, Health, Runtime, Sandbox, SandboxSpec, Times, Version, labels};
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as wire;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The subject of a call about no one thing.
const ALL: &str = "of the runtime";
/// Deadline of a call that only asks: a runtime that does not answer by then is away.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of a call that changes something small.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// Deadline of starting a sandbox: it waits for the network plugin.
const SANDBOX_DEADLINE: Duration = Duration::from_secs(240);
/// Deadline of fetching an image.
const PULL_DEADLINE: Duration = Duration::from_secs(1800);
/// Largest answer accepted: a list of 10,000 containers takes about 10 MiB.
const MAX_ANSWER: usize = 64 << 20;

/// A runtime behind a unix socket. The connection is made at the first call and again after a break.
#[derive(Clone)]
pub struct Cri {
    endpoint: String,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// `endpoint` is `unix:///run/containerd/containerd.sock` or the bare path. Does not connect yet; must be called
    /// within a tokio runtime.
    pub fn new(endpoint: &str) -> Result<Cri, Error> {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        if !path.is_absolute() {
            let message = "the endpoint must be unix:// and an absolute path".to_owned();
            return Err(Error::Unreachable { endpoint: endpoint.to_owned(), message });
        }
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The host in the URI is never resolved: the connector knows the path.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Cri {
            endpoint: endpoint.to_owned(),
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER),
        })
    }

    fn failed(&self, operation: &'static str, subject: &str, status: tonic::Status) -> Error {
        let subject = subject.to_owned();
        match status.code() {
            tonic::Code::NotFound => Error::NotFound { operation, subject },
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Error::Timeout { operation, subject },
            // A connection that breaks under a call has the code Unknown, but the transport's error inside.
            code if code == tonic::Code::Unavailable || of_transport(&status) => {
                Error::Unreachable { endpoint: self.endpoint.clone(), message: root_cause(&status) }
            }
            _ => Error::Refused { operation, subject, message: status.message().to_owned() },
        }
    }
}

/// One call with a deadline on both sides, its failure named after the operation and its subject.
macro_rules! call {
    ($self:ident.$client:ident.$method:ident($request:expr), $subject:expr, $deadline:expr) => {{
        let mut request = tonic::Request::new($request);
        request.set_timeout($deadline);
        let mut client = $self.$client.clone();
        match tokio::time::timeout($deadline, client.$method(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err($self.failed(stringify!($method), $subject, status)),
            Err(_) => Err(Error::Timeout { operation: stringify!($method), subject: $subject.to_owned() }),
        }
    }};
}

#[async_trait]
impl Runtime for Cri {
    async fn version(&self) -> Result<Version, Error> {
        let answer = call!(self.runtime.version(wire::VersionRequest { version: "v1".to_owned() }), ALL, ASK_DEADLINE)?;
        let version = answer.runtime_version.split('~').next().unwrap_or_default().trim_start_matches('v').to_owned();
        Ok(Version { name: answer.runtime_name, version })
    }

    async fn health(&self) -> Result<Health, Error> {
        let answer = call!(self.runtime.status(wire::StatusRequest { verbose: false }), ALL, ASK_DEADLINE)?;
        Ok(convert::health(answer.status.unwrap_or_default()))
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error> {
        let request =
            wire::RunPodSandboxRequest { config: Some(convert::sandbox_config(spec)), runtime_handler: String::new() };
        Ok(call!(self.runtime.run_pod_sandbox(request), &spec.pod.name, SANDBOX_DEADLINE)?.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = wire::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self.runtime.stop_pod_sandbox(request), id, CALL_DEADLINE))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = wire::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self.runtime.remove_pod_sandbox(request), id, CALL_DEADLINE))
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let request = wire::ListPodSandboxRequest { filter: None };
        let answer = call!(self.runtime.list_pod_sandbox(request), ALL, ASK_DEADLINE)?;
        Ok(answer
            .items
            .into_iter()
            .filter(|item| item.labels.contains_key(labels::POD_UID))
            .map(convert::sandbox)
            .collect())
    }

    async fn sandbox_addresses(&self, id: &str) -> Result<Vec<IpAddr>, Error> {
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = call!(self.runtime.pod_sandbox_status(request), id, ASK_DEADLINE)?;
        let network = answer.status.and_then(|status| status.network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|other| other.ip);
        Ok(std::iter::once(network.ip).chain(more).filter_map(|ip| ip.parse().ok()).collect())
    }

    async fn create_container(&self, sandbox: &str, spec: &ContainerSpec) -> Result<String, Error> {
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(convert::container_config(spec)),
            sandbox_config: Some(convert::sandbox_config(&spec.sandbox)),
        };
        Ok(call!(self.runtime.create_container(request), &spec.name, CALL_DEADLINE)?.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let request = wire::StartContainerRequest { container_id: id.to_owned() };
        call!(self.runtime.start_container(request), id, CALL_DEADLINE).map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        // CRI counts whole seconds; a part of a second is given in full.
        let timeout = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = wire::StopContainerRequest { container_id: id.to_owned(), timeout };
        gone_is_fine(call!(self.runtime.stop_container(request), id, grace.saturating_add(CALL_DEADLINE)))
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let request = wire::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(call!(self.runtime.remove_container(request), id, CALL_DEADLINE))
    }

    async fn list_containers(&self) -> Result<Vec<Container>, Error> {
        let request = wire::ListContainersRequest { filter: None };
        let answer = call!(self.runtime.list_containers(request), ALL, ASK_DEADLINE)?;
        Ok(answer.containers.into_iter().map(convert::container).collect())
    }

    async fn container_times(&self, id: &str) -> Result<Times, Error> {
        let request = wire::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = call!(self.runtime.container_status(request), id, ASK_DEADLINE)?;
        Ok(convert::times(answer.status.unwrap_or_default()))
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<i32, Error> {
        let seconds = i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = wire::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
        // The runtime ends the command at its own timeout; one second more lets its answer arrive.
        Ok(call!(self.runtime.exec_sync(request), id, timeout + Duration::from_secs(1))?.exit_code)
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let request = wire::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime.reopen_container_log(request), id, CALL_DEADLINE).map(drop)
    }

    async fn image(&self, name: &str) -> Result<Option<String>, Error> {
        let request = wire::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        Ok(call!(self.images.image_status(request), name, ASK_DEADLINE)?.image.map(|image| image.id))
    }

    async fn pull(&self, name: &str) -> Result<String, Error> {
        let request = wire::PullImageRequest { image: Some(image_spec(name)), auth: None, sandbox_config: None };
        Ok(call!(self.images.pull_image(request), name, PULL_DEADLINE)?.image_ref)
    }
}

fn image_spec(name: &str) -> wire::ImageSpec {
    wire::ImageSpec { image: name.to_owned(), ..wire::ImageSpec::default() }
}

fn gone_is_fine<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn of_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some_and(|cause| cause.is::<tonic::transport::Error>())
}

/// tonic says "tcp connect error" for any failed connection; the cause says what happened.
fn root_cause(status: &tonic::Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

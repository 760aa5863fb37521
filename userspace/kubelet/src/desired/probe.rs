//! Probes and hooks of a container as wanted.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    pub startup: Option<Probe>,
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub check: Check,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

/// What runs beside a container at its start or end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    Check(Check),
    Sleep(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Exec(Vec<String>),
    /// `host` is the pod's address when empty.
    Tcp {
        host: String,
        port: u16,
    },
    Http {
        host: String,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
}

pub(super) fn probe(
    probe: Option<&core::Probe>,
    container: &core::Container,
    problems: &mut Vec<String>,
) -> Option<Probe> {
    let probe = probe?;
    let seconds = |value: Option<i32>, default: u32| {
        Duration::from_secs(value.map_or(default, |v| v.max(0).unsigned_abs()).into())
    };
    let count = |value: Option<i32>, default: u32| value.map_or(default, |v| v.max(1).unsigned_abs());
    let check = check(probe, container).unwrap_or_else(|problem| {
        problems.push(format!("container {}: {problem}", container.name));
        Check::Exec(Vec::new())
    });
    Some(Probe {
        check,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
    })
}

fn check(probe: &core::Probe, container: &core::Container) -> Result<Check, String> {
    let unsupported = || "only exec, tcpSocket and httpGet probes are supported by this kubelet".to_owned();
    let (exec, tcp, http) = (probe.exec.as_ref(), probe.tcp_socket.as_ref(), probe.http_get.as_ref());
    one_check(exec, tcp, http, container)?.ok_or_else(unsupported)
}

pub(super) fn hook(
    handler: Option<&core::LifecycleHandler>,
    container: &core::Container,
    problems: &mut Vec<String>,
) -> Option<Hook> {
    let handler = handler?;
    if let Some(sleep) = &handler.sleep {
        return Some(Hook::Sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())));
    }
    let (exec, tcp, http) = (handler.exec.as_ref(), handler.tcp_socket.as_ref(), handler.http_get.as_ref());
    let check = one_check(exec, tcp, http, container).unwrap_or_else(|problem| {
        problems.push(format!("container {}: lifecycle hook: {problem}", container.name));
        None
    });
    check.map(Hook::Check)
}

fn one_check(
    exec: Option<&core::ExecAction>,
    tcp: Option<&core::TCPSocketAction>,
    http: Option<&core::HTTPGetAction>,
    container: &core::Container,
) -> Result<Option<Check>, String> {
    if let Some(exec) = exec {
        return Ok(Some(Check::Exec(exec.command.clone().unwrap_or_default())));
    }
    if let Some(tcp) = tcp {
        let host = tcp.host.clone().unwrap_or_default();
        return Ok(Some(Check::Tcp { host, port: port(&tcp.port, container)? }));
    }
    let Some(http) = http else { return Ok(None) };
    if http.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
        return Err("HTTPS is not supported by this kubelet".to_owned());
    }
    let headers = http.http_headers.iter().flatten();
    Ok(Some(Check::Http {
        host: http.host.clone().unwrap_or_default(),
        port: port(&http.port, container)?,
        path: http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    }))
}

fn port(port: &IntOrString, container: &core::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port)
        }
    };
    let number = number.ok_or_else(|| format!("the probe's port {port:?} is not a port of the container"))?;
    u16::try_from(number).map_err(|_| format!("the probe's port {number} is out of range"))
}

//! What every [`Runtime`] must do, run against the model and against containerd.

use super::{ContainerSpec, Error, Namespaces, PodKey, Runtime, SandboxSpec, State, labels};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A runtime under test and what the suite needs to know of it.
pub struct Subject {
    pub runtime: Arc<dyn Runtime>,
    /// An image that is present and holds `sh` and `sleep`.
    pub image: String,
    pub cgroup_parent: String,
    pub log_directory: String,
    /// Lets a little time pass: on the model's clock, or for real.
    pub pass_time: Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>,
}

type Case = for<'a> fn(&'a Subject) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// The suite: the name of each rule and its check. A check cleans up after itself when it passes.
pub const CASES: &[(&str, Case)] = &[
    ("a_sandbox_is_listed_from_its_start_to_its_removal", |s| Box::pin(sandbox_life(s))),
    ("a_sandbox_name_is_taken_until_it_is_removed", |s| Box::pin(sandbox_names(s))),
    ("stopping_and_removing_twice_succeeds", |s| Box::pin(idempotent_removal(s))),
    ("a_container_reports_its_exit_code_and_times", |s| Box::pin(exit_code(s))),
    ("a_container_that_obeys_term_ends_before_its_grace", |s| Box::pin(obedient(s))),
    ("a_container_that_ignores_term_is_killed_after_its_grace", |s| Box::pin(stubborn(s))),
    ("an_absent_image_is_reported_and_refused", |s| Box::pin(absent_image(s))),
    ("a_missing_program_fails_the_start", |s| Box::pin(missing_program(s))),
    ("a_stopped_sandbox_ends_its_containers_and_takes_no_new_ones", |s| Box::pin(stopped_sandbox(s))),
    ("exec_gives_the_exit_code", |s| Box::pin(exec(s))),
];

/// How long a state may take to appear, in real time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ends with code 0 at TERM.
pub const OBEDIENT: &str = "trap 'exit 0' TERM; while true; do sleep 1000 & wait; done";

async fn sandbox_life(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "life", 0).await?;
    let listed = subject.runtime.list_sandboxes().await.map_err(text)?;
    let found = listed.iter().find(|sandbox| sandbox.id == id).ok_or("a running sandbox is not listed")?;
    ensure(found.ready && found.pod == pod("life") && found.attempt == 0, || format!("listed as {found:?}"))?;
    subject.runtime.stop_sandbox(&id).await.map_err(text)?;
    let listed = subject.runtime.list_sandboxes().await.map_err(text)?;
    ensure(listed.iter().any(|sandbox| sandbox.id == id && !sandbox.ready), || {
        format!("a stopped sandbox is not listed as not ready: {listed:?}")
    })?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)?;
    let listed = subject.runtime.list_sandboxes().await.map_err(text)?;
    ensure(listed.iter().all(|sandbox| sandbox.id != id), || "a removed sandbox is still listed".to_owned())
}

async fn sandbox_names(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "names", 0).await?;
    let again = subject.runtime.run_sandbox(&sandbox_spec(subject, "names", 0)).await;
    ensure(matches!(again, Err(Error::Refused { .. })), || format!("the same name again gave {again:?}"))?;
    let other = run(subject, "names", 1).await?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)?;
    let anew = run(subject, "names", 0).await?;
    subject.runtime.remove_sandbox(&anew).await.map_err(text)?;
    subject.runtime.remove_sandbox(&other).await.map_err(text)
}

async fn idempotent_removal(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "twice", 0).await?;
    let container = start(subject, &id, "twice", &["sh", "-c", OBEDIENT]).await?;
    for _ in 0..2 {
        subject.runtime.stop_container(&container, Duration::from_secs(5)).await.map_err(text)?;
    }
    for _ in 0..2 {
        subject.runtime.remove_container(&container).await.map_err(text)?;
    }
    subject.runtime.stop_container(&container, Duration::from_secs(5)).await.map_err(text)?;
    for _ in 0..2 {
        subject.runtime.stop_sandbox(&id).await.map_err(text)?;
    }
    for _ in 0..2 {
        subject.runtime.remove_sandbox(&id).await.map_err(text)?;
    }
    subject.runtime.stop_sandbox(&id).await.map_err(text)
}

async fn exit_code(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "exit", 0).await?;
    let container = start(subject, &id, "exit", &["sh", "-c", "exit 3"]).await?;
    reaches(subject, &container, State::Exited).await?;
    let times = subject.runtime.container_times(&container).await.map_err(text)?;
    let ordered = times.started.is_some() && times.started <= times.finished;
    ensure(times.exit_code == 3 && ordered, || format!("times are {times:?}"))?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)
}

async fn obedient(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "obey", 0).await?;
    let container = start(subject, &id, "obey", &["sh", "-c", OBEDIENT]).await?;
    // The shell needs an instant to set its trap; TERM before that is not seen, and the grace covers it.
    let ready = exec_until_zero(subject, &container, &["sh", "-c", "exit 0"]).await;
    ensure(ready, || "the container never ran a command".to_owned())?;
    subject.runtime.stop_container(&container, Duration::from_secs(15)).await.map_err(text)?;
    let times = subject.runtime.container_times(&container).await.map_err(text)?;
    ensure(times.exit_code == 0, || format!("exit code {}, not 0", times.exit_code))?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)
}

async fn stubborn(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "stubborn", 0).await?;
    let container = start(subject, &id, "stubborn", &["sleep", "1000"]).await?;
    subject.runtime.stop_container(&container, Duration::from_secs(1)).await.map_err(text)?;
    reaches(subject, &container, State::Exited).await?;
    let times = subject.runtime.container_times(&container).await.map_err(text)?;
    ensure(times.exit_code == 137, || format!("exit code {}, not 137", times.exit_code))?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)
}

async fn absent_image(subject: &Subject) -> Result<(), String> {
    let present = subject.runtime.image(&subject.image).await.map_err(text)?;
    ensure(present.is_some(), || format!("{} is not present", subject.image))?;
    let absent = "registry.invalid/diolkos/absent:1";
    let found = subject.runtime.image(absent).await.map_err(text)?;
    ensure(found.is_none(), || format!("an absent image is {found:?}"))?;
    let id = run(subject, "absent", 0).await?;
    let mut spec = container_spec(subject, "absent", &["sleep", "1"]);
    spec.image = absent.to_owned();
    let created = subject.runtime.create_container(&id, &spec).await;
    ensure(created.is_err(), || "a container of an absent image was created".to_owned())?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)
}

async fn missing_program(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "program", 0).await?;
    let spec = container_spec(subject, "program", &["/nonexistent/program"]);
    let container = subject.runtime.create_container(&id, &spec).await.map_err(text)?;
    let started = subject.runtime.start_container(&container).await;
    ensure(started.is_err(), || "a missing program was started".to_owned())?;
    reaches(subject, &container, State::Exited).await?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)
}

async fn stopped_sandbox(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "stopped", 0).await?;
    let container = start(subject, &id, "stopped", &["sleep", "1000"]).await?;
    subject.runtime.stop_sandbox(&id).await.map_err(text)?;
    reaches(subject, &container, State::Exited).await?;
    let mut spec = container_spec(subject, "stopped", &["sleep", "1000"]);
    spec.attempt = 1;
    let created = subject.runtime.create_container(&id, &spec).await;
    ensure(created.is_err(), || "a stopped sandbox took a container".to_owned())?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)?;
    let left = subject.runtime.list_containers().await.map_err(text)?;
    ensure(left.iter().all(|other| other.id != container), || "a removed sandbox left its container".to_owned())
}

async fn exec(subject: &Subject) -> Result<(), String> {
    let id = run(subject, "exec", 0).await?;
    let container = start(subject, &id, "exec", &["sleep", "1000"]).await?;
    let command = ["sh", "-c", "exit 4"].map(str::to_owned);
    let code = subject.runtime.exec(&container, &command, Duration::from_secs(10)).await.map_err(text)?;
    ensure(code == 4, || format!("exec gave {code}, not 4"))?;
    subject.runtime.remove_sandbox(&id).await.map_err(text)
}

async fn run(subject: &Subject, name: &str, attempt: u32) -> Result<String, String> {
    subject.runtime.run_sandbox(&sandbox_spec(subject, name, attempt)).await.map_err(text)
}

async fn start(subject: &Subject, sandbox: &str, name: &str, command: &[&str]) -> Result<String, String> {
    let spec = container_spec(subject, name, command);
    let id = subject.runtime.create_container(sandbox, &spec).await.map_err(text)?;
    subject.runtime.start_container(&id).await.map_err(text)?;
    Ok(id)
}

async fn reaches(subject: &Subject, container: &str, state: State) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed = subject.runtime.list_containers().await.map_err(text)?;
        let found = listed.iter().find(|other| other.id == container).map(|other| other.state);
        if found == Some(state) {
            return Ok(());
        }
        ensure(Instant::now() < deadline, || format!("container {container} is {found:?}, not {state:?}"))?;
        (subject.pass_time)().await;
    }
}

async fn exec_until_zero(subject: &Subject, container: &str, command: &[&str]) -> bool {
    let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if matches!(subject.runtime.exec(container, &command, Duration::from_secs(10)).await, Ok(0)) {
            return true;
        }
        (subject.pass_time)().await;
    }
    false
}

fn pod(name: &str) -> PodKey {
    PodKey { namespace: "conformance".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
}

fn sandbox_spec(subject: &Subject, name: &str, attempt: u32) -> SandboxSpec {
    let pod = pod(name);
    SandboxSpec {
        labels: BTreeMap::from([
            (labels::POD_NAME.to_owned(), pod.name.clone()),
            (labels::POD_NAMESPACE.to_owned(), pod.namespace.clone()),
            (labels::POD_UID.to_owned(), pod.uid.clone()),
        ]),
        pod,
        attempt,
        hostname: String::new(),
        dns: None,
        namespaces: Namespaces { host_network: true, ..Namespaces::default() },
        privileged: false,
        sysctls: BTreeMap::new(),
        cgroup_parent: format!("{}/poduid-{name}", subject.cgroup_parent),
        log_directory: format!("{}/{name}", subject.log_directory),
    }
}

fn container_spec(subject: &Subject, name: &str, command: &[&str]) -> ContainerSpec {
    let sandbox = sandbox_spec(subject, name, 0);
    ContainerSpec {
        labels: sandbox.labels.clone(),
        sandbox,
        name: "main".to_owned(),
        attempt: 0,
        image: subject.image.clone(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        args: Vec::new(),
        env: Vec::new(),
        working_dir: String::new(),
        mounts: Vec::new(),
        log_path: String::new(),
        annotations: BTreeMap::new(),
        resources: Default::default(),
        security: Default::default(),
        tty: false,
        stdin: false,
    }
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(message()) }
}

fn text(error: Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::model::Model;
    use k8s_openapi::jiff::Timestamp;

    #[tokio::test]
    async fn the_model_keeps_the_rules_of_a_runtime() {
        let model = Model::new(Timestamp::UNIX_EPOCH, &["busybox"]);
        let clock = model.clone();
        let subject = Subject {
            runtime: Arc::new(model),
            image: "busybox".to_owned(),
            cgroup_parent: "/conformance".to_owned(),
            log_directory: "/nowhere".to_owned(),
            pass_time: Box::new(move || {
                clock.advance(Duration::from_millis(100));
                Box::pin(std::future::ready(()))
            }),
        };
        for (name, case) in CASES {
            assert_eq!(case(&subject).await, Ok(()), "{name}");
        }
    }
}

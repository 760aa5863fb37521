//! systemd units for what `init` and `join` set up, and the names of their files.

use std::path::Path;

use anyhow::Context as _;

/// The configuration of a control plane, and of a node.
pub(crate) const CONFIG: &str = "/etc/diolkos/config.yaml";
pub(crate) const NODE_CONFIG: &str = "/etc/diolkos/node.yaml";
pub(crate) const CONTROL_PLANE: &str = "diolkos.service";
pub(crate) const NODE: &str = "diolkos-node.service";
/// The first line of each unit: `reset` removes no other.
pub(crate) const HEAD: &str = "# Written by diolkos; `diolkos reset` removes it.";

/// Writes the control plane's; its name.
pub(crate) fn write_control_plane(directory: &Path, config: &Path) -> anyhow::Result<&'static str> {
    write(directory, CONTROL_PLANE, &unit("Diolkos control plane", "up", &program()?, config))?;
    Ok(CONTROL_PLANE)
}

/// Writes the node's; its name.
pub(crate) fn write_node(directory: &Path, config: &Path) -> anyhow::Result<&'static str> {
    write(directory, NODE, &unit("Diolkos node", "node", &program()?, config))?;
    Ok(NODE)
}

fn program() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("cannot tell where this program is, for the unit")?;
    Ok(path.to_string_lossy().into_owned())
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn unit(description: &str, command: &str, program: &str, config: &Path) -> String {
    let config = config.display();
    // Containers belong to their runtime, and the programs to the kernel: only the process itself is ended.
    format!(
        "{HEAD}
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target containerd.service

[Service]
Type=notify
ExecStart={program} {command} --config {config}
Restart=always
RestartSec=2
TimeoutStartSec=120
KillMode=process
LimitNOFILE=1048576
TasksMax=infinity
Delegate=yes

[Install]
WantedBy=multi-user.target
"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_unit_starts_its_command_with_its_configuration() {
        insta::assert_snapshot!(unit("Diolkos node", "node", "/usr/local/bin/diolkos", Path::new(NODE_CONFIG)), @r"
        # Written by diolkos; `diolkos reset` removes it.
        [Unit]
        Description=Diolkos node
        Wants=network-online.target
        After=network-online.target containerd.service

        [Service]
        Type=notify
        ExecStart=/usr/local/bin/diolkos node --config /etc/diolkos/node.yaml
        Restart=always
        RestartSec=2
        TimeoutStartSec=120
        KillMode=process
        LimitNOFILE=1048576
        TasksMax=infinity
        Delegate=yes

        [Install]
        WantedBy=multi-user.target
        ");
    }

    #[test]
    fn units_are_written_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("system");
        assert_eq!(write_control_plane(&directory, Path::new(CONFIG)).unwrap(), CONTROL_PLANE);
        assert_eq!(write_node(&directory, Path::new(NODE_CONFIG)).unwrap(), NODE);
        for name in [CONTROL_PLANE, NODE] {
            assert!(std::fs::read_to_string(directory.join(name)).unwrap().starts_with(HEAD));
        }
    }
}

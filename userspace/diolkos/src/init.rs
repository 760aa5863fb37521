//! `diolkos init`: sets up a control plane on this machine, to be run by `diolkos up` later: certificates, kubeconfigs,
//! a configuration file, systemd units on request, and the command with which other machines join.

pub(crate) mod objects;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args, CommandFactory as _};
use diolkos_api::bootstrap_token::BootstrapToken;
use serde_json::{Value, json};

use crate::progress::step;
use crate::up::{self, ControlPlaneArgs};
use crate::{config, duration, token, units};

/// Flags that are `init`'s alone; the others go into the configuration file.
const OWN: [&str; 5] = ["token", "token-ttl", "config-file", "systemd-units", "data-dir"];

#[derive(Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    /// The first bootstrap token. Default: a new one.
    #[arg(long, value_name = "ID.SECRET")]
    token: Option<BootstrapToken>,
    /// How long that token is valid; `0s`: for ever.
    #[arg(long, default_value = "24h", value_parser = duration::parse, value_name = "DURATION")]
    token_ttl: Duration,
    /// The configuration of the control plane is written here.
    #[arg(long, default_value = units::CONFIG, value_name = "FILE")]
    config_file: PathBuf,
    /// Write a systemd unit there, as to /etc/systemd/system.
    #[arg(long, value_name = "DIR")]
    systemd_units: Option<PathBuf>,
}

pub(crate) async fn run(args: InitArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.config_file.exists(),
        "{} is there: this machine has a control plane. `diolkos up --config {0}` runs it, `diolkos reset` undoes it",
        args.config_file.display()
    );
    let data_dir = args.control_plane.data_dir.clone();
    let running = up::start_control_plane(args.control_plane).await?;
    let token = args.token.map_or_else(token::generate, Ok)?;
    let made = token::create(&running.client, &token::New::for_nodes(token.clone(), args.token_ttl)).await;
    let entries = entries(&data_dir, &running.address.to_string());
    let (ca_pem, endpoint, admin) = (running.ca_pem.clone(), running.endpoint.clone(), running.admin.clone());
    // Stopped whatever came of it, so that nothing keeps the store.
    running.parts.run(std::future::ready(())).await?;
    made?;
    config::write_file(&args.config_file, "Written by `diolkos init`: flags of `diolkos up`.", &entries?)?;
    step("configuration", &args.config_file.display().to_string());
    say(&args.config_file, args.systemd_units.as_deref(), &admin)?;
    println!("{}", token::join_command(&endpoint, &token, &ca_pem)?);
    Ok(())
}

fn say(config_file: &Path, directory: Option<&Path>, admin: &Path) -> anyhow::Result<()> {
    let start = match directory {
        Some(directory) => {
            let unit = units::write_control_plane(directory, config_file)?;
            step("systemd unit", &directory.join(unit).display().to_string());
            format!("systemctl daemon-reload; systemctl enable --now {unit}")
        }
        None => format!("diolkos up --config {}", config_file.display()),
    };
    println!(
        "\nThe control plane is set up. To start it:\n  {start}\nTo use it:\n  export KUBECONFIG={}\n\
         When it runs, other machines join it by:",
        admin.display()
    );
    Ok(())
}

/// What `up` has to be told: what was given here, and the address that was found.
fn entries(data_dir: &Path, address: &str) -> anyhow::Result<Vec<(String, Value)>> {
    let matches = crate::Cli::command().try_get_matches_from(std::env::args_os())?;
    let mut entries = vec![("data-dir".to_owned(), json!(data_dir))];
    if let Some(matches) = matches.subcommand_matches("init") {
        entries.extend(given(matches));
    }
    if !entries.iter().any(|(name, _)| name == "advertise-address") {
        entries.push(("advertise-address".into(), json!(address)));
    }
    Ok(entries)
}

/// The flags of the command line that are not `init`'s own.
fn given(matches: &ArgMatches) -> Vec<(String, Value)> {
    let command = crate::Cli::command();
    let Some(init) = command.find_subcommand("init") else { return Vec::new() };
    let named = init.get_arguments().filter_map(|argument| Some((argument.get_id().as_str(), argument.get_long()?)));
    let mut entries = Vec::new();
    for (id, long) in named.filter(|(_, long)| !OWN.contains(long)) {
        let said = matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        let Some(values) = matches.get_raw(id).filter(|_| said) else { continue };
        let texts: Vec<String> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        let value = match &texts[..] {
            [one] => json!(one),
            _ => json!(texts),
        };
        entries.push((long.to_owned(), value));
    }
    entries
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_init_is_told_about_the_control_plane_is_kept_for_up() {
        let argv = [
            "diolkos",
            "init",
            "--listen",
            "0.0.0.0:7443",
            "--san",
            "a.example",
            "--san",
            "b.example",
            "--token-ttl",
            "1h",
            "--service-cidr",
            "10.96.0.0/16,fd00::/112",
        ];
        let matches = crate::Cli::command().try_get_matches_from(argv).unwrap();
        let given = given(matches.subcommand_matches("init").unwrap());
        let find = |name: &str| given.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        assert_eq!(find("listen"), Some(json!("0.0.0.0:7443")));
        assert_eq!(find("san"), Some(json!(["a.example", "b.example"])));
        assert_eq!(find("service-cidr"), Some(json!(["10.96.0.0/16", "fd00::/112"])));
        assert_eq!(given.len(), 3, "{given:?}");
    }
}

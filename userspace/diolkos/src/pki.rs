//! `diolkos pki`: the cluster's own certificate authority.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use diolkos_apiserver::pki::Pki;
use ipnetwork::IpNetwork;

#[derive(Args)]
pub(crate) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Subcommand)]
enum PkiCommand {
    /// Makes the authorities and the certificates of apiserver and etcd. What is there already is kept.
    Init {
        /// Where certificates and keys live.
        #[arg(long, default_value = "/var/lib/diolkos/pki", value_name = "DIR")]
        cert_dir: PathBuf,
        /// A name or address the apiserver and etcd are reached at; may be repeated.
        #[arg(long = "san", required = true, value_name = "NAME|IP")]
        sans: Vec<String>,
        /// The apiserver's: pods reach it at the first address of the first network.
        #[arg(long, default_value = "10.96.0.0/16", value_delimiter = ',', value_name = "CIDR,..")]
        service_cidr: Vec<IpNetwork>,
    },
    /// Issues a client certificate and writes it as a kubeconfig, readable by its owner only.
    Kubeconfig {
        /// Where certificates and keys live.
        #[arg(long, default_value = "/var/lib/diolkos/pki", value_name = "DIR")]
        cert_dir: PathBuf,
        /// URL of the apiserver.
        #[arg(long, value_name = "URL")]
        server: String,
        /// The user: the certificate's common name.
        #[arg(long)]
        user: String,
        /// A group of the user: an organization of the certificate; may be repeated.
        #[arg(long = "group")]
        groups: Vec<String>,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

pub(crate) fn run(args: PkiArgs) -> anyhow::Result<()> {
    match args.command {
        PkiCommand::Init { cert_dir, mut sans, service_cidr } => {
            sans.push(diolkos_apiserver::kubernetes_address(&service_cidr)?.to_string());
            Pki::open(&cert_dir, &sans)?;
            println!("certificates are in {}", cert_dir.display());
        }
        PkiCommand::Kubeconfig { cert_dir, server, user, groups, output } => {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            Pki::load(&cert_dir)?.write_kubeconfig(&server, &user, &groups, &output)?;
            println!("{user} is in {}", output.display());
        }
    }
    Ok(())
}

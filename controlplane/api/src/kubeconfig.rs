//! kubectl's configuration files: where the server is, whom to trust and who we are.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The current context of a kubeconfig file, resolved: PEM texts instead of paths.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// "https://host:port"
    pub server: String,
    pub ca_pem: String,
    pub client_cert_pem: Option<String>,
    pub client_key_pem: Option<String>,
    pub token: Option<String>,
}

/// What is wrong with a kubeconfig file.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("cannot read the kubeconfig {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the kubeconfig is not valid YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// `what` names the missing or wrong entry by its path.
    #[error("the kubeconfig {what}")]
    Content { what: String },
}

impl Kubeconfig {
    /// Reads a file; relative paths in it are relative to its directory.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KubeconfigError> {
        let path = path.as_ref();
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        parse(&read(path)?, |file| read(&directory.join(file)))
    }

    /// Reads a text in which everything is inline (`*-data`).
    pub fn from_yaml(text: &str) -> Result<Self, KubeconfigError> {
        parse(text, |file| Err(content(format!("names the file {file}, but was not read from a file itself"))))
    }

    /// Writes it to a file of mode 0600, replacing what is there in one step.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(self.to_yaml().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    }

    /// A file that kubectl takes, with everything inline.
    pub fn to_yaml(&self) -> String {
        let mut user = serde_json::Map::new();
        let secrets = [("client-certificate-data", &self.client_cert_pem), ("client-key-data", &self.client_key_pem)];
        for (key, pem) in secrets {
            if let Some(pem) = pem {
                user.insert(key.into(), STANDARD.encode(pem).into());
            }
        }
        if let Some(token) = &self.token {
            user.insert("token".into(), token.clone().into());
        }
        let file = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "diolkos",
                "cluster": {"server": self.server, "certificate-authority-data": STANDARD.encode(&self.ca_pem)},
            }],
            "users": [{"name": "diolkos", "user": user}],
            "contexts": [{"name": "diolkos", "context": {"cluster": "diolkos", "user": "diolkos"}}],
            "current-context": "diolkos",
        });
        // A tree of strings always serializes.
        serde_yaml_ng::to_string(&file).unwrap_or_default()
    }
}

impl std::fmt::Debug for Kubeconfig {
    /// Without the secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Kubeconfig")
            .field("server", &self.server)
            .field("client certificate", &self.client_cert_pem.is_some())
            .field("token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

fn parse(text: &str, read: impl Fn(&str) -> Result<String, KubeconfigError>) -> Result<Kubeconfig, KubeconfigError> {
    let file: Value = serde_yaml_ng::from_str(text)?;
    let context = named(&file, "contexts", "context", file["current-context"].as_str().unwrap_or_default())?;
    let cluster = named(&file, "clusters", "cluster", context["cluster"].as_str().unwrap_or_default())?;
    let user = named(&file, "users", "user", context["user"].as_str().unwrap_or_default())?;

    let server = cluster["server"].as_str().ok_or_else(|| content("has a cluster without a server".into()))?;
    if !server.starts_with("https://") {
        return Err(content(format!("names the server {server}: only https:// is spoken")));
    }
    let ca_pem = pem(cluster, "certificate-authority", &read)?
        .ok_or_else(|| content("has a cluster without certificate-authority-data".into()))?;
    let client_cert_pem = pem(user, "client-certificate", &read)?;
    let client_key_pem = pem(user, "client-key", &read)?;
    if client_cert_pem.is_some() != client_key_pem.is_some() {
        return Err(content("has a user with only one of client certificate and client key".into()));
    }
    let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
        (Some(token), _) => Some(token.to_owned()),
        (None, Some(file)) => Some(read(file)?.trim().to_owned()),
        (None, None) => None,
    };
    Ok(Kubeconfig { server: server.to_owned(), ca_pem, client_cert_pem, client_key_pem, token })
}

fn named<'a>(file: &'a Value, list: &str, inner: &str, name: &str) -> Result<&'a Value, KubeconfigError> {
    let entries = file[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["name"] == name);
    entry.map(|entry| &entry[inner]).ok_or_else(|| content(format!("has no entry named \"{name}\" among its {list}")))
}

fn pem(
    entry: &Value,
    key: &str,
    read: impl Fn(&str) -> Result<String, KubeconfigError>,
) -> Result<Option<String>, KubeconfigError> {
    if let Some(data) = entry[format!("{key}-data")].as_str() {
        let wrong = |why: String| content(format!("has a {key}-data that is not base64 of PEM: {why}"));
        let bytes = STANDARD.decode(data.trim()).map_err(|error| wrong(error.to_string()))?;
        return String::from_utf8(bytes).map(Some).map_err(|error| wrong(error.to_string()));
    }
    entry[key].as_str().map(read).transpose()
}

fn content(what: String) -> KubeconfigError {
    KubeconfigError::Content { what }
}

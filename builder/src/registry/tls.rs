//! Certificates: whom to trust, and what to show of this side.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use url::Url;

use super::error::RegistryError;
use super::settings::{ClientCertificate, Settings};

/// The TLS of connections to the host of `url`. `own` tells that it is the registry itself and no host it redirects to.
pub(crate) fn config_for(settings: &Settings, url: &Url, own: bool, insecure: bool) -> Result<TlsConfig, RegistryError> {
    let host = HostFiles::find(&settings.certificate_folders, url);
    let mut authorities = Vec::new();
    for file in settings.ca_file.iter().chain(&host.authorities) {
        authorities.extend(read_certificates(file)?);
    }
    let roots = if authorities.is_empty() {
        RootCerts::PlatformVerifier
    } else {
        // The system's authorities stay trusted: a token server may have a public certificate. Ones that cannot be read are
        // of no use to anybody.
        let system = rustls_native_certs::load_native_certs().certs;
        let system = system.iter().map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned());
        RootCerts::Specific(Arc::new(system.chain(authorities).collect()))
    };
    let client = match (&settings.client_certificate, host.client) {
        (Some(files), _) if own => Some(read_client(files)?),
        (_, Some(files)) => Some(read_client(&files)?),
        _ => None,
    };
    Ok(TlsConfig::builder().root_certs(roots).client_cert(client).disable_verification(insecure).build())
}

/// Whether this host's certificate can be checked with more than the system's authorities: then it speaks TLS.
pub(crate) fn has_own_authority(settings: &Settings, url: &Url) -> bool {
    settings.ca_file.is_some()
        || settings.client_certificate.is_some()
        || !HostFiles::find(&settings.certificate_folders, url).authorities.is_empty()
}

/// What the certificate folders hold for one host.
#[derive(Default)]
struct HostFiles {
    authorities: Vec<PathBuf>,
    client: Option<ClientCertificate>,
}

impl HostFiles {
    fn find(folders: &[PathBuf], url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let mut names = vec![host.to_owned()];
        if let Some(port) = url.port_or_known_default() {
            names.insert(0, format!("{host}:{port}"));
        }
        let mut found = Self::default();
        for folder in folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))) {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => found.authorities.push(path),
                    Some("cert") if found.client.is_none() && path.with_extension("key").is_file() => {
                        found.client = Some(ClientCertificate { key: path.with_extension("key"), certificate: path });
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

fn file_error(path: &Path, reason: impl ToString) -> RegistryError {
    RegistryError::TlsFile { path: path.to_owned(), reason: reason.to_string() }
}

fn read_items(path: &Path) -> Result<Vec<PemItem<'static>>, RegistryError> {
    let content = fs::read(path).map_err(|error| file_error(path, error))?;
    parse_pem(&content).collect::<Result<_, _>>().map_err(|error| file_error(path, error))
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let certificates: Vec<_> = read_items(path)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(file_error(path, "it holds no certificate in PEM form"));
    }
    let mut store = rustls::RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.der().to_vec().into()).map_err(|error| file_error(path, error))?;
    }
    Ok(certificates)
}

fn read_client(files: &ClientCertificate) -> Result<ClientCert, RegistryError> {
    let chain = read_certificates(&files.certificate)?;
    let key = read_items(&files.key)?
        .into_iter()
        .find_map(|item| match item {
            PemItem::PrivateKey(key) => Some(key),
            _ => None,
        })
        .ok_or_else(|| file_error(&files.key, "it holds no unencrypted private key in PEM form"))?;
    check_pair(&chain, &key).map_err(|error| file_error(&files.key, error))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// The HTTP library takes a pair that fits for granted.
fn check_pair(chain: &[Certificate<'static>], key: &PrivateKey<'static>) -> Result<(), rustls::Error> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain: Vec<_> = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key = PrivateKeyDer::try_from(key.der().to_vec()).map_err(|text| rustls::Error::General(text.to_owned()))?;
    rustls::sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map(drop)
}

//! Whom to trust and who to be, per registry: the system's roots and `certs.d`.
//!
//! ```text
//! DIR/HOST[:PORT]/*.crt            further roots
//! DIR/HOST[:PORT]/NAME.cert        a client certificate, with
//! DIR/HOST[:PORT]/NAME.key         its key
//! ```
//! Docker's layout; the first of the directories that has one of this name counts alone.

use std::path::PathBuf;

use corten_fs::Root;
use corten_types::{Context, Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::url::Origin;

/// Largest file of certificates, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a directory below `certs.d` holds.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// A certificate with those between it and its root, and its key.
    pub(crate) client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Certificates {
    /// Reads what `directories` hold for `origin`.
    pub(crate) fn load(directories: &[PathBuf], origin: &Origin) -> Result<Self> {
        let with_port = match origin.host.contains(':') {
            true => format!("[{}]:{}", origin.host, origin.port),
            false => format!("{}:{}", origin.host, origin.port),
        };
        for directory in directories {
            for name in [origin.authority(), with_port.clone()] {
                let path = directory.join(name);
                match Root::open_ambient(&path) {
                    Ok(root) => return read(&root).context(|| format!("cannot use `{}`", path.display())),
                    Err(error) if error.kind() == ErrorKind::NotFound || error.errno() == Some(20) => {}
                    Err(error) => return Err(error.context(format!("cannot use `{}`", path.display()))),
                }
            }
        }
        Ok(Self::default())
    }
}

fn read(root: &Root) -> Result<Certificates> {
    let mut found = Certificates::default();
    let mut names: Vec<String> =
        root.list(".")?.into_iter().filter_map(|entry| entry.name.into_string().ok()).collect();
    names.sort();
    for name in &names {
        if name.ends_with(".crt") {
            found.roots.extend(certificates(root, name)?);
        } else if let Some(stem) = name.strip_suffix(".cert") {
            let key = format!("{stem}.key");
            if !names.contains(&key) {
                return Err(Error::invalid(format!("the key `{key}` of the certificate `{name}` is missing")));
            }
            found.client = Some((certificates(root, name)?, private_key(root, &key)?));
        } else if let Some(stem) = name.strip_suffix(".key") {
            let certificate = format!("{stem}.cert");
            if !names.contains(&certificate) {
                return Err(Error::invalid(format!("the certificate `{certificate}` of the key `{name}` is missing"))
                    .hint("roots end in `.crt`, client certificates in `.cert`"));
            }
        }
    }
    Ok(found)
}

fn certificates(root: &Root, name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let pem = root.read(name, FILE_SIZE_BYTES_MAX)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(std::result::Result::ok).collect();
    if found.is_empty() {
        return Err(Error::invalid(format!("`{name}` holds no certificate in PEM form")));
    }
    Ok(found)
}

fn private_key(root: &Root, name: &str) -> Result<PrivateKeyDer<'static>> {
    let pem = root.read(name, FILE_SIZE_BYTES_MAX)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| Error::invalid(format!("`{name}` holds no private key in PEM form")))
}

/// The system's roots.
pub(crate) fn system_roots() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

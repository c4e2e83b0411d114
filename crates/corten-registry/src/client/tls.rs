//! TLS to a registry: who is believed, who one is, and what went wrong in words that help.
//!
//! One addition to webpki's rules: a server's certificate that lies in `certs.d` itself is believed, though it calls itself
//! an authority. `openssl req -x509`, which docker's manual has people type, makes such certificates.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use corten_types::{Error, ErrorKind, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, InvalidMessage,
    RootCertStore, SignatureScheme, StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::certificates::Certificates;
use super::url::{Origin, shown};

/// What a connection to a registry is secured with.
#[derive(Debug)]
pub(crate) struct Tls {
    /// The registry's host: all else is the proxy that the user chose.
    host: String,
    registry: Arc<ClientConfig>,
    proxy: Arc<ClientConfig>,
}

impl Tls {
    /// `own` is what `certs.d` holds for the registry.
    pub(crate) fn new(
        origin: &Origin,
        own: Certificates,
        system: &[CertificateDer<'static>],
        unverified: bool,
    ) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let proxy = config(&provider, Verifier::new(&provider, system, Vec::new())?, None)?;
        let registry = if unverified {
            config(&provider, Verifier::blind(&provider), own.client)?
        } else {
            config(&provider, Verifier::new(&provider, system, own.roots)?, own.client)?
        };
        Ok(Self { host: origin.host.clone(), registry, proxy })
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Verifier,
    client: Option<(Vec<CertificateDer<'static>>, rustls::pki_types::PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Internal, "there is no TLS").caused_by(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(match client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| Error::invalid("client certificate and key do not belong together").caused_by(error))?,
    }))
}

/// Believes what webpki believes, and the very certificates that the user named; or everything.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Absent: everything is believed.
    rules: Option<Rules>,
}

#[derive(Debug)]
struct Rules {
    /// Absent where there are no roots at all.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    named: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(
        provider: &Arc<CryptoProvider>,
        system: &[CertificateDer<'static>],
        named: Vec<CertificateDer<'static>>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let (_, _unreadable) = roots.add_parsable_certificates(system.iter().chain(&named).cloned());
        let webpki = match roots.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().map_err(
                    |error| Error::new(ErrorKind::Internal, "no certificate can be verified").caused_by(error),
                )?,
            ),
        };
        Ok(Self { provider: Arc::clone(provider), rules: Some(Rules { webpki, named }) })
    }

    fn blind(provider: &Arc<CryptoProvider>) -> Self {
        Self { provider: Arc::clone(provider), rules: None }
    }
}

impl Rules {
    /// A certificate that the user named outright: name and time still count.
    fn verify_named(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Option<Verified> {
        if !self.named.iter().any(|named| named.as_ref() == certificate.as_ref()) {
            return None;
        }
        let parsed = rustls::server::ParsedCertificate::try_from(certificate);
        let named = parsed.and_then(|parsed| rustls::client::verify_server_name(&parsed, name));
        let (from, until) = crate::der::validity(certificate)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Some(named.and_then(|()| match () {
            () if seconds < from => Err(CertificateError::NotValidYet.into()),
            () if seconds > until => Err(CertificateError::Expired.into()),
            () => Ok(ServerCertVerified::assertion()),
        }))
    }
}

type Verified = std::result::Result<ServerCertVerified, rustls::Error>;

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Verified {
        let Some(rules) = &self.rules else { return Ok(ServerCertVerified::assertion()) };
        let Some(webpki) = &rules.webpki else { return Err(CertificateError::UnknownIssuer.into()) };
        webpki
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .or_else(|error| rules.verify_named(end_entity, server_name, now).unwrap_or(Err(error)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        if self.rules.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        if self.rules.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Secured>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> std::result::Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let config = if host == self.host { &self.registry } else { &self.proxy };
        let name =
            ServerName::try_from(host).map_err(|_| ureq::Error::Tls("the host's name can be in no certificate"))?;
        let mut conn = ClientConnection::new(Arc::clone(config), name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(Secured { buffers, stream: StreamOwned { conn, sock } })))
    }
}

/// A connection under TLS.
pub(crate) struct Secured {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured")
    }
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> std::result::Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// What a failure of TLS means to the user; `directory` is where certificates for the origin belong.
pub(crate) fn failure(error: &rustls::Error, origin: &Origin, directory: &str) -> Error {
    let insecure = "or say `insecure = true` in registries.conf";
    let (why, hint) = match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => (
                "its certificate is signed by an authority that is not known here".to_owned(),
                format!("put the authority's certificate into `{directory}/ca.crt`, {insecure}"),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "its certificate has expired".to_owned(),
                "the registry needs a new one; or this machine's clock is wrong: `date`".to_owned(),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ("its certificate does not hold yet".to_owned(), "this machine's clock may be wrong: `date`".to_owned())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                format!("its certificate is not for `{}`{}", shown(&origin.host), names(certificate)),
                format!("use a name that the certificate has, {insecure}"),
            ),
            other => (
                shown(&format!("its certificate is refused: {other}")),
                format!("where it is the registry's own, put it into `{directory}/ca.crt`, {insecure}"),
            ),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
            "it does not speak TLS".to_owned(),
            "where the registry speaks plain HTTP, say `insecure = true` in registries.conf, or `--tls-verify=false`"
                .to_owned(),
        ),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::HandshakeFailure,
        ) => (
            shown(&format!("it asks for a client certificate that it knows ({error})")),
            format!("put one into `{directory}`: `client.cert` with `client.key`"),
        ),
        other => (shown(&other.to_string()), format!("certificates for this registry belong into `{directory}`")),
    };
    Error::new(ErrorKind::Denied, format!("TLS: {why}")).hint(hint)
}

fn names(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            let shown: Vec<String> = presented.iter().take(8).map(|name| shown(name)).collect();
            format!(", it is for {}", shown.join(", "))
        }
        _ => String::new(),
    }
}

//! TLS for SQL connections, with libpq's meaning of `sslmode`. (The replication connection brings
//! its own; `stream` maps the same settings.)

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::SourceError;

/// libpq's `sslmode`, without `allow`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsMode {
    #[default]
    Disable,
    /// TLS if the server has it, its certificate unchecked.
    Prefer,
    /// TLS, the certificate unchecked.
    Require,
    /// The certificate's chain is checked.
    VerifyCa,
    /// And its name.
    VerifyFull,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) mode: TlsMode,
    /// PEM file; without it the roots that Mozilla trusts.
    pub(crate) root: Option<PathBuf>,
    /// PEM files of our own certificate chain and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

/// A host's name that stands in the certificate which a server has shown, if `verify-ca` let pass
/// that it is not the server's own.
///
/// pgwire-replication asks for the name under `verify-ca` too (it knows only one of the two errors
/// that rustls has for it). So the SQL connection, which comes first, notes a name that would do, and
/// the replication connection says that one.
pub(crate) type ShownName = Arc<OnceLock<String>>;

pub(crate) fn client(
    settings: &TlsSettings,
    shown: &ShownName,
) -> Result<ClientConfig, SourceError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refuse)?;
    let roots = Arc::new(roots(settings.root.as_deref())?);
    let builder = match settings.mode {
        TlsMode::VerifyFull => builder.with_root_certificates(roots),
        TlsMode::VerifyCa => {
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(refuse)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyName(inner, Arc::clone(shown))))
        }
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    let Some((certificate, key)) = &settings.client else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(refuse)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, SourceError> {
    let Some(file) = file else {
        return Ok(RootCertStore::from_iter(
            webpki_roots::TLS_SERVER_ROOTS.iter().cloned(),
        ));
    };
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).map_err(refuse)?;
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match all {
        Ok(all) if all.is_empty() => Err(SourceError::Tls(format!(
            "{}: no certificate",
            file.display()
        ))),
        Ok(all) => Ok(all),
        Err(error) => Err(unreadable(file, error)),
    }
}

fn unreadable(file: &Path, error: impl std::fmt::Display) -> SourceError {
    SourceError::Tls(format!("{}: {error}", file.display()))
}

fn refuse(error: impl std::fmt::Display) -> SourceError {
    SourceError::Tls(error.to_string())
}

/// `prefer` and `require`: encrypted, but to whom is not asked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn host_named_in(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let name = certificate.valid_dns_names().next()?;
    Some(match name.strip_prefix("*.") {
        Some(domain) => format!("any.{domain}"),
        None => name.to_owned(),
    })
}

/// `verify-ca`: the chain has to be good, the name may be another.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>, ShownName);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self
            .0
            .verify_server_cert(certificate, chain, name, ocsp, now)
        {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {
                if let Some(name) = host_named_in(certificate) {
                    self.1.get_or_init(|| name);
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

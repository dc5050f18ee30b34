//! TLS 1.3 with raw Ed25519 keys on both sides (RFC 7250).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use super::{Identity, TransportError};
use crate::ids::PeerId;

/// What comes before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key in a SubjectPublicKeyInfo, if it is an Ed25519 key.
pub(super) fn peer_id(spki: &[u8]) -> Option<PeerId> {
    Some(PeerId::from_bytes(spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?))
}

/// `aws-lc-rs` with AES-128 first: the fastest suite where the processor has AES, and strong enough.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

fn certified_key(identity: &Identity) -> Arc<CertifiedKey> {
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(identity.peer_id().as_bytes());
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], identity.signing_key()))
}

/// The listener's side. Any Ed25519 key passes here: the listener judges it afterwards, so that it
/// can say why it turns a node away.
pub(super) fn server_config(identity: &Identity) -> Arc<ServerConfig> {
    let provider = provider();
    let verifier = AnyDialler { algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified_key(identity))));
    // A resumed session would not prove the keys anew.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Arc::new(config)
}

/// The dialler's side of one lane: the other side must hold the key `expected`, if one is named,
/// and never our own.
pub(super) fn client_config(identity: &Identity, expected: Option<PeerId>) -> Arc<ClientConfig> {
    let provider = provider();
    let verifier = NamedListener {
        expected,
        this_node: identity.peer_id(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified_key(identity))));
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// The name that rustls wants of a server. Keys are what counts here: it is neither sent nor checked.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("byhash").expect("a plain word is a host name")
}

/// Why the other side's key did not do. Travels through rustls in a [`CertificateError::Other`].
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum KeyRejected {
    #[error("{presented} is not {expected}")]
    Other { expected: PeerId, presented: PeerId },
    #[error("it is this node's own key")]
    Mine,
}

/// What a failed TLS handshake means.
pub(super) fn handshake_error(error: std::io::Error) -> TransportError {
    let rejected = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            inner.downcast_ref::<KeyRejected>().copied()
        }
        _ => None,
    };
    match rejected {
        Some(KeyRejected::Other { expected, presented }) => TransportError::WrongKey { expected, presented },
        Some(KeyRejected::Mine) => TransportError::Myself,
        None => TransportError::Tls(error),
    }
}

fn presented_key(end_entity: &CertificateDer<'_>) -> Result<PeerId, Error> {
    peer_id(end_entity.as_ref()).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn verify_signature(
    message: &[u8],
    spki: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
}

/// TLS 1.2 is not offered, so that its signatures are never asked about.
const NO_TLS12: Error = Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled);

/// Accepts the dialler's key, whichever it is, once it is proven.
#[derive(Debug)]
struct AnyDialler {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyDialler {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        presented_key(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts the listener's key if it is the one named, once it is proven.
#[derive(Debug)]
struct NamedListener {
    expected: Option<PeerId>,
    this_node: PeerId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for NamedListener {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = presented_key(end_entity)?;
        let rejected = match self.expected {
            _ if presented == self.this_node => KeyRejected::Mine,
            Some(expected) if presented != expected => KeyRejected::Other { expected, presented },
            _ => return Ok(ServerCertVerified::assertion()),
        };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected)))))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

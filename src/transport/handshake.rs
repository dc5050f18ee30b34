//! From a byte stream to a lane: TLS, then the two hellos.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::secret::{EXPORTER_LEN, NetworkSecret, Role};
use super::{Admission, Identity, TransportError, read_message, tls, write_message};
use crate::ids::{LaneBinding, PeerId};
use crate::wire::{Hello, Message, Refused, RefusedReason, VERSION};

/// How long TLS and the hellos may take, from the connection on. Two round trips and two
/// signatures: ample even for a slow link, short enough to give up on a silent peer.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The label of the exporter value that proofs cover (RFC 8446, section 7.5).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-byhash-v1";

/// A stream whose other side is known.
#[derive(Debug)]
pub(super) struct Established<S> {
    pub(super) stream: TlsStream<S>,
    pub(super) peer: PeerId,
    pub(super) binding: LaneBinding,
    pub(super) hello: Hello,
}

/// The dialler's side, within [`HANDSHAKE_TIMEOUT`]. Without an `expected` key, `secret` must be
/// there for the other side to prove.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    identity: &Identity,
    secret: Option<&NetworkSecret>,
    expected: Option<PeerId>,
) -> Result<Established<S>, TransportError> {
    let handshake = async {
        let connector = TlsConnector::from(tls::client_config(identity, expected));
        let stream = connector.connect(tls::server_name(), stream).await.map_err(tls::handshake_error)?;
        let mut stream = TlsStream::from(stream);
        let (peer, exporter) = channel(&stream)?;

        let proof = secret.map(|secret| secret.proof(&exporter, Role::Dialler));
        write_message(&mut stream, &Message::Hello(Hello::new(proof))).await?;
        let hello = match read_message(&mut stream).await? {
            Some(Message::Hello(hello)) => hello,
            Some(Message::Refused(Refused { reason, .. })) => {
                return Err(TransportError::Refused { reason, this_node: identity.peer_id() });
            }
            Some(_) => return Err(TransportError::Unexpected("message before Hello")),
            None => return Err(TransportError::Closed),
        };
        let proven = match (secret, &hello.secret_proof) {
            (Some(secret), Some(proof)) => secret.verify(&exporter, Role::Listener, proof),
            _ => false,
        };
        if expected.is_none() && !proven {
            return Err(TransportError::Unproven(peer));
        }
        if hello.version != VERSION {
            let reason = RefusedReason::UnsupportedVersion;
            return Err(TransportError::Refused { reason, this_node: identity.peer_id() });
        }
        Ok(Established { stream, peer, binding: LaneBinding(exporter), hello })
    };
    timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or(Err(TransportError::TimedOut("greeting the peer")))
}

/// The listener's side, within [`HANDSHAKE_TIMEOUT`]. Whoever is not admitted is told why.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    acceptor: &TlsAcceptor,
    admission: &Admission,
) -> Result<Established<S>, TransportError> {
    let handshake = async {
        let stream = acceptor.accept(stream).await.map_err(tls::handshake_error)?;
        let mut stream = TlsStream::from(stream);
        let (peer, exporter) = channel(&stream)?;

        let hello = match read_message(&mut stream).await? {
            Some(Message::Hello(hello)) => hello,
            Some(_) => return Err(TransportError::Unexpected("message before Hello")),
            None => return Err(TransportError::Closed),
        };
        let proven = admission.is_proven(&exporter, hello.secret_proof.as_ref());
        let version = if hello.version == VERSION { Ok(()) } else { Err(RefusedReason::UnsupportedVersion) };
        let verdict = admission.judge(&peer, hello.secret_proof.is_some(), proven).and(version);
        if let Err(reason) = verdict {
            write_message(&mut stream, &Message::Refused(Refused { transfer_id: None, reason })).await?;
            stream.shutdown().await?;
            return Err(TransportError::TurnedAway { peer, reason });
        }
        let secret = admission.secret.as_ref().filter(|_| proven);
        let proof = secret.map(|secret| secret.proof(&exporter, Role::Listener));
        write_message(&mut stream, &Message::Hello(Hello::new(proof))).await?;
        Ok(Established { stream, peer, binding: LaneBinding(exporter), hello })
    };
    timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or(Err(TransportError::TimedOut("greeting the dialler")))
}

/// The listener's TLS settings, made once.
pub(super) fn acceptor(identity: &Identity) -> TlsAcceptor {
    TlsAcceptor::from(tls::server_config(identity))
}

/// Who is at the other end of a finished TLS handshake, and what only the two ends can know.
fn channel<S>(stream: &TlsStream<S>) -> Result<(PeerId, [u8; EXPORTER_LEN]), TransportError> {
    let (certificates, exporter) = match stream {
        TlsStream::Client(stream) => {
            let connection = stream.get_ref().1;
            (connection.peer_certificates(), connection.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, None))
        }
        TlsStream::Server(stream) => {
            let connection = stream.get_ref().1;
            (connection.peer_certificates(), connection.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, None))
        }
    };
    let unfit = |error| TransportError::Tls(std::io::Error::other(error));
    let exporter = exporter.map_err(unfit)?;
    let key = certificates.and_then(|keys| keys.first()).and_then(|key| tls::peer_id(key.as_ref()));
    let peer = key.ok_or_else(|| unfit(rustls::Error::NoCertificatesPresented))?;
    Ok((peer, exporter))
}

//! TLS handshakes that failed: their reasons, the count, and a log whose rate is bounded, since any peer can cause them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntCounterVec;
use rustls::{CertificateError, Error};
use tokio::sync::Notify;
use tokio::time::sleep;

/// The shortest time between two log lines of one reason.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// The longest text of an error in the log, in characters. Some contain bytes that the peer has sent.
const MAX_ERROR_CHARS: usize = 256;
/// The reason of a handshake that does not end in time.
pub(super) const TIMEOUT: &str = "timeout";
/// The reason of one that the peer has ended without a TLS alert.
pub(super) const CLOSED: &str = "closed";

/// Counts and logs the failures of one port.
pub(super) struct HandshakeFailures {
    counter: IntCounterVec,
    unlogged: Mutex<Unlogged>,
    added: Notify,
}

impl HandshakeFailures {
    pub(super) fn new(counter: IntCounterVec) -> Self {
        Self { counter, unlogged: Mutex::default(), added: Notify::new() }
    }

    pub(super) fn record(&self, reason: &'static str, peer: SocketAddr, error: &io::Error) {
        self.counter.with_label_values(&[reason]).inc();
        self.unlogged.lock().unwrap_or_else(PoisonError::into_inner).add(reason, peer, error);
        self.added.notify_one();
    }

    /// Logs the failures, at once and then after each [`LOG_INTERVAL`]. Never ends.
    pub(super) async fn log_task(&self) {
        loop {
            self.added.notified().await;
            self.log();
            sleep(LOG_INTERVAL).await;
        }
    }

    /// Logs the failures since the last time, one line for each reason.
    pub(super) fn log(&self) {
        let failures = std::mem::take(&mut *self.unlogged.lock().unwrap_or_else(PoisonError::into_inner));
        for (reason, Failures { count, peer, error }) in failures.0 {
            tracing::warn!(reason, count, %peer, error, "TLS handshakes failed; peer and error are those of the first");
        }
    }
}

/// The failures that are not logged yet, by reason.
#[derive(Default)]
struct Unlogged(BTreeMap<&'static str, Failures>);

struct Failures {
    count: u64,
    /// The peer and the error of the first one.
    peer: SocketAddr,
    error: String,
}

impl Unlogged {
    fn add(&mut self, reason: &'static str, peer: SocketAddr, error: &io::Error) {
        let first =
            || Failures { count: 0, peer, error: error.to_string().chars().take(MAX_ERROR_CHARS).collect() };
        self.0.entry(reason).or_insert_with(first).count += 1;
    }
}

/// The reason of a failure, which is a label of the metric. They are few, whatever a peer sends.
pub(super) fn reason(error: &io::Error) -> &'static str {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};
    let tls_error = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    match (tls_error, error.kind()) {
        (Some(Error::NoCertificatesPresented), _) => "no_certificate",
        (Some(Error::InvalidCertificate(UnknownIssuer)), _) => "unknown_ca",
        // As in the TLS alert `certificate_expired`: "has expired or is not currently valid" (RFC 8446, section 6.2).
        (
            Some(Error::InvalidCertificate(
                Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
            )),
            _,
        ) => "expired",
        (Some(Error::InvalidCertificate(_)), _) => "bad_certificate",
        // The peer has ended the handshake, for example because it does not trust the port's certificate.
        (Some(Error::AlertReceived(_)), _) => "alert",
        (Some(_), _) | (None, ErrorKind::InvalidData) => "protocol",
        (None, ErrorKind::TimedOut) => TIMEOUT,
        (None, _) => CLOSED,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{AlertDescription, InvalidMessage, OtherError, PeerIncompatible};

    use super::*;

    fn tls_error(error: Error) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, error)
    }

    #[test]
    fn reasons_of_errors() {
        let other = CertificateError::Other(OtherError(Arc::new(io::Error::other("two URIs"))));
        for (error, expected) in [
            (Error::NoCertificatesPresented, "no_certificate"),
            (CertificateError::UnknownIssuer.into(), "unknown_ca"),
            (CertificateError::Expired.into(), "expired"),
            (CertificateError::NotValidYet.into(), "expired"),
            (CertificateError::BadEncoding.into(), "bad_certificate"),
            (other.into(), "bad_certificate"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "alert"),
            (InvalidMessage::InvalidContentType.into(), "protocol"),
            (PeerIncompatible::Tls12NotOffered.into(), "protocol"),
            (Error::NoApplicationProtocol, "protocol"),
            (Error::DecryptError, "protocol"),
        ] {
            assert_eq!(reason(&tls_error(error.clone())), expected, "{error:?}");
        }
        for (kind, expected) in [
            (ErrorKind::UnexpectedEof, "closed"),
            (ErrorKind::ConnectionReset, "closed"),
            (ErrorKind::BrokenPipe, "closed"),
            (ErrorKind::TimedOut, "timeout"),
            (ErrorKind::InvalidData, "protocol"),
        ] {
            assert_eq!(reason(&kind.into()), expected, "{kind:?}");
        }
    }

    #[test]
    fn failures_are_summed_by_reason_and_their_text_is_bounded() {
        let mut unlogged = Unlogged::default();
        let peer = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for port in 1..=100 {
            unlogged.add("closed", peer(port), &io::Error::other("é".repeat(1000)));
        }
        unlogged.add(TIMEOUT, peer(7), &ErrorKind::TimedOut.into());
        let closed = &unlogged.0["closed"];
        assert_eq!((closed.count, closed.peer), (100, peer(1)));
        assert_eq!(closed.error, "é".repeat(256));
        assert_eq!(unlogged.0.values().map(|failures| failures.count).collect::<Vec<_>>(), [100, 1]);
    }
}

//! The flags of the commands that call a gateway: `get` and `health`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::units;
use super::validator::{Reported, Validator};

#[derive(Debug, clap::Args)]
pub(super) struct TargetFlags {
    /// The gateway.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    address: String,
    /// How long to wait for the answer.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    deadline: String,
    /// Speak TLS, and believe a certificate that one of this PEM file has signed.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of the certificate that proves who calls (mutual TLS).
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the gateway's certificate must have, where it is not the one in the address.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,
}

/// A gateway to call.
#[derive(Debug)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// How long to wait.
    pub deadline: Duration,
    /// TLS, if it is to be spoken.
    pub tls: Option<TargetTls>,
}

/// How to speak TLS; all in PEM.
pub struct TargetTls {
    /// Who may sign the gateway's certificate.
    pub ca: Vec<u8>,
    /// The client's own certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the gateway's certificate must have, where it is not the one in the address.
    pub server_name: Option<String>,
}

impl fmt::Debug for TargetTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TargetTls([redacted])")
    }
}

/// A token read from a file or the environment; it is not shown.
pub struct TokenText(pub String);

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText([redacted])")
    }
}

impl TargetFlags {
    pub(super) fn read(self, validator: &mut Validator) -> Result<Target, Reported> {
        let deadline = validator.flag("deadline", &self.deadline, units::deadline);
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let cert = validator.file("tls-cert", cert);
                let key = validator.file("tls-key", key);
                Some((cert, key))
            }
            // clap has seen to it that they come together.
            _ => None,
        };
        let ca = self.tls_ca.map(|file| validator.file("tls-ca", &file));
        let identity = match identity {
            Some((cert, key)) => Some((cert?, key?)),
            None => None,
        };
        let tls = match ca {
            Some(ca) => Some(TargetTls { ca: ca?, identity, server_name: self.tls_server_name }),
            None => None,
        };
        Ok(Target { address: self.address, deadline: deadline?, tls })
    }
}

/// The token of `--token-file`, else of `OS_TOKEN`. The gateway may need none.
pub(super) fn token(validator: &mut Validator, file: Option<PathBuf>) -> Result<Option<TokenText>, Reported> {
    // What is not UTF-8 becomes a character that is refused below.
    let text = match file {
        Some(file) => {
            let bytes = validator.file("token-file", &file)?;
            String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()
        }
        None => match std::env::var_os("OS_TOKEN") {
            Some(value) => value.to_string_lossy().into_owned(),
            None => return Ok(None),
        },
    };
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(validator.report("the token (--token-file or OS_TOKEN) must be visible ASCII"));
    }
    Ok(if text.is_empty() { None } else { Some(TokenText(text)) })
}

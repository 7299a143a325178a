//! The flags of the commands that call a gateway: `get` and `health`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use http::HeaderValue;

use super::value::FlagValue;
use crate::domain::Token;

/// A gateway to call.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Host and port of the gateway.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    pub address: String,
    /// Time limit of the whole command.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = deadline)]
    pub deadline: Duration,
    /// CA bundle that verifies the gateway's certificate (PEM); enables TLS.
    #[arg(long, value_name = "FILE", value_parser = read_pem)]
    pub tls_ca: Option<Pem>,
    /// Client certificate for mutual TLS (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key", value_parser = read_pem)]
    pub tls_cert: Option<Pem>,
    /// Private key of --tls-cert (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_parser = read_pem)]
    pub tls_key: Option<Pem>,
    /// Name to verify in the gateway's certificate, if it differs from the host of --address.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub tls_server_name: Option<String>,
}

/// The content of a PEM file. It may hold a private key and is never shown.
#[derive(Clone)]
pub struct Pem(pub Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem([redacted])")
    }
}

fn read_pem(path: &str) -> Result<Pem, String> {
    std::fs::read(path).map(Pem).map_err(|error| format!("cannot read {path} ({error})"))
}

fn deadline(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let deadline = Duration::parse(text)?;
    if deadline > DAY { Err("must be at most 24h".into()) } else { Ok(deadline) }
}

/// The token of `--token-file`, otherwise of `OS_TOKEN`. The gateway may not need one.
pub(super) fn token(file: Option<&Path>) -> Result<Option<Token>, String> {
    let bytes = match file {
        Some(path) => std::fs::read(path)
            .map_err(|error| format!("--token-file: cannot read {} ({error})", path.display()))?,
        None => std::env::var_os("OS_TOKEN").unwrap_or_default().into_encoded_bytes(),
    };
    let bytes = bytes.trim_ascii_end();
    if bytes.is_empty() {
        return Ok(None);
    }
    let token = HeaderValue::from_bytes(bytes).ok().and_then(|value| Token::issued(&value).ok());
    match token {
        Some(token) => Ok(Some(token)),
        None => {
            Err("the token (--token-file or OS_TOKEN) must be visible ASCII of at most 32,768 bytes".into())
        }
    }
}

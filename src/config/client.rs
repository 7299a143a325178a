//! The arguments of `sandbox`, `get` and `health`. clap parses them and reports the first invalid one.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use rustls::pki_types::ServerName;

use super::value::{self, duration};
use crate::domain::Token;

/// The arguments of `sandbox`.
#[derive(Debug, clap::Args)]
pub struct SandboxArgs {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = value::address)]
    pub listen: SocketAddr,
}

/// The arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// ID of the share, a UUID.
    pub id: String,
    /// ID of the project that reads the share.
    #[arg(long, value_name = "ID")]
    pub project_id: String,
    /// File that contains the token.
    #[arg(long = "token-file", value_name = "FILE", value_parser = read_token)]
    pub token: Option<Token>,
    /// The gateway to call.
    #[command(flatten)]
    pub target: Target,
}

/// The arguments of `health`.
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    /// Service to check; empty for the whole gateway.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service: String,
    /// The gateway to call.
    #[command(flatten)]
    pub target: Target,
}

/// A gateway to call.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Host and port of the gateway.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051", value_parser = host_and_port)]
    pub address: String,
    /// Time limit of the whole command.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = deadline, allow_hyphen_values = true)]
    pub deadline: Duration,
    /// CA bundle that verifies the gateway's certificate (PEM); enables TLS.
    #[arg(long, value_name = "FILE", value_parser = read_ca)]
    pub tls_ca: Option<Pem>,
    /// Client certificate for mutual TLS (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key", value_parser = read_certificate)]
    pub tls_cert: Option<Pem>,
    /// Private key of --tls-cert (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_parser = read_key)]
    pub tls_key: Option<Pem>,
    /// Name to verify in the gateway's certificate, if it differs from the host of --address.
    #[arg(long, value_name = "NAME", requires = "tls_ca", value_parser = server_name)]
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

fn server_name(text: &str) -> Result<String, String> {
    let name = ServerName::try_from(text).map_err(|_| "must be a DNS name or an IP address")?;
    Ok(name.to_str().into_owned())
}

fn read_ca(path: &str) -> Result<Pem, String> {
    value::roots(path)?;
    read_pem(path)
}

fn read_certificate(path: &str) -> Result<Pem, String> {
    value::certificates(path)?;
    read_pem(path)
}

fn read_key(path: &str) -> Result<Pem, String> {
    value::private_key(path)?;
    read_pem(path)
}

/// The content for tonic's reader, which skips what it does not recognize: the file has been checked before.
fn read_pem(path: &str) -> Result<Pem, String> {
    std::fs::read(path).map(Pem).map_err(|error| format!("cannot read {path} ({error})"))
}

/// `127.0.0.1:50051`, `[::1]:50051`, `gateway.example:443`.
fn host_and_port(text: &str) -> Result<String, String> {
    const FORM: &str = "must be a host and a port, such as 127.0.0.1:50051";
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("{FORM}, without {scheme}:// (--tls-ca enables TLS)"));
    }
    let authority: Authority = text.parse().map_err(|_| FORM)?;
    let has_port = authority.port_u16().is_some_and(|port| port > 0);
    if has_port && !authority.host().is_empty() && !text.contains('@') {
        Ok(text.to_owned())
    } else {
        Err(FORM.to_owned())
    }
}

fn deadline(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let deadline = duration(text)?;
    if deadline > DAY { Err("must be at most 24h".into()) } else { Ok(deadline) }
}

fn read_token(path: &str) -> Result<Token, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {path} ({error})"))?;
    parse_token(&bytes)
}

fn parse_token(bytes: &[u8]) -> Result<Token, String> {
    let value = HeaderValue::from_bytes(bytes.trim_ascii_end()).ok();
    let token = value.and_then(|value| Token::issued(&value).ok());
    token.ok_or_else(|| "the token must be 1 to 32,768 bytes of visible ASCII".into())
}

impl GetArgs {
    /// Without `--token-file`, the token is the one in `OS_TOKEN`, if there is one.
    pub(super) fn with_token_from_environment(mut self) -> Result<Self, String> {
        if self.token.is_none()
            && let Some(token) = std::env::var_os("OS_TOKEN")
            && !token.is_empty()
        {
            let token = parse_token(token.as_encoded_bytes());
            self.token = Some(token.map_err(|problem| format!("OS_TOKEN: {problem}"))?);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_host_and_a_port() {
        for valid in ["127.0.0.1:50051", "[::1]:50051", "gateway.example:443", "localhost:1"] {
            assert_eq!(host_and_port(valid).as_deref(), Ok(valid));
        }
        for invalid in [
            "",
            "localhost",
            "localhost:",
            ":50051",
            "localhost:0",
            "localhost:65536",
            "::1:50051",
            "user@host:1",
            "host:1/path",
            "http://127.0.0.1:50051",
            "https://gateway.example",
            "dns:///gateway:1",
            "a b:1",
        ] {
            let error = host_and_port(invalid).expect_err(invalid);
            assert!(error.starts_with("must be a host and a port, such as 127.0.0.1:50051"), "{error}");
        }
    }
}

//! The `check` command: tests the configuration of `serve`, and with `--connect` the services that it names. It starts nothing.
//!
//! A [`Config`] exists only if flags, files, rules and credentials could be read, and certificate and key match. Each step
//! returns what it found or what failed; [`Report`] prints it as one line. `tests/gateway/check.rs` makes each step fail.

mod connection;
mod report;
mod upstream;

use std::process::ExitCode;
use std::time::SystemTime;

use super::process::{UNAVAILABLE, USAGE, runtime};
use crate::config::Config;
use crate::credentials;
use crate::pem::Certificate;
use report::{Failure, Report, Stopped};

pub(super) fn run(config: Config, connect: bool) -> Result<ExitCode, String> {
    if check_configuration(&config, &Report).is_err() {
        return Ok(ExitCode::from(USAGE));
    }
    if connect && runtime()?.block_on(upstream::check(config, &Report)).is_err() {
        return Ok(ExitCode::from(UNAVAILABLE));
    }
    Ok(ExitCode::SUCCESS)
}

fn check_configuration(config: &Config, report: &Report) -> Result<(), Stopped> {
    report.ok("configuration", "all flags and files are valid");
    let certificate = match &config.tls {
        Some(tls) => report.step("certificate", check_certificate(&tls.certificate())),
        None => Ok(()),
    };
    if let Some(rules) = &config.authorization {
        for rule in rules.summary() {
            report.ok("rule", &rule);
        }
    }
    let credential = match &config.credentials {
        credentials::Config::PassThrough => "the caller's token",
        credentials::Config::Keystone(_) => "a token of the gateway's own account",
        credentials::Config::AkSk(..) => "the gateway's own access key",
    };
    report.ok("credential", credential);
    certificate
}

fn check_certificate(certificate: &Certificate) -> Result<(String, ()), Failure> {
    let description = format!("{certificate}; the key matches");
    if certificate.has_expired(SystemTime::now()) {
        return Err(Failure::new(description, "it has expired: renew it (--tls-cert, --tls-key)"));
    }
    Ok((description, ()))
}
